"""A run whose driver, workers or scheduler are killed at random ends with the same bytes.

What was finished isn't computed again. Every process is a real one and gets a real SIGKILL.
"""

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from segpipe.models.package import save
from tests import processes, toys
from tests.processes import Crew, Forked, Noted, Place
from tests.workflows.conftest import hidden, tree

SEED = 20261122
IN_FLIGHT = 6
"""Tiles in flight on this machine: two for each of the three threads."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a driver's life, by what a staging folder shows when it begins."""

    name: str
    sign: str


PHASES = (
    Phase("start", ""),
    Phase("create", ".map.*.segpipe-*"),
    Phase("map", ".map.*.segpipe-*/run.json"),
    Phase("finish", ".map.*.segpipe-*/scratch"),
    Phase("publish", ".map.*.segpipe-*/verified*"),
    Phase("discard", ".map.*.removed-*"),
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to run: the output's name and the options."""

    output: str
    options: tuple[str, ...] = ()
    replaces: bool = False

    @property
    def name(self) -> str:
        return " ".join((self.output, *self.options))


KINDS = (
    Kind("map.tif"),
    Kind("map.zarr"),
    Kind("map.zarr", ("--zarr-format", "3")),
    Kind("map.tif", ("--probabilities", "shares.zarr")),
    Kind("map.tif", ("--overwrite",), replaces=True),
)


def body(kind: "Kind", found: dict[str, str]) -> dict[str, str]:
    """What of this stands under the output's own name."""
    return {name: data for name, data in found.items() if name.partition("/")[0] == kind.output}


def stored(folder: Path) -> set[Place]:
    """The tiles that have a receipt."""
    found = folder.glob(".map.*.segpipe-*/receipts/*/[0-9]*.json")
    return {(int(path.parent.name), int(path.stem)) for path in found}


def phase(folder: Path, before: int = 0) -> int:
    """The number of the phase that a driver has come to, which isn't less than `before`."""
    for number in range(len(PHASES) - 1, before, -1):
        if any(folder.glob(PHASES[number].sign)):
            return number
    return before


@dataclass(frozen=True, slots=True)
class Stage:
    """A scene and a model, and what undisturbed runs give."""

    folder: Path
    scene: Path
    package: Path
    expected: dict[str, dict[str, str]] = field(default_factory=dict)
    lengths: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def drive(self, kind: Kind, folder: Path, *words: str, name: str = "driver") -> Forked:
        """A driver that maps the scene in this folder."""
        options = [str(folder / word) if "." in word else word for word in kind.options]
        given = ("--tile", "256", "--precision", "fp32", "--quiet")
        return processes.segpipe(
            *("run", self.scene, "-m", self.package, "-o", folder / kind.output),
            *(*given, *options, *words),
            log=folder.with_name(f"{folder.name}.{name}"),
            setting=Noted(folder.with_name(f"{folder.name}.tiles")),
        )

    def prepare(self, kind: Kind) -> dict[str, str]:
        """The files of an undisturbed run, whose phases are measured."""
        if kind.name not in self.expected:
            folder = self.folder / f"whole {len(self.expected)}"
            folder.mkdir()
            begun = [0.0] * len(PHASES)
            driver, start, now = self.drive(kind, folder), time.monotonic(), 0
            while driver.code is None:
                if (later := phase(folder, now)) > now:
                    begun[now + 1 : later + 1] = [time.monotonic() - start] * (later - now)
                    now = later
                time.sleep(0.001)
            assert driver.finish() == 0, driver.printed
            assert now == len(PHASES) - 1
            ends = (*begun[1:], time.monotonic() - start)
            self.lengths[kind.name] = tuple(b - a for a, b in zip(begun, ends, strict=True))
            self.expected[kind.name] = tree(folder)
            assert hidden(folder) == []
        return self.expected[kind.name]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("stage")
    save(toys.small(), folder / "toy")
    scene = toys.write_scene(folder / "scene.tif", toys.landscape(1300, 1500), tiled=True)
    return Stage(folder, scene, folder / "toy")


@dataclass(slots=True)
class Losses:
    """What kills have cost."""

    kills: int = 0
    repeated: int = 0
    phases: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Losses") -> None:
        """These kills too."""
        self.kills += other.kills
        self.repeated += other.repeated
        self.phases += other.phases


def kill_driver(stage: Stage, kind: Kind, folder: Path, wanted: int, moment: float) -> Losses:
    """A driver's life, which is ended in the wanted phase after this share of its length."""
    begun = Noted(folder.with_name(f"{folder.name}.tiles"))
    before, earlier = stored(folder), len(begun.places())
    driver = stage.drive(kind, folder)
    while driver.code is None and phase(folder) < wanted:
        time.sleep(0.001)
    time.sleep(moment * stage.lengths[kind.name][wanted])
    if not driver.kill():
        assert driver.code == 0 or is_over(driver, stage, kind, folder), driver.printed
        return Losses()
    ended = phase(folder)
    tried = set(begun.places()[earlier:])
    assert not tried & before, "a finished tile was computed again"
    lost: set[Place] = set()
    if PHASES[ended].name in ("create", "map"):
        lost = tried - stored(folder)
        assert len(lost) <= IN_FLIGHT
    return Losses(1, len(lost), Counter([PHASES[ended].name]))


def is_over(driver: Forked, stage: Stage, kind: Kind, folder: Path) -> bool:
    """Whether the driver found that one that was killed had published the map already."""
    return driver.code == 5 and tree(folder) == stage.expected[kind.name]


def endure(stage: Stage, kind: Kind, kills: int, folder: Path) -> Losses:
    """Runs whose drivers are killed again and again; what each leaves is the undisturbed map."""
    chance = random.Random(f"{SEED} {kind.name}")
    expected = stage.prepare(kind)
    total = Losses()
    for number in range(3 * kills):
        if total.kills >= kills:
            return total
        place = folder / f"{kind.output} {number}"
        place.mkdir()
        old: dict[str, str] = {}
        if kind.replaces:
            (place / kind.output).write_bytes(b"an older map")
            old = tree(place)
        # As many moments in each phase, whatever its length; a hand of them for every run.
        hand = chance.sample(range(len(PHASES)), k=min(5, kills - total.kills))
        for wanted in sorted(hand):
            cost = kill_driver(stage, kind, place, wanted, chance.random())
            total.add(cost)
            assert body(kind, tree(place)) in ({}, body(kind, expected), old), number
            if not cost.kills:
                break
        driver = stage.drive(kind, place)
        driver.finish()
        assert driver.code == 0 or is_over(driver, stage, kind, place), driver.printed
        assert tree(place) == expected, number
        assert hidden(place) == []
    raise AssertionError(f"only {total.kills} of {kills} drivers were killed in time")


def lose_workers(stage: Stage, kills: int, folder: Path, *, size: int, threads: int) -> Losses:
    """Runs on a cluster whose workers are killed again and again, and started again."""
    chance = random.Random(f"{SEED} {size} {threads}")
    kind = KINDS[0]
    expected = stage.prepare(kind)
    total = Losses()
    begun = Noted(folder / "begun")
    file = folder / "scheduler.json"
    scheduler = processes.scheduler(file)
    with Crew(file, size, threads, begun).at_work() as crew:
        for number in range(kills):
            if total.kills >= kills:
                break
            place, earlier, killed = folder / str(number), len(begun.places()), 0
            place.mkdir()
            driver = stage.drive(kind, place, "--scheduler-file", str(file))
            while driver.code is None and killed < min(8, kills - total.kills):
                wanted = len(stored(place)) + chance.randint(1, 4)
                while driver.code is None and len(stored(place)) < wanted:
                    time.sleep(0.002)
                if driver.code is None:
                    killed += chance.choice(crew.members).kill()
            assert driver.finish() == 0, driver.printed
            assert tree(place) == expected, number
            tried = begun.places()[earlier:]
            lost = len(tried) - len(set(tried))
            # A worker takes with it what it had finished and not yet told.
            assert lost <= killed * 2 * size * threads, "tiles were repeated that weren't in flight"
            total.add(Losses(killed, lost))
    scheduler.kill()
    return total


def lose_schedulers(stage: Stage, kills: int, folder: Path) -> Losses:
    """Runs that lose their scheduler again and again, and go on with the next one."""
    chance = random.Random(f"{SEED} schedulers")
    kind = KINDS[0]
    expected = stage.prepare(kind)
    total = Losses()
    begun = Noted(folder / "begun")
    file = folder / "scheduler.json"
    scheduler = processes.scheduler(file)
    with Crew(file, 2, setting=begun).at_work():
        for number in range(3 * kills):
            if total.kills >= kills:
                break
            place, code = folder / str(number), 8
            place.mkdir()
            while code == 8:
                before, earlier = stored(place), len(begun.places())
                driver = stage.drive(kind, place, "--scheduler-file", str(file))
                if total.kills < kills:
                    wanted = len(before) + chance.randint(0, 9)
                    while driver.code is None and len(stored(place)) < wanted:
                        time.sleep(0.002)
                    time.sleep(chance.uniform(0, 0.3))
                    file.unlink()  # whoever looks for a scheduler waits for the next one
                    scheduler.kill()
                    scheduler = processes.scheduler(file)
                    code = driver.finish()
                    total.add(Losses(int(code == 8)))
                else:
                    code = driver.finish()
                tried = begun.places()[earlier:]
                assert not set(tried) & before, "a finished tile was computed again"
                assert len(set(tried) - stored(place)) <= 2 * 2 or code == 0
                assert code in (0, 8), driver.printed
                assert "Traceback" not in driver.printed
                # One that had no folder yet has nothing to resume.
                told = driver.lines[-1:] and "resume with: segpipe run" in driver.lines[-1]
                assert code == 0 or told or not hidden(place), driver.printed
            assert tree(place) == expected, number
            assert hidden(place) == []
    scheduler.kill()
    return total


def test_some_killed_drivers(stage: Stage, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    print(endure(stage, KINDS[0], 4, tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_killed_drivers(stage: Stage, tmp_path: Path, kind: Kind) -> None:
    print(f"seed {SEED}")
    total = endure(stage, kind, 30, tmp_path)
    print(total)
    # The last one is so short that thirty kills may miss it.
    assert len(total.phases) >= len(PHASES) - 1, "two phases were never hit"


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("size", "threads"), [(2, 1), (3, 2)])
def test_killed_workers(stage: Stage, tmp_path: Path, size: int, threads: int) -> None:
    print(f"seed {SEED}")
    total = lose_workers(stage, 50, tmp_path, size=size, threads=threads)
    print(total)
    assert total.kills == 50


def test_a_killed_worker(stage: Stage, tmp_path: Path) -> None:
    assert lose_workers(stage, 1, tmp_path, size=2, threads=1).kills == 1


def test_a_killed_scheduler(stage: Stage, tmp_path: Path) -> None:
    assert lose_schedulers(stage, 1, tmp_path).kills == 1


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_schedulers(stage: Stage, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    total = lose_schedulers(stage, 50, tmp_path)
    print(total)
    assert total.kills == 50
