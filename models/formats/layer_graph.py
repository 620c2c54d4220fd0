"""Any network of known layers and functions, built from data alone and run without its code."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from segpipe.models.architectures.network import Architecture, Network
from segpipe.models.errors import ModelError
from segpipe.models.footprints.exported import REFUSALS, evaluating, first_line
from segpipe.models.formats.layer_steps import (
    LARGEST_NUMBER,
    Argument,
    Graph,
    Held,
    HeldTensor,
    Layer,
    Part,
    Rest,
    Step,
    Value,
)
from segpipe.models.formats.layer_vocabulary import (
    FUNCTIONS,
    LAYERS,
    defaults,
    function_name,
    layer_name,
)

NAME = "layers"
"""The name under which these networks are registered."""


class StepError(ModelError, RuntimeError):
    """A step of the forward pass fails, as it does where a graph is wrong or an image too small.

    It is a RuntimeError as well, which is what a network of code would have raised.
    """


class LayerGraph(Network):
    """The network (N, bands, H, W) to (N, classes, H, W) that a graph describes.

    Layers and tensors have the names that they had where the graph was traced, so that its state
    dict fits. Nothing in the text is run: it chooses among the layers and functions of
    `segpipe.models.formats.layer_vocabulary`.

    Raises:
        ModelError: the text isn't a graph, or a layer refuses its numbers.
    """

    def __init__(self, bands: int, classes: int, *, graph: str) -> None:
        super().__init__()
        self.bands, self.classes = bands, classes
        self.graph = Graph.from_json(graph)
        for name, layer in self.graph.layers.items():
            _place(self, name, _built(name, layer))
        for name, tensor in self.graph.tensors.items():
            _hold(self, name, tensor)
        self._dying = _last_reads(self.graph)

    def forward(self, image: Tensor) -> Tensor:
        """The scores.

        Raises:
            StepError: a step doesn't take what the steps before it give.
        """
        values: dict[int, object] = {0: image}
        for number, step in enumerate(self.graph.steps, 1):
            try:
                values[number] = self.evaluate(step, values)
            except torch.OutOfMemoryError:
                raise
            except REFUSALS as error:
                raise StepError(
                    f"step {number} of the network, {step.name}, fails: {first_line(error)}"
                ) from error
            for gone in self._dying[number]:
                del values[gone]
        scores = values[self.graph.output]
        if not isinstance(scores, Tensor):
            raise ModelError(f"the network gives a {type(scores).__name__} and no tensor of scores")
        return scores

    def evaluate(self, step: Step, values: Mapping[int, object]) -> object:
        """What a step gives, if earlier ones gave `values`."""
        args = [self._resolved(one, values) for one in step.args]
        kwargs = {name: self._resolved(one, values) for name, one in step.kwargs.items()}
        if step.kind == "layer":
            return self.get_submodule(step.name)(*args, **kwargs)
        result = FUNCTIONS[step.name](*args, **kwargs)
        if isinstance(result, int) and abs(result) > LARGEST_NUMBER**2:
            # Squared again and again, a number would take all memory.
            raise ModelError(f"{step.name} gives a number beyond all sizes")
        return result

    def _resolved(self, argument: Argument, values: Mapping[int, object]) -> object:
        match argument:
            case Value(step):
                return values[step]
            case Held(name):
                return _tensor(self, name)
            case Part(start, stop, step):
                return slice(*(self._resolved(one, values) for one in (start, stop, step)))
            case Rest():
                return ...
            case tuple():
                return tuple(self._resolved(one, values) for one in argument)
        return argument


def layer_graph(network: nn.Module, bands: int, classes: int) -> LayerGraph:
    """The same network (N, bands, H, W) to (N, classes, H, W), in a form that packages can hold.

    Its weights are copies in float32; it is in evaluation mode. What `forward` does besides calling
    layers and functions, such as printing, is done once now and never again.

    Raises:
        ModelError: as `trace`.
    """
    result = with_weights(trace(network), network, bands, classes)
    return result.to("cpu", torch.float32)


def with_weights(graph: Graph, network: nn.Module, bands: int, classes: int) -> LayerGraph:
    """The network of a graph with copies of the weights that `network` has under the same names.

    Types and devices stay. A weight may have another shape there, as that of a linear layer that
    became a convolution.
    """
    text = graph.to_json()
    with torch.device("meta"):
        result = LayerGraph(bands, classes, graph=text)
    result.architecture = Architecture(NAME, bands, classes, {"graph": text})
    state = {
        name: _tensor(network, name).detach().reshape(empty.shape).clone()
        for name, empty in result.state_dict().items()
    }
    result.load_state_dict(state, strict=True, assign=True)
    return result.eval()


def trace(network: nn.Module) -> Graph:
    """The graph of a network in evaluation mode; its code runs once, on a symbol of an image.

    Raises:
        ModelError: its path depends on values, or it has layers, functions or outputs that a graph
            can't hold; the first of them is named.
    """
    with evaluating(network):
        try:
            traced = _Tracer().trace(network)
        except (fx.proxy.TraceError, *REFUSALS) as error:
            raise ModelError(
                f"the network's code can't be followed without an image: {first_line(error)}"
            ) from error
        return _Reading(network).graph(traced)


class _Tracer(fx.Tracer):
    """Stops at the layers of torch, goes through everything else."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return layer_name(m) is not None or super().is_leaf_module(m, module_qualified_name)


