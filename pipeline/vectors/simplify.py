"""From a raster of class values to polygons with fewer corners that share their borders still."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import shapely
from numpy.typing import NDArray

from segpipe.pipeline.grid import Affine, Grid
from segpipe.pipeline.scenes.scene import Scene
from segpipe.pipeline.vectors.polygonise import (
    Outlines,
    area_above,
    areas,
    read_labels,
    trace,
    vertical_partners,
)
from segpipe.pipeline.vectors.regions import NODATA, Integers, Labels, Regions, joined, regions
from segpipe.pipeline.window import Window

BLOCK = 512
"""Side in pixels of what is simplified at once. It is part of the result: see `simplified`."""

_IN_PIXELS: Affine = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

_Side = Literal["north", "south", "west", "east"]


def simplified(scene: Scene, tolerance: float, block: int = BLOCK) -> Iterator[Outlines]:
    """The polygons of `polygonise`, with fewer corners and the same neighbours.

    Corners are left out, and none is moved: those whose triangle with the corners before and after
    is smaller than the square of the tolerance, the smallest first, unless the border would touch
    another one. So every region stays, and all of them together are a valid coverage. Corners where
    three regions meet are kept, and so are those on the raster's edge and on the edges of blocks,
    which are counted from its origin: the result depends on the map and the tolerance alone.
    Visvalingam and Whyatt 1993, in GEOS's `CoverageSimplifier`. Areas are those of the pixels.

    One block is held at a time, and the polygons that reach the last row of blocks.

    Args:
        scene: one band of whole numbers.
        tolerance: in units of the crs, or of the transform where there is none.
        block: side of a block in pixels.

    Raises:
        InputRefusedError: the pixels aren't whole numbers of 32 bits.
        CorruptInputError: the pixels can't be read.
    """
    grid = scene.grid
    above, in_pixels = area_above(grid), tolerance / grid.pixel_area**0.5
    seams = _Seams(grid.width)
    for top in range(0, grid.height, block):
        height = min(block, grid.height - top)
        for left in range(0, grid.width, block):
            window = Window(top, left, height, min(block, grid.width - left))
            found = _simplified_block(scene, window, in_pixels, above)
            yield _placed(seams.add(found, window), grid)
        yield _placed(seams.end_row(last=top + height == grid.height), grid)


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """Some regions or parts of them: each (parts,), shapes in pixels, areas NaN without a crs."""

    values: Labels
    shapes: NDArray[np.object_]
    areas: NDArray[np.float64]

    def __getitem__(self, which: Integers | NDArray[np.bool_]) -> "_Parts":
        return _Parts(self.values[which], self.shapes[which], self.areas[which])


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """The parts of regions that lie in a block.

    Attributes:
        parts: nodata is none.
        edges: for each side of the block the part whose edge starts at a pixel, or -1, (pixels,).
            An edge ends wherever regions meet on either side: both sides have the same ones.
    """

    parts: _Parts
    edges: dict[_Side, Integers]


def _simplified_block(
    scene: Scene, block: Window, tolerance: float, above: NDArray[np.float64] | None
) -> _Block:
    values, codes = _coded(scene, block)
    # The frame below the block makes all of its pieces end before the last row.
    found = _inside(next(regions([codes], codes.shape[1])), block)
    shapes = shapely.coverage_simplify(trace(found, _IN_PIXELS), tolerance, simplify_boundary=False)
    labels = values[found.values // 2]
    known = labels != NODATA
    number = np.where(known, np.cumsum(known) - 1, -1)
    parts = _Parts(labels, np.asarray(shapes), areas(found, above))[known]
    return _Block(parts, _edges(found, block, number))


def _coded(scene: Scene, block: Window) -> tuple[Labels, Labels]:
    """Values, and a block with a pixel around it: each pixel twice its value's place, even inside.

    Nodata counts as a value, so that its borders are simplified as well; beyond the raster there
    is `NODATA`. Pixels around the block are odd: no region goes on there, but all borders do that
    end on the block's edge.
    """
    read = block.grown(1, scene.grid.window)
    labels = read_labels(scene, read)
    values, places = np.unique(labels, return_inverse=True)
    codes = np.full((block.height + 2, block.width + 2), NODATA, np.int32)
    place = Window(read.top - block.top + 1, read.left - block.left + 1, *read.shape)
    codes[place.slices] = 2 * places.reshape(labels.shape) + 1
    codes[1:-1, 1:-1] -= 1
    return values, codes


def _inside(found: Regions, block: Window) -> Regions:
    """The regions of the block without those of the frame, in the raster's rows and columns."""
    inside = found.values % 2 == 0
    nodes = inside[found.region]
    return Regions(
        found.values[inside],
        (np.cumsum(inside) - 1)[found.region[nodes]],
        found.row[nodes] + block.top - 1,
        found.column[nodes] + block.left - 1,
        found.kind[nodes],
    )


