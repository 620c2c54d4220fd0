"""One walk over all ground: its statistics, and where its labelled pixels are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segpipe.models.learning.examples import STEP, Block, Ground, windows
from segpipe.models.learning.normalisation import Moments

CELL = 64
"""Side in pixels of the cells whose labelled pixels are counted; it divides `STEP`."""

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What was found on all ground together.

    Attributes:
        pixels: labelled pixels of every class.
        moments: of all valid pixels, labelled or not.
        cells: for each ground the labelled pixels of its cells, (row, column): four bytes for
            4096 pixels, which is all of a scene that is kept.
    """

    pixels: Counts
    moments: Moments
    cells: tuple[NDArray[np.int32], ...]


def survey(grounds: Sequence[Ground], bands: int, classes: int) -> Survey:
    """The survey of all ground, which is read once, window by window."""
    pixels, moments = np.zeros(classes, np.int64), Moments.none(bands)
    cells = []
    for ground in grounds:
        height, width = ground.shape
        found = np.zeros((-(-height // CELL), -(-width // CELL)), np.int32)
        for rows, columns in windows(ground):
            block = ground.read(rows, columns)
            pixels += np.bincount(block.labels[block.known], minlength=classes)
            moments += Moments.of(block)
            counted = _per_cell(block)
            top, left = rows.start // CELL, columns.start // CELL
            found[top : top + counted.shape[0], left : left + counted.shape[1]] = counted
        cells.append(found)
    return Survey(pixels, moments, tuple(cells))


def _per_cell(block: Block) -> NDArray[np.int32]:
    height, width = block.shape
    known = np.pad(block.known, ((0, -height % CELL), (0, -width % CELL)))
    down, across = (side // CELL for side in known.shape)
    counted: NDArray[np.int32] = known.reshape(down, CELL, across, CELL).sum(
        axis=(1, 3), dtype=np.int32
    )
    return counted


assert STEP % CELL == 0, "a window is a whole number of cells"
