"""From a raster of class values to polygons along its pixels' edges, a strip at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from segpipe.pipeline.area import row_areas
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.grid import Affine, Grid
from segpipe.pipeline.scenes.scene import Scene
from segpipe.pipeline.vectors.regions import NODATA, Integers, Labels, Regions, regions
from segpipe.pipeline.window import Window

PIXELS = 1 << 20
"""Of how many pixels a strip consists, at most, unless a single row has more."""

_MOST_ROWS = 512


@dataclass(frozen=True, slots=True, eq=False)
class Outlines:
    """Some polygons of a map, each a 4-connected region of one value.

    Attributes:
        values: of each polygon, (polygons,).
        shapes: the polygons in the map's crs, outer rings counter-clockwise, (polygons,).
        areas: in square metres, NaN where the map's crs gives none, (polygons,).
    """

    values: Labels
    shapes: NDArray[np.object_]
    areas: NDArray[np.float64]


def polygonise(scene: Scene, rows: int | None = None) -> Iterator[Outlines]:
    """All polygons of a map, as GDAL's polygonising of the whole raster gives them.

    Pixels of one value that share an edge are one polygon; nodata is none. Neighbours share every
    vertex where three polygons meet, so that together they are a valid coverage. Only polygons
    that reach the last row that was read are kept; the others are given and forgotten.

    Args:
        scene: one band of whole numbers.
        rows: how many are read at once; by default as many as make up `PIXELS`.

    Raises:
        InputRefusedError: the pixels aren't whole numbers of 32 bits.
        CorruptInputError: the pixels can't be read.
    """
    grid = scene.grid
    above = area_above(grid)
    height = rows or max(1, min(_MOST_ROWS, PIXELS // grid.width))
    for found in regions(_strips(scene, height), grid.width):
        if len(found.values):
            shapes = trace(found, grid.transform)
            yield Outlines(found.values, shapes, areas(found, above))


def read_labels(scene: Scene, window: Window) -> Labels:
    """The labels (row, column) of a window, `NODATA` where there are none.

    Raises:
        InputRefusedError: the pixels aren't whole numbers of 32 bits.
        CorruptInputError: the pixels can't be read.
    """
    limits = np.iinfo(np.int32)
    if np.dtype(scene.dtype).kind not in "iu":
        raise InputRefusedError(
            f"{scene.path}: holds {scene.dtype}, expected whole numbers; name a map of classes"
        )
    pixels, valid = scene.read(window)
    values = pixels[0]
    if np.dtype(scene.dtype).itemsize >= limits.dtype.itemsize:
        strange = values[valid & ((values > limits.max) | (values <= limits.min))]
        if strange.size:
            raise InputRefusedError(
                f"{scene.path}: holds {strange[0]}, expected whole numbers of 32 bits; "
                "name a map of classes"
            )
    labels: Labels = values.astype(np.int32)
    labels[~valid] = NODATA
    return labels


def area_above(grid: Grid) -> NDArray[np.float64] | None:
    """Square metres between the raster's upper edge and each line of vertices, a pixel wide.

    None where the crs gives no areas.
    """
    rows = row_areas(grid, 0, grid.height)
    return None if rows is None else np.concatenate([[0.0], np.cumsum(rows)])


def areas(found: Regions, above: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Square metres of each region's pixels, (regions,); NaN where `area_above` gives None.

    Green's theorem: each horizontal edge takes what is above it from, or adds it to, the sum.
    """
    if above is None:
        return np.full(len(found.values), np.nan)
    lengths = np.diff(found.column)[::2]
    signed = np.where(found.kind[::2] & 1, -lengths, lengths) * above[found.row[::2]]
    return np.asarray(np.bincount(found.region[::2], signed, len(found.values)), np.float64)


def trace(found: Regions, transform: Affine) -> NDArray[np.object_]:
    """The regions as polygons, outer rings counter-clockwise under the transform, (regions,)."""
    a, b, _, d, e, _ = transform
    return _shapes(found, _rings(found, clockwise=a * e > b * d), transform)


