"""Whatever a disk does at whatever step of a run: the same command ends with the same bytes."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import disks
from tests.disks import Desk, Tree, can_tear, go_on, half_made, killed, outputs

FAULTS = ("SIGKILL", "torn", "ENOSPC", "EIO")
KINDS = ("cog", "zarr-2", "layers", "products")

SPARSE = 37
"""The quick test takes every so many steps."""


@pytest.fixture(autouse=True, scope="module")
def quick_runs() -> Iterator[None]:
    with disks.quick_runs():
        yield


@pytest.fixture
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    return disks.desks(tmp_path)[request.param]


def strike(desk: Desk, fault: str, at: int) -> bool:
    """Whether the fault stopped the run."""
    match fault:
        case "SIGKILL":
            return killed(desk, disks.kill(at))
        case "torn":
            return killed(desk, disks.tear(at))
        case "ENOSPC":
            error = disks.refused(desk, disks.fill(at))
            assert error is None or "free some space" in str(error)
        case _:
            error = disks.refused(desk, disks.fail(at))
            assert error is None or "check the disk" in str(error)
    return error is not None


def survived(desk: Desk, fault: str, every: int) -> int:
    """How many faults stopped a run that went on and ended as if there had been none."""
    desk.clear()
    steps = desk.steps()
    whole: Tree = desk.seen()
    assert whole
    assert desk.hidden == []
    begin = None
    if desk.beside.get("polygons"):
        begin = published(desk, steps)
        desk.clear(begin)
        steps = desk.steps()
    stopped = 0
    for at in [n for n, step in enumerate(steps) if fault != "torn" or can_tear(*step)][::every]:
        desk.clear(begin)
        struck = strike(desk, fault, at)
        place = f"{fault} at step {at} of {len(steps)}: {steps[at]}"
        assert half_made(desk.seen(), whole) == [], place
        # Cleaning up is the one thing that may fail without a word.
        assert struck or desk.seen() == whole, place
        stopped += struck
        go_on(desk, whole)
    return stopped


def published(desk: Desk, steps: list[tuple[str, Path]]) -> Path:
    """A folder as it is when a map is published and nothing is made of it yet."""
    last = steps.index(("rename", desk.place))
    desk.clear()
    assert killed(desk, disks.kill(last + 1))
    assert set(outputs(desk.seen())).isdisjoint(desk.beside.values())
    return Path(shutil.copytree(desk.folder, desk.folder.with_name("published")))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("desk", ["cog", "zarr-3", "products"], indirect=True)
def test_every_so_many_steps(desk: Desk, fault: str) -> None:
    assert survived(desk, fault, SPARSE) > 0


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("desk", KINDS, indirect=True)
def test_every_step(desk: Desk, fault: str) -> None:
    stopped = survived(desk, fault, 1)
    print(f"{fault}: {stopped} runs were stopped, and resumed")
    assert stopped > 10
