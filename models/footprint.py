"""How far one output pixel of a network sees."""

from dataclasses import asdict, dataclass
from math import lcm
from typing import Any

import numpy as np
from torch import nn

from segpipe.models.errors import ModelError
from segpipe.models.footprints.exported import REFUSALS, ExportError, first_line
from segpipe.models.footprints.graph_walk import Walk, follow
from segpipe.models.footprints.nan_frame import find_extents
from segpipe.models.footprints.operators import UnknownOperationError
from segpipe.models.footprints.proof import find_stride
from segpipe.models.footprints.spans import SHIFT, Span

PROBES = ((1920, 3840), (4480, 8960))
"""Images to walk on, height and width. Between them they are multiples of 1 to 10, 12, 14, ..., and
of the powers of two up to 128. Height and width differ so that one walk sees two sizes."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """A network's stride and how many pixels an output pixel sees to each side.

    `stride` is the smallest shift of the input that shifts the output alike. In an image that
    starts and ends at multiples of it, an output pixel with `top`, `left`, `bottom` and `right`
    pixels around it is the same whatever lies beyond. `exact` is False for a network that no margin
    makes exact; `reasons` then names each operation, and the module that holds it.
    """

    stride: int
    top: int
    left: int
    bottom: int
    right: int
    exact: bool
    reasons: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The footprint as JSON takes it."""
        return {**asdict(self), "reasons": list(self.reasons)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Footprint":
        """The footprint that `to_dict` wrote."""
        return cls(**{**data, "reasons": tuple(data["reasons"])})


@dataclass(frozen=True, slots=True)
class Reach:
    """One direction of a footprint: stride, and pixels that are seen before and after."""

    stride: int
    before: int
    after: int


def measure(network: nn.Module, bands: int = 3) -> Footprint:
    """The footprint of a network that maps (N, bands, H, W) to (N, classes, H, W).

    It is read from the structure of the exported graph, on two sizes of image, without weights,
    memory or computation; so it holds for all weights. Only if the walk doesn't know an operation,
    the network is run on the CPU: a frame of NaN shows how far it sees, and shifted images of
    random numbers show the stride. A network that can't be exported, as one whose path depends on
    values, is never exact: its structure may hide what no example shows.
    """
    try:
        return _by_structure(network, bands)
    except UnknownOperationError as error:
        return _by_values(network, bands, first_line(error))
    except ExportError as error:
        return _approximate((f"the network's structure can't be read: {first_line(error)}",))


def receptive_field(network: nn.Module, bands: int = 3) -> tuple[int, int]:
    """Stride and receptive field of an output unit in pixels: the longest side of what it reads.

    The output may be smaller than the image, as a classifier's score map is.

    Raises:
        ModelError: the network can't be followed, or its units see the whole image.
    """
    try:
        found = follow(network, bands, *PROBES[0])
    except (UnknownOperationError, ExportError) as error:
        raise ModelError(f"the network can't be followed: {first_line(error)}") from error
    periods = [_period(span) for span in (found.rows, found.columns)]
    if found.reasons or None in periods:
        reason = next(iter(found.reasons), "no unit is independent of the image's edges")
        raise ModelError(f"an output unit has no receptive field: {reason}")
    fields = [
        int((span.high - span.low)[~span.edge].max()) + 1 for span in (found.rows, found.columns)
    ]
    return lcm(*(rows for period in periods if period for rows in period[1:])), max(fields)


def _by_structure(network: nn.Module, bands: int) -> Footprint:
    found, refusal = None, None
    for height, width in PROBES:
        try:
            found = follow(network, bands, height, width)
        except ExportError as error:
            refusal = error
            continue
        reaches = _reach(found.rows), _reach(found.columns)
        if found.reasons:
            return _approximate(found.reasons, *reaches)
        rows, columns = reaches
        if rows is not None and columns is not None:
            return _confirmed(network, bands, (height, width), found, (rows, columns))
    if found is None:
        raise refusal or UnknownOperationError("the network takes no image")
    return _approximate(found.suspects or (_no_shift(found),))


def _confirmed(
    network: nn.Module,
    bands: int,
    size: tuple[int, int],
    found: Walk,
    reaches: tuple[Reach, Reach],
) -> Footprint:
    """The footprint, if rows and columns have the same reach in images of different sides."""
    rows, columns = reaches
    if rows != columns:
        again = follow(network, bands, *reversed(size))
        if (rows, columns) != (_reach(again.rows), _reach(again.columns)):
            reason = "what an output pixel reads depends on the image's size"
            return _approximate(found.suspects or (reason,))
    stride = lcm(rows.stride, columns.stride)
    return Footprint(stride, rows.before, columns.before, rows.after, columns.after, exact=True)


def _by_values(network: nn.Module, bands: int, why: str) -> Footprint:
    try:
        extents = find_extents(network, bands)
        stride = find_stride(network, bands, extents) if extents else None
    except REFUSALS as error:
        return _approximate((f"the network can't be run on small images: {first_line(error)}",))
    if extents is None:
        return _approximate((f"an output pixel sees the whole image ({why})",))
    if stride is None:
        return _approximate((f"the output doesn't shift with the image ({why})",))
    return Footprint(stride, *extents, exact=True)


def _reach(span: Span) -> Reach | None:
    """Stride and extents in one direction, or None where no inner pixels shift with the image."""
    period = _period(span)
    if period is None or len(span.low) != span.length or period[0] != period[1]:
        return None
    inner = np.flatnonzero(~span.edge)
    row = np.arange(span.length)
    before, after = row - span.low, span.high - row
    if before.max() > before[inner].max() or after.max() > after[inner].max():
        return None
    return Reach(period[1], int(inner[0]), span.length - 1 - int(inner[-1]))


def _period(span: Span) -> tuple[int, int] | None:
    """By how many outputs, and by how many pixels, the pattern of inner outputs repeats."""
    inner = np.flatnonzero(~span.edge)
    if len(inner) < 2 or inner[-1] - inner[0] >= len(inner) or 4 * len(inner) < len(span.edge):
        return None
    low, high, mark = span.low[inner], span.high[inner], span.mark[inner]
    for outputs in range(1, len(inner) // 2):
        pixels = int(low[outputs] - low[0])
        if pixels < 1:
            continue
        factor = np.uint64(pow(int(SHIFT), pixels, 1 << 64))
        if (
            (mark[outputs:] == mark[:-outputs] * factor).all()
            and (low[outputs:] == low[:-outputs] + pixels).all()
            and (high[outputs:] == high[:-outputs] + pixels).all()
        ):
            return outputs, pixels
    return None


def _approximate(reasons: tuple[str, ...], *reaches: Reach | None) -> Footprint:
    stride = lcm(*(reach.stride for reach in reaches if reach is not None))
    return Footprint(stride, 0, 0, 0, 0, exact=False, reasons=reasons)


def _no_shift(found: Walk) -> str:
    image = f"{found.rows.length} x {found.columns.length}"
    output = f"{len(found.rows.low)} x {len(found.columns.low)}"
    if image != output:
        return f"the output has {output} pixels for an image of {image}"
    return "the output doesn't shift with the image"
