"""Small areas of a map are given to a neighbour: computed tile by tile, as if for the whole map."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.pipeline.grid import Grid
from segpipe.pipeline.scenes.scene import Scene
from segpipe.pipeline.vectors.polygonise import read_labels
from segpipe.pipeline.vectors.regions import NODATA, Integers, Labels, joined
from segpipe.pipeline.window import Window

_HEIGHT, _WIDTH = 512, 2048
"""Of a tile that is computed at once, in pixels; it doesn't change what comes out."""


def sieved(scene: Scene, least: int) -> Scene:
    """The map without its areas of fewer than `least` pixels; each takes the class of a neighbour.

    An area is a 4-connected set of pixels of one value. A small one takes the class of its largest
    neighbour, by way of that one's largest neighbour where it is small too, as GDAL's sieve has it.
    All of `least` pixels or more count as equally large, so that nothing has to be known of far
    away: of them the one with the longest common border is taken, then that of the lowest value. A
    small area without a larger neighbour, or whose way ends at one, stays. Nodata stays, and is no
    neighbour.

    Around a tile as much is read as its small areas need: memory depends on `least`, and on the
    width of the map, of which three rows of tiles are kept.

    Args:
        scene: one band of whole numbers.
        least: in pixels.
    """
    return replace(scene, source=_Sieved(scene, least))


class _Sieved:
    """The source of such a scene."""

    def __init__(self, scene: Scene, least: int) -> None:
        self._scene = scene
        self._least = least
        across = -(-scene.grid.width // _WIDTH)
        self._tile = lru_cache(3 * across)(self._computed)

    def read(
        self, window: Window, indexes: tuple[int, ...], dtype: str
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """See `Source.read`."""
        pixels, valid = np.zeros((1, *window.shape), dtype), np.zeros(window.shape, np.bool_)
        for tile in _tiles(window, self._scene.grid):
            here = tile.intersection(window)
            if here is None:
                continue
            labels, known = self._tile(tile)
            place, part = here.relative_to(window).slices, here.relative_to(tile).slices
            pixels[0][place], valid[place] = labels[part], known[part]
        return pixels, valid

    def identity(self, full: bool) -> dict[str, Any]:
        """See `Source.identity`."""
        return {"sieve": self._least, **self._scene.identity(full)}

    def _computed(self, tile: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        raster = self._scene.grid.window
        margin = _margin(self._least)
        while True:
            read = tile.grown(margin, raster)
            labels = _sieve(read_labels(self._scene, read), read, tile, raster, self._least)
            if labels is not None:
                known = labels != NODATA
                return np.where(known, labels, 0).astype(self._scene.dtype), known
            margin *= 2


def _margin(least: int) -> int:
    """What is read around a tile at first: most areas are about as long as they are wide."""
    return 8 + 4 * math.isqrt(least)


def _tiles(window: Window, grid: Grid) -> Iterator[Window]:
    """The tiles that hold the window's pixels."""
    for top in range(window.top // _HEIGHT * _HEIGHT, window.bottom, _HEIGHT):
        for left in range(window.left // _WIDTH * _WIDTH, window.right, _WIDTH):
            height, width = min(_HEIGHT, grid.height - top), min(_WIDTH, grid.width - left)
            yield Window(top, left, height, width)


@dataclass(frozen=True, slots=True, eq=False)
class _Areas:
    """The areas of a window, numbered by their first pixel; nodata has some too.

    Attributes:
        of: to which each pixel belongs, (row, column).
        values, sizes: of each, the size as far as it lies in the window, (areas,).
    """

    of: Integers
    values: Labels
    sizes: Integers


def _sieve(labels: Labels, read: Window, tile: Window, raster: Window, least: int) -> Labels | None:
    """The tile's labels without small areas, or None if for that too little was read."""
    areas = _areas(labels)
    small = (areas.sizes < least) & (areas.values != NODATA)
    following, uncertain = _largest_neighbours(
        areas, small, _cut(areas, read, raster) & small, least
    )
    while True:
        further = following[following]
        if np.array_equal(further, following):
            break
        following = further
    inner = areas.of[tile.relative_to(read).slices]
    if uncertain[following[inner]].any():
        return None
    # A way that ends at a small area leads nowhere.
    end = np.where(small[following], np.arange(len(following)), following)
    return areas.values[end][inner]


def _areas(labels: Labels) -> _Areas:
    starts = np.ones(labels.shape, np.bool_)
    starts[:, 1:] = labels[:, 1:] != labels[:, :-1]
    run = (np.cumsum(starts, dtype=np.int64) - 1).reshape(labels.shape)
    # Two runs that touch do so first where one of them starts.
    touching = (labels[1:] == labels[:-1]) & (starts[1:] | starts[:-1])
    root = joined(int(run[-1, -1]) + 1, run[:-1][touching], run[1:][touching])
    first, number = np.unique(root, return_inverse=True)
    lengths = np.bincount(run.ravel())
    sizes = np.bincount(number, lengths).astype(np.int64)
    return _Areas(number[run], labels[starts][first], sizes)


def _cut(areas: _Areas, read: Window, raster: Window) -> NDArray[np.bool_]:
    """The areas that reach a side of the window beyond which the raster goes on, (areas,)."""
    cut = np.zeros(len(areas.sizes), np.bool_)
    if read.top > raster.top:
        cut[areas.of[0]] = True
    if read.bottom < raster.bottom:
        cut[areas.of[-1]] = True
    if read.left > raster.left:
        cut[areas.of[:, 0]] = True
    if read.right < raster.right:
        cut[areas.of[:, -1]] = True
    return cut


def _largest_neighbours(
    areas: _Areas, small: NDArray[np.bool_], cut: NDArray[np.bool_], least: int
) -> tuple[Integers, NDArray[np.bool_]]:
    """For each small area its largest neighbour, itself if none is larger, (areas,); and whether
    that can't be told from this window, (areas,).

    Args:
        areas: of the window.
        small: which are small as far as they lie in it.
        cut: which of the small ones go on outside.
        least: the size from which on areas are equally large.
    """
    area, neighbour, border = _borders(areas, small)
    size = np.minimum(areas.sizes[neighbour], least)
    order = np.lexsort((neighbour, areas.values[neighbour], -border, -size, area))
    area, neighbour, size = area[order], neighbour[order], size[order]
    best = np.flatnonzero(np.diff(area, prepend=-1))
    larger = best[size[best] > areas.sizes[area[best]]]
    uncertain = cut.copy()
    uncertain[area[cut[neighbour]]] = True
    following = np.arange(len(areas.sizes))
    following[area[larger]] = neighbour[larger]
    following[uncertain] = np.flatnonzero(uncertain)
    return following, uncertain


def _borders(areas: _Areas, small: NDArray[np.bool_]) -> tuple[Integers, Integers, Integers]:
    """Small areas, a neighbour of each, and how many sides of pixels are between the two."""
    across = areas.of[:, :-1].ravel(), areas.of[:, 1:].ravel()
    down = areas.of[:-1].ravel(), areas.of[1:].ravel()
    one, other = (np.concatenate(pair) for pair in zip(across, down, strict=True))
    known = areas.values != NODATA
    there = (one != other) & known[one] & known[other]
    one, other = one[there], other[there]
    both = np.concatenate([one, other]), np.concatenate([other, one])
    here = small[both[0]]
    count = len(areas.sizes)
    pairs, lengths = np.unique(both[0][here] * count + both[1][here], return_counts=True)
    area, neighbour = np.divmod(pairs, count)
    return area, neighbour, lengths
