"""A classifier becomes fully convolutional (Long, Shelhamer, Darrell 2015, section 3.1)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from torch import Tensor, nn

from segpipe.models.architectures.layers import require
from segpipe.models.errors import ModelError
from segpipe.models.footprints.exported import REFUSALS, first_line
from segpipe.models.formats.layer_graph import LayerGraph, trace, with_weights
from segpipe.models.formats.layer_steps import Argument, Graph, Layer, Step, Value
from segpipe.models.formats.layer_vocabulary import defaults

LARGEST_SIDE = 4096

_BATCH = 2
"""Images by which shapes are found: with one alone, a squeezed batch couldn't be told."""

_POINTWISE_LAYERS = (
    "AlphaDropout", "Dropout", "ELU", "GELU", "Hardsigmoid", "Hardswish", "Identity", "LeakyReLU",
    "Mish", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Tanh",
)  # fmt: skip
_CHANNEL_LAYERS = ("BatchNorm2d", "Dropout2d", "LocalResponseNorm", "PReLU", "Softmax2d")
"""Layers that look at one place of a map, and tell its channels apart."""

_WINDOWS = ("AvgPool2d", "Conv2d", "MaxPool2d")
_PADS = ("ConstantPad2d", "ReflectionPad2d", "ReplicationPad2d", "ZeroPad2d")

_POOLINGS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "functional.max_pool2d": ("MaxPool2d", ("kernel_size", "stride", "padding", "dilation")),
        "functional.avg_pool2d": (
            "AvgPool2d",
            ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
        ),
        "functional.adaptive_avg_pool2d": ("AdaptiveAvgPool2d", ("output_size",)),
        "functional.adaptive_max_pool2d": ("AdaptiveMaxPool2d", ("output_size",)),
    }
)
"""Functions that do what a layer does: its class, and the names of their arguments in order."""

_HOMES = ("torch", "functional", "Tensor", "operator")


def _called(names: str) -> frozenset[str]:
    return frozenset(f"{home}.{name}" for home in _HOMES for name in names.split())


_POINTWISE = _called(
    "alpha_dropout clamp clone contiguous dropout elu exp float gelu hardsigmoid hardswish "
    "leaky_relu mish neg relu relu_ relu6 rsqrt selu sigmoid sigmoid_ silu softplus sqrt square "
    "tanh"
)
_BINARY = _called("add add_ div div_ mul mul_ sub sub_ truediv")
_VIEWS = _called("flatten reshape squeeze view view_as")
_MEANS = _called("mean")
_JOINS = _called("cat concat")
_SOFTMAXES = _called("log_softmax softmax")


@dataclass(frozen=True, slots=True)
class Conversion:
    """A fully convolutional network as data, and how it lies over the image.

    Attributes:
        graph: images (N, bands, H, W) to a score map (N, classes, h, w).
        bands: channels of the image.
        classes: channels of the scores.
        side: of the crops that the classifier takes; such an image gives one score.
        stride: pixels from one score to the next.
        padded: names of the layers that meet a crop's edges, where a crop alone has zeros and the
            image has pixels. Without any the score map equals the classifier on every crop.
    """

    graph: Graph
    bands: int
    classes: int
    side: int
    stride: int
    padded: tuple[str, ...]


def convolutionalize(classifier: nn.Module, side: int) -> nn.Module:
    """A network (N, bands, H, W) to (N, classes, h, w): all scores of the classifier in one pass.

    It has copies of the weights, of their type and on their device. The score (i, j) is that of the
    crop of `side` x `side` pixels whose corner is at (i * stride, j * stride), exactly if no layer
    pads. The first linear layer becomes a convolution with the spatial size of its input, the
    others 1 x 1; a pooling over the whole map becomes one of that size with stride 1; dropout,
    softmax and all else stay.

    Args:
        classifier: images (N, bands, side, side) to scores (N, classes).
        side: of the images that it was made for, in pixels.

    Raises:
        ModelError: something in it can't be converted; the layer is named.
    """
    return converted(classifier, convert(trace(classifier), side))


