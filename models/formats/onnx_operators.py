"""What each ONNX operation computes, with torch: one function an operation, in a table.

Semantics are those of https://onnx.ai/onnx/operators/, whose names are used here. Sides of images
and all that is worked out from them are numpy arrays, so that a network can be traced.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segpipe.models.formats.onnx_graph import Array, Node, array_of

Pair = tuple[int, int]
Value = Tensor | Array
Result = Value | tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operation.

    Attributes:
        node: the operation and its attributes.
        opset: the version of the operations.
        inputs: tensors, arrays that no pixel changes, None for an option left out.
        image: any tensor of the kind and on the device of the image.
    """

    node: Node
    opset: int
    inputs: tuple[Value | None, ...]
    image: Tensor

    def __len__(self) -> int:
        """How many inputs there are."""
        return len(self.inputs)

    def tensor(self, at: int) -> Tensor:
        """An input as a tensor; numbers with a point get the image's type."""
        value = self.inputs[at]
        if isinstance(value, Tensor):
            return value
        if value is None:
            raise ValueError(f"{self.node.operation} ({self.node.name}) lacks input {at}")
        floating = np.issubdtype(value.dtype, np.floating)
        kind = self.image.dtype if floating else None
        return torch.tensor(value, dtype=kind, device=self.image.device)

    def operand(self, at: int) -> Tensor | float:
        """An input as a tensor, or as a number if it is one that no pixel changes."""
        value = self.inputs[at]
        if isinstance(value, np.ndarray) and value.ndim == 0:
            number: float = value.item()
            return number
        return self.tensor(at)

    def array(self, at: int) -> Array | None:
        """An input that no pixel may change, None if it is left out."""
        value = self.inputs[at] if at < len(self.inputs) else None
        if isinstance(value, Tensor):
            raise ValueError(f"input {at} of {self.node.operation} ({self.node.name}) varies")
        # An empty array is how some exporters leave an option out.
        return None if value is None or value.size == 0 else value

    def integers(self, name: str, at: int | None = None) -> list[int] | None:
        """An option that is an attribute, or an input in newer versions; None if left out."""
        if name in self.node.attributes:
            return [int(one) for one in self.node.attributes[name]]
        value = None if at is None else self.array(at)
        return None if value is None else [int(one) for one in value.reshape(-1)]

    def pair(self, name: str, default: int) -> Pair:
        """An attribute with a number for rows and one for columns."""
        rows, columns = self.integers(name) or [default, default]
        return rows, columns

    def integer(self, name: str, default: int) -> int:
        """An attribute."""
        return int(self.node.attributes.get(name, default))

    def number(self, name: str, default: float) -> float:
        """An attribute."""
        return float(self.node.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        """An attribute."""
        return str(self.node.attributes.get(name, default))

    def refuse(self, what: str) -> ValueError:
        """The error for a variant that isn't implemented."""
        return ValueError(f"{self.node.operation} ({self.node.name}) {what}")


Operator = Callable[[Call], Result]

# ---- elementwise


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda call: function(call.tensor(0))


def _binary(function: Callable[..., Tensor]) -> Operator:
    def operator(call: Call) -> Result:
        left, right = call.operand(0), call.operand(1)
        if not isinstance(left, Tensor) and not isinstance(right, Tensor):
            left = call.tensor(0)
        return function(left, right)

    return operator


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda call: reduce(function, [call.tensor(at) for at in range(len(call))])


def _divide(left: Tensor | float, right: Tensor | float) -> Tensor:
    whole = all(
        not one.is_floating_point() if isinstance(one, Tensor) else isinstance(one, int)
        for one in (left, right)
    )
    return torch.div(_tensor(left), right, rounding_mode="trunc" if whole else None)


def _tensor(value: Tensor | float) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value)


def _modulo(call: Call) -> Result:
    function = torch.fmod if call.integer("fmod", 0) else torch.remainder
    return function(call.tensor(0), call.tensor(1))


def _clip(call: Call) -> Result:
    limits = []
    for at, name in ((1, "min"), (2, "max")):
        found = call.array(at)
        limits.append(call.node.attributes.get(name) if found is None else found.item())
    low, high = limits
    if low is None and high is None:
        return call.tensor(0)
    return call.tensor(0).clamp(low, high)


def _prelu(call: Call) -> Result:
    value = call.tensor(0)
    return value.clamp(min=0) + call.tensor(1) * value.clamp(max=0)


