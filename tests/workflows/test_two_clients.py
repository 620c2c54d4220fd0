"""Of two clients that write one output one wins; the other says so in a line and harms nothing."""

import os
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from segpipe.models.package import save
from segpipe.pipeline import storage
from tests import processes, toys
from tests.processes import Forked, Setting, nothing
from tests.workflows.conftest import hidden, tree

SEED = 20261122


@dataclass(frozen=True, slots=True)
class Slow:
    """A client that notes its steps of storage, and waits before the one of this number."""

    folder: Path
    number: int = -1

    @property
    def notes(self) -> Path:
        return self.folder / "notes"

    @property
    def goes(self) -> Path:
        return self.folder / "goes"

    @property
    def steps(self) -> list[str]:
        """What was done so far, the step before which it waits included."""
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def __call__(self) -> None:
        """Begins in this process."""
        notes = os.open(self.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        seen = iter(range(1_000_000))

        def step(action: str, path: Path) -> None:
            number = next(seen)
            os.write(notes, f"{action} {path}\n".encode())
            while number == self.number and not self.goes.exists():
                time.sleep(0.002)

        storage.step = step


@dataclass(frozen=True, slots=True)
class Place:
    """A scene of four tiles and a model."""

    scene: Path
    package: Path

    def drive(
        self, output: str | Path, *words: str, log: Path, setting: Setting = nothing
    ) -> Forked:
        """A client."""
        given = ("--tile", "256", "--precision", "fp32", "--quiet")
        command = ("run", self.scene, "-m", self.package, "-o", output, *given, *words)
        return processes.segpipe(*command, log=log, setting=setting)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("place")
    save(toys.small(), folder / "toy")
    toys.write_scene(folder / "scene.tif", toys.landscape(512, 512), tiled=True)
    return Place(folder / "scene.tif", folder / "toy")


Whole = dict[str, tuple[dict[str, str], list[str]]]


@pytest.fixture(scope="module")
def whole(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """By the output's name and further words, the files and the steps of a client that is alone."""
    alone = {}
    for words in (("map.tif",), ("map.zarr",), ("map.zarr", "--zarr-format", "3")):
        folder = tmp_path_factory.mktemp("whole")
        (folder / "maps").mkdir()
        slow, output = Slow(folder), folder / "maps" / words[0]
        client = place.drive(output, *words[1:], log=folder / "log", setting=slow)
        assert client.finish() == 0, client.printed
        alone[" ".join(words)] = tree(folder / "maps"), slow.steps
    return alone


def meet(place: Place, folder: Path, name: str, number: int, *words: str) -> tuple[Forked, Forked]:
    """The first client waits before a step while the second runs to its end; then it goes on."""
    (folder / "maps").mkdir(parents=True)
    slow = Slow(folder, number)
    output = folder / "maps" / name
    first = place.drive(output, log=folder / "first", setting=slow)
    while len(slow.steps) <= number and first.code is None:
        time.sleep(0.002)
    second = place.drive(output, *words, log=folder / "second")
    second.finish()
    slow.goes.touch()
    first.finish()
    return first, second


def moments(steps: list[str], count: int, seed: str) -> list[int]:
    """Numbers of steps: those around the locks, before and after the map is there, and others."""
    near = [
        number + offset
        for number, step in enumerate(steps)
        if ".lock" in step or "/lock" in step or step.startswith("rename")
        for offset in (0, 1)
    ]
    return sorted({*near, len(steps) - 1, *random.Random(seed).sample(range(len(steps)), count)})


def one_wins(
    place: Place, whole: Whole, folder: Path, name: str, numbers: Iterable[int], *words: str
) -> None:
    """The second client has these further words; whoever wins, the files are those of its run."""
    files, steps = whole[name]
    others = whole[" ".join((name, *words))][0]
    for number in numbers:
        here = folder / str(number)
        first, second = meet(place, here, name, number, *words)
        told = f"before step {number}, {steps[number]}: {first.printed} {second.printed}"
        assert sorted([first.finish(), second.finish()]) == [0, 5], told
        assert tree(here / "maps") == (files if second.code else others), told
        loser = first if first.code else second
        assert len(loser.lines) == 1, told
        assert hidden(here / "maps") == [], told


def test_however_the_output_is_spelled(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    slow = Slow(tmp_path, 20)
    first = place.drive(folder / "map.tif", log=tmp_path / "first", setting=slow)
    while len(slow.steps) <= slow.number:
        assert first.code is None, first.printed
        time.sleep(0.002)
    spellings: dict[str | Path, Setting] = {
        tmp_path / "link" / "map.tif": nothing,
        folder / ".." / "maps" / "map.tif": nothing,
        "maps/map.tif": partial(os.chdir, tmp_path),
    }
    for number, (output, setting) in enumerate(spellings.items()):
        other = place.drive(output, log=tmp_path / str(number), setting=setting)
        assert other.finish() == 5, other.printed
        (line,) = other.lines
        assert "another segpipe run is writing" in line
    slow.goes.touch()
    assert first.finish() == 0, first.printed
    assert hidden(folder) == []


@pytest.mark.parametrize("moment", ["make", "rename"])
def test_one_wins(place: Place, whole: Whole, tmp_path: Path, moment: str) -> None:
    steps = whole["map.zarr"][1]
    number = next(n for n, step in enumerate(steps) if step.startswith(moment))
    one_wins(place, whole, tmp_path, "map.zarr", [number], "--zarr-format", "3")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("words", [("map.tif",), ("map.zarr", "--zarr-format", "3")], ids=" ".join)
def test_one_wins_at_any_moment(
    place: Place, whole: Whole, tmp_path: Path, words: tuple[str, ...]
) -> None:
    print(f"seed {SEED}")
    name, *more = words
    numbers = moments(whole[name][1], 4, f"{SEED} {words}")
    one_wins(place, whole, tmp_path, name, numbers, *more)