def _edges(found: Regions, block: Window, number: Integers) -> dict[_Side, Integers]:
    """Where the edges of regions start on the block's sides, by the region's number."""
    across = np.arange(0, len(found.kind), 2)
    partners = vertical_partners(found)
    down = np.flatnonzero(found.row[partners] > found.row)
    sides: dict[_Side, tuple[Integers, Integers, int, Integers, int, int]] = {
        "north": (across, found.row, block.top, found.column, block.left, block.width),
        "south": (across, found.row, block.bottom, found.column, block.left, block.width),
        "west": (down, found.column, block.left, found.row, block.top, block.height),
        "east": (down, found.column, block.right, found.row, block.top, block.height),
    }
    edges = {}
    for side, (starts, line, place, along, first, length) in sides.items():
        here = starts[line[starts] == place]
        edges[side] = np.full(length, -1)
        edges[side][along[here] - first] = number[found.region[here]]
    return edges


class _Seams:
    """Joins what lies in a raster's blocks, one row of them after the other.

    Parts are known by their number: first those from above that go on, then those of this row.
    """

    def __init__(self, width: int) -> None:
        nothing = np.zeros(0)
        self._parts = [_Parts(nothing.astype(np.int32), nothing.astype(object), nothing)]
        self._count = 0
        self._pairs: list[Integers] = []
        self._above, self._below = np.full(width, -1), np.full(width, -1)
        self._east = np.zeros(0, np.int64)

    def add(self, found: _Block, block: Window) -> _Parts:
        """Takes the next block of the row; gives the regions that lie wholly inside of it."""
        numbers = np.concatenate(list(found.edges.values()))
        outer = np.zeros(len(found.parts.values), np.bool_)
        outer[numbers[numbers >= 0]] = True
        # Parts inside get no number; -1, for no part, stays what it is.
        number = np.append(np.cumsum(outer) - 1 + self._count, -1)
        edges = {side: number[parts] for side, parts in found.edges.items()}
        columns = slice(block.left, block.right)
        self._meet(self._above[columns], edges["north"])
        if block.left:
            self._meet(self._east, edges["west"])
        self._east, self._below[columns] = edges["east"], edges["south"]
        self._parts.append(found.parts[outer])
        self._count += int(outer.sum())
        return found.parts[~outer]

    def end_row(self, *, last: bool) -> _Parts:
        """Gives the regions that don't go on below; after the last row of blocks, all of them."""
        parts = _Parts(
            np.concatenate([part.values for part in self._parts]),
            np.concatenate([part.shapes for part in self._parts]),
            np.concatenate([part.areas for part in self._parts]),
        )
        first, second = np.concatenate(self._pairs, axis=1)
        same = parts.values[first] == parts.values[second]
        root = joined(self._count, first[same], second[same])
        goes_on = np.zeros(self._count, np.bool_)
        if not last:
            goes_on[root[self._below[self._below >= 0]]] = True
        goes_on = goes_on[root]
        number = np.append(np.cumsum(goes_on) - 1, -1)
        self._parts, self._count = [parts[goes_on]], int(goes_on.sum())
        self._pairs = [np.stack([number[:-1][goes_on], number[root[goes_on]]])]
        self._above, self._below = number[self._below], np.full_like(self._below, -1)
        return _united(parts[~goes_on], root[~goes_on])

    def _meet(self, before: Integers, after: Integers) -> None:
        """Notes the parts on both sides of the same edges."""
        here = (before >= 0) & (after >= 0)
        self._pairs.append(np.stack([before[here], after[here]]))


def _united(parts: _Parts, root: Integers) -> _Parts:
    """The regions that parts of the same root make up."""
    order = np.argsort(root, kind="stable")
    starts = np.flatnonzero(np.diff(root[order], prepend=-1))
    ordered = parts[order]
    shapes = np.empty(len(starts), object)
    for index, members in enumerate(np.split(ordered.shapes, starts[1:])[: len(starts)]):
        shapes[index] = members[0] if len(members) == 1 else shapely.coverage_union_all(members)
    return _Parts(ordered.values[starts], shapes, np.add.reduceat(ordered.areas, starts))


def _placed(parts: _Parts, grid: Grid) -> Outlines:
    """The regions in the crs of the map."""
    a, b, c, d, e, f = grid.transform

    def corners(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        column, row = pixels.T
        return np.stack([a * column + b * row + c, d * column + e * row + f], axis=1)

    placed = shapely.orient_polygons(shapely.transform(parts.shapes, corners))
    return Outlines(parts.values, placed, parts.areas)
