"""What runs that were stopped or killed left beside their outputs, or on the way to a store."""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from segpipe.pipeline import storage
from segpipe.pipeline.outbox import Outbox, outboxes
from segpipe.pipeline.scenes.location import Place
from segpipe.pipeline.staging import Staging, removed_in, staged_in, throw_away

Kind = Literal["unfinished run", "half-removed run", "half-written file", "unsent map"]

_PARTIAL = re.compile(r"\.(?P<file>.+)\.[0-9a-f]{32}\.part")
"""How `storage` calls a file on its way."""

_ABANDONED = 3600.0
"""Seconds after which nobody goes on writing a file: each is written at once."""

_OWN = re.compile(
    r"lock|[a-z]+\.json|receipts|failed|claims|scratch|sealed|trial|verified(-.+)?"
    r"|.+\.zarr(\.replaced)?|checkpoint\.safetensors|\..+\.part"
)
"""What is in a staging folder."""

_OUTBOX_OWN = re.compile(r"id|map|[0-9a-f]{8}|\..+\.part")
"""What is in an outbox."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that can be removed, or has to stay.

    Attributes:
        path: what is there.
        output: the map it was made for, at its address too, or the file that it was to become.
        kind: what it is.
        size: bytes on the disk.
        reason: why it has to stay; None where it can go.
        runs: the staging folders that are in it, or that it is.
    """

    path: Path
    output: Place
    kind: Kind
    size: int
    reason: str | None = None
    runs: tuple[Staging, ...] = ()

    def remove(self) -> None:
        """Removes it; what an overwrite had set aside in a run's folder is put back first.

        Raises:
            FingerprintMismatchError: a process has begun to drive the run.
            StorageError: the disk refuses.
        """
        for staged in self.runs:
            throw_away(staged)
        if self.kind in ("half-written file", "unsent map"):
            storage.remove(self.path)


def leftovers(folder: Path) -> Iterator[Leftover]:
    """All that lies in a folder itself, by kind and name; nothing but what segpipe made."""
    for staged in staged_in(folder):
        yield _of_run(staged, "unfinished run")
    for staged in removed_in(folder):
        yield _of_run(staged, "half-removed run")
    for outbox in outboxes(folder):
        yield _of_outbox(outbox)
    for path in sorted(folder.iterdir()):
        if (name := _PARTIAL.fullmatch(path.name)) and path.is_file() and not path.is_symlink():
            facts = path.stat()
            fresh = time.time() - facts.st_mtime < _ABANDONED
            yield Leftover(
                path,
                path.with_name(name["file"]),
                "half-written file",
                facts.st_blocks * 512,
                "it may still be written: it is less than an hour old" if fresh else None,
            )


def _of_run(staged: Staging, kind: Kind) -> Leftover:
    size, reason = _size(staged.folder), _reason(staged)
    return Leftover(staged.folder, staged.output, kind, size, reason, (staged,))


def _of_outbox(outbox: Outbox) -> Leftover:
    folder, runs = outbox.folder, tuple(outbox.runs)
    reasons = (*map(_reason, runs), _foreign(folder, _OUTBOX_OWN))
    reason = next(filter(None, reasons), None)
    return Leftover(folder, outbox.output, "unsent map", _size(folder), reason, runs)


def _reason(staged: Staging) -> str | None:
    """Why a run's folder has to stay."""
    if staged.is_driven:
        return "a process drives it at this moment"
    return _foreign(staged.folder, _OWN)


def _foreign(folder: Path, own: re.Pattern[str]) -> str | None:
    names = sorted(path.name for path in folder.iterdir())
    foreign = [name for name in names if not own.fullmatch(name)]
    return f"it holds {foreign[0]}, which segpipe didn't make" if foreign else None


def _size(folder: Path) -> int:
    """What a folder takes on the disk; links are not followed."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            total += os.lstat(os.path.join(place, name)).st_blocks * 512  # noqa: PTH118 - many
    return total
