"""The parts of a scene that training never sees, so that figures on them can be believed."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segpipe.pipeline.window import Window
from segpipe.workflows.errors import OptionError

SIDES = ("north", "east", "south", "west")

FORMS = "a side and a share, such as east:0.33, or one in N blocks, such as blocks:5/96"

Indices = NDArray[np.intp]
Mask = NDArray[np.bool_]


class Holdout(Protocol):
    """Which pixels of a scene are held out.

    Neighbouring pixels resemble each other, so pixels that are held out at random would flatter a
    network (Roberts et al. 2017); whole areas with a gap around them don't.
    """

    @property
    def thickness(self) -> int | None:
        """The least extent in pixels of an area, whether held out or not; None for no limit."""
        ...

    def holds(self, shape: tuple[int, int], rows: Indices, columns: Indices) -> Mask:
        """True where it holds a pixel of these rows and columns of the scene, (row, column)."""
        ...


@dataclass(frozen=True, slots=True)
class SideHoldout:
    """A share of the scene along one of its sides; north is the raster's first row.

    Raises:
        OptionError: the side isn't one of `SIDES`, or the share doesn't lie between 0 and 1.
    """

    side: str = "east"
    share: float = 1 / 3

    def __post_init__(self) -> None:
        if self.side not in SIDES or not 0 < self.share < 1:
            raise OptionError(
                f"a hold-out is a side ({', '.join(SIDES)}) and a share between 0 and 1, "
                f"such as east:0.33, got {self}"
            )

    def __str__(self) -> str:
        return f"{self.side}:{self.share:.4g}"

    @property
    def thickness(self) -> int | None:
        """No limit: the gap is taken from what isn't held out."""
        return None

    def holds(self, shape: tuple[int, int], rows: Indices, columns: Indices) -> Mask:
        """See `Holdout.holds`."""
        across = self.side in ("east", "west")
        length, places = (shape[1], columns) if across else (shape[0], rows)
        held = round(length * self.share)
        inside = places < held if self.side in ("north", "west") else places >= length - held
        mask = np.zeros((len(rows), len(columns)), np.bool_)
        mask |= inside[None, :] if across else inside[:, None]
        return mask


@dataclass(frozen=True, slots=True)
class BlockHoldout:
    """Square blocks of `side` pixels, one in `every`, spread evenly in rows and columns.

    The blocks are counted from the raster's origin; two are a checkerboard.

    Raises:
        OptionError: every block would be held out, or a block has no pixel.
    """

    every: int
    side: int

    def __post_init__(self) -> None:
        if self.every < 2 or self.side < 1:
            raise OptionError(
                f"blocks are held out one in 2 or more, with a side of 1 pixel or more, got {self}"
            )

    def __str__(self) -> str:
        return f"blocks:{self.every}/{self.side}"

    @property
    def thickness(self) -> int | None:
        """The side of a block."""
        return self.side

    def holds(self, shape: tuple[int, int], rows: Indices, columns: Indices) -> Mask:
        """See `Holdout.holds`."""
        # A knight's move rather than a diagonal where it leads through all blocks.
        steps = range(math.isqrt(self.every), 0, -1)
        step = next(step for step in steps if math.gcd(step, self.every) == 1)
        places = rows[:, None] // self.side + step * (columns[None, :] // self.side)
        held: Mask = places % self.every == 0
        return held


def parse_holdout(text: str) -> Holdout:
    """The hold-out that a text such as `east:0.33` or `blocks:5/96` names.

    Raises:
        OptionError: it names none.
    """
    kind, _, numbers = text.strip().lower().partition(":")
    every, _, side = numbers.partition("/")
    try:
        if kind == "blocks":
            return BlockHoldout(int(every), int(side))
        return SideHoldout(kind, float(numbers))
    except ValueError as error:
        raise OptionError(f"a hold-out is {FORMS}; got {text!r}") from error


class Part(Enum):
    """What a pixel is there for."""

    LEARN = "learnt from"
    VALIDATE = "validated on"
    TEST = "held out"


@dataclass(frozen=True, slots=True)
class Partition:
    """How scenes are parted: what is scored, what training is validated on, what is learnt from.

    Attributes:
        test: what nothing but the last figures depends on.
        validation: what decides when training stops; it takes nothing that is for the test.
        gap: pixels between a part and another, which neither uses.

    Raises:
        OptionError: the gap is negative, or wider than blocks.
    """

    test: Holdout
    validation: Holdout | None
    gap: int

    def __post_init__(self) -> None:
        for holdout in (self.test, self.validation):
            thickness = holdout and holdout.thickness
            if self.gap < 0 or (thickness and self.gap > thickness):
                raise OptionError(
                    f"a gap is 0 pixels or more and at most a block's side, got {self.gap} for "
                    f"{holdout}"
                )

    def __str__(self) -> str:
        validation = f" and {self.validation}" if self.validation else ""
        return f"{self.test}{validation}, with gaps of {self.gap} pixels"

    def mask(self, part: Part, shape: tuple[int, int], window: Window) -> Mask:
        """True where a pixel of the window belongs to the part, (row, column)."""
        if part is Part.TEST:
            return self._near(self.test, shape, window, 0)
        tested = self._near(self.test, shape, window, self.gap)
        if self.validation is None:
            return ~tested if part is Part.LEARN else np.zeros_like(tested)
        reach = self.gap if part is Part.LEARN else 0
        validated = self._near(self.validation, shape, window, reach)
        return ~tested & (~validated if part is Part.LEARN else validated)

    def _near(self, holdout: Holdout, shape: tuple[int, int], window: Window, reach: int) -> Mask:
        """Where a pixel that is held out is at most `reach` pixels away, along both axes."""
        rows, columns = np.arange(window.top, window.bottom), np.arange(window.left, window.right)
        # No area is thinner than the reach, so it holds a corner or a middle of each square of
        # pixels that it touches; what is outside of the raster is no area.
        near = np.zeros(window.shape, np.bool_)
        for down in {-reach, 0, reach}:
            for across in {-reach, 0, reach}:
                near |= holdout.holds(
                    shape,
                    np.clip(rows + down, 0, shape[0] - 1),
                    np.clip(columns + across, 0, shape[1] - 1),
                )
        return near