def converted(classifier: nn.Module, conversion: Conversion) -> LayerGraph:
    """The network of a conversion with the classifier's weights."""
    return with_weights(conversion.graph, classifier, conversion.bands, conversion.classes)


def convert(classifier: Graph, side: int, bands: int | None = None) -> Conversion:
    """The classifier's graph as that of a fully convolutional network.

    Args:
        classifier: images (N, bands, side, side) to scores (N, classes).
        side: in pixels.
        bands: by default what the first convolution takes.

    Raises:
        ModelError: as `convolutionalize`.
    """
    require("side", side, 1, LARGEST_SIDE)
    count = _bands(classifier) if bands is None else bands
    return _Converter(classifier, _shapes(classifier, count, side), side).conversion(count)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value of the classifier stands in the converted graph, as a map.

    Attributes:
        value: the converted graph's.
        channels, height, width: of the map that the classifier has for one crop.
        stride: pixels of the image from one element of the map to the next.
        spacing: elements of the converted map from one element of the crop's map to the next.
        flat: whether the classifier has it as (N, channels * height * width).
    """

    value: Value
    channels: int
    height: int
    width: int
    stride: int = 1
    spacing: int = 1
    flat: bool = False

    @property
    def is_point(self) -> bool:
        """Whether a crop has one element of it."""
        return self.height == self.width == 1


Shape = tuple[int, ...]


@dataclass
class _Converter:
    """Goes through the classifier's steps and writes those of the converted graph."""

    classifier: Graph
    shapes: Mapping[int, Shape]
    side: int
    layers: dict[str, Layer] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    padded: dict[str, None] = field(default_factory=dict)
    places: dict[int, Place] = field(default_factory=dict)

    def conversion(self, bands: int) -> Conversion:
        self.places[0] = Place(Value(0), bands, self.side, self.side)
        for number, step in enumerate(self.classifier.steps, 1):
            # What has no shape is a number that is worked out of shapes; views alone may need it.
            if number in self.shapes:
                self.places[number] = self._place(number, step)
        scores = self.places.get(self.classifier.output)
        if scores is None or not scores.is_point:
            shape = self.shapes.get(self.classifier.output, ())[1:]
            raise ModelError(
                f"a classifier gives one number a class, this one gives {list(shape)} for an image "
                f"of {self.side} x {self.side} pixels"
            )
        graph = Graph(self.layers, self.classifier.tensors, tuple(self.steps), scores.value.step)
        return Conversion(
            graph, bands, scores.channels, self.side, scores.stride, tuple(self.padded)
        )

    def _place(self, number: int, step: Step) -> Place:
        if step.kind == "layer":
            return self._layer(step.name, self.classifier.layers[step.name], number, step)
        if step.name in _POOLINGS:
            return self._layer(*_as_layer(step, number), number, step)
        return self._function(number, step)

    # ---- layers

    def _layer(self, name: str, layer: Layer, number: int, step: Step) -> Place:
        place = self._input(step, name)
        kind = layer.kind
        if kind in _POINTWISE_LAYERS or (kind in _CHANNEL_LAYERS and not place.flat):
            return self._call(name, layer, place)
        handlers: Mapping[str, Callable[[str, Layer, Place, Shape], Place]] = {
            "AdaptiveAvgPool2d": self._adaptive,
            "AdaptiveMaxPool2d": self._adaptive,
            "BatchNorm1d": self._norm,
            "Flatten": self._view,
            "Linear": self._linear,
            "LogSoftmax": self._softmax,
            "Softmax": self._softmax,
            **dict.fromkeys(_WINDOWS, self._window),
            **dict.fromkeys(_PADS, self._pad),
        }
        if kind not in handlers:
            raise _refusal(name, f"a {kind} has no fully convolutional form")
        return handlers[kind](name, layer, place, self.shapes[number])

    def _window(self, name: str, layer: Layer, place: Place, shape: Shape) -> Place:
        """A convolution or a pooling, which moves over the map."""
        options = {**defaults(layer.kind), **layer.options}
        if options.get("return_indices"):
            raise _refusal(name, "its indices are places in a crop")
        _require_dense(name, place)
        kernel, padding = options["kernel_size"], options["padding"]
        covers = _pair(kernel) == (place.height, place.width) and _pair(padding) == (0, 0)
        if covers and "Pool" in layer.kind:
            # A crop has one window of it, so that its own stride never counted.
            layer = replace(layer, options={**layer.options, "stride": 1})
            options["stride"] = 1
        stride = _pair(kernel if options["stride"] is None else options["stride"])
        if stride is None or stride[0] != stride[1]:
            raise _refusal(name, "its strides differ in both directions")
        if _meets_edge(options, (place.height, place.width), stride):
            self.padded[name] = None
        after = self._call(name, layer, place)
        return _shaped(replace(after, stride=place.stride * stride[0]), shape)

    def _pad(self, name: str, layer: Layer, place: Place, shape: Shape) -> Place:
        _require_dense(name, place)
        self.padded[name] = None
        return _shaped(self._call(name, layer, place), shape)

    def _adaptive(self, name: str, layer: Layer, place: Place, shape: Shape) -> Place:
        """The pooling of fixed size that a crop sees; every place of the map gets one."""
        _require_dense(name, place)
        if layer.options.get("return_indices"):
            raise _refusal(name, "its indices are places in a crop")
        if shape[2:] == (place.height, place.width):
            return place
        return self._pool(name, layer.kind.removeprefix("Adaptive"), place, shape)

    def _pool(self, name: str, kind: str, place: Place, shape: Shape) -> Place:
        rows, columns = shape[2:] if len(shape) == 4 else (1, 1)
        kernel = place.height // rows, place.width // columns
        if (rows * kernel[0], columns * kernel[1]) != (place.height, place.width):
            raise _refusal(
                name, f"its {rows} x {columns} parts of {place.height} x {place.width} are uneven"
            )
        if kernel[0] != kernel[1] and (rows, columns) != (1, 1):
            raise _refusal(name, "its parts aren't square")
        pool = Layer(kind, {"kernel_size": kernel, "stride": 1})
        after = replace(self._call(name, pool, place), height=rows, width=columns)
        return replace(after, spacing=1 if after.is_point else kernel[0])

    def _norm(self, name: str, layer: Layer, place: Place, shape: Shape) -> Place:
        if not place.flat or not place.is_point:
            raise _refusal(name, "it tells the places of a map apart")
        return self._call(name, replace(layer, kind="BatchNorm2d"), place)

    def _view(self, name: str, layer: Layer, place: Place, shape: Shape) -> Place:
        return _viewed(name, place, shape)

    def _linear(self, name: str, layer: Layer, place: Place, shape: Shape) -> Place:
        if not place.flat:
            raise _refusal(name, "it mixes the columns of a map, which isn't flattened before it")
        options = dict(layer.options)
        inputs, outputs = options.pop("in_features"), options.pop("out_features")
        if inputs != place.channels * place.height * place.width or not isinstance(outputs, int):
            raise _refusal(name, f"it takes {inputs} numbers")
        numbers: dict[str, Argument] = {
            "in_channels": place.channels,
            "out_channels": outputs,
            "kernel_size": (place.height, place.width),
            "dilation": place.spacing,
        }
        after = self._call(name, Layer("Conv2d", {**numbers, **options}), place)
        return replace(after, channels=outputs, height=1, width=1, spacing=1)

    def _softmax(self, name: str, layer: Layer, place: Place, shape: Shape) -> Place:
        dim = layer.options.get("dim")
        _require_channels(name, place, 1 if dim is None else dim, len(shape))
        return self._call(name, Layer(layer.kind, {"dim": 1}), place)

    # ---- functions

    def _function(self, number: int, step: Step) -> Place:
        name, shape = _title(step, number), self.shapes[number]
        if step.name in _JOINS:
            return self._join(name, step, shape)
        if step.name in _BINARY:
            return self._binary(name, step, shape)
        place = self._input(step, name)
        if step.name in _VIEWS:
            return _viewed(name, place, shape)
        if step.name in _POINTWISE:
            return self._append(name, step, place)
        if step.name in _MEANS:
            return self._mean(_invented(step, number), step, place, shape)
        if step.name in _SOFTMAXES:
            dim = step.kwargs.get("dim", step.args[1] if len(step.args) > 1 else None)
            _require_channels(name, place, dim, len(shape))
            return self._append(name, replace(step, args=step.args[:1], kwargs={"dim": 1}), place)
        raise _refusal(name, "it has no fully convolutional form")

    def _mean(self, name: str, step: Step, place: Place, shape: Shape) -> Place:
        dims = step.kwargs.get("dim", step.args[1] if len(step.args) > 1 else None)
        if place.flat or {one % 4 for one in _integers(dims)} != {2, 3}:
            raise _refusal(name, "a mean is taken over rows and columns")
        _require_dense(name, place)
        return replace(self._pool(name, "AvgPool2d", place, shape), flat=len(shape) == 2)

    def _join(self, name: str, step: Step, shape: Shape) -> Place:
        listed = step.kwargs.get("tensors", step.args[0] if step.args else ())
        parts = [self._read(one, name) for one in (listed if isinstance(listed, tuple) else ())]
        dim = step.kwargs.get("dim", step.args[1] if len(step.args) > 1 else 0)
        if not parts or not isinstance(dim, int) or dim % len(shape) != 1:
            raise _refusal(name, "parts are joined by their channels")
        place = _alike(name, parts)
        values = tuple(part.value for part in parts)
        joined = self._write(Step("function", "torch.cat", (values, 1), {}))
        return replace(place, value=joined, channels=sum(part.channels for part in parts))

    def _binary(self, name: str, step: Step, shape: Shape) -> Place:
        arguments = (*step.args, *step.kwargs.values())
        parts = [self._read(one, name) for one in arguments if isinstance(one, Value)]
        place = _alike(name, parts)
        for held in step.holds:
            sides = self.classifier.tensors[held].shape
            if (place.flat and len(sides) > 0) or any(side != 1 for side in sides[-2:]):
                raise _refusal(name, f"{held} tells the places of a map apart")
        channels = max(part.channels for part in parts)
        return replace(self._append(name, step, place), channels=channels)

    # ---- values

    def _input(self, step: Step, name: str) -> Place:
        """The one map that a step takes."""
        if not step.args or len(step.reads & self.places.keys()) != 1:
            raise _refusal(name, "it takes something else than one map")
        return self._read(step.args[0], name)

    def _read(self, argument: Argument, name: str) -> Place:
        place = self.places.get(argument.step) if isinstance(argument, Value) else None
        if place is None:
            raise _refusal(name, "it takes something else than a map")
        return place

    def _call(self, name: str, layer: Layer, place: Place) -> Place:
        """The layer, called on the map; its size is that of its input."""
        if self.layers.setdefault(name, layer) != layer:
            raise _refusal(name, "it is used in two places that need different forms of it")
        return replace(place, value=self._write(Step("layer", name, (place.value,), {})))

    def _append(self, name: str, step: Step, place: Place) -> Place:
        """The function, called as it was."""
        args = tuple(self._moved(one, name) for one in step.args)
        kwargs = {key: self._moved(one, name) for key, one in step.kwargs.items()}
        return replace(place, value=self._write(replace(step, args=args, kwargs=kwargs)))

    def _moved(self, argument: Argument, name: str) -> Argument:
        return self._read(argument, name).value if isinstance(argument, Value) else argument

    def _write(self, step: Step) -> Value:
        self.steps.append(step)
        return Value(len(self.steps))


