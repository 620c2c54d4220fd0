"""The scenes of one command as a series: what is finished of them, and the collection they are in.

A map that is published doesn't say of which scene, with which options, so a series notes it beside
the maps, one file a map:

    .segpipe-batch/NAME.json    what was asked for, the files that it gave, and the run's report

Only a series that is typed again reads it; whoever removes it loses nothing but that.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segpipe.pipeline import storage
from segpipe.pipeline.errors import FingerprintMismatchError
from segpipe.pipeline.fingerprint import Fields, digest
from segpipe.workflows.map_item import Membership
from segpipe.workflows.report import Report

_FOLDER = ".segpipe-batch"


class AlreadyMappedError(FingerprintMismatchError):
    """A scene was mapped by an earlier call of the same series, and its files are as it left them.

    Attributes:
        report: of the run that mapped it, as `segpipe run --json` prints it.
    """

    def __init__(self, output: Path, report: dict[str, Any]) -> None:
        super().__init__(f"{output} is mapped already; map it anew with --overwrite")
        self.report = report


@dataclass(frozen=True, slots=True)
class Series:
    """What the runs of one command share.

    Attributes:
        member: the collection of their STAC items, if there is one.
    """

    member: Membership | None = None

    def refuse_finished(self, output: Path, asked: Fields) -> None:
        """Passes if this map is still to be made, or isn't as this series would make it.

        Raises:
            AlreadyMappedError: it is there, with all that was made beside it.
        """
        try:
            record = json.loads(_record(output).read_bytes())
            files = [Path(name) for name in record["files"]]
            same = record["asked"] == digest(asked) and record["stamps"] == _stamps(files)
            report = dict(record["report"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        if same:
            raise AlreadyMappedError(output, report)

    def note(self, output: Path, asked: Fields, files: Iterable[Path], report: Report) -> None:
        """Remembers that a map is finished.

        Args:
            output: the map.
            asked: what decides it and its products.
            files: the map and what was made beside it.
            report: of the run.

        Raises:
            StorageError: the disk refuses.
        """
        listed = list(files)
        record = {
            "asked": digest(asked),
            "files": [str(path) for path in listed],
            "stamps": _stamps(listed),
            "report": report.to_dict(),
        }
        place = _record(output)
        storage.make_folder(place.parent)
        storage.sweep_beside(place)
        storage.write(place, json.dumps(record, indent=2).encode())


def _record(output: Path) -> Path:
    return output.parent / _FOLDER / f"{output.name}.json"


def _stamps(files: Iterable[Path]) -> list[list[int]]:
    """Size and time of change of each file; of a store, those of the file that makes it one."""
    stamps = []
    for path in files:
        marks = [path / name for name in ("zarr.json", ".zgroup", ".zattrs")]
        found = next((mark for mark in marks if mark.exists()), path)
        facts = found.stat()
        stamps.append([facts.st_size, facts.st_mtime_ns])
    return stamps
