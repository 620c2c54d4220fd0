"""Regions of equal pixels, found strip by strip; each is known by the nodes of its outline."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int32]
Integers = NDArray[np.int64]

NODATA = int(np.iinfo(np.int32).min)
"""The label of pixels that belong to no region."""

KINDS = 8
"""How a region meets a grid vertex, in the order in which nodes there are sorted: 0 to 3 a corner
around its pixel to the north-west, south-west, north-east, south-east (its only pixel there, or the
middle one of three); 4 to 7 a straight edge of its pixels to the north, south, east, west, where
other regions meet. Odd ones have the region below, or, where the edge is vertical, to the left."""

_STRAIGHT = 4

# Row and column, in the 2 x 2 pixels around a vertex, of a pixel of the region.
_ROW = np.array([0, 1, 0, 1, 0, 1, 0, 0])
_COLUMN = np.array([0, 0, 1, 1, 0, 0, 1, 0])


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Whole regions: 4-connected sets of pixels of one value that no pixel can be added to.

    A vertex is the upper left corner of the pixel of the same row and column. A region has a node
    at each vertex where its outline turns or where other regions meet: so neighbours share every
    node between them. Straight nodes are given twice: one ends an edge, the other begins the next.

    Attributes:
        values: of each region, (regions,).
        region: to which each node belongs, rising, (nodes,).
        row, column: of each node's vertex; within a region by rising row, then column, (nodes,).
        kind: how the region meets the vertex, see `KINDS`, (nodes,).
    """

    values: Labels
    region: Integers
    row: Integers
    column: Integers
    kind: Integers


@dataclass(frozen=True, slots=True, eq=False)
class _Open:
    """What is known of regions that reach the last row that was seen.

    Attributes:
        row: the labels of that row, with a pixel without data at either end.
        runs: for each run of equal pixels in it the first run of the same region.
        region: for each node the first run of its region.
        code: for each node the number of its vertex times `KINDS`, plus its kind; rising.
    """

    row: Labels
    runs: Integers
    region: Integers
    code: Integers


def regions(strips: Iterable[Labels], width: int) -> Iterator[Regions]:
    """All regions of a raster, each as soon as no pixel can be added to it.

    What is kept between two strips are the nodes of regions that reach the last row.

    Args:
        strips: labels (row, column) of the raster's rows from top to bottom, any number at a time.
        width: of the raster.
    """
    nothing = np.zeros(0, np.int64)
    last = _Open(np.full(width + 2, NODATA, np.int32), np.zeros(1, np.int64), nothing, nothing)
    top = 0
    for strip in strips:
        found, last = _advance(last, strip, top)
        top += len(strip)
        yield found
    # Nothing goes on below the raster.
    found, _ = _advance(last, np.full((1, width), NODATA, np.int32), top)
    yield found


def _advance(above: _Open, strip: Labels, top: int) -> tuple[Regions, _Open]:
    """The regions that don't reach the last row of the strip, and those that do."""
    width = strip.shape[1]
    block = np.pad(strip, ((1, 0), (1, 1)), constant_values=NODATA)
    block[0] = above.row
    across, down = block[:, 1:] == block[:, :-1], block[1:] == block[:-1]
    starts = np.ones(block.shape, np.bool_)
    np.logical_not(across, out=starts[:, 1:])
    run = (np.cumsum(starts, dtype=np.int64) - 1).reshape(block.shape)
    values = block[starts]

    # Two runs that touch do so first where one of them starts.
    row, column = np.nonzero(down & (starts[1:] | starts[:-1]) & (block[1:] != NODATA))
    first = np.concatenate([run[row, column], np.arange(len(above.runs))])
    root = joined(len(values), first, np.concatenate([run[row + 1, column], above.runs]))

    row, column, kind = _nodes(block, across, down)
    region = root[np.concatenate([above.region, run[row + _ROW[kind], column + _COLUMN[kind]]])]
    code = np.concatenate([above.code, ((top + row) * (width + 1) + column) * KINDS + kind])

    bottom, runs, inverse = np.unique(root[run[-1, 0] :], return_index=True, return_inverse=True)
    place = np.full(len(values), -1)
    place[bottom] = runs
    on = place[region]
    is_open = on >= 0
    whole = _whole(values, region[~is_open], code[~is_open], width)
    return whole, _Open(block[-1].copy(), runs[inverse], on[is_open], code[is_open])


def _nodes(
    block: Labels, across: NDArray[np.bool_], down: NDArray[np.bool_]
) -> tuple[Integers, Integers, Integers]:
    """Row and column in the block of the upper left pixel at each node's vertex, and its kind."""
    width = across.shape[1]
    busy = np.flatnonzero(~(across[:-1] & across[1:] & down[:, :-1]))
    row, column = np.divmod(busy, width)
    north, south = across[row, column], across[row + 1, column]
    west, east = down[row, column], down[row, column + 1]
    # A region has an edge on each side of its pixel, or on neither: it turns.
    turns = (north == west, south == west, north == east, south == east)
    alone = north.astype(np.int8) + south + west + east == 1
    straight = (alone & north, alone & south, alone & east, alone & west)
    vertex, kind = np.nonzero(np.stack([*turns, *straight], axis=1))
    row, column = row[vertex], column[vertex]
    known = block[row + _ROW[kind], column + _COLUMN[kind]] != NODATA
    row, column, kind = row[known], column[known], kind[known]
    times = np.where(kind < _STRAIGHT, 1, 2)
    return row.repeat(times), column.repeat(times), kind.repeat(times)


def joined(count: int, first: Integers, second: Integers) -> Integers:
    """For each of `count` things the least one that it is joined to by pairs, (count,).

    Union-find on arrays: every root hooks onto the least neighbour, then all paths are halved.
    """
    root = np.arange(count)
    while True:
        low, high = root[first], root[second]
        apart = low != high
        if not apart.any():
            return root
        first, second, low, high = first[apart], second[apart], low[apart], high[apart]
        np.minimum.at(root, np.maximum(low, high), np.minimum(low, high))
        while (root[root] != root).any():
            root = root[root]


def _whole(values: Labels, region: Integers, code: Integers, width: int) -> Regions:
    """Regions out of nodes by rising code; each region is known by its first run."""
    order = np.argsort(region, kind="stable")
    region, code = region[order], code[order]
    new = np.diff(region, prepend=-1) > 0
    vertex, kind = np.divmod(code, KINDS)
    row, column = np.divmod(vertex, width + 1)
    return Regions(values[region[new]], np.cumsum(new) - 1, row, column, kind)