def _hard_sigmoid(call: Call) -> Result:
    return (call.number("alpha", 0.2) * call.tensor(0) + call.number("beta", 0.5)).clamp(0, 1)


def _gelu(call: Call) -> Result:
    return F.gelu(call.tensor(0), approximate=call.text("approximate", "none"))


def _cast(call: Call) -> Result:
    """All kinds of numbers with a point are the image's: the network has one precision."""
    import onnx

    kinds = {
        "INT64": torch.int64,
        "INT32": torch.int32,
        "INT16": torch.int16,
        "INT8": torch.int8,
        "UINT8": torch.uint8,
        "BOOL": torch.bool,
    }
    name = onnx.TensorProto.DataType.Name(call.integer("to", 1))
    return call.tensor(0).to(kinds.get(name, call.image.dtype))


def _where(call: Call) -> Result:
    return torch.where(call.tensor(0), call.tensor(1), call.tensor(2))


# ---- windows


def _convolution(call: Call) -> Result:
    weight = call.tensor(1)
    bias = call.tensor(2) if len(call) > 2 and call.inputs[2] is not None else None
    window = Window.of(call, tuple(weight.shape[2:]))
    image, padding = window.padded(call.tensor(0), 0.0)
    return F.conv2d(
        image, weight, bias, window.stride, padding, window.dilation, call.integer("group", 1)
    )


def _transposed(call: Call) -> Result:
    weight = call.tensor(1)
    bias = call.tensor(2) if len(call) > 2 and call.inputs[2] is not None else None
    window = Window.of(call, tuple(weight.shape[2:]))
    padding, extra = window.of_transposed(call)
    return F.conv_transpose2d(
        call.tensor(0),
        weight,
        bias,
        window.stride,
        padding,
        extra,
        call.integer("group", 1),
        window.dilation,
    )


def _max_pool(call: Call) -> Result:
    window = Window.of(call, call.integers("kernel_shape") or ())
    image, padding = window.padded(call.tensor(0), -torch.inf)
    pool = partial(
        F.max_pool2d,
        kernel_size=window.kernel,
        stride=window.stride,
        padding=padding,
        dilation=window.dilation,
        ceil_mode=bool(call.integer("ceil_mode", 0)),
    )
    if len(call.node.outputs) < 2:
        pooled: Tensor = pool(image)
        return pooled
    if image is not call.tensor(0) or call.integer("storage_order", 0):
        raise call.refuse("gives places in a padded or transposed image")
    values, places = pool(image, return_indices=True)
    # Places are counted through the whole batch, torch's in each channel.
    count, channels, height, width = image.shape
    planes = torch.arange(count * channels, device=image.device) * (height * width)
    return values, places + planes.reshape(count, channels, 1, 1)


def _average_pool(call: Call) -> Result:
    window = Window.of(call, call.integers("kernel_shape") or ())
    if window.dilation != (1, 1):
        raise call.refuse("has dilations")
    original = call.tensor(0)
    image, padding = window.padded(original, 0.0)
    pool = partial(
        F.avg_pool2d,
        kernel_size=window.kernel,
        stride=window.stride,
        padding=padding,
        ceil_mode=bool(call.integer("ceil_mode", 0)),
    )
    counted = bool(call.integer("count_include_pad", 0))
    if counted or image is original:
        pooled: Tensor = pool(image, count_include_pad=counted)
        return pooled
    inside, _ = window.padded(torch.ones_like(original[:1, :1]), 0.0)
    share: Tensor = pool(image) / pool(inside)
    return share


