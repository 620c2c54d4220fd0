"""Storage that doesn't keep what a run relies on is refused before any work."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from segpipe.pipeline import guarantees, storage
from segpipe.pipeline.errors import StorageError
from segpipe.pipeline.execution.existing import existing
from segpipe.pipeline.execution.serial import Serial
from segpipe.pipeline.guarantees import require_folder, require_object_store
from segpipe.pipeline.scenes.location import Address
from tests.object_server import Store, storing
from tests.servers import hide_settings

Result = TypeVar("Result")
BUCKET = Address.of("s3://maps/a/map.tif").folder


@dataclass(frozen=True)
class Workers(Serial[str]):
    """Two workers, the second of which sees other folders: its names lead elsewhere."""

    elsewhere: Callable[[pytest.MonkeyPatch], None] = lambda patch: None

    def everywhere(self, function: Callable[[], Result]) -> Mapping[str, Result]:
        here = function()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(guarantees, "this_process", lambda: "another:1")
            patch.setattr(guarantees, "_PATIENCE", 0.05)
            self.elsewhere(patch)
            return {"tcp://10.0.0.1:1": here, "tcp://10.0.0.2:2": function()}


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    """A staging folder."""
    (tmp_path / ".map.tif.segpipe-0").mkdir()
    return tmp_path / ".map.tif.segpipe-0"


def left(folder: Path) -> list[Path]:
    return list(folder.rglob("*"))


def test_a_sound_folder_passes_and_is_left_as_it_was(staged: Path) -> None:
    assert require_folder(staged, Serial("")) == ()
    assert require_folder(staged, Workers("")) == ()
    assert left(staged) == []


def test_what_a_killed_trial_left_goes(staged: Path) -> None:
    for name in ("lock", "made/.x.part", "renamed/.zarr.json.aux.xml"):
        (staged / "trial" / name).parent.mkdir(parents=True, exist_ok=True)
        (staged / "trial" / name).write_bytes(b"old")
    require_folder(staged, Serial(""))
    assert left(staged) == []


def not_exclusive(patch: pytest.MonkeyPatch) -> None:
    real = Path.open
    patch.setattr(Path, "open", lambda self, mode="r", **_: real(self, mode.replace("x", "w")))


def renames_by_copy(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(storage, "rename", lambda source, destination: destination.mkdir())


def has_no_locks(patch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    patch.setattr(fcntl, "flock", refuse)


def cannot_sync(patch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(22, "Invalid argument")

    patch.setattr(os, "fsync", refuse)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (not_exclusive, "makes a file twice where it should once"),
        (renames_by_copy, "doesn't move a folder at once"),
        (has_no_locks, "No locks available"),
        (cannot_sync, "Invalid argument"),
    ],
)
def test_what_is_missing_is_named(
    staged: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[pytest.MonkeyPatch], None],
    message: str,
) -> None:
    with monkeypatch.context() as patch:
        fault(patch)
        with pytest.raises(StorageError, match=message) as raised:
            require_folder(staged, Serial(""))
    assert raised.value.exit_code == 7
    assert "\n" not in str(raised.value)
    require_folder(staged, Serial(""))
    assert left(staged) == []


def test_a_worker_that_sees_another_folder_is_named(staged: Path) -> None:
    def elsewhere(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(guarantees, "_read", lambda path: None)

    with pytest.raises(StorageError, match=r"worker tcp://10\.0\.0\.2:2 doesn't see .*share"):
        require_folder(staged, Workers("", elsewhere=elsewhere))
    assert left(staged) == []


def test_a_worker_that_cannot_write_is_named(staged: Path) -> None:
    def elsewhere(patch: pytest.MonkeyPatch) -> None:
        def refuse(path: Path, data: bytes) -> None:
            raise StorageError(f"can't write {path}: Read-only file system")

        patch.setattr(storage, "write", refuse)

    with pytest.raises(StorageError, match=r"worker tcp://10\.0\.0\.2:2 can't write"):
        require_folder(staged, Workers("", elsewhere=elsewhere))


def test_locks_of_one_machine_are_told(staged: Path) -> None:
    def elsewhere(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(fcntl, "flock", lambda descriptor, operation: None)

    (remark,) = require_folder(staged, Workers("", elsewhere=elsewhere))
    assert "locks hold on one machine only" in remark


# A real cluster


@contextmanager
def cluster(folder: Path, hidden: Path) -> Iterator[str]:
    """A scheduler's file; of its two workers one has an empty folder where `hidden` is.

    Each is a process of its own, the second in a mount namespace of its own.
    """
    file = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    where = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
    worker = [*dask, "worker", "--no-nanny", "--nthreads", "1", *where]
    blind = f'mount -t tmpfs none "{hidden}" && exec "$@"'
    commands = [
        [*dask, "scheduler", "--port", "0", *where],
        worker,
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", blind, "-", *worker],
    ]
    processes = [
        subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=folder) for command in commands
    ]
    try:
        yield str(file)
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(20)


def can_hide() -> bool:
    """Whether this process may have a mount namespace of its own."""
    try:
        done = subprocess.run(
            ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"],
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_hide(), reason="takes a mount namespace")
def test_a_worker_of_a_real_cluster_that_has_another_disk(tmp_path: Path) -> None:
    for name in ("shared", "own", "run"):
        (tmp_path / name / ".map.tif.segpipe-0").mkdir(parents=True)
    with (
        cluster(tmp_path / "run", tmp_path / "own") as file,
        existing("", scheduler_file=file) as runner,
    ):
        runner.client.wait_for_workers(2, timeout=60)
        seen = runner.everywhere(lambda: (Path("/proc/self/ns/mnt").readlink(), os.getpid()))
        assert len(set(seen.values())) == 2
        staged = tmp_path / "shared" / ".map.tif.segpipe-0"
        assert require_folder(staged, runner) == ()
        assert left(staged) == []
        other = tmp_path / "own" / ".map.tif.segpipe-0"
        with pytest.raises(StorageError) as raised:
            require_folder(other, runner)
        blind = [
            worker
            for worker, (mount, _) in seen.items()
            if mount != Path("/proc/self/ns/mnt").readlink()
        ]
        expected = f"the worker {blind[0]} doesn't see {tmp_path / 'own'}; "
        assert str(raised.value).startswith(expected)
        assert left(other) == []


# Object stores


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    hide_settings(monkeypatch, tmp_path)
    with storing(monkeypatch) as store:
        yield store


def test_a_sound_store_passes_and_is_left_as_it_was(store: Store) -> None:
    assert require_object_store(BUCKET, "mine") == ()
    assert store.objects == {}


def test_a_store_without_conditions_is_told(store: Store) -> None:
    store.conditional = False
    (remark,) = require_object_store(BUCKET, "mine")
    assert "twice where it should once" in remark
    assert store.objects == {}


def test_a_store_that_may_only_be_read_is_refused(store: Store) -> None:
    store.fault = lambda method, target: "denied" if method in ("PUT", "POST") else None
    with pytest.raises(StorageError, match=r"access is denied"):
        require_object_store(BUCKET, "mine")
    assert store.objects == {}
