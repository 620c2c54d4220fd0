"""How far runs are, told from what lies beside their outputs; nothing is touched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from segpipe.pipeline.driver import Driver, Pulse
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.maps.label_store import STORE_MARKS
from segpipe.pipeline.maps.map_facts import read_provenance
from segpipe.pipeline.outbox import Outbox, outboxes
from segpipe.pipeline.scenes.location import Place, is_remote, place_of
from segpipe.pipeline.staging import Staging, staged_in
from segpipe.workflows.results.addresses import outbox_of, output_address

State = Literal["mapping", "publishing", "stopped", "published"]

_SUFFIXES = (".tif", ".zarr")
_SILENT = 30.0
"""Seconds without a pulse after which a process that maps is said to be silent."""


@dataclass(frozen=True, slots=True)
class Status:
    """How far a run is.

    Attributes:
        output: where its map is, or will be.
        state: `mapping` and `publishing` have a process that drives them, `stopped` has none,
            `published` is done.
        run: the run's id; None where no process told it.
        tiles: how many there are; None where no process told it.
        stored: how many are stored; None for a map that is published.
        failed: how many failed; the first one's place and reason are in `failure`.
        in_flight: how many are with workers.
        tiles_per_second: of the process that drives the run; None before its first tile.
        seconds_left: until all tiles are stored, at that rate.
        seen: when the process that drives the run, or did last, told of itself, in seconds since
            1970; None where it never did.
        driver: the process that drives the run, or did last.
    """

    output: Place
    state: State
    run: str | None = None
    tiles: int | None = None
    stored: int | None = None
    failed: int = 0
    failure: str | None = None
    in_flight: int | None = None
    tiles_per_second: float | None = None
    seconds_left: float | None = None
    seen: float | None = None
    driver: Driver | None = None

    @property
    def silent(self) -> float | None:
        """Seconds since a process that maps told of itself, where they are many."""
        if self.state != "mapping" or self.seen is None:
            return None
        silence = time.time() - self.seen
        return silence if silence > _SILENT else None

    @property
    def ends(self) -> datetime | None:
        """When all tiles will be stored, at the present rate."""
        left = self.seconds_left
        return None if left is None else datetime.fromtimestamp(time.time() + left, UTC)

    def to_dict(self) -> dict[str, Any]:
        """The status as `segpipe status --json` prints it; times are in UTC."""
        driver = self.driver
        return {
            "output": str(self.output),
            "state": self.state,
            "run": self.run,
            "tiles": self.tiles,
            "stored": self.stored,
            "failed": self.failed,
            "first_failure": self.failure,
            "in_flight": self.in_flight,
            "tiles_per_second": self.tiles_per_second,
            "seconds_left": self.seconds_left,
            "expected_end": _iso(self.ends),
            "silent_seconds": self.silent,
            "seen": _iso(None if self.seen is None else datetime.fromtimestamp(self.seen, UTC)),
            "started": driver and _iso(datetime.fromtimestamp(driver.started, UTC)),
            "host": driver and driver.host,
            "pid": driver and driver.pid,
            "command": driver and driver.command,
            "folder": driver and driver.folder,
            "dashboard": driver and driver.dashboard,
        }


def status(path: str | Path, staging: str | Path | None = None) -> list[Status]:
    """How far the run for an output is; for a folder, all runs and maps in it, by name.

    Args:
        path: the output, at its address too, or the folder.
        staging: the folder in which maps for an object store are finished, the current one.

    Raises:
        InputRefusedError: there is neither a run nor a map of this name.
        OptionError: nothing can be written to this address.
    """
    if isinstance(path, str) and is_remote(path):
        return _of_outbox(outbox_of(output_address("output", path), staging)) or [_sent(path)]
    place = Path(path).absolute()
    if place.is_dir() and not _is_store(place):
        found = list(_in_folder(place))
        if not found:
            raise InputRefusedError(
                f"{place}: no run of segpipe and none of its maps is in this folder; name an output"
            )
        return found
    runs = [staged for staged in _staged_in(place.parent) if staged.output == place]
    if runs:
        return [_of_run(staged) for staged in runs]
    if (made := _of_map(place)) is not None:
        return [made]
    found_there = "this is no map of segpipe" if place.exists() else "there is no such map"
    raise InputRefusedError(
        f"{place}: {found_there}, and no run for it was begun here; name what `segpipe run` has "
        "after -o"
    )


def _of_outbox(outbox: Outbox) -> list[Status]:
    return [replace(_of_run(staged), output=outbox.output) for staged in outbox.runs]


def _sent(name: str) -> Status:
    """A map in a store.

    Raises:
        InputRefusedError: there is none.
    """
    address = place_of(name)
    if told := read_provenance(address):
        return Status(address, "published", told.get("SEGPIPE_RUN"))
    raise InputRefusedError(
        f"{address}: this is no map of segpipe, and no run for it was begun here; name what "
        "`segpipe run` has after -o, and its --staging"
    )


def _in_folder(folder: Path) -> Iterator[Status]:
    runs = {staged.output: staged for staged in _staged_in(folder)}
    maps = {path for path in folder.iterdir() if path.suffix in _SUFFIXES}
    for output in sorted(maps | runs.keys()):
        found = _of_run(runs[output]) if output in runs else _of_map(output)
        if found is not None:
            yield found
    for outbox in outboxes(folder):
        yield from _of_outbox(outbox)


def _staged_in(folder: Path) -> list[Staging]:
    """The runs in a folder; a training has a folder of that kind too, but no tiles."""
    return [staged for staged in staged_in(folder) if _is_run(staged)]


def _is_run(staged: Staging) -> bool:
    return staged.driver.exists() or (staged.folder / "receipts").is_dir()


def _of_map(path: Path) -> Status | None:
    """A map that is published; None where segpipe didn't make it."""
    if not path.exists():
        return None
    try:
        told = read_provenance(path)
    except InputRefusedError:
        return None
    return Status(path, "published", told.get("SEGPIPE_RUN")) if told else None


def _of_run(staged: Staging) -> Status:
    driver, pulse = Driver.of(staged), Pulse.of(staged)
    stored, driven = staged.count("receipts"), staged.is_driven
    if driver is None:
        return Status(staged.output, "mapping" if driven else "stopped", stored=stored)
    failed = staged.count("failed")
    left = max(driver.tiles - stored - failed, 0)
    if pulse and pulse.at <= driver.started:
        pulse = None  # of an earlier process
    rate = _rate(driver, pulse) if driven else None
    return Status(
        staged.output,
        ("mapping" if left else "publishing") if driven else "stopped",
        driver.run,
        driver.tiles,
        stored,
        failed,
        _first_failure(staged) if failed else None,
        min(pulse.running, left) if pulse and driven else None,
        rate,
        left / rate if rate else None,
        pulse.at if pulse else None,
        driver,
    )


def _rate(driver: Driver, pulse: Pulse | None) -> float | None:
    """Tiles a second of this process."""
    if pulse is None or not pulse.stored:
        return None
    return pulse.stored / (pulse.at - driver.started)


def _first_failure(staged: Staging) -> str | None:
    """Place and reason of the first tile, row by row, that failed."""
    for failure in staged.failures()[:1]:
        return f"tile {failure.row}.{failure.column}: {failure.reason}"
    return None


def _is_store(path: Path) -> bool:
    return any((path / mark).is_file() for mark in STORE_MARKS)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")
