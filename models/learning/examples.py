"""Labelled pixels: a rectangle of them in memory, and ground from which rectangles are read."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segpipe.models.errors import ModelError

IGNORED = 255
"""Label of a pixel that teaches nothing."""

STEP = 1024
"""Side in pixels of the windows in which ground is walked over."""

Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class ExamplesRefusedError(ModelError):
    """A network can't learn from these pixels."""

    exit_code = 3


class Ground(Protocol):
    """Labelled pixels that are read by windows, so that a scene needn't fit into memory."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    def covers(self, rows: slice, columns: slice) -> bool:
        """Whether a pixel of the window might be valid; told without reading any."""
        ...

    def read(self, rows: slice, columns: slice) -> "Block":
        """What is known about a window that lies inside."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A rectangle of a scene and what is known about its pixels; the simplest ground.

    Attributes:
        pixels: the scene's own numbers, (band, row, column).
        valid: True where every band holds a measurement, (row, column).
        labels: class indices, or `IGNORED`, (row, column).

    Raises:
        ValueError: the shapes don't agree.
    """

    pixels: NDArray[np.generic]
    valid: Mask
    labels: Labels

    def __post_init__(self) -> None:
        shapes = self.pixels.shape[1:], self.valid.shape, self.labels.shape
        if self.pixels.ndim != 3 or len(set(shapes)) != 1:
            raise ValueError(
                f"pixels are (band, row, column), valid and labels (row, column), got the shapes "
                f"{self.pixels.shape}, {self.valid.shape} and {self.labels.shape}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.valid.shape
        return rows, columns

    @property
    def known(self) -> Mask:
        """True where a pixel is valid and has a label, (row, column)."""
        known: Mask = self.valid & (self.labels != IGNORED)
        return known

    def covers(self, rows: slice, columns: slice) -> bool:
        """Whether a pixel of the window is valid."""
        return bool(self.valid[rows, columns].any())

    def read(self, rows: slice, columns: slice) -> "Block":
        """The window as a block of its own, without a copy."""
        return Block(
            self.pixels[:, rows, columns], self.valid[rows, columns], self.labels[rows, columns]
        )

    def resized(self, side: int) -> "Block":
        """The block as `side` x `side` pixels, each the nearest one: labels can't be averaged."""
        rows, columns = ((2 * np.arange(side) + 1) * length // (2 * side) for length in self.shape)
        there = rows[:, None], columns
        return Block(self.pixels[:, *there], self.valid[there], self.labels[there])


def windows(ground: Ground) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of every window of at most `STEP` that the ground covers, row by row."""
    height, width = ground.shape
    for top in range(0, height, STEP):
        for left in range(0, width, STEP):
            place = slice(top, min(top + STEP, height)), slice(left, min(left + STEP, width))
            if ground.covers(*place):
                yield place
