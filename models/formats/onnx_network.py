"""Networks in ONNX files, computed with torch: for footprint, proof and comparison."""

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.errors import ModelError
from segpipe.models.footprints.exported import REFUSALS, first_line
from segpipe.models.formats.foreign import Foreign
from segpipe.models.formats.onnx_graph import FOLDABLE, Array, Graph, Node, evaluate, read_graph
from segpipe.models.formats.onnx_layout import Layout
from segpipe.models.formats.onnx_operators import OPERATORS, Call, Value, Window, fill_of

OPTIONS: Mapping[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "Pad": (2,),
    "Resize": (1, 2),
    "Upsample": (1,),
}
"""Inputs with a point that say how an operation works; all others are weights."""


class OnnxNetwork(Foreign):
    """The network (N, bands, H, W) to (N, classes, H, W) of an ONNX file.

    Its operations are torch's, so that it can be traced, cast and compared like any other network;
    tiles are computed by onnxruntime where that is installed. Images whose bands come last are
    turned; probabilities become their logarithms; a single channel becomes two classes.

    Raises:
        ModelError: the file is damaged, or holds what segpipe doesn't run.
        ValueError, on a call: the file doesn't take images of this shape, or gives no scores.
    """

    kind: ClassVar[str] = "onnx"
    casts: ClassVar[bool] = True

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        try:
            graph = read_graph(content)
            self.layout = Layout.of(graph)
            self.steps = nn.ModuleDict(dict(_steps(graph)))
        except REFUSALS as error:
            raise ModelError(f"the file's graph makes no sense: {first_line(error)}") from error
        self.bands, self.window = self.layout.bands, self.layout.window
        self._input, self._output = graph.input, graph.output
        self._outputs = [node.outputs for node in graph.nodes]
        self._last = _last_readers(graph)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Scores, (N, classes, H, W)."""
        layout = self.layout
        layout.refuse(tuple(images.shape))
        if layout.batch == 1 < len(images):
            return torch.cat([self(image[None]) for image in images])
        output = self._computed(layout.image(images))
        return layout.scores(output, *images.shape[2:])

    def _computed(self, image: Tensor) -> Tensor:
        values: dict[str, Value] = {self._input: image}
        for at, step in enumerate(self.steps.values()):
            found = step(values, image)
            values |= zip(self._outputs[at], found, strict=False)
            for name in self._last[at]:
                values.pop(name, None)
        output = values[self._output]
        if not isinstance(output, Tensor):
            raise ValueError("the network's output doesn't depend on its image")
        return output


class Step(nn.Module):
    """One node of the graph with its weights."""

    def __init__(self, node: Node, graph: Graph, shared: dict[str, nn.Parameter]) -> None:
        super().__init__()
        if node.operation not in OPERATORS:
            raise ModelError(
                f"the operation {node.operation} ({node.name}) isn't supported; export the "
                "network with other operations"
            )
        self.node, self.opset = node, graph.opset
        self._known: dict[int, Array] = {}
        options = OPTIONS.get(node.operation, ())
        for at, name in enumerate(node.inputs):
            array = graph.constants.get(name)
            if array is None:
                continue
            if array.ndim and array.dtype == np.float32 and at not in options:
                self.register_parameter(f"weight{at}", _parameter(name, array, shared))
            else:
                self._known[at] = array

    def forward(self, values: Mapping[str, Value], image: Tensor) -> tuple[Value, ...]:
        """The node's outputs."""
        inputs = tuple(self._input(at, values) for at in range(len(self.node.inputs)))
        call = Call(self.node, self.opset, inputs, image)
        found = OPERATORS[self.node.operation](call)
        return tuple(found) if isinstance(found, tuple | list) else (found,)

    def _input(self, at: int, values: Mapping[str, Value]) -> Value | None:
        if at in self._known:
            return self._known[at]
        weight = self._parameters.get(f"weight{at}")
        return values.get(self.node.inputs[at]) if weight is None else weight


class Counting(nn.Module):
    """A node on arrays that depend on the image's sides only."""

    def __init__(self, node: Node, graph: Graph) -> None:
        super().__init__()
        self.node, self.opset = node, graph.opset
        constants = graph.constants
        self._known = {name: constants[name] for name in node.inputs if name in constants}

    def forward(self, values: Mapping[str, Value], image: Tensor) -> tuple[Value, ...]:
        """The node's outputs."""
        known = {**values, **self._known}
        found = [known[name] for name in self.node.inputs if name]
        arrays = [one for one in found if not isinstance(one, Tensor)]
        if len(arrays) < len(found):
            raise ValueError(f"{self.node.operation} ({self.node.name}) counts what varies")
        return tuple(evaluate(self.node, self.opset, arrays))


