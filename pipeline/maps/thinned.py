"""A raster seen from further away: every n-th pixel of it, which is a raster again."""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.pipeline.grid import Grid
from segpipe.pipeline.scenes.raster import RasterSource
from segpipe.pipeline.scenes.scene import Scene
from segpipe.pipeline.scenes.source import Source
from segpipe.pipeline.window import Window

_BLOCK = 2048

Pixels = NDArray[np.generic]
Known = NDArray[np.bool_]


def thinned(scene: Scene, factor: int) -> Scene:
    """The scene with one pixel for `factor` x `factor` of its own; itself for a factor of 1.

    Pixels are picked, never mixed, so that classes stay classes; out of overviews where the file
    has them. Where the sides are no multiples, the last row and column stand for what is left.

    Raises:
        ValueError: the factor isn't positive.
    """
    if factor < 1:
        raise ValueError(f"a scene is thinned by a whole number from 1 on, got {factor}")
    if factor == 1:
        return scene
    grid = scene.grid
    a, b, c, d, e, f = grid.transform
    height, width = -(-grid.height // factor), -(-grid.width // factor)
    transform = (a * factor, b * factor, c, d * factor, e * factor, f)
    small = replace(grid, height=height, width=width, transform=transform)
    return replace(scene, grid=small, source=_Thinned(scene.source, grid, factor))


def pick(
    source: Source, window: Window, shape: tuple[int, int], indexes: tuple[int, ...], dtype: str
) -> tuple[Pixels, Known]:
    """As `Source.read`, but so many rows and columns, spread evenly over the window.

    Memory holds what is asked for and one block of the raster. A raster without overviews is read
    whole under the window.

    Raises:
        CorruptInputError: the pixels can't be read.
    """
    if shape == window.shape:
        return source.read(window, indexes, dtype)
    if isinstance(source, RasterSource):
        return source.read(window, indexes, dtype, shape)
    pixels: Pixels = np.zeros((len(indexes), *shape), dtype)
    valid = np.zeros(shape, np.bool_)
    rows = window.top + _centres(window.height, shape[0])
    columns = window.left + _centres(window.width, shape[1])
    for block, down, across in _blocks(rows, columns):
        values, known = source.read(block, indexes, dtype)
        picked = np.ix_(rows[down] - block.top, columns[across] - block.left)
        pixels[:, down, across] = values[:, picked[0], picked[1]]
        valid[down, across] = known[picked]
    return pixels, valid


@dataclass(frozen=True, slots=True)
class _Thinned:
    """Every `factor`-th pixel of a source whose pixels stand on `grid`."""

    source: Source
    grid: Grid
    factor: int

    def read(self, window: Window, indexes: tuple[int, ...], dtype: str) -> tuple[Pixels, Known]:
        """See `Source.read`."""
        far = Window(*(self.factor * side for side in (window.top, window.left, *window.shape)))
        # The last pixels stand for fewer.
        near = far.intersection(self.grid.window)
        if near is None:
            raise ValueError(f"{window} leaves a grid of {self.grid.shape} by {self.factor}")
        return pick(self.source, near, window.shape, indexes, dtype)

    def identity(self, full: bool) -> dict[str, Any]:
        """See `Source.identity`."""
        return {**self.source.identity(full), "factor": self.factor}


def _centres(length: int, count: int) -> NDArray[np.intp]:
    """Which of `length` pixels holds the centre of each one of `count`."""
    # In integers: GDAL's choice where a centre lies on an edge.
    return (2 * np.arange(count, dtype=np.intp) + 1) * length // (2 * count)


def _blocks(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> list[tuple[Window, slice, slice]]:
    """Windows that hold all crossings of rows and columns, and which of them each one holds."""
    return [
        (Window(top, left, bottom - top, right - left), down, across)
        for (top, bottom, down), (left, right, across) in itertools.product(
            _spans(rows), _spans(columns)
        )
    ]


def _spans(places: NDArray[np.intp]) -> list[tuple[int, int, slice]]:
    """Rising places, cut where they reach another block: first, one behind the last, and which."""
    cuts = np.flatnonzero(np.diff(places // _BLOCK)) + 1
    edges = [0, *map(int, cuts), len(places)]
    return [
        (int(places[start]), int(places[end - 1]) + 1, slice(start, end))
        for start, end in itertools.pairwise(edges)
    ]
