"""Evidence from running a network in float64: that tiles equal the whole, and what its stride is.

In float64 rounding stays below 1e-14 of the output's standard deviation while the faintest
dependency of a network in use shows at 1e-7 or more, so that the two can't be confused.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from math import lcm, sqrt
from typing import Protocol

import torch
from torch import Tensor, nn

from segpipe.models.footprints.exported import evaluating
from segpipe.models.footprints.nan_frame import SIDE, Extents, strip

TOLERANCE = 1e-10
"""Largest difference, in standard deviations of the output, that is put down to rounding."""


class Margins(Protocol):
    """The numbers of a footprint."""

    @property
    def stride(self) -> int:
        """Read windows start and end at its multiples."""

    @property
    def top(self) -> int:
        """Pixels that are read above a core."""

    @property
    def left(self) -> int:
        """Pixels that are read to the left of a core."""

    @property
    def bottom(self) -> int:
        """Pixels that are read below a core."""

    @property
    def right(self) -> int:
        """Pixels that are read to the right of a core."""


@dataclass(frozen=True, slots=True)
class Proof:
    """How many tiles were compared with the whole, and the largest difference that was found.

    `difference` is in standard deviations of the whole output. `holds` if it is rounding.
    """

    tiles: int
    difference: float

    @property
    def holds(self) -> bool:
        """Whether every tile equalled the whole."""
        return self.difference < TOLERANCE


def prove(network: nn.Module, footprint: Margins, bands: int = 3) -> Proof:
    """A comparison of tiles with the whole image, on the network's weights and on random ones.

    The images are strips across both directions, just long enough for seams on both sides of a
    tile: a few hundred thousand pixels at most. Read windows are the pipeline's: from a multiple of
    the stride, over the core and its margin, to a multiple of the stride, clipped at the image. The
    cores start and end where that rounding adds nothing, and at random; the first and the last one
    reach the real edges. Random weights (He et al. 2015) leave no path dead, which trained ones do.

    It takes a copy of the network in float64.
    """
    double = deepcopy(network).to("cpu", torch.float64)
    tiles, worst = 0, 0.0
    for redraw in (False, True):
        if redraw:
            he_initialise(double)
        for dim, before, after in (
            (-2, footprint.top, footprint.bottom),
            (-1, footprint.left, footprint.right),
        ):
            differences = list(_differences(double, bands, dim, footprint.stride, before, after))
            tiles += len(differences)
            worst = max([worst, *differences])
    return Proof(tiles, worst)


def find_stride(network: nn.Module, bands: int, extents: Extents) -> int | None:
    """The smallest shift of an image that shifts the output alike, up to 64 pixels, or None.

    Found on random weights in float64, for a network whose inner pixels see `extents`.
    """
    double = deepcopy(network).to("cpu", torch.float64)
    he_initialise(double)
    top, left, bottom, right = extents
    columns = _stride(double, bands, -1, left, right)
    rows = _stride(double, bands, -2, top, bottom) if columns else None
    return lcm(rows, columns) if rows and columns else None


def he_initialise(network: nn.Module, seed: int = 0) -> None:
    """Draws all weights anew, so that half of the activations live at any place of an image."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            if weight.ndim > 1:
                weight.copy_(noise * sqrt(2 * len(weight) / weight.numel()))
            else:
                weight.copy_(0.1 * noise + (0 if name.endswith("bias") else 1))
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.zero_()
            elif name.endswith("running_var"):
                buffer.fill_(1)


def _differences(
    network: nn.Module, bands: int, dim: int, stride: int, before: int, after: int
) -> Iterator[float]:
    """Of each tile along `dim` from the whole, in standard deviations."""
    cores, length = _cores(stride, before, after)
    across = _up(SIDE // 2, stride)
    generator = torch.Generator().manual_seed(length)
    shape = (across, length) if dim == -1 else (length, across)
    image = torch.randn(1, bands, *shape, generator=generator, dtype=torch.float64)
    with evaluating(network):
        whole: Tensor = network(image)
        scale = float(whole.std()) or 1.0
        for start, end in cores:
            low = max(0, (start - before) // stride * stride)
            high = min(length, _up(end + after, stride))
            tile: Tensor = network(image.narrow(dim, low, high - low).contiguous())
            inside = tile.narrow(dim, start - low, end - start)
            error = (inside - whole.narrow(dim, start, end - start)).abs().max()
            yield float(error) / scale


def _cores(stride: int, before: int, after: int) -> tuple[list[tuple[int, int]], int]:
    """Cores to compare, and the length of an image in which their windows end inside."""
    # A window from start - before and up to end + after, both multiples of the stride already.
    start = before + stride
    end = _up(start + stride + 8 + after, stride) - after
    random = torch.Generator().manual_seed(stride + before)
    late, more = (int(one) for one in torch.randint(stride, (2,), generator=random))
    length = _up(end + after, stride) + 2 * stride
    cores = [(0, end), (start, end), (start, length)]
    if stride > 1:
        cores.append((start + late, min(end + more, start + late + stride)))
    return cores, length


def _stride(network: nn.Module, bands: int, dim: int, before: int, after: int) -> int | None:
    length = _up(before + after + 4 * SIDE, SIDE)
    image = strip(bands, length + SIDE, dim)
    with evaluating(network):
        still: Tensor = network(image.narrow(dim, 0, length).contiguous())
        scale = float(still.std()) or 1.0
        for shift in range(1, SIDE + 1):
            moved: Tensor = network(image.narrow(dim, shift, length).contiguous())
            count = length - before - after - shift
            error = still.narrow(dim, before + shift, count) - moved.narrow(dim, before, count)
            if float(error.abs().max()) < TOLERANCE * scale:
                return shift
    return None


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