@dataclass(frozen=True, slots=True)
class Window:
    """The window of a convolution or pooling: (rows, columns) each.

    `pads` are zeros to the top, left, bottom and right; None if they come from the image's size:
    `auto_pad` then says how.
    """

    kernel: Pair
    stride: Pair
    dilation: Pair
    pads: tuple[int, int, int, int] | None
    auto_pad: str

    @classmethod
    def of(cls, call: Call, kernel: Sequence[int]) -> "Window":
        """The window that a node's attributes describe.

        Raises:
            ValueError: the images aren't flat.
        """
        if len(kernel) != 2:
            raise call.refuse(f"has windows of {len(kernel)} dimensions, images have 2")
        auto = call.text("auto_pad", "NOTSET")
        top, left, bottom, right = (auto == "NOTSET" and call.integers("pads")) or [0] * 4
        return cls(
            (kernel[0], kernel[1]),
            call.pair("strides", 1),
            call.pair("dilations", 1),
            None if auto.startswith("SAME") else (top, left, bottom, right),
            auto,
        )

    @property
    def symmetric(self) -> bool:
        """Whether a layer can pad so by itself, in images of any size."""
        return self.pads is not None and self.pads[:2] == self.pads[2:]

    def padded(self, image: Tensor, fill: float) -> tuple[Tensor, tuple[int, int]]:
        """The image, padded where a layer can't do so itself, and the layer's own padding."""
        top, left, bottom, right = self.pads_of(image)
        # Poolings don't take more.
        small = all(2 * pad <= side for pad, side in zip((top, left), self.kernel, strict=True))
        if (top, left) == (bottom, right) and small:
            return image, (top, left)
        return F.pad(image, (left, right, top, bottom), value=fill), (0, 0)

    def pads_of(self, image: Tensor) -> tuple[int, ...]:
        """Zeros to the top, left, bottom and right of an image."""
        return self.pads or self._same(image.shape[2:])

    def of_transposed(self, call: Call) -> tuple[Pair, Pair]:
        """Padding and output padding of a transposed convolution.

        Raises:
            ValueError: torch has no such layer.
        """
        extra = call.pair("output_padding", 0)
        if call.integers("output_shape") or self.pads is None:
            raise call.refuse("has an output of a shape of its own, or auto_pad")
        top, left, bottom, right = self.pads
        # Fewer zeros at the end are what torch calls output padding.
        after = (extra[0] + top - bottom, extra[1] + left - right)
        if min(after) < 0:
            raise call.refuse("is cropped more at the bottom or right than at the top or left")
        return (top, left), after

    def _same(self, sides: Sequence[int]) -> tuple[int, ...]:
        """Zeros such that there is an output for each stride of the image."""
        before, after = [], []
        for side, kernel, stride, dilation in zip(
            sides, self.kernel, self.stride, self.dilation, strict=True
        ):
            reach = dilation * (kernel - 1) + 1
            total = max(0, (-(-side // stride) - 1) * stride + reach - side)
            small = total // 2
            first = small if self.auto_pad == "SAME_UPPER" else total - small
            before.append(first)
            after.append(total - first)
        return (*before, *after)


# ---- normalisation and sums


def _batch_norm(call: Call) -> Result:
    image, weight, bias, mean, variance = (call.tensor(at) for at in range(5))
    return F.batch_norm(image, mean, variance, weight, bias, eps=call.number("epsilon", 1e-5))


def _instance_norm(call: Call) -> Result:
    image, weight, bias = (call.tensor(at) for at in range(3))
    return F.instance_norm(image, weight=weight, bias=bias, eps=call.number("epsilon", 1e-5))


def _layer_norm(call: Call) -> Result:
    image = call.tensor(0)
    axis = call.integer("axis", -1) % image.ndim
    weight = call.tensor(1)
    bias = call.tensor(2) if len(call) > 2 and call.inputs[2] is not None else None
    shape = list(image.shape[axis:])
    return F.layer_norm(image, shape, weight, bias, call.number("epsilon", 1e-5))


def _group_norm(call: Call) -> Result:
    image, weight, bias = (call.tensor(at) for at in range(3))
    groups = call.integer("num_groups", 1)
    return F.group_norm(image, groups, weight, bias, call.number("epsilon", 1e-5))


def _local_norm(call: Call) -> Result:
    return F.local_response_norm(
        call.tensor(0),
        call.integer("size", 1),
        call.number("alpha", 1e-4),
        call.number("beta", 0.75),
        call.number("bias", 1.0),
    )


def _reduction(function: Callable[..., Tensor]) -> Operator:
    def operator(call: Call) -> Result:
        value = call.tensor(0)
        axes = call.integers("axes", 1)
        if axes is None and call.integer("noop_with_empty_axes", 0):
            return value
        dims = tuple(range(value.ndim)) if axes is None else tuple(axes)
        return function(value, dims, bool(call.integer("keepdims", 1)))

    return operator


def _everywhere(function: Callable[..., Tensor]) -> Operator:
    return lambda call: function(call.tensor(0), tuple(range(2, call.tensor(0).ndim)), True)


def _length(value: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    return value.square().sum(dims, keep).sqrt()


def _softmax(function: Callable[..., Tensor]) -> Operator:
    def operator(call: Call) -> Result:
        value = call.tensor(0)
        axis = call.integer("axis", -1 if call.opset >= 13 else 1) % value.ndim
        if call.opset >= 13 or axis == value.ndim - 1:
            return function(value, dim=axis)
        # Over all the dimensions from the axis on, in old versions.
        return function(value.flatten(axis), dim=-1).reshape(value.shape)

    return operator


def _gemm(call: Call) -> Result:
    left = call.tensor(0).t() if call.integer("transA", 0) else call.tensor(0)
    right = call.tensor(1).t() if call.integer("transB", 0) else call.tensor(1)
    product = call.number("alpha", 1.0) * (left @ right)
    if len(call) < 3 or call.inputs[2] is None:
        return product
    return product + call.number("beta", 1.0) * call.tensor(2)


# ---- interpolation


def _upsample(call: Call) -> Result:
    scales = call.node.attributes.get("scales")
    found = np.asarray(scales) if scales is not None else call.array(1)
    return _interpolated(call, found, None, "asymmetric", "floor")


def _resize(call: Call) -> Result:
    if call.opset < 11:
        return _interpolated(call, call.array(1), None, "asymmetric", "floor")
    if call.integer("antialias", 0):
        raise call.refuse("has antialias")
    return _interpolated(
        call,
        call.array(2),
        call.integers("sizes", 3),
        call.text("coordinate_transformation_mode", "half_pixel"),
        call.text("nearest_mode", "round_prefer_floor"),
    )


def _interpolated(
    call: Call, scales: Array | None, sizes: list[int] | None, places: str, nearest: str
) -> Tensor:
    image = call.tensor(0)
    if image.ndim != 4:
        raise call.refuse(f"has an image of {image.ndim} dimensions")
    axes = [axis % 4 for axis in call.integers("axes") or range(4)]
    sides = list(image.shape)
    factors = [1.0] * 4
    for index, axis in enumerate(axes):
        if sizes is not None:
            factors[axis] = sizes[index] / sides[axis]
            sides[axis] = sizes[index]
        elif scales is not None:
            factors[axis] = float(scales[index])
            sides[axis] = int(np.floor(sides[axis] * factors[axis]))
    if sides[:2] != list(image.shape[:2]) or call.text("keep_aspect_ratio_policy", "") not in (
        "",
        "stretch",
    ):
        raise call.refuse("resizes more than rows and columns")
    mode = call.text("mode", "nearest")
    built_in = _built_in(mode, places, nearest, factors[2:])
    if built_in is None:
        if mode not in ("nearest", "linear") or places not in _PLACES:
            raise call.refuse(f"resizes by {mode} with places {places}")
        for dim in (2, 3):
            rule = nearest if mode == "nearest" else ""
            image = _resampled(image, dim, sides[dim], factors[dim], _PLACES[places], rule)
        return image
    if sizes is not None:
        return F.interpolate(image, size=sides[2:], **built_in)
    return F.interpolate(image, scale_factor=factors[2:], recompute_scale_factor=False, **built_in)


def _built_in(
    mode: str, places: str, nearest: str, factors: Sequence[float]
) -> dict[str, Any] | None:
    """The options of torch's own interpolation that does the same, if there are any."""
    half = places in ("half_pixel", "pytorch_half_pixel")
    whole = all(factor >= 1 and factor == int(factor) for factor in factors)
    if mode == "nearest":
        if places == "asymmetric" and nearest == "floor":
            return {"mode": "nearest"}
        # For whole factors no place lies halfway, so that all ways of rounding are the same.
        if half and whole and nearest.startswith("round"):
            return {"mode": "nearest-exact"}
        if places == "tf_half_pixel_for_nn" and nearest == "floor":
            return {"mode": "nearest-exact"}
        return None
    names = {"linear": "bilinear", "cubic": "bicubic"}
    if mode in names and (half or places == "align_corners"):
        return {"mode": names[mode], "align_corners": not half}
    return None


_PLACES: Mapping[str, Callable[[Array, float, int, int], Array]] = {
    "half_pixel": lambda x, scale, before, after: (x + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda x, scale, before, after: (x + 0.5) / scale - 0.5,
    "asymmetric": lambda x, scale, before, after: x / scale,
    "align_corners": lambda x, scale, before, after: x * (before - 1) / max(after - 1, 1),
    "tf_half_pixel_for_nn": lambda x, scale, before, after: (x + 0.5) / scale,
}
"""By `coordinate_transformation_mode`: where in the input the output's pixels lie."""

_ROUNDING: Mapping[str, Callable[[Array], Array]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda place: np.ceil(place - 0.5),
    "round_prefer_ceil": lambda place: np.floor(place + 0.5),
}


def _resampled(
    image: Tensor,
    dim: int,
    after: int,
    scale: float,
    places: Callable[[Array, float, int, int], Array],
    nearest: str,
) -> Tensor:
    """The image along `dim` at other places: the nearest pixel, or a mean of two neighbours."""
    before = image.shape[dim]
    place = places(np.arange(after, dtype=np.float64), scale, before, after)

    def pick(index: Array) -> Tensor:
        kept = torch.as_tensor(index.clip(0, before - 1).astype(np.int64), device=image.device)
        return image.index_select(dim, kept)

    if nearest:
        return pick(_ROUNDING[nearest](place))
    place = place.clip(0, before - 1)
    shape = [after if at == dim else 1 for at in range(4)]
    share = torch.as_tensor((place % 1).reshape(shape), dtype=image.dtype, device=image.device)
    return pick(np.floor(place)) * (1 - share) + pick(np.floor(place) + 1) * share


# ---- places


def _pad(call: Call) -> Result:
    image = call.tensor(0)
    pads = call.integers("pads", 1)
    if pads is None:
        pads = call.integers("paddings") or []
    axes = call.integers("axes", 3) or list(range(image.ndim))
    widths = [0] * (2 * image.ndim)
    for index, axis in enumerate(axes):
        # torch counts from the last dimension, before and after.
        at = 2 * (image.ndim - 1 - axis % image.ndim)
        widths[at : at + 2] = pads[index], pads[index + len(axes)]
    mode = call.text("mode", "constant")
    if mode == "constant":
        fill = call.array(2)
        value = call.number("value", 0.0) if fill is None else float(fill.item())
        return F.pad(image, widths, value=value) if any(widths) else image
    if any(widths[4:]):
        raise call.refuse(f"pads more than rows and columns by {mode}")
    names = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    return F.pad(image, widths[:4], mode=names[mode])


def _reshape(call: Call) -> Result:
    value = call.tensor(0)
    shape = call.integers("shape", 1) or []
    if not call.integer("allowzero", 0):
        shape = [side or value.shape[at] for at, side in enumerate(shape)]
    return value.reshape(shape)


def _flatten(call: Call) -> Result:
    value = call.tensor(0)
    axis = call.integer("axis", 1)
    axis = axis + value.ndim if axis < 0 else axis
    return value.reshape(int(np.prod(value.shape[:axis], dtype=np.int64)), -1)


def _transpose(call: Call) -> Result:
    value = call.tensor(0)
    return value.permute(call.integers("perm") or list(reversed(range(value.ndim))))


def _squeeze(call: Call) -> Result:
    value = call.tensor(0)
    axes = call.integers("axes", 1)
    return value.squeeze() if axes is None else value.squeeze(tuple(axes))


def _unsqueeze(call: Call) -> Result:
    value = call.tensor(0)
    axes = call.integers("axes", 1) or []
    rank = value.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        value = value.unsqueeze(axis)
    return value


def _slice(call: Call) -> Result:
    value = call.tensor(0)
    starts, ends = call.integers("starts", 1) or [], call.integers("ends", 2) or []
    axes = call.integers("axes", 3) or list(range(len(starts)))
    steps = call.integers("steps", 4) or [1] * len(starts)
    if min(steps) < 1:
        raise call.refuse("goes backwards")
    parts = [slice(None)] * value.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        side = value.shape[axis]
        parts[axis % value.ndim] = slice(*slice(start, end, step).indices(side))
    return value[tuple(parts)]


def _split(call: Call) -> Result:
    value = call.tensor(0)
    axis = call.integer("axis", 0)
    sizes = call.integers("split", 1)
    if sizes is None:
        most = -(-value.shape[axis] // len(call.node.outputs))
        return torch.split(value, most, axis)
    return torch.split(value, sizes, axis)


def _concat(call: Call) -> Result:
    return torch.cat([call.tensor(at) for at in range(len(call))], call.integer("axis", 0))


def _expand(call: Call) -> Result:
    value = call.tensor(0)
    shape = np.broadcast_shapes(tuple(value.shape), tuple(call.integers("shape", 1) or ()))
    return value.expand(shape)


def _tile(call: Call) -> Result:
    return call.tensor(0).repeat(call.integers("repeats", 1) or [])


def _gather(call: Call) -> Result:
    value, axis = call.tensor(0), call.integer("axis", 0)
    index = call.inputs[1]
    if isinstance(index, np.ndarray) and index.ndim == 0:
        return value.select(axis, int(index))
    places = call.tensor(1)
    places = torch.where(places < 0, places + value.shape[axis], places)
    found = value.index_select(axis, places.reshape(-1))
    axis %= value.ndim
    return found.reshape(*value.shape[:axis], *places.shape, *value.shape[axis + 1 :])


def _scatter(call: Call) -> Result:
    """For unpooling by stored places, which exporters write so."""
    if call.text("reduction", "none") != "none":
        raise call.refuse("has a reduction")
    return call.tensor(0).index_put(call.tensor(1).unbind(-1), call.tensor(2))


def _depth_to_space(call: Call) -> Result:
    value, side = call.tensor(0), call.integer("blocksize", 1)
    if call.text("mode", "DCR") == "DCR":
        count, channels, *image = value.shape
        blocks = value.reshape(count, side * side, channels // side**2, *image)
        value = blocks.transpose(1, 2).reshape(value.shape)
    return F.pixel_shuffle(value, side)


def _space_to_depth(call: Call) -> Result:
    side = call.integer("blocksize", 1)
    value = F.pixel_unshuffle(call.tensor(0), side)
    count, channels, *image = value.shape
    blocks = value.reshape(count, channels // side**2, side * side, *image)
    return blocks.transpose(1, 2).reshape(value.shape)


def _shape(call: Call) -> Result:
    sides = call.tensor(0).shape
    part = slice(call.integer("start", 0), call.node.attributes.get("end"))
    return np.array(sides[part], np.int64)


def _size(call: Call) -> Result:
    return np.array(call.tensor(0).numel(), np.int64)


def _constant_of_shape(call: Call) -> Result:
    shape, image = call.integers("shape", 0) or [], call.image
    fill: float = fill_of(call.node).item()
    return torch.full(shape, fill, dtype=image.dtype, device=image.device)


def fill_of(node: Node) -> Array:
    """What a ConstantOfShape is filled with: an array of one element."""
    stored = node.attributes.get("value")
    return np.zeros(1, np.float32) if stored is None else array_of(stored)


OPERATORS: Mapping[str, Operator] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "CastLike": lambda call: call.tensor(0).to(call.tensor(1).dtype),
    "Ceil": _unary(torch.ceil),
    "Celu": lambda call: F.celu(call.tensor(0), call.number("alpha", 1.0)),
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Cos": _unary(torch.cos),
    "DepthToSpace": _depth_to_space,
    "Div": _binary(_divide),
    "Dropout": _unary(lambda value: value),
    "Elu": lambda call: F.elu(call.tensor(0), call.number("alpha", 1.0)),
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _unary(torch.floor),
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _everywhere(torch.mean),
    "GlobalMaxPool": _everywhere(torch.amax),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "GroupNormalization": _group_norm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(F.hardswish),
    "Identity": _unary(lambda value: value),
    "InstanceNormalization": _instance_norm,
    "LRN": _local_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda call: F.leaky_relu(call.tensor(0), call.number("alpha", 0.01)),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "LogSoftmax": _softmax(torch.log_softmax),
    "MatMul": _variadic(torch.matmul),
    "Max": _variadic(torch.maximum),
    "MaxPool": _max_pool,
    "Min": _variadic(torch.minimum),
    "Mish": _unary(F.mish),
    "Mod": _modulo,
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": _binary(torch.pow),
    "Reciprocal": _unary(torch.reciprocal),
    "ReduceL2": _reduction(_length),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMean": _reduction(torch.mean),
    "ReduceMin": _reduction(torch.amin),
    "ReduceSum": _reduction(torch.sum),
    "Relu": _unary(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Round": _unary(torch.round),
    "ScatterND": _scatter,
    "Selu": _unary(F.selu),
    "Shape": _shape,
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Size": _size,
    "Slice": _slice,
    "Softmax": _softmax(torch.softmax),
    "Softplus": _unary(F.softplus),
    "Softsign": _unary(F.softsign),
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Sqrt": _unary(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(torch.sub),
    "Sum": _variadic(torch.add),
    "Tanh": _unary(torch.tanh),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": _upsample,
    "Where": _where,
}
"""By ONNX's name, for nodes that depend on the image."""
