"""What became of each scene of a batch, noted as it happens: it outlives a batch that is killed.

Beside the maps, in `.segpipe-batch/ledger.jsonl`, one JSON object a line; of a map the last line
counts. Lines are only ever added, so that two batches in one folder don't harm each other.
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from segpipe.pipeline import storage
from segpipe.pipeline.scenes.location import shown

State = Literal["pending", "running", "mapped", "failed"]

_PLACE = Path(".segpipe-batch", "ledger.jsonl")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a scene.

    Attributes:
        scene: its name, without what opens it.
        output: its map.
        state: how far it is.
        time: seconds since 1970 when it came so far.
        pixels: of the map.
        seconds: that the run took.
        exit_code: what `segpipe run` would have ended with; None before the end.
        error: why it failed.
    """

    scene: str
    output: str
    state: State
    time: float = 0.0
    pixels: int | None = None
    seconds: float | None = None
    exit_code: int | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The entry as JSON has it, without what isn't known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def note(entries: Iterable[Entry]) -> None:
    """Adds entries to the ledgers of their maps' folders, with the time.

    Raises:
        StorageError: the disk refuses.
    """
    lines: dict[Path, list[str]] = {}
    now = round(time.time(), 3)
    for entry in entries:
        told = {**entry.to_dict(), "scene": shown(entry.scene), "time": now}
        lines.setdefault(Path(entry.output).parent, []).append(json.dumps(told) + "\n")
    for folder, told_of in lines.items():
        place = folder / _PLACE
        storage.make_folder(place.parent)
        storage.append(place, "".join(told_of).encode())


def read(folder: Path) -> list[Entry]:
    """The last entry of each map in a folder, in the order in which they were first named."""
    found: dict[str, Entry] = {}
    for entry in _entries(folder / _PLACE):
        found[entry.output] = entry
    return list(found.values())


def _entries(place: Path) -> Iterator[Entry]:
    try:
        lines = place.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError):  # the end of a line that was cut off
            continue
        if entry.state in get_args(State):
            yield entry
