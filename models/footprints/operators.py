"""What each ATen operation reads: one handler an operation, in a table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from segpipe.models.footprints.spans import Span, Taps, mix

Shape = tuple[int, ...]


class UnknownOperationError(Exception):
    """What an operation reads isn't known."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """A tensor that no pixel changes; `uniform` if all its elements are known to be the same."""

    shape: Shape
    uniform: bool = False


@dataclass(frozen=True, slots=True)
class Reads:
    """A tensor that pixels change: what it reads of the image's rows and of its columns."""

    shape: Shape
    rows: Span
    columns: Span

    def each(self, shape: Shape, view: Callable[[Span], Span]) -> "Reads":
        """A tensor of `shape` that reads what `view` makes of both spans."""
        return Reads(shape, view(self.rows), view(self.columns))

    def matters(self, dim: int) -> bool:
        """Whether elements along `dim` read different pixels."""
        return self.rows.shape[dim] > 1 or self.columns.shape[dim] > 1


@dataclass(frozen=True, slots=True)
class Places(Reads):
    """Where maxima were found: `windows` are the pooling's (kernel, stride, padding) a dimension.

    The numbers themselves count from the image's corner, so only unpooling may use them.
    """

    windows: tuple[tuple[int, int, int], ...] = ()


Value = Reads | Fixed | None
Result = Value | tuple[Value, ...]


@dataclass(slots=True)
class Findings:
    """What breaks the law: surely, or if the output turns out not to shift with the image."""

    surely: list[str] = field(default_factory=list)
    perhaps: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operation.

    Attributes:
        operation: its name.
        module: the qualified name of the module that calls it.
        arguments: by the schema's names, tensors as values.
        shapes: of its outputs.
        seed: a number of its own.
        findings: what it does that breaks the law is noted here.
    """

    operation: str
    module: str
    arguments: Mapping[str, object]
    shapes: tuple[Shape, ...]
    seed: int
    findings: Findings

    @property
    def shape(self) -> Shape:
        """Shape of the first output."""
        return self.shapes[0]

    @property
    def image(self) -> Reads:
        """The first argument, which the others may only modify."""
        first = next(iter(self.arguments.values()))
        if not isinstance(first, Reads) or len(self.live()) > 1:
            raise UnknownOperationError(self.operation)
        return first

    def live(self) -> list[Reads]:
        """All tensors among the arguments that pixels change."""
        return [value for value in self.tensors() if isinstance(value, Reads)]

    def tensors(self) -> Iterator[Reads | Fixed]:
        """All tensors among the arguments."""
        for argument in self.arguments.values():
            for value in argument if isinstance(argument, list | tuple) else (argument,):
                if isinstance(value, Reads | Fixed):
                    yield value

    def tensor(self, name: str) -> Reads | Fixed:
        """The tensor of this name."""
        value = self.arguments[name]
        if not isinstance(value, Reads | Fixed):
            raise UnknownOperationError(self.operation)
        return value

    def integer(self, name: str, default: int | None = None) -> int:
        """The integer of this name."""
        value = self.arguments.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, int):
            raise UnknownOperationError(self.operation)
        return value

    def integers(self, name: str, count: int | None = None) -> list[int]:
        """The integers of this name; a single one stands for `count` equal ones."""
        value = self.arguments.get(name)
        values = list(value) if isinstance(value, list | tuple) else [value]
        if count is not None and len(values) == 1:
            values *= count
        whole = [one for one in values if isinstance(one, int)]
        if len(whole) != len(values):
            raise UnknownOperationError(self.operation)
        return whole

    def breaks(self, how: str) -> None:
        """Notes that the operation breaks the law."""
        self.findings.surely.append(self.sentence(how))

    def may_break(self, how: str) -> None:
        """Notes that the operation would explain an output that doesn't shift."""
        self.findings.perhaps.append(self.sentence(how))

    def sentence(self, how: str) -> str:
        """For the user: operation, module, and what it does."""
        return f"{self.operation} in {self.module or 'the network itself'} {how}"


Handler = Callable[[Call], Result]


# ---- sums over dimensions


