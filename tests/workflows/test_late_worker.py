"""A task that outlives its driver writes nothing that isn't of its own run."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from segpipe.models.package import save
from segpipe.pipeline import storage
from segpipe.pipeline.errors import StorageError
from segpipe.pipeline.mapping import Job, map_tile
from segpipe.pipeline.predictor import Predictor
from segpipe.pipeline.receipt import Receipt
from segpipe.pipeline.vectors.aoi import Piece
from segpipe.workflows import resident
from tests import processes, toys
from tests.processes import Forked
from tests.workflows.conftest import hidden, tree

HELD = ("enter", "make", "write", "sync", "replace")


@dataclass(frozen=True, slots=True)
class Late:
    """A worker is late for one step of its first tile, in a run's store or among its receipts.

    `action` is a step of storage, or `enter`, which comes before the folder is looked at.
    """

    folder: Path
    action: str
    part: str

    @property
    def waits(self) -> Path:
        """There when the worker has come to that step."""
        return self.folder / "waits"

    @property
    def goes(self) -> Path:
        """Made when it may go on."""
        return self.folder / "goes"

    @property
    def ended(self) -> Path:
        """There when the tile has ended, and what it ended with."""
        return self.folder / "ended"

    def hold(self, action: str, path: Path) -> None:
        """Waits before that step."""
        if action == self.action and f"/{self.part}/" in str(path) and not self.waits.exists():
            self.waits.touch()
            while not self.goes.exists():
                time.sleep(0.002)

    def __call__(self) -> None:
        """Begins in this process."""
        storage.step = self.hold
        enter, make = storage.write_all, storage.make_folder

        def write_all(files: Mapping[Path, bytes | None], within: Path) -> None:
            self.hold("enter", min(files))
            enter(files, within)

        def make_folder(path: Path, within: Path | None = None) -> None:
            self.hold("enter", path)
            make(path, within)

        def noted(job: Job, piece: Piece, predictor: Predictor) -> Receipt:
            try:
                receipt = map_tile(job, piece, predictor)
            except StorageError:
                self._note("StorageError")
                raise
            self._note("finished")
            return receipt

        storage.write_all, storage.make_folder = write_all, make_folder
        resident.map_tile = noted  # type: ignore[attr-defined]

    def _note(self, end: str) -> None:
        if self.goes.exists():
            self.ended.write_text(end)


def appears(path: Path, process: Forked | None = None) -> None:
    """Waits for a file, as long as the process runs."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process is None or process.code is None, process.printed
        assert time.monotonic() < deadline, path
        time.sleep(0.005)


@dataclass(frozen=True, slots=True)
class Place:
    """A scene of four tiles, a model, and a scheduler without workers."""

    scene: Path
    package: Path
    scheduler: Path

    def drive(self, output: Path, *words: str | Path) -> Forked:
        """A driver on this machine, or on the cluster if the words say so."""
        given = ("--tile", "256", "--precision", "fp32", "--quiet")
        log = output.parent.with_suffix(".log")
        command = ("run", self.scene, "-m", self.package, "-o", output, *given, *words)
        return processes.segpipe(*command, log=log)

    def finish(self, output: Path, *words: str) -> dict[str, str]:
        """What a run that is left alone leaves."""
        driver = self.drive(output, *words)
        assert driver.finish() == 0, driver.printed
        return tree(output.parent)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    save(toys.small(), folder / "toy")
    toys.write_scene(folder / "scene.tif", toys.landscape(512, 512), tiled=True)
    scheduler = processes.scheduler(folder / "scheduler.json")
    yield Place(folder / "scene.tif", folder / "toy", folder / "scheduler.json")
    scheduler.kill()


@pytest.fixture
def late(place: Place, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Late]:
    """A worker that waits; its driver, which wrote `maps/map.zarr`, is dead."""
    late = Late(tmp_path, *request.param)
    (tmp_path / "maps").mkdir()
    worker = processes.worker(place.scheduler, threads=2, setting=late)
    driver = place.drive(tmp_path / "maps" / "map.zarr", "--scheduler-file", place.scheduler)
    appears(late.waits, driver)
    driver.kill()
    yield late
    worker.kill()


MOMENTS = [(action, part) for part in ("store.zarr", "receipts") for action in HELD]


def finish_before(place: Place, late: Late, *words: str) -> None:
    """Another driver publishes the map before the late task goes on, which then finds nothing."""
    output = late.folder / "maps" / "map.zarr"
    made = place.finish(output, *words)
    late.goes.touch()
    appears(late.ended)
    assert late.ended.read_text() == "StorageError"
    assert tree(output.parent) == made
    assert hidden(output.parent) == []


@pytest.mark.parametrize("late", [("enter", "receipts")], indirect=True, ids="-".join)
def test_after_another_run_was_published(place: Place, late: Late) -> None:
    finish_before(place, late, "--zarr-format", "3", "--new-run")


@pytest.mark.slow
@pytest.mark.parametrize("late", MOMENTS, indirect=True, ids="-".join)
def test_after_another_run_was_published_at_any_moment(place: Place, late: Late) -> None:
    finish_before(place, late, "--zarr-format", "3", "--new-run")


@pytest.mark.slow
@pytest.mark.parametrize("late", MOMENTS, indirect=True, ids="-".join)
def test_after_its_own_run_was_published(place: Place, late: Late) -> None:
    finish_before(place, late)
