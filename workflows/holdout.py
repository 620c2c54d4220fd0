"""The part of a scene that training never sees, so that figures on it can be believed."""

from dataclasses import dataclass

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.window import Window

SIDES = ("north", "east", "south", "west")


@dataclass(frozen=True, slots=True)
class Split:
    """The rectangle that is learnt from and the one that is held out; a gap lies between them."""

    training: Window
    held_out: Window


@dataclass(frozen=True, slots=True)
class Holdout:
    """A share of the scene along one of its sides; north is the raster's first row.

    Neighbouring pixels resemble each other, so pixels that are held out at random would flatter a
    network (Roberts et al. 2017); a block with a gap before it doesn't.

    Raises:
        ValueError: the side isn't one of `SIDES`, or the share doesn't lie between 0 and 1.
    """

    side: str = "east"
    share: float = 1 / 3

    def __post_init__(self) -> None:
        if self.side not in SIDES or not 0 < self.share < 1:
            raise ValueError(
                f"a hold-out is a side ({', '.join(SIDES)}) and a share between 0 and 1, "
                f"such as east:0.33, got {self}"
            )

    def __str__(self) -> str:
        return f"{self.side}:{self.share:.4g}"

    @classmethod
    def parse(cls, text: str) -> "Holdout":
        """The hold-out that a text such as `east:0.33` names.

        Raises:
            ValueError: it names none.
        """
        side, _, share = text.partition(":")
        try:
            return cls(side.strip().lower(), float(share))
        except ValueError as error:
            raise ValueError(
                f"a hold-out is a side ({', '.join(SIDES)}) and a share between 0 and 1, "
                f"such as east:0.33, got {text!r}"
            ) from error

    def split(self, height: int, width: int, gap: int) -> Split:
        """Both parts of a scene of this size, `gap` pixels apart.

        Raises:
            ValueError: the gap is negative.
            InputRefusedError: nothing is left of one of them.
        """
        if gap < 0:
            raise ValueError(f"a gap is 0 pixels or more, got {gap}")
        across = self.side in ("east", "west")
        length = width if across else height
        held = round(length * self.share)
        rest = length - held - gap
        if held < 1 or rest < 1:
            raise InputRefusedError(
                f"the scene has {height} x {width} pixels: holding out {self} with a gap of {gap} "
                f"leaves {max(rest, 0)} rows or columns to learn from and {held} to check; "
                "hold out another share or make the gap smaller"
            )
        first = self.side in ("north", "west")
        starts = (held + gap, 0) if first else (0, length - held)
        training, held_out = (
            Window(0, start, height, size) if across else Window(start, 0, size, width)
            for start, size in zip(starts, (rest, held), strict=True)
        )
        return Split(training, held_out)