def _shapes(graph: Graph, bands: int, side: int) -> Mapping[int, Shape]:
    """The shapes of all tensors for images of this side, by step; nothing is computed."""
    with torch.device("meta"), torch.no_grad():
        network = LayerGraph(bands, 1, graph=graph.to_json()).eval()
        values: dict[int, object] = {0: torch.empty(_BATCH, bands, side, side)}
        for number, step in enumerate(graph.steps, 1):
            try:
                values[number] = network.evaluate(step, values)
            except REFUSALS as error:
                raise ModelError(
                    f"{_title(step, number)} doesn't take what an image of {bands} bands and "
                    f"{side} x {side} pixels gives ({first_line(error)}); is it the classifier's "
                    "own side?"
                ) from error
    return {at: tuple(value.shape) for at, value in values.items() if isinstance(value, Tensor)}


def _bands(graph: Graph) -> int:
    for step in graph.steps:
        if step.kind == "layer" and graph.layers[step.name].kind == "Conv2d":
            bands = graph.layers[step.name].options["in_channels"]
            if isinstance(bands, int):
                return bands
    raise ModelError("the classifier has no convolution, so its bands aren't known")


def _as_layer(step: Step, number: int) -> tuple[str, Layer]:
    """The layer that does what a pooling function does, under a name of its own."""
    kind, names = _POOLINGS[step.name]
    options = {**dict(zip(names, step.args[1:], strict=False)), **step.kwargs}
    known = defaults(kind)
    given = {key: value for key, value in options.items() if known.get(key, None) != value}
    return _invented(step, number), Layer(kind, given)


