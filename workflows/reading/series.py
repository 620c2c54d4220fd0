"""The scenes of one command as a series: what is finished of them, and the collection they are in.

A map that is published doesn't say of which scene, with which options, so a series notes it beside
the maps, one file a map:

    .segpipe-batch/NAME.json    what was asked for, the files that it gave, and the run's report

Only a series that is typed again reads it; whoever removes it loses nothing but that.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segpipe.pipeline import storage
from segpipe.pipeline.errors import FingerprintMismatchError
from segpipe.pipeline.fingerprint import Fields, digest
from segpipe.pipeline.staging import begun
from segpipe.workflows.errors import OptionError
from segpipe.workflows.plan import Preparation
from segpipe.workflows.results.again import word
from segpipe.workflows.results.map_collection import collection_target, write_collection
from segpipe.workflows.results.map_item import Membership
from segpipe.workflows.results.report import Report
from segpipe.workflows.stages import asked_of
from segpipe.workflows.workers import SharedWorkers

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
        remembers: whether finished maps are noted, and told when the command is typed again.
        workers: those of all scenes, if they share some.
        rank: which scene this is: tiles of lower rank come first.
    """

    member: Membership | None = None
    remembers: bool = True
    workers: SharedWorkers | None = None
    rank: int = 0

    @classmethod
    def of(cls, stac: str | Path | None, *, overwrite: bool) -> "Series":
        """The series whose collection is written under a name, if it has one.

        Raises:
            OptionError: the name doesn't end in .json.
            StorageError: its folder isn't there, or can't be written to.
            FingerprintMismatchError: there is a file that isn't this collection.
        """
        return cls(None if stac is None else collection_target(stac, overwrite=overwrite))

    def item_of(self, output: Path) -> Path | None:
        """Where the item of a map is written: beside it; None without a collection.

        Raises:
            OptionError: the collection has that name.
        """
        if self.member is None:
            return None
        path = output.with_suffix(".json")
        if path == self.member.path:
            raise OptionError(
                f"{path} is the item of {output}; name another collection with --stac"
            )
        return path

    def gather(self, outputs: Iterable[Path]) -> None:
        """Writes the collection of the items of these maps, if one is wanted and there are any.

        Raises:
            StorageError: an item can't be read, or the disk refuses.
        """
        items = [path for output in outputs if (path := self.item_of(output))]
        if self.member and items:
            write_collection(self.member, items)

    def refuse_finished(self, output: Path, asked: Fields, *, overwrite: bool) -> None:
        """Passes if this map is still to be made, or isn't as this series would make it.

        Raises:
            AlreadyMappedError: it is there, with all that was made beside it.
        """
        if overwrite or not self.remembers or begun(output):
            return
        try:
            record = json.loads(_record(output).read_bytes())
            files = [Path(name) for name in record["files"]]
            same = record["asked"] == digest(asked) and record["stamps"] == _stamps(files)
            report = dict(record["report"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        if same:
            raise AlreadyMappedError(output, report)

    def note(self, report: Report, asked: Fields, products: Iterable[Path]) -> None:
        """Remembers that a map is finished.

        Args:
            report: of the run that made it.
            asked: what decides the map and its products.
            products: what was made beside it.

        Raises:
            StorageError: the disk refuses.
        """
        if not self.remembers:
            return
        files = [report.output, *products]
        record = {
            "asked": digest(asked),
            "files": [str(path) for path in files],
            "stamps": _stamps(files),
            "report": report.to_dict(),
        }
        place = _record(report.output)
        storage.make_folder(place.parent)
        storage.sweep_beside(place)
        storage.write(place, json.dumps(record, indent=2).encode())


ALONE = Series(remembers=False)
"""A run that is no part of a series."""

_ELSEWHERE = {"scene", "output", "model"}
"""Arguments that are in what is asked of a run by what they mean, not by how they are written."""

_HOW = {"trust_model", "tile", "memory", "scheduler", "scheduler_file", "workers"}
"""Arguments that change nothing in a map."""


def wanted(ready: Preparation, zarr_format: int, arguments: Mapping[str, object]) -> Fields:
    """What decides a map and its products; of the arguments, those that aren't defaults count."""
    told = {name: word(value) for name, value in arguments.items() if name not in _ELSEWHERE | _HOW}
    return {**asked_of(ready, zarr_format), "arguments": told}


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
