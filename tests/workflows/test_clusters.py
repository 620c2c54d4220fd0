"""Wherever a map is made, on one machine or on a cluster, it has the same bytes."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from segpipe.models.package import save
from tests import processes, toys
from tests.processes import Crew, Forked
from tests.workflows.conftest import hidden, tree

OUTPUTS = {
    "cog": ("map.tif", "--probabilities", "shares.tif"),
    "zarr 2": ("map.zarr", "--probabilities", "shares.zarr"),
    "zarr 3": ("map.zarr", "--zarr-format", "3", "--probabilities", "shares.zarr"),
}
CREWS = [(2, 1), (2, 3), (4, 1), (4, 3)]
"""Worker processes, and threads in each."""


@dataclass(frozen=True, slots=True)
class Place:
    """A scene of twelve tiles and a model."""

    scene: Path
    package: Path

    def drive(self, folder: Path, output: str, *words: str | Path) -> Forked:
        """A driver that writes into a folder, which is made."""
        folder.mkdir(exist_ok=True)
        placed = [folder / word if str(word).startswith("shares") else word for word in words]
        return processes.segpipe(
            *("run", self.scene, "-m", self.package, "-o", folder / output, *placed),
            *("--tile", "256", "--precision", "fp32", "--quiet"),
            log=folder.with_suffix(".log"),
        )

    def made(self, folder: Path, output: str, *words: str | Path) -> dict[str, str]:
        """The files of a run that is left alone."""
        driver = self.drive(folder, output, *words)
        assert driver.finish(300) == 0, driver.printed
        assert hidden(folder) == []
        return tree(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("place")
    save(toys.model("unet", depth=3, width=8), folder / "toy")
    scene = toys.write_scene(folder / "scene.tif", toys.landscape(700, 900), tiled=True)
    return Place(scene, folder / "toy")


@contextlib.contextmanager
def cluster(folder: Path, size: int, threads: int) -> Iterator[tuple[str, str]]:
    """The words that name a cluster of this size."""
    file = folder / "scheduler.json"
    scheduler = processes.scheduler(file)
    with Crew(file, size, threads).at_work():
        yield "--scheduler-file", str(file)
    scheduler.kill()


def test_a_run_that_was_begun_on_a_cluster_ends_on_one_machine(
    place: Place, tmp_path: Path
) -> None:
    output = OUTPUTS["cog"]
    expected = place.made(tmp_path / "whole", *output)
    moved = tmp_path / "moved"
    with cluster(tmp_path, 2, 3) as there:
        driver = place.drive(moved, *output, *there)
        while len(list(moved.glob(".map.*/receipts/*/[0-9]*.json"))) < 3:
            assert driver.code is None, driver.printed
            time.sleep(0.005)
        driver.kill()
    assert place.made(moved, *output) == expected


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)
def test_every_cluster_makes_the_same_bytes(
    place: Place, tmp_path: Path, output: tuple[str, ...]
) -> None:
    expected = place.made(tmp_path / "whole", *output)
    assert place.made(tmp_path / "two processes", *output, "--workers", "2") == expected
    for size, threads in CREWS:
        with cluster(tmp_path, size, threads) as there:
            made = place.made(tmp_path / f"{size} of {threads}", *output, *there)
        assert made == expected, (size, threads)