def _invented(step: Step, number: int) -> str:
    """A name for a layer that does what a function did."""
    return f"{step.name.rpartition('.')[2]}_{number}"


def _title(step: Step, number: int) -> str:
    return step.name if step.kind == "layer" else f"step {number}, {step.name}"


def _refusal(name: str, reason: str) -> ModelError:
    return ModelError(f"{name} can't be made convolutional: {reason}")


def _pair(value: object) -> tuple[int, int] | None:
    match value:
        case int():
            return value, value
        case (int(rows), int(columns)):
            return rows, columns
    return None


def _integers(value: object) -> tuple[int, ...]:
    values = value if isinstance(value, tuple) else (value,)
    return tuple(one for one in values if isinstance(one, int))


def _meets_edge(
    options: Mapping[str, object], sides: tuple[int, int], stride: tuple[int, int]
) -> bool:
    """Whether a crop's edge changes what the layer gives: by padding, or by a window cut short."""
    if options["padding"] != "valid" and _pair(options["padding"]) != (0, 0):
        return True
    kernel, dilation = _pair(options["kernel_size"]), _pair(options.get("dilation", 1))
    if not options.get("ceil_mode") or kernel is None or dilation is None:
        return False
    left = (
        (side - (one - 1) * apart - 1) % step
        for side, one, apart, step in zip(sides, kernel, dilation, stride, strict=True)
    )
    return any(left)