class _Reading:
    """Turns a traced graph into data."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._layers: dict[str, Layer] = {}
        self._tensors: dict[str, HeldTensor] = {}
        self._steps: list[Step] = []
        self._known: dict[fx.Node, Argument] = {}

    def graph(self, traced: fx.Graph) -> Graph:
        """The graph."""
        for node in traced.nodes:
            if node.op == "output":
                result = self._argument(node.args[0], node)
                if not isinstance(result, Value):
                    raise ModelError("a network gives one tensor of scores, this one gives more")
                return Graph(self._layers, self._tensors, tuple(self._steps), result.step)
            self._known[node] = self._read(node)
        raise ModelError("the network gives nothing")

    def _read(self, node: fx.Node) -> Argument:
        match node.op:
            case "placeholder":
                return self._image(node)
            case "get_attr":
                return self._tensor(str(node.target))
            case "call_module":
                return self._call("layer", self._layer(str(node.target)), node)
        return self._call("function", _function(node), node)

    def _image(self, node: fx.Node) -> Argument:
        if not any(isinstance(one, Value) for one in self._known.values()):
            return Value(0)
        if not node.args:
            raise ModelError(f"a network takes an image alone, this one takes {node.target!r} too")
        return self._argument(node.args[0], node)

    def _tensor(self, name: str) -> Argument:
        tensor = _tensor(self._network, name)
        if not tensor.is_floating_point():
            raise ModelError(f"the network holds {name!r} of type {tensor.dtype}, not of floats")
        self._tensors[name] = HeldTensor(tuple(tensor.shape), isinstance(tensor, nn.Parameter))
        return Held(name)

    def _layer(self, name: str) -> str:
        layer = self._network.get_submodule(name)
        kind = layer_name(layer)
        if kind is None:
            raise ModelError(
                f"{name} is a {type(layer).__name__}, which a stored network can't have; "
                f"its layers are {', '.join(LAYERS)}"
            )
        self._layers[name] = Layer(kind, _options(kind, layer))
        return name

    def _call(self, kind: str, name: str, node: fx.Node) -> Value:
        args, kwargs = node.args, node.kwargs
        if name == "Tensor.shape":
            args = args[:1]
        if name == "operator.getitem" and isinstance(args[1], list):
            raise ModelError(f"{node.name} takes elements by a list, which a graph can't hold")
        self._steps.append(
            Step(
                "layer" if kind == "layer" else "function",
                name,
                tuple(self._argument(one, node) for one in args),
                {key: self._argument(one, node) for key, one in kwargs.items()},
            )
        )
        return Value(len(self._steps))

    def _argument(self, argument: object, node: fx.Node) -> Argument:
        match argument:
            case fx.Node():
                return self._known[argument]
            case list() | tuple():
                return tuple(self._argument(one, node) for one in argument)
            case slice(start=start, stop=stop, step=step):
                return Part(*(self._argument(one, node) for one in (start, stop, step)))
            case None | bool() | int() | float() | str():
                return argument
        if argument is ...:
            return Rest()
        raise ModelError(f"{node.name} takes {argument!r:.80}, which a stored network can't hold")


def _function(node: fx.Node) -> str:
    target = node.target
    if isinstance(target, str):
        name = f"Tensor.{target}"
        if name in FUNCTIONS:
            return name
    elif target is getattr and node.args[1] == "shape":
        return "Tensor.shape"
    elif found := function_name(target):
        return found
    called = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    raise ModelError(f"the network calls {called}, which a stored network can't do ({node.name})")


def _options(kind: str, layer: nn.Module) -> dict[str, Argument]:
    """What the layer's constructor was given, where it isn't the default."""
    options: dict[str, Argument] = {}
    for name, default in defaults(kind).items():
        value = getattr(layer, name)
        if name == "bias":
            # A layer that has no weights at all has no choice of a bias.
            value = value is not None or getattr(layer, "weight", None) is None
        if isinstance(value, list | tuple):
            value = tuple(value)
        if value != default:
            options[name] = value
    return options


def _built(name: str, layer: Layer) -> nn.Module:
    try:
        return LAYERS[layer.kind](**layer.options)
    except REFUSALS as error:
        raise ModelError(f"{name} can't be a {layer.kind}: {first_line(error)}") from error


class _Scope(nn.Module):
    """Holds the layers of a part of the network under its name."""


def _place(network: nn.Module, name: str, layer: nn.Module) -> None:
    scope, last = _scope(network, name)
    try:
        scope.add_module(last, layer)
    except KeyError as error:
        raise ModelError(f"no layer can be called {name!r:.80}: {error}") from error


def _hold(network: nn.Module, name: str, tensor: HeldTensor) -> None:
    scope, last = _scope(network, name)
    try:
        zeros = torch.zeros(tensor.shape)
        if tensor.learned:
            scope.register_parameter(last, nn.Parameter(zeros))
        else:
            scope.register_buffer(last, zeros)
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"no tensor can be {name!r:.80}: {first_line(error)}") from error


def _scope(network: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds what is called `name`, made where it isn't there, and the last word."""
    *path, last = name.split(".")
    scope = network
    for word in path:
        inner = scope._modules.get(word)
        if inner is None:
            inner = _Scope()
            _place(scope, word, inner)
        if type(inner) is not _Scope:
            raise ModelError(f"{name!r:.80} lies in a layer, which holds no others")
        scope = inner
    return scope, last


def _tensor(network: nn.Module, name: str) -> Tensor:
    path, _, last = name.rpartition(".")
    found = getattr(network.get_submodule(path), last)
    if not isinstance(found, Tensor):
        raise ModelError(f"the network's {name!r} is a {type(found).__name__} and no tensor")
    return found


def _last_reads(graph: Graph) -> Sequence[tuple[int, ...]]:
    """For every step, whose values nobody reads after it."""
    last: dict[int, int] = {}
    for number, step in enumerate(graph.steps, 1):
        last[number] = number
        last.update(dict.fromkeys(step.reads, number))
    last.pop(graph.output, None)
    dying: list[list[int]] = [[] for _ in range(len(graph.steps) + 1)]
    for value, number in last.items():
        dying[number].append(value)
    return [tuple(values) for values in dying]