def vertical_partners(found: Regions) -> Integers:
    """For each node the one at the other end of its vertical edge, (nodes,)."""
    columns = int(found.column.max()) + 1
    order = np.argsort(found.region * columns + found.column, kind="stable")
    first, second = order[:-1], order[1:]
    touching = (
        (found.region[first] == found.region[second])
        & (found.row[first] == found.row[second])
        & (found.column[first] == found.column[second])
        & (found.kind[first] == 0)
    )
    twins = np.flatnonzero(touching)
    order[twins], order[twins + 1] = order[twins + 1], order[twins]
    partners = np.empty_like(order)
    partners[order[::2]], partners[order[1::2]] = order[1::2], order[::2]
    return partners


@dataclass(frozen=True, slots=True, eq=False)
class _Rings:
    """Closed rings of nodes, one after the other; those of a region begin with the outer one.

    Attributes:
        nodes: numbers of nodes, without those that repeat a vertex, (vertices,).
        starts: where each ring starts in `nodes`, and where the last one ends, (rings + 1,).
        first: which ring is the outer one of each region, and the number of rings, (regions + 1,).
    """

    nodes: Integers
    starts: Integers
    first: Integers


def _strips(scene: Scene, rows: int) -> Iterator[Labels]:
    height, width = scene.grid.shape
    for top in range(0, height, rows):
        yield read_labels(scene, Window(top, 0, min(rows, height - top), width))


def _rings(found: Regions, *, clockwise: bool) -> _Rings:
    """The outlines as rings; `clockwise` for outer ones, seen with rows going down.

    A region's nodes on one line of the grid, in their order, are the ends of its edges on this
    line, two by two. Where a region touches itself at a vertex, the edges are joined around the
    pixels that aren't its own: no ring meets itself, and holes are rings of their own.
    """
    opposite = vertical_partners(found)
    edges = np.arange(0, len(found.kind), 2)
    begin = edges + ((found.kind[::2] & 1) != clockwise)
    following = (opposite[begin ^ 1] >> 1).tolist()
    order, starts = _cycles(following)
    closed = np.stack([begin[order], begin[order] ^ 1], axis=1).ravel()
    ends = 2 * starts
    closed = np.insert(closed, ends[1:], closed[ends[:-1]])
    ends += np.arange(len(ends))
    # Straight nodes come twice, and so does their vertex.
    kept = (np.diff(found.row[closed], prepend=-1) != 0) | (
        np.diff(found.column[closed], prepend=-1) != 0
    )
    kept[ends[:-1]] = True
    outer = np.flatnonzero(np.diff(found.region[closed[ends[:-1]]], prepend=-1))
    return _Rings(
        closed[kept],
        np.concatenate([[0], np.cumsum(np.add.reduceat(kept, ends[:-1], dtype=np.int64))]),
        np.append(outer, len(starts) - 1),
    )


def _cycles(following: list[int]) -> tuple[Integers, Integers]:
    """A permutation's elements, cycle by cycle, and where cycles start, and the last one ends."""
    order: list[int] = []
    starts: list[int] = []
    seen = bytearray(len(following))
    for first in range(len(following)):
        if seen[first]:
            continue
        starts.append(len(order))
        element = first
        while not seen[element]:
            seen[element] = 1
            order.append(element)
            element = following[element]
    return np.array(order, np.int64), np.array([*starts, len(order)], np.int64)


def _shapes(found: Regions, rings: _Rings, transform: Affine) -> NDArray[np.object_]:
    a, b, c, d, e, f = transform
    column, row = found.column[rings.nodes], found.row[rings.nodes]
    corners = np.stack([a * column + b * row + c, d * column + e * row + f], axis=1)
    kind = shapely.GeometryType.POLYGON
    shapes: NDArray[np.object_] = shapely.from_ragged_array(
        kind, corners, (rings.starts, rings.first)
    )
    return shapes
