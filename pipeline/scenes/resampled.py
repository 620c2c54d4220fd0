"""A raster on another grid: every pixel is worked out by itself, whatever window it is read in."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.grid import Affine, Grid
from segpipe.pipeline.scenes.source import Band, Contents, Source
from segpipe.pipeline.window import Window

Resampling = Literal["auto", "average", "bilinear", "nearest"]
"""How pixels are worked out; `auto` averages where they grow, and is bilinear where they shrink."""

MOST_RATIO = 256
"""How many times larger or smaller pixels may become along an axis."""

MOST_PIXELS = 1 << 22
"""How many pixels of the raster are read at once, if there are more under a window."""

_SNAP = 1e-6
"""Parts of a pixel that are rounding errors of transforms."""

_ALGORITHM = 1
"""Raised whenever a change here can change a pixel."""

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]


def on_grid(contents: Contents, grid: Grid, resampling: Resampling = "auto") -> Contents:
    """What a raster holds, on another grid of the same crs; itself where it lies on that grid.

    A pixel's value is the mean of what is valid under it, weighted by area (`average`), or
    interpolated between the four valid centres around its own (`bilinear`), in float64, and then
    rounded to the band's own dtype. A mean is valid where anything under the pixel is; every other
    value where the pixel is that holds its centre. Bands have no nodata any more: masks tell.

    Raises:
        InputRefusedError: the grids lie in two crs, or turned against each other, or their pixels
            differ too much in size.
    """
    if (grid.shape, grid.transform) == (contents.grid.shape, contents.grid.transform):
        return contents
    if not same_crs(grid, contents.grid):
        raise InputRefusedError(
            "a raster is resampled within its crs alone; warp it first: gdalwarp -t_srs"
        )
    across, down = between(grid, contents.grid)
    for scale in (across.scale, down.scale):
        if not 1 / MOST_RATIO <= abs(scale) <= MOST_RATIO:
            raise InputRefusedError(
                f"pixels would become {_times(abs(scale))}; {MOST_RATIO} times at most"
            )
    height, width = contents.block_shape
    return replace(
        contents,
        grid=grid,
        bands=tuple(replace(band, nodata=None) for band in contents.bands),
        block_shape=(
            max(1, round(height / abs(down.scale))),
            max(1, round(width / abs(across.scale))),
        ),
        source=ResampledSource(
            contents.source,
            contents.bands,
            Axis(contents.grid.height, down, _method(resampling, down)),
            Axis(contents.grid.width, across, _method(resampling, across)),
        ),
    )


def rescaled(grid: Grid, across: float, down: float) -> Grid:
    """The grid with pixels `across` times as wide and `down` times as high, from the same corner.

    It covers all of the grid, so its last row and column may reach beyond.
    """
    a, b, c, d, e, f = grid.transform
    return Grid(
        math.ceil(grid.height / down - _SNAP),
        math.ceil(grid.width / across - _SNAP),
        (a * across, b * down, c, d * across, e * down, f),
        grid.crs,
    )


def same_crs(grid: Grid, other: Grid) -> bool:
    """Whether two grids lie in one crs, however its words are put; or both in none."""
    if grid.crs == other.crs or grid.crs is None or other.crs is None:
        return grid.crs == other.crs
    return CRS.from_wkt(grid.crs).equals(CRS.from_wkt(other.crs), ignore_axis_order=True)


@dataclass(frozen=True, slots=True)
class Line:
    """Where a grid's lines lie on another grid: line n of one on `scale * n + offset`."""

    scale: float
    offset: float


def between(grid: Grid, other: Grid) -> tuple[Line, Line]:
    """Where the columns and the rows of `grid` lie on `other`, in pixels of the latter.

    Raises:
        InputRefusedError: rows of one don't follow rows of the other.
    """
    a, b, c, d, e, f = _seen_from(other.transform, grid.transform)
    # Over all of the grid less than a thousandth of a pixel.
    if max(abs(b) * grid.height, abs(d) * grid.width) > 1e-3:
        raise InputRefusedError(
            "the rows of two rasters don't run in the same direction; warp one: gdalwarp"
        )
    return Line(a, c), Line(e, f)


