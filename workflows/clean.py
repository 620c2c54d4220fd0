"""What is left of runs that nobody will resume is removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segpipe.pipeline.errors import FingerprintMismatchError, InputRefusedError
from segpipe.pipeline.leftovers import Leftover, leftovers
from segpipe.pipeline.maps.label_store import STORE_MARKS
from segpipe.pipeline.scenes.location import is_remote
from segpipe.workflows.results.addresses import outbox_of, output_address


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What was removed, or would be, and what stays, each with a reason."""

    removed: tuple[Leftover, ...]
    kept: tuple[Leftover, ...]

    @property
    def freed(self) -> int:
        """Bytes."""
        return sum(leftover.size for leftover in self.removed)

    def to_dict(self) -> dict[str, Any]:
        """The result as `segpipe clean --json` prints it."""
        return {
            "removed": [_to_dict(leftover) for leftover in self.removed],
            "kept": [_to_dict(leftover) for leftover in self.kept],
            "freed_bytes": self.freed,
        }


def found(places: Iterable[str | Path], staging: str | Path | None = None) -> Cleaning:
    """What `clean` would remove, and what it would keep.

    Args:
        places: outputs, at their addresses too, or folders, which stand for all outputs in them.
        staging: the folder in which maps for an object store are finished, the current one.

    Raises:
        InputRefusedError: an output's folder isn't there.
        OptionError: nothing can be written to an address.
    """
    # Two places may mean the same.
    all_found = {left.path: left for place in places for left in _of(place, staging)}
    return Cleaning(
        tuple(left for left in all_found.values() if left.reason is None),
        tuple(left for left in all_found.values() if left.reason is not None),
    )


def clean(planned: Cleaning) -> Cleaning:
    """Removes what was found; a run that somebody has resumed meanwhile is kept.

    Raises:
        StorageError: the disk refuses.
    """
    removed, kept = [], list(planned.kept)
    for leftover in planned.removed:
        try:
            leftover.remove()
        except FingerprintMismatchError:
            kept.append(replace(leftover, reason="a process drives it at this moment"))
        else:
            removed.append(leftover)
    return Cleaning(tuple(removed), tuple(kept))


def _of(place: str | Path, staging: str | Path | None) -> Iterator[Leftover]:
    if not isinstance(place, str) or not is_remote(place):
        yield from _beside(Path(place).absolute())
        return
    outbox = outbox_of(output_address("output", place), staging)
    for leftover in leftovers(outbox.home):
        if leftover.path == outbox.folder:
            yield leftover


def _beside(place: Path) -> Iterator[Leftover]:
    whole = place.is_dir() and not any((place / mark).is_file() for mark in STORE_MARKS)
    folder = place if whole else place.parent
    if not folder.is_dir():
        raise InputRefusedError(f"{folder}: there is no such folder; name an output or its folder")
    for leftover in leftovers(folder):
        if whole or leftover.output in (place, *_side_cars(place)):
            yield leftover


def _side_cars(output: Path) -> tuple[Path, ...]:
    return output.with_suffix(".qml"), output.with_name(f"{output.name}.aux.xml")


def _to_dict(leftover: Leftover) -> dict[str, Any]:
    return {
        "path": str(leftover.path),
        "output": str(leftover.output),
        "kind": leftover.kind,
        "bytes": leftover.size,
        **({"reason": leftover.reason} if leftover.reason else {}),
    }