def _collapse(call: Call, value: Reads | Fixed, dims: Sequence[int], how: str) -> Reads | Fixed:
    """What a function of all of `value` along `dims` reads; sides become 1.

    A span of which half the image or more is joined counts as global. It is noted, and goes on as
    a constant, so that the stride of the rest can be found.
    """
    if isinstance(value, Fixed):
        return value
    dims = [dim % len(value.shape) for dim in dims]
    shape = tuple(1 if at in dims else side for at, side in enumerate(value.shape))

    def collapse(span: Span) -> Span:
        reduced = span.reduce(dims, call.seed)
        if 2 * (reduced.widest - span.widest) < span.length:
            return reduced
        call.breaks(how)
        return Span.nothing(span.length, len(shape))

    before = len(call.findings.surely)
    result = value.each(shape, collapse)
    del call.findings.surely[before + 1 :]
    return result


def _normalise(dims: Callable[[Call, Reads], Sequence[int]]) -> Handler:
    def handler(call: Call) -> Result:
        image = call.image
        statistics = _collapse(call, image, dims(call, image), "normalises over the whole image")
        value = _join(call, [image, statistics], image.shape)
        return (value, *(None for _ in call.shapes[1:])) if len(call.shapes) > 1 else value

    return handler


def _batch_norm(call: Call) -> Result:
    statistics = [call.arguments.get(name) for name in ("running_mean", "running_var")]
    own = bool(call.arguments.get("training") or call.arguments.get("use_input_stats"))
    if own or None in statistics:
        first = 2 if call.operation == "instance_norm" else 0
        dims = [dim for dim in range(len(call.shape)) if dim != 1 and dim >= first]
        return _normalise(lambda *_: dims)(call)
    return (call.image, *(None for _ in call.shapes[1:])) if len(call.shapes) > 1 else call.image


def _reduction(verb: str) -> Handler:
    def handler(call: Call) -> Result:
        image = call.image
        rank = len(image.shape)
        dims = call.integers("dim") if call.arguments.get("dim") not in (None, []) else range(rank)
        dims = sorted({dim % rank for dim in dims})
        value = _collapse(call, image, dims, f"{verb} the whole image")
        if isinstance(value, Reads) and len(call.shape) < rank:
            value = value.each(call.shape, lambda span: span.drop(dims))
        return tuple(value for _ in call.shapes) if len(call.shapes) > 1 else value

    return handler


def _linear(call: Call) -> Result:
    value = _collapse(call, call.image, [-1], "has a weight for every place of the image")
    return _reshaped(value, call.shape)


def _reshaped(value: Reads | Fixed, shape: Shape) -> Reads | Fixed:
    return Reads(shape, value.rows, value.columns) if isinstance(value, Reads) else Fixed(shape)


def _matmul(call: Call) -> Result:
    *added, left, right = call.tensors()
    if len(left.shape) < 2 or len(right.shape) < 2:
        raise UnknownOperationError(call.operation)
    how = "mixes all places of the image"
    terms = [_collapse(call, left, [-1], how), _collapse(call, right, [-2], how)]
    # A constant factor differs from place to place in no way that a sum over it would show.
    return _join(call, [*added, *(one for one in terms if isinstance(one, Reads))], call.shape)


def _attention(call: Call) -> Result:
    how = "attends to the whole image"
    query = _collapse(call, call.tensor("query"), [-1], how)
    key = _collapse(call, call.tensor("key"), [-1, -2], how)
    value = _collapse(call, call.tensor("value"), [-2], how)
    return _join(call, [query, key, value], call.shape)


# ---- elementwise


def _pointwise(call: Call) -> Result:
    return _join(call, list(call.tensors()), call.shape)


def _join(call: Call, values: Sequence[Reads | Fixed], shape: Shape) -> Reads:
    """A function of several tensors, broadcast to `shape`, element by element."""
    if any(isinstance(value, Places) for value in values):
        raise UnknownOperationError(call.operation)
    rank = len(shape)
    live = [value for value in values if isinstance(value, Reads)]
    varied = {
        dim + rank - len(value.shape)
        for value in values
        if isinstance(value, Fixed) and not value.uniform
        for dim, side in enumerate(value.shape)
        if side > 1
    }

    def join(spans: Sequence[Span]) -> Span:
        result = spans[0].lift(rank)
        for index, span in enumerate(spans[1:]):
            result = result.join(span.lift(rank), call.seed + index)
        dims = [dim for dim in varied if result.shape[dim] > 1]
        return result.weigh(dims, call.seed) if dims else result

    result = Reads(
        shape, join([value.rows for value in live]), join([value.columns for value in live])
    )
    if any(result.matters(dim) for dim in varied):
        call.may_break("combines the image with values that are tied to places in it")
    return result


def _second(call: Call) -> Result:
    source = call.tensor("src")
    if isinstance(source, Fixed):
        return Fixed(call.shape, source.uniform)
    return source.each(call.shape, lambda span: span.lift(len(call.shape)))


