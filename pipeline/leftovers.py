"""What runs that were stopped or killed left beside their outputs."""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from segpipe.pipeline import storage
from segpipe.pipeline.staging import Staging, removed_in, staged_in, throw_away

Kind = Literal["unfinished run", "half-removed run", "half-written file"]

_PARTIAL = re.compile(r"\.(?P<file>.+)\.[0-9a-f]{32}\.part")
"""How `storage` calls a file on its way."""

_ABANDONED = 3600.0
"""Seconds after which nobody goes on writing a file: each is written at once."""

_OWN = re.compile(
    r"lock|[a-z]+\.json|receipts|failed|claims|scratch|sealed|trial|verified(-.+)?"
    r"|.+\.zarr(\.replaced)?|checkpoint\.safetensors|\..+\.part"
)
"""What is in a staging folder."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that can be removed, or has to stay.

    Attributes:
        path: what is there.
        output: the map it was made for, or the file that it was to become.
        kind: what it is.
        size: bytes on the disk.
        reason: why it has to stay; None where it can go.
    """

    path: Path
    output: Path
    kind: Kind
    size: int
    reason: str | None = None

    def remove(self) -> None:
        """Removes it; what an overwrite had set aside in a run's folder is put back first.

        Raises:
            FingerprintMismatchError: a process has begun to drive the run.
            StorageError: the disk refuses.
        """
        if self.kind == "half-written file":
            storage.remove(self.path)
        else:
            throw_away(Staging(self.path))


def leftovers(folder: Path) -> Iterator[Leftover]:
    """All that lies in a folder itself, by kind and name; nothing but what segpipe made."""
    for staged in staged_in(folder):
        yield _of_run(staged, "unfinished run")
    for staged in removed_in(folder):
        yield _of_run(staged, "half-removed run")
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
    return Leftover(staged.folder, staged.output, kind, _size(staged.folder), _reason(staged))


def _reason(staged: Staging) -> str | None:
    """Why a run's folder has to stay."""
    if staged.is_driven:
        return "a process drives it at this moment"
    names = sorted(path.name for path in staged.folder.iterdir())
    foreign = [name for name in names if not _OWN.fullmatch(name)]
    return f"it holds {foreign[0]}, which segpipe didn't make" if foreign else None


def _size(folder: Path) -> int:
    """What a folder takes on the disk; links are not followed."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            total += os.lstat(os.path.join(place, name)).st_blocks * 512  # noqa: PTH118 - many
    return total