def _require_dense(name: str, place: Place) -> None:
    if place.flat:
        raise _refusal(name, "it takes a map, which was flattened before it")
    if place.spacing > 1:
        raise _refusal(name, "only linear layers can follow a pooling into several parts")


def _require_channels(name: str, place: Place, dim: Argument, rank: int) -> None:
    if not isinstance(dim, int) or dim % rank != 1 or (place.flat and not place.is_point):
        raise _refusal(name, "it is taken over the channels of a map")


def _viewed(name: str, place: Place, shape: Shape) -> Place:
    """The same map, in the other of its two forms."""
    if shape == (_BATCH, place.channels * place.height * place.width):
        return replace(place, flat=True)
    if shape == (_BATCH, place.channels, place.height, place.width):
        return replace(place, flat=False)
    raise _refusal(name, f"it makes a map something of shape {list(shape[1:])}")


def _shaped(place: Place, shape: Shape) -> Place:
    _, channels, height, width = shape
    return replace(place, channels=channels, height=height, width=width)


def _alike(name: str, parts: list[Place]) -> Place:
    """The place of all parts, which may differ in nothing but their channels."""
    first = parts[0]
    if any(replace(one, value=first.value, channels=first.channels) != first for one in parts):
        raise _refusal(name, "its parts are maps of different sizes")
    return first