def _uniform(call: Call) -> Result:
    return Fixed(call.shape, uniform=True)


# ---- windows


def _gather(call: Call, image: Reads, taps: Mapping[int, Taps]) -> Reads:
    """What windows along some dimensions read; all channels of a place read alike."""

    def gather(span: Span) -> Span:
        for dim, one in taps.items():
            span = span.gather(dim, one)
        return span

    return image.each(call.shape, gather)


def _windows(length: int, kernel: int, stride: int, padding: int, dilation: int) -> np.ndarray:
    """First index of what each window of a convolution or pooling reads, plus its taps."""
    return np.arange(length)[:, None] * stride - padding + np.arange(kernel) * dilation


def _spread(call: Call, dim: int, sides: tuple[int, int], window: tuple[int, ...]) -> Taps:
    """Taps of a transposed convolution from a side to another."""
    kernel, stride, padding, dilation = window
    taps = np.arange(kernel)
    place = np.arange(sides[1])[:, None] + padding - taps * dilation
    used = place % stride == 0
    return Taps.padded(place // stride, sides[0], mix(call.seed, dim, taps), used)


def _convolution(call: Call) -> Result:
    image = call.image
    weight = call.tensor("weight").shape
    count = len(weight) - 2
    stride, dilation = call.integers("stride", count), call.integers("dilation", count)
    transposed = "output_padding" in call.arguments and call.arguments.get("transposed", True)
    reach = [step * (side - 1) for step, side in zip(dilation, weight[2:], strict=True)]
    padding = {"same": [one // 2 for one in reach], "valid": [0] * count}.get(
        str(call.arguments["padding"])
    ) or call.integers("padding", count)
    first = len(image.shape) - count
    taps = {}
    for axis, kernel in enumerate(weight[2:]):
        dim = first + axis
        sides = image.shape[dim], call.shape[dim]
        if transposed:
            window = kernel, stride[axis], padding[axis], dilation[axis]
            taps[dim] = _spread(call, dim, sides, window)
        else:
            index = _windows(sides[1], kernel, stride[axis], padding[axis], dilation[axis])
            taps[dim] = Taps.padded(index, sides[0], mix(call.seed, dim, np.arange(kernel)))
    mixed = image.each(image.shape, lambda span: span.reduce([first - 1], call.seed))
    return _gather(call, mixed, taps)


def _pooling(call: Call) -> Result:
    image = call.image
    kernel = call.integers("kernel_size")
    count = len(kernel) if len(kernel) > 1 else int(call.operation.split("pool")[1][0])
    kernel = call.integers("kernel_size", count)
    stride = call.integers("stride", count) if call.arguments.get("stride") else kernel
    padding = call.integers("padding", count)
    dilation = call.integers("dilation", count) if "dilation" in call.arguments else [1] * count
    taps, windows = {}, []
    for axis in range(count):
        dim = len(image.shape) - count + axis
        index = _windows(call.shape[dim], kernel[axis], stride[axis], padding[axis], dilation[axis])
        weight = mix(call.seed, dim, np.arange(kernel[axis]))
        taps[dim] = Taps.padded(index, image.shape[dim], weight)
        windows.append((kernel[axis], stride[axis], padding[axis]))
    value = _gather(call, image, taps)
    if len(call.shapes) == 1:
        return value
    if any(one != 1 for one in dilation):
        raise UnknownOperationError(call.operation)
    return value, Places(value.shape, value.rows, value.columns, tuple(windows))


def _unpooling(call: Call) -> Result:
    places = call.tensor("indices")
    values = call.tensor("self")
    if not isinstance(places, Places) or not isinstance(values, Reads):
        raise UnknownOperationError(call.operation)
    found = Reads(places.shape, places.rows, places.columns)
    image = _join(call, [values, found], values.shape)
    first = len(image.shape) - len(places.windows)
    taps = {
        dim: _spread(call, dim, (image.shape[dim], call.shape[dim]), (*window, 1))
        for dim, window in enumerate(places.windows, first)
    }
    return _gather(call, image, taps)


def _adaptive(call: Call) -> Result:
    count = int(call.operation.split("pool")[1][0])
    verb = "averages over" if "avg" in call.operation else "takes the maximum of"
    dims = range(len(call.shape) - count, len(call.shape))
    whole = [dim for dim in dims if call.shape[dim] == 1]
    value = _collapse(call, call.image, whole, f"{verb} the whole image")
    if isinstance(value, Reads):
        taps = {dim: _parts(call, dim, value.shape[dim]) for dim in dims if dim not in whole}
        if any(value.matters(dim) and value.shape[dim] != call.shape[dim] for dim in taps):
            call.may_break(f"{verb} parts of the image that grow with it")
        value = _gather(call, value, taps)
    return (value, None) if len(call.shapes) > 1 else value


def _parts(call: Call, dim: int, before: int) -> Taps:
    after = call.shape[dim]
    place = np.arange(after)[:, None]
    start, end = place * before // after, -(-(place + 1) * before // after)
    index = start + np.arange((end - start).max())
    return Taps.padded(index, before, mix(call.seed, dim, index - start), index < end)


# ---- interpolation


def _upsample(call: Call) -> Result:
    image = call.image
    count = int(call.operation.removesuffix("_aa").split("d")[-2][-1])
    aligned = bool(call.arguments.get("align_corners"))
    taps = {}
    for axis in range(count):
        dim = len(image.shape) - count + axis
        before, after = image.shape[dim], call.shape[dim]
        if aligned and 1 < before != after and image.matters(dim):
            call.breaks("has align_corners=True, which ties its places to the image's corners")
            aligned = False
        taps[dim] = _resampled(call, dim, before, _step(call, axis, count, before, after))
    return _gather(call, image, taps)


def _step(call: Call, axis: int, count: int, before: int, after: int) -> Fraction:
    """How far the input moves when the output moves by one."""
    scales = call.arguments.get("scale_factors") or [
        call.arguments.get(name) for name in ("scales_h", "scales_w")[-count:]
    ]
    scale = scales[axis] if isinstance(scales, list | tuple) else None
    if isinstance(scale, float) and int(before * scale) == after:
        return 1 / Fraction(scale).limit_denominator(1 << 12)
    return Fraction(before, after)


def _resampled(call: Call, dim: int, before: int, step: Fraction) -> Taps:
    """Taps of an interpolation; a phase is the place between two inputs."""
    place = np.arange(call.shape[dim])[:, None]
    if "nearest" in call.operation:
        # floor(place * step), or floor((place + 1/2) * step) in the exact variant
        double = 2 * place + ("exact" in call.operation)
        index = double * step.numerator // (2 * step.denominator)
        return Taps.clamped(index, before, mix(call.seed, dim), np.ones(index.shape, bool))
    # (place + 1/2) * step - 1/2
    over = (2 * place + 1) * step.numerator - step.denominator
    under = 2 * step.denominator
    reach = np.arange(-1, 3) if "bicubic" in call.operation else np.arange(2)
    index, phase = over // under + reach, over % under
    used = np.ones(index.shape, bool)
    return Taps.clamped(index, before, mix(call.seed, dim, phase, reach), used)


# ---- places


def _view(call: Call) -> Result:
    image = call.image
    return image.each(call.shape, lambda span: span.reshape(image.shape, call.shape))


def _permute(call: Call) -> Result:
    image = call.image
    rank = len(image.shape)
    order = list(range(rank))
    if "dims" in call.arguments:
        order = [dim % rank for dim in call.integers("dims")]
    else:
        one, two = (call.integer(name, at) for name, at in (("dim0", 0), ("dim1", 1)))
        order[one], order[two] = order[two], order[one]
    return image.each(call.shape, lambda span: span.permute(order))


def _expand(call: Call) -> Result:
    return call.image.each(call.shape, lambda span: span.lift(len(call.shape)))


def _repeat(call: Call) -> Result:
    image = call.image
    repeats = call.integers("repeats")
    missing = len(repeats) - len(image.shape)
    if any(image.matters(dim) and repeats[missing + dim] > 1 for dim in range(len(image.shape))):
        raise UnknownOperationError(call.operation)
    return _expand(call)


def _part(call: Call) -> tuple[int, slice]:
    """Dimension and range that a slicing operation means."""
    side = next(call.tensors()).shape
    dim = call.integer("dim", 0) % len(side)
    start, end = call.integer("start", 0), call.arguments.get("end")
    if "length" in call.arguments:
        start %= side[dim]
        end = start + call.integer("length")
    stop = end if isinstance(end, int) else side[dim]
    return dim, slice(*slice(start, stop, call.integer("step", 1)).indices(side[dim]))


def _slice(call: Call) -> Result:
    dim, part = _part(call)
    return call.image.each(call.shape, lambda span: span.cut(dim, part))


def _select(call: Call) -> Result:
    image = call.image
    dim = call.integer("dim") % len(image.shape)
    index = call.integer("index") % image.shape[dim]
    part = slice(index, index + 1)
    return image.each(call.shape, lambda span: span.cut(dim, part).drop([dim]))


def _split(call: Call) -> Result:
    image = call.image
    dim = call.integer("dim", 0) % len(image.shape)
    pieces: list[Value] = []
    start = 0
    for shape in call.shapes:
        gone = len(shape) < len(image.shape)
        part = slice(start, start + (1 if gone else shape[dim]))
        rows, columns = image.rows.cut(dim, part), image.columns.cut(dim, part)
        if gone:
            rows, columns = rows.drop([dim]), columns.drop([dim])
        pieces.append(Reads(shape, rows, columns))
        start = part.stop
    return tuple(pieces)


def _scatter(call: Call) -> Result:
    dim, part = _part(call)
    return _assembled(call, dim, [(slice(None), call.tensor("self")), (part, call.tensor("src"))])


def _cat(call: Call) -> Result:
    tensors = list(call.tensors())
    rank = len(call.shape)
    dim = call.integer("dim", 0) % rank
    pieces: list[tuple[slice, Reads | Fixed]] = []
    start = 0
    for value in tensors:
        if call.operation == "stack":
            value = _unsqueezed(value, dim)
        pieces.append((slice(start, start + value.shape[dim]), value))
        start += value.shape[dim]
    return _assembled(call, dim, pieces)


def _unsqueezed(value: Reads | Fixed, dim: int) -> Reads | Fixed:
    shape = (*value.shape[:dim], 1, *value.shape[dim:])
    if isinstance(value, Fixed):
        return Fixed(shape, value.uniform)
    before = value.shape
    return value.each(shape, lambda span: span.reshape(before, shape))


def _assembled(call: Call, dim: int, pieces: Sequence[tuple[slice, Reads | Fixed]]) -> Result:
    """Pieces written along `dim`, later ones over earlier ones.

    Where `dim` makes no difference to the image's pieces it is taken for channels: then any
    element may read what one of them reads.
    """
    live = [(part, value) for part, value in pieces if isinstance(value, Reads)]
    if not any(value.matters(dim) for _, value in live):
        # The sides along `dim` differ, so constants count as varied in the other dimensions only.
        flat = [
            Fixed(_one(value.shape, dim), value.uniform) if isinstance(value, Fixed) else value
            for _, value in pieces
        ]
        return _join(call, flat, call.shape)

    def assemble(spans: Sequence[Span]) -> Span:
        if all(span.shape[dim] == 1 for span in spans):
            result = spans[0]
            for index, span in enumerate(spans[1:]):
                result = result.join(span, call.seed + index)
            return result
        result = spans[0].beside()
        for (part, _), span in zip(live, spans, strict=True):
            result = result.put(dim, part, call.shape[dim], span)
        return result

    return Reads(
        call.shape,
        assemble([value.rows for _, value in live]),
        assemble([value.columns for _, value in live]),
    )


def _one(shape: Shape, dim: int) -> Shape:
    return tuple(1 if at == dim else side for at, side in enumerate(shape))


def _pad(call: Call) -> Result:
    image = call.image
    name = "pad" if "pad" in call.arguments else "padding"
    widths = call.integers(name)
    mode = str(call.arguments.get("mode", call.operation))
    taps = {}
    for axis in range(len(widths) // 2):
        dim = len(image.shape) - 1 - axis
        side, before = image.shape[dim], widths[2 * axis]
        if not any(widths[2 * axis : 2 * axis + 2]) or not image.matters(dim):
            continue
        index = np.arange(call.shape[dim])[:, None] - before
        outside = ((index < 0) | (index >= side))[:, 0]
        weight, used = mix(call.seed, dim), np.ones(index.shape, bool)
        if "constant" in mode:
            taps[dim] = Taps.padded(index, side, weight)
        elif "repl" in mode or "circular" in mode:
            if "circular" in mode:
                call.breaks("wraps around the image")
            taps[dim] = Taps.clamped(index, side, weight, used)
        else:
            mirrored = side - 1 - abs(side - 1 - abs(index))
            taps[dim] = Taps(mirrored, used, outside, np.broadcast_to(weight, index.shape))
    return _gather(call, image, taps)


def _displaced(how: str) -> Handler:
    def handler(call: Call) -> Result:
        image = call.image
        dims = call.integers("dims") if call.arguments.get("dims") else range(len(image.shape))
        if any(image.matters(dim) for dim in dims):
            call.breaks(how)
        return image

    return handler


def _shuffle(call: Call) -> Result:
    """Channels to places: a block of factor x factor for each place (Shi et al. 2016)."""
    image = call.image
    factor = call.integer("upscale_factor")
    *batch, channels, height, width = image.shape
    rank = len(batch)
    deep = (*batch, channels // factor**2, factor, factor, height, width)
    order = [*range(rank), *(rank + at for at in (0, 3, 1, 4, 2))]

    def view(span: Span) -> Span:
        blocks = span.reshape(image.shape, deep).permute(order)
        return blocks.reshape([deep[at] for at in order], call.shape)

    return image.each(call.shape, view)


def _unshuffle(call: Call) -> Result:
    """Places to channels, the inverse of `_shuffle`."""
    image = call.image
    factor = call.integer("downscale_factor")
    *batch, channels, height, width = image.shape
    rank = len(batch)
    deep = (*batch, channels, height // factor, factor, width // factor, factor)
    order = [*range(rank), *(rank + at for at in (0, 2, 4, 1, 3))]

    def view(span: Span) -> Span:
        blocks = span.reshape(image.shape, deep).permute(order)
        return blocks.reshape([deep[at] for at in order], call.shape)

    return image.each(call.shape, view)


def _channels(call: Call) -> Result:
    return call.image.each(call.shape, lambda span: span.reduce([1], call.seed))


def _table(*groups: tuple[Handler, str]) -> Mapping[str, Handler]:
    return {name: handler for handler, names in groups for name in names.split()}


HANDLERS: Mapping[str, Handler] = _table(
    (
        _pointwise,
        "alias clone contiguous detach dropout feature_dropout hardswish hardsigmoid leaky_relu "
        "lift_fresh_copy prelu relu6 rsub to _to_copy type_as fill sigmoid",
    ),
    (_uniform, "zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty"),
    (_second, "copy"),
    (_convolution, "convolution _convolution conv1d conv2d conv_transpose1d conv_transpose2d"),
    (_pooling, "avg_pool1d avg_pool2d max_pool1d max_pool2d max_pool2d_with_indices"),
    (_unpooling, "max_unpool2d"),
    (
        _adaptive,
        "adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d",
    ),
    (
        _upsample,
        "upsample_nearest1d upsample_nearest2d _upsample_nearest_exact1d "
        "_upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d upsample_bicubic2d",
    ),
    (_batch_norm, "batch_norm instance_norm _native_batch_norm_legit_no_training"),
    (
        _normalise(lambda call, image: range(1, len(image.shape))),
        "group_norm native_group_norm",
    ),
    (
        _normalise(lambda call, image: range(-len(call.integers("normalized_shape")), 0)),
        "layer_norm native_layer_norm",
    ),
    (
        _normalise(lambda call, image: [call.integer("dim")]),
        "softmax _softmax log_softmax _log_softmax",
    ),
    (_reduction("averages over"), "mean"),
    (_reduction("sums over"), "sum"),
    (_reduction("takes the extremes of"), "amax amin max min"),
    (_reduction("takes the norm of"), "linalg_vector_norm norm"),
    (_reduction("takes the spread of"), "var std var_mean std_mean"),
    (_reduction("looks for the extreme of"), "argmax argmin"),
    (_linear, "linear"),
    (_matmul, "matmul mm bmm addmm baddbmm"),
    (_attention, "scaled_dot_product_attention"),
    (
        _view,
        "view reshape _unsafe_view view_copy flatten unflatten squeeze unsqueeze _reshape_alias",
    ),
    (_permute, "permute transpose t swapaxes"),
    (_expand, "expand expand_as"),
    (_repeat, "repeat"),
    (_slice, "slice narrow"),
    (_select, "select"),
    (_split, "split split_with_sizes chunk unbind tensor_split"),
    (_cat, "cat concat stack"),
    (_scatter, "slice_scatter"),
    (_pad, "pad constant_pad_nd reflection_pad2d replication_pad2d"),
    (_displaced("wraps around the image"), "roll"),
    (_displaced("mirrors the image"), "flip"),
    (_shuffle, "pixel_shuffle"),
    (_unshuffle, "pixel_unshuffle"),
    (_channels, "channel_shuffle native_channel_shuffle"),
)
"""By operation, without namespace and overload: what is read."""

POINTWISE: Handler = _pointwise
"""For every operation that torch tags as elementwise."""

UNIFORM = frozenset(("zeros", "ones", "full", "scalar_tensor", "empty"))
"""Operations that make a constant of equal elements."""