def _seen_from(here: Affine, there: Affine) -> Affine:
    """The transform from pixels of `there` to pixels of `here`."""
    a, b, c, d, e, f = here
    g, h, i, j, k, m = there
    area = a * e - b * d
    # Origins are subtracted first: they're large numbers that differ by little.
    x, y = i - c, m - f
    return (
        (e * g - b * j) / area,
        (e * h - b * k) / area,
        (e * x - b * y) / area,
        (a * j - d * g) / area,
        (a * k - d * h) / area,
        (a * y - d * x) / area,
    )


@dataclass(frozen=True, slots=True)
class ResampledSource:
    """A source seen on another grid; `bands` are those of the source, with their nodata."""

    source: Source
    bands: tuple[Band, ...]
    rows: "Axis"
    columns: "Axis"

    def read(
        self, window: Window, indexes: tuple[int, ...], dtype: str
    ) -> tuple[NDArray[np.generic], Mask]:
        """See `Source.read`; a pixel is valid where all the bands `indexes` have a value."""
        rows = self.rows.taps(window.top, window.bottom)
        columns = self.columns.taps(window.left, window.right)
        if rows.span is None or columns.span is None:
            return np.zeros((len(indexes), *window.shape), dtype), np.zeros(window.shape, np.bool_)
        (top, bottom), (left, right) = rows.span, columns.span
        area = Window(top, left, bottom - top, right - left)
        if area.pixels > MOST_PIXELS and window.pixels > 1:
            return self._halved(window, indexes, dtype)
        raw, shown = self.source.read(area, indexes, dtype)
        pixels = np.empty((len(indexes), *window.shape), dtype)
        valid = np.ones(window.shape, np.bool_)
        for index, plane, result in zip(indexes, raw, pixels, strict=True):
            band = self.bands[index - 1]
            measured = shown & np.isfinite(plane)
            if band.marker is not None:
                measured &= plane != plane.dtype.type(band.marker)
            values, reached = _resample(plane, measured, rows, columns)
            result[:] = _rounded(values, band.dtype)
            valid &= reached
        return pixels, valid

    def identity(self, full: bool) -> dict[str, Any]:
        """See `Source.identity`: that of the source, and how its pixels are worked out."""
        axes = [
            [axis.method, axis.line.scale, axis.line.offset] for axis in (self.rows, self.columns)
        ]
        return {
            "resampled": {"axes": axes, "algorithm": _ALGORITHM},
            "source": self.source.identity(full),
        }

    def _halved(
        self, window: Window, indexes: tuple[int, ...], dtype: str
    ) -> tuple[NDArray[np.generic], Mask]:
        halves = window.halves()
        axis = 0 if halves[0].left == halves[1].left else 1
        pixels, valid = zip(*(self.read(half, indexes, dtype) for half in halves), strict=True)
        return np.concatenate(pixels, axis=axis + 1), np.concatenate(valid, axis=axis)


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction: `length` pixels of the source, and where the lines of the grid lie on it."""

    length: int
    line: Line
    method: Literal["average", "bilinear", "nearest"]

    def taps(self, start: int, end: int) -> "Taps":
        """What the pixels `start` to `end` of the grid are made of.

        Every number depends on its pixel alone, never on `start` and `end`.
        """
        scale, offset = self.line.scale, self.line.offset
        if self.method == "average":
            edges = _snapped(scale * np.arange(start, end + 1, dtype=np.float64) + offset)
            low, high = np.minimum(edges[:-1], edges[1:]), np.maximum(edges[:-1], edges[1:])
            indexes = np.floor(low)[:, None] + np.arange(math.ceil(abs(scale)) + 1.0)
            weights = np.minimum(high[:, None], indexes + 1) - np.maximum(low[:, None], indexes)
            return self._inside(indexes, np.maximum(weights, 0.0), weights > 0)
        # Distances from the centre of the source's first pixel.
        centres = _snapped(scale * (np.arange(start, end, dtype=np.float64) + 0.5) + offset - 0.5)
        nearest = np.floor(centres + 0.5)[:, None]
        if self.method == "nearest":
            return self._inside(nearest, np.ones(nearest.shape), np.ones(nearest.shape, np.bool_))
        indexes = np.floor(centres)[:, None] + np.arange(2.0)
        return self._inside(indexes, 1 - np.abs(centres[:, None] - indexes), indexes == nearest)

    def _inside(self, indexes: Numbers, weights: Numbers, decides: Mask) -> "Taps":
        inside = (indexes >= 0) & (indexes < self.length)
        weights = np.where(inside, weights, 0.0)
        used = indexes[weights > 0]
        if not used.size:
            return Taps(np.zeros(indexes.shape, np.intp), weights, decides & inside, None)
        low, high = int(used.min()), int(used.max()) + 1
        places = np.clip(indexes, low, high - 1).astype(np.intp) - low
        return Taps(places, weights, decides & inside, (low, high))


@dataclass(frozen=True, slots=True)
class Taps:
    """Which pixels of a source each pixel of a grid is made of, along one axis.

    Attributes:
        places: (pixel, tap), counted from the start of `span`.
        weights: (pixel, tap), 0 outside of the source.
        decides: (pixel, tap), whether the pixel is valid where this one is.
        span: first pixel of the source that has a weight, and the first behind the last; None where
            none has.
    """

    places: NDArray[np.intp]
    weights: Numbers
    decides: Mask
    span: tuple[int, int] | None

    def total(self, values: Numbers, axis: int) -> Numbers:
        """The weighted sums along an axis; the order of summation is that of the taps."""
        column = (-1, 1) if axis == 0 else (1, -1)
        result = np.zeros(1)
        for places, weights in zip(self.places.T, self.weights.T, strict=True):
            result = result + np.take(values, places, axis) * weights.reshape(column)
        return result

    def reached(self, measured: Mask, axis: int) -> Mask:
        """Whether any pixel that decides is measured."""
        column = (-1, 1) if axis == 0 else (1, -1)
        result = np.zeros(1, np.bool_)
        for places, decides in zip(self.places.T, self.decides.T, strict=True):
            result = result | (np.take(measured, places, axis) & decides.reshape(column))
        return result


def _resample(
    plane: NDArray[np.generic], measured: Mask, rows: Taps, columns: Taps
) -> tuple[Numbers, Mask]:
    """Values (row, column), 0 where they're not valid, and where they are."""
    values = np.where(measured, plane, 0).astype(np.float64)
    # Not by matrix products: these sum in an order that depends on the matrix's size.
    total = columns.total(rows.total(values, axis=0), axis=1)
    weight = columns.total(rows.total(measured.astype(np.float64), axis=0), axis=1)
    valid = columns.reached(rows.reached(measured, axis=0), axis=1)
    return np.divide(total, weight, out=np.zeros_like(total), where=valid), valid


def _rounded(values: Numbers, dtype: str) -> Numbers:
    """Values that the dtype holds: the nearest ones, halves to the even one."""
    if np.issubdtype(np.dtype(dtype), np.integer):
        return np.rint(values)
    return values.astype(dtype).astype(np.float64)


def _snapped(positions: Numbers) -> Numbers:
    whole = np.rint(positions)
    return np.where(np.abs(positions - whole) <= _SNAP, whole, positions)


def _method(resampling: Resampling, line: Line) -> Literal["average", "bilinear", "nearest"]:
    if resampling != "auto":
        return resampling
    return "average" if abs(line.scale) > 1 + _SNAP else "bilinear"


def _times(scale: float) -> str:
    return f"{scale:.4g} times as large" if scale > 1 else f"{1 / scale:.4g} times as small"