class Layer(nn.Module):
    """A node that is one of torch's own layers, which can be folded and tuned like any other."""

    def __init__(self, node: Node, layer: nn.Module, window: Window | None = None) -> None:
        super().__init__()
        self.node, self.layer, self._window = node, layer, window

    def forward(self, values: Mapping[str, Value], image: Tensor) -> tuple[Value, ...]:
        """The node's output."""
        value = values[self.node.inputs[0]]
        if not isinstance(value, Tensor):
            raise ValueError(f"{self.node.operation} ({self.node.name}) doesn't see the image")
        if self._window is not None:
            top, left, bottom, right = self._window.pads_of(value)
            value = F.pad(value, (left, right, top, bottom))
        return (self.layer(value),)


class _Norm(nn.BatchNorm2d):
    """A batch norm for tensors of any rank."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        pass


def _steps(graph: Graph) -> Iterator[tuple[str, nn.Module]]:
    """A module for each node, by a name that torch allows."""
    counted = set(graph.constants)
    shared: dict[str, nn.Parameter] = {}
    for index, node in enumerate(graph.nodes):
        # A full stop would part modules, and some words are methods of the dictionary.
        name = re.sub(r"[^0-9A-Za-z]+", "_", node.name).strip("_")[-60:]
        if _counts(node, counted):
            counted |= set(node.outputs)
            step: nn.Module = Counting(node, graph)
        else:
            step = _layer(node, graph) or Step(node, graph, shared)
            if node.operation in ("Shape", "Size"):
                counted |= set(node.outputs)
        yield f"{name}_{index}", step


def _counts(node: Node, counted: set[str]) -> bool:
    """Whether a node is about sides only, given the names of what is."""
    if node.operation == "ConstantOfShape" and fill_of(node).dtype == np.float32:
        return False  # as large as an image
    return node.operation in FOLDABLE and all(name in counted for name in node.inputs if name)


def _layer(node: Node, graph: Graph) -> Layer | None:
    """The node as a layer of torch, or None where there is none or its weights vary."""
    arrays = [graph.constants.get(name) for name in node.inputs[1:]]
    weights = [torch.from_numpy(one.copy()) for one in arrays if one is not None]
    if len(weights) < len(arrays):
        return None
    if node.operation == "BatchNormalization":
        return Layer(node, _norm(node, *weights))
    if node.operation == "Conv" and weights[0].ndim == 4:
        return _convolution(node, graph, *weights)
    if node.operation == "ConvTranspose" and weights[0].ndim == 4:
        return _transposed(node, graph, *weights)
    return None


def _norm(node: Node, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> nn.Module:
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    norm = _Norm(len(weight), eps=epsilon)
    norm.weight, norm.bias = nn.Parameter(weight), nn.Parameter(bias)
    norm.running_mean, norm.running_var = mean, variance
    return norm


def _convolution(node: Node, graph: Graph, weight: Tensor, bias: Tensor | None = None) -> Layer:
    window = _window(node, graph, weight)
    layer = nn.Conv2d(
        weight.shape[1] * (groups := int(node.attributes.get("group", 1))),
        len(weight),
        window.kernel,
        window.stride,
        window.pads[:2] if window.pads and window.symmetric else 0,
        window.dilation,
        groups,
        bias=bias is not None,
        device="meta",
    )
    layer.weight = nn.Parameter(weight)
    layer.bias = None if bias is None else nn.Parameter(bias)
    return Layer(node, layer, None if window.symmetric else window)


def _transposed(node: Node, graph: Graph, weight: Tensor, bias: Tensor | None = None) -> Layer:
    window = _window(node, graph, weight)
    padding, extra = window.of_transposed(_call(node, graph))
    groups = int(node.attributes.get("group", 1))
    layer = nn.ConvTranspose2d(
        len(weight),
        weight.shape[1] * groups,
        window.kernel,
        window.stride,
        padding,
        extra,
        groups,
        bias is not None,
        window.dilation,
        device="meta",
    )
    layer.weight = nn.Parameter(weight)
    layer.bias = None if bias is None else nn.Parameter(bias)
    return Layer(node, layer)


def _window(node: Node, graph: Graph, weight: Tensor) -> Window:
    return Window.of(_call(node, graph), tuple(weight.shape[2:]))


def _call(node: Node, graph: Graph) -> Call:
    """The node before it has inputs: its attributes."""
    return Call(node, graph.opset, (), torch.empty(0))


def _parameter(name: str, array: Array, shared: dict[str, nn.Parameter]) -> nn.Parameter:
    """One parameter for each array, however many nodes read it."""
    if name not in shared:
        shared[name] = nn.Parameter(torch.from_numpy(array.copy()))
    return shared[name]


def _last_readers(graph: Graph) -> list[list[str]]:
    """For each node the tensors that no later one reads, which can be let go."""
    last: dict[str, int] = {}
    for at, node in enumerate(graph.nodes):
        last |= dict.fromkeys((*node.inputs, *node.outputs), at)
    last.pop(graph.output, None)
    done: list[list[str]] = [[] for _ in graph.nodes]
    for name, at in last.items():
        done[at].append(name)
    return done
