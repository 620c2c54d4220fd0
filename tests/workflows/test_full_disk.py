"""Disks that are really full, and limits on the size of files: exit code 7, then the same bytes.

The kernel refuses here, not a test: `segpipe run` is a process of its own that writes to a small
tmpfs, or under RLIMIT_FSIZE. Python ignores SIGXFSZ, so a write beyond the limit is an error for
GDAL's threads too.
"""

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests import disks
from tests.disks import Desk, Tree, go_on, half_made

KINDS = ("cog", "zarr-3", "layers", "products")
SIZES = 16
"""Of each sort."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(autouse=True, scope="module")
def quick_runs() -> Iterator[None]:
    with disks.quick_runs():
        yield


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB, which is where desks have their folder."""
    place = tmp_path / "work"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system can only be mounted by root")
    yield place
    # A reader may not have closed its file yet.
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def sizes(largest: int, count: int) -> list[int]:
    """So many sizes from 0 to less than the largest, more of them small."""
    return [int(largest * (n / count) ** 2) for n in range(count)]


def refused(desk: Desk, whole: Tree, watch: disks.Watch, setting: Callable[[], None]) -> None:
    """The command ends with 7 and a line, shows nothing half-made, and goes on when it may."""
    code, lines = disks.typed(desk, watch, setting)
    assert code == 7, lines
    assert not [line for line in lines if "Traceback" in line]
    told = [line for line in lines if "resume with" not in line]
    assert len(told) == 1, lines
    assert told[0].startswith("segpipe: can't ")
    assert half_made(desk.seen(), whole) == []


def nothing() -> None:
    """No setting."""


def emptied(place: Path) -> None:
    """Removes all that is in a folder."""
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def full_disks(folder: Path, disk: Path, kind: str, count: int) -> int:
    """How many disks were too small, each of which left less to a run when it had begun."""
    desk = disks.desks(folder)[kind]
    taken: list[int] = []
    with disks.watched(lambda *_: taken.append(shutil.disk_usage(disk).used)):
        desk.run()
    whole = desk.seen()
    left = disk / ".ballast"

    def fill(room: int, number: int, action: str, path: Path) -> None:
        if number == 0:
            with left.open("wb", buffering=0) as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - room)

    for pages in sizes(max(taken) // _PAGE, count):
        emptied(disk)
        refused(desk, whole, partial(fill, pages * _PAGE), nothing)
        left.unlink()
        go_on(desk, whole)
    return count


def limited_files(folder: Path, kind: str, count: int) -> int:
    """How many limits on the size of a file were too low."""
    desk = disks.desks(folder)[kind]
    desk.clear()
    written: list[int] = []

    def look(number: int, action: str, path: Path) -> None:
        files = (file for file in desk.folder.rglob("*") if file.is_file())
        written.append(max((file.stat().st_size for file in files), default=0))

    with disks.watched(look):
        desk.run()
    whole = desk.seen()
    for size in sizes(max(written), count):
        desk.clear()
        limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
        refused(desk, whole, lambda *_: None, limit)
        go_on(desk, whole)
    return count


def test_a_signal_does_not_end_a_process_that_writes_too_much() -> None:
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN


def test_two_full_disks(tmp_path: Path, small_disk: Path) -> None:
    assert full_disks(tmp_path, small_disk, "cog", 2) == 2


def test_two_limits_on_files(tmp_path: Path) -> None:
    assert limited_files(tmp_path, "cog", 2) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_full_disks(tmp_path: Path, small_disk: Path, kind: str) -> None:
    assert full_disks(tmp_path, small_disk, kind, SIZES // len(KINDS)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_limits_on_files(tmp_path: Path, kind: str) -> None:
    assert limited_files(tmp_path, kind, SIZES // len(KINDS)) > 0
