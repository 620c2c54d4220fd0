"""What is noted of a tile that couldn't be mapped."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from segpipe.pipeline.errors import DamagedError, OverdueError

Kind = Literal["corrupt", "memory", "overdue", "killed"]

FORGIVEN = (DamagedError, MemoryError)
"""Errors that are a tile's own: the others can be mapped all the same."""

_MOST_TOLD = 20


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a tile has no labels.

    Attributes:
        row, column: the tile's place in the plan.
        kind: `corrupt`, the scene can't be read there; `memory`, not even a chunk fits; `overdue`,
            it took longer than it may; `killed`, it ended every process that tried it.
        reason: the same in words, on one line.
        attempts: in how many rounds it was tried, over all processes of the run.
    """

    row: int
    column: int
    kind: Kind
    reason: str
    attempts: int

    @classmethod
    def of(cls, row: int, column: int, error: Exception, attempts: int) -> "Failure":
        """What is noted of an error that is the tile's own."""
        kind = _kind(error)
        reason = " ".join(str(error).split()) or "there isn't enough memory"
        return cls(row, column, kind, reason, attempts)

    @property
    def place(self) -> tuple[int, int]:
        """Row and column."""
        return self.row, self.column

    def to_json(self) -> bytes:
        """The failure as it is stored."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "Failure":
        """The failure that `to_json` wrote.

        Raises:
            ValueError: the text is none.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            return cls(**data)
        except TypeError as error:
            raise ValueError(f"no failure: {error}") from error


def told(failures: Sequence[Failure]) -> str:
    """How many tiles failed, and the places of the first, as a map says it of itself."""
    first = sorted(failure.place for failure in failures)[:_MOST_TOLD]
    places = ", ".join(f"{row}/{column}" for row, column in first)
    return f"{len(failures)}: {places}{', ...' if len(failures) > _MOST_TOLD else ''}"


def summary(failures: Sequence[Failure], tiles: int) -> str:
    """How many tiles failed, which is the first, and why."""
    first = failures[0]
    return (
        f"{len(failures):,} of {tiles:,} tiles failed, the first in row {first.row}, column "
        f"{first.column} of the tiles: {first.reason}"
    )


def _kind(error: Exception) -> Kind:
    if isinstance(error, DamagedError):
        return "corrupt"
    if isinstance(error, MemoryError):
        return "memory"
    return "overdue" if isinstance(error, OverdueError) else "killed"
