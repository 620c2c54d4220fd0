"""Runs that are measured: each a process of its own, into a folder that is thrown away."""

import contextlib
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from segpipe.models.package import SegmentationModel, save
from segpipe.pipeline import storage
from segpipe.pipeline.errors import PipelineError
from segpipe.workflows.catalogue import DEFAULT, find_or_build, is_architecture
from segpipe.workflows.errors import OptionError
from segpipe.workflows.reading.repeated import repeat

Shape = tuple[int, int]
"""Rows and columns."""

Interval = tuple[float, float]
"""When something began and ended, in seconds of one clock."""


class RunFailedError(PipelineError):
    """A run that was measured ended with an error, which is passed on with its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Measured:
    """A run that was a process of its own.

    Attributes:
        report: what `segpipe run --json` printed; its memory is that of the run's processes alone.
        wall: seconds from the start of the process to its end.
        cpu: seconds that cores worked for it, and for its workers.
        start: seconds from the start of the process to the first tile's.
        busy: seconds in which a tile was being predicted, on average over the workers.
        sha256: of the map.
    """

    report: Mapping[str, Any]
    wall: float
    cpu: float
    start: float
    busy: float
    sha256: str

    @property
    def seconds(self) -> float:
        """From the call to the published map."""
        return float(self.report["seconds"]["total"])

    @property
    def pixels(self) -> int:
        """Of the scene."""
        return int(self.report["pixels"])

    @property
    def megapixels_per_second(self) -> float:
        """Of the scene."""
        return self.pixels / 1e6 / self.seconds

    @property
    def peak_rss_bytes(self) -> int:
        """The most memory that the run's processes have held, as a sum."""
        return int(self.report["peak_rss_bytes"])

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON takes them."""
        taken = ("pixels", "tiles", "tile", "device", "engine", "precision", "peak_rss_bytes")
        return {
            **{name: self.report[name] for name in taken},
            "megapixels_per_second": self.megapixels_per_second,
            "seconds": {
                **self.report["seconds"],
                "process": self.wall,
                "cpu": self.cpu,
                "start": self.start,
                "device_busy": self.busy,
            },
            "sha256": self.sha256,
        }


@dataclass(frozen=True, slots=True)
class Stand:
    """A scene and a model that are measured, and a folder for what that makes.

    Attributes:
        scene: what is mapped, `original` itself or repeated.
        original: the scene that was named.
        model: the model.
        words: how the command line names it.
        folder: where maps go.
    """

    scene: str | Path
    original: str | Path
    model: SegmentationModel
    words: tuple[str, ...]
    folder: Path

    def resized(self, shape: Shape | None) -> "Stand":
        """The same with the scene repeated to this shape; as it is for None."""
        if shape is None:
            return self
        scene = self.folder / f"{shape[0]}x{shape[1]}.vrt"
        repeat(self.original, shape, scene)
        return replace(self, scene=scene)

    @property
    def map(self) -> Path:
        """The map of the latest run."""
        return self.folder / "run" / "map.tif"

    def run(self, options: Mapping[str, object], cores: int | None = None) -> Measured:
        """What one `segpipe run` takes, whose map stays until the next one.

        Args:
            options: of `run`, by name; those that are None are left out.
            cores: how many the process may use; None for all.

        Raises:
            RunFailedError: it ended with an error.
            OptionError: this system can't keep a process to some cores.
        """
        storage.remove(self.map.parent)
        storage.make_folder(self.map.parent)
        log = self.map.with_suffix(".jsonl")
        words = [f"--{key}={_typed(value)}" for key, value in options.items() if value is not None]
        command = [sys.executable, "-m", "segpipe.workflows.entry", "run", str(self.scene)]
        command += [*self.words, "-o", str(self.map), *words, "--json", "--quiet"]
        before, begun = _cpu_of_children(), time.time()
        told = _ended([*command, "--log", str(log)], cores)
        wall, cpu = time.time() - begun, _cpu_of_children() - before
        tiles = list(tiles_in(log.read_text().splitlines()))
        return Measured(
            report=json.loads(told),
            wall=wall,
            cpu=cpu,
            start=min((tile.begin for tile in tiles), default=begun + wall) - begun,
            busy=busy_seconds(tiles),
            sha256=hashlib.sha256(self.map.read_bytes()).hexdigest(),
        )


@dataclass(frozen=True, slots=True)
class TimedTile:
    """When a worker began a tile, and when it predicted."""

    worker: str
    begin: float
    predict: Interval


@contextlib.contextmanager
def stand(
    scene: str | Path, model: str | None, trust_model: str | None, shape: Shape | None = None
) -> Iterator[Stand]:
    """What is measured, in a folder that is gone when the block ends.

    Args:
        scene: a raster.
        model: a package's folder, a bundled model, `package.module:function`, or an architecture,
            which has random weights then, the same ones each time.
        trust_model: as `run` takes it.
        shape: rows and columns that the scene is repeated to; None for its own.

    Raises:
        ModelError, InputRefusedError: there is no such model, or the scene can't be repeated.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = find_or_build(model, trust_model)
    with tempfile.TemporaryDirectory(prefix="segpipe-bench-") as place:
        folder = Path(place)
        named = model or DEFAULT
        if is_architecture(named):
            named = str(folder / "model")
            save(found, Path(named))
        words = ("-m", named, *(("--trust-model", trust_model) if trust_model else ()))
        yield Stand(scene, scene, found, words, folder).resized(shape)


def tiles_in(lines: Iterable[str]) -> Iterator[TimedTile]:
    """The tiles that a run's journal tells of.

    A tile is noted when its driver hears of it, some milliseconds after it was written.
    """
    for line in lines:
        event = json.loads(line)
        if event["event"] == "stored":
            stored = datetime.fromisoformat(event["time"]).timestamp()
            predicted = stored - event["write"]
            began = predicted - event["predict"]
            yield TimedTile(event["worker"], began - event["read"], (began, predicted))


def busy_seconds(tiles: Iterable[TimedTile]) -> float:
    """Seconds in which a worker predicted one tile or more, on average over the workers.

    Tiles that wait for the device while another has it count once.
    """
    by_worker: defaultdict[str, list[Interval]] = defaultdict(list)
    for tile in tiles:
        by_worker[tile.worker].append(tile.predict)
    return sum(map(covered, by_worker.values())) / max(len(by_worker), 1)


def covered(intervals: Iterable[Interval]) -> float:
    """Length of the union of intervals."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(end - max(begin, until), 0.0)
        until = max(until, end)
    return total


def _typed(value: object) -> str:
    """An option's value as the command line takes it: lists, such as bands, with commas."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _ended(command: list[str], cores: int | None) -> str:
    """What a process printed on standard output."""
    with (
        _on(cores),
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        try:
            out, err = process.communicate()
        finally:
            process.terminate()  # an interrupt of ours is one of the run
    if process.returncode:
        raise _failure(process.returncode, err)
    return out


def _failure(code: int, err: str) -> RunFailedError:
    if code < 0:
        return RunFailedError(
            f"a run was killed by signal {-code}, perhaps for want of memory; try --memory or a "
            "smaller --tile",
            128 - code,
        )
    lines = [line.removeprefix("segpipe: ") for line in err.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("warning: ", "resume with: "))]
    return RunFailedError(said[0] if said else f"a run ended with code {code}", code)


@contextlib.contextmanager
def _on(cores: int | None) -> Iterator[None]:
    """Processes that are started inside may use so many of this one's cores."""
    if cores is None:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise OptionError("this system can't keep a process to some cores; leave out threads")
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _cpu_of_children() -> float:
    """Seconds that cores worked for processes of this one that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
