"""What storage says is on the disk is there, its steps tell all of it, and nothing else changes."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segpipe.pipeline import storage
from segpipe.pipeline.errors import StorageError

Steps = list[tuple[str, str]]
Watched = Callable[..., Steps]


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Calls a function; gives its steps, with their places inside of the folder."""

    def steps(function: Callable[..., None], *arguments: object) -> Steps:
        found: Steps = []

        def step(action: str, path: Path) -> None:
            name = path.relative_to(tmp_path).as_posix()
            # The names of partial files are random.
            found.append((action, "PART" if name.endswith(".part") else name))

        monkeypatch.setattr(storage, "step", step)
        function(*arguments)
        monkeypatch.setattr(storage, "step", lambda action, path: None)
        return found

    return steps


PUT = [("write", "PART"), ("sync", "PART")]


def test_a_write_is_synchronised_before_and_after_it_is_seen(
    watched: Watched, tmp_path: Path
) -> None:
    steps = watched(storage.write, tmp_path / "file", b"data")
    assert steps == [*PUT, ("replace", "file"), ("sync", ".")]
    assert (tmp_path / "file").read_bytes() == b"data"


def test_many_writes_sync_each_folder_once(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    files = {
        tmp_path / "a" / "1": b"one",
        tmp_path / "a" / "2": b"two",
        tmp_path / "a" / "old": None,
        tmp_path / "b" / "c" / "3": b"three",
        tmp_path / "nowhere" / "4": None,
    }
    steps = watched(storage.write_all, files, tmp_path)
    assert steps == [
        *[("make", "b"), ("sync", "."), ("make", "b/c"), ("sync", "b")],
        *[*PUT, ("replace", "a/1"), *PUT, ("replace", "a/2"), ("remove", "a/old")],
        *[*PUT, ("replace", "b/c/3")],
        *[("sync", "a"), ("sync", "b/c")],
    ]
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {"a", "a/1", "a/2", "b", "b/c", "b/c/3"}


def test_each_new_folder_is_synchronised_in_the_one_above(watched: Watched, tmp_path: Path) -> None:
    steps = watched(storage.make_folder, tmp_path / "a" / "b")
    assert steps == [("make", "a"), ("sync", "."), ("make", "a/b"), ("sync", "a")]
    assert watched(storage.make_folder, tmp_path / "a" / "b") == []


def test_a_rename_is_synchronised_in_both_folders(watched: Watched, tmp_path: Path) -> None:
    storage.make_folder(tmp_path / "a")
    storage.write(tmp_path / "a" / "old", b"")
    steps = watched(storage.rename, tmp_path / "a" / "old", tmp_path / "new")
    assert steps == [("rename", "new"), ("sync", "."), ("sync", "a")]
    assert watched(storage.rename, tmp_path / "new", tmp_path / "newer") == [
        ("rename", "newer"),
        ("sync", "."),
    ]


def test_what_is_removed_stays_removed(watched: Watched, tmp_path: Path) -> None:
    storage.make_folder(tmp_path / "a" / "b")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert watched(storage.remove, tmp_path / "link") == [("remove", "link"), ("sync", ".")]
    assert watched(storage.remove, tmp_path / "a") == [("remove", "a"), ("sync", ".")]
    assert watched(storage.remove, tmp_path / "a") == []
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_removes_partial_files_and_makes_sure_of_folders(
    watched: Watched, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".file.1.part").touch()
    (tmp_path / "a" / "file").touch()
    steps = watched(storage.sweep, tmp_path)
    assert steps == [("sync", "."), ("remove", "PART"), ("sync", "a")]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]


@given(data=st.lists(st.binary(max_size=9), min_size=2, max_size=2), at=st.integers(0, 4))
def test_a_write_is_the_old_file_or_the_new_one(
    tmp_path_factory: pytest.TempPathFactory, data: list[bytes], at: int
) -> None:
    path = tmp_path_factory.mktemp("write") / "file"
    storage.write(path, data[0])
    left = iter(range(at))

    def step(action: str, place: Path) -> None:
        if next(left, None) is None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "step", step)
        try:
            storage.write(path, data[1])
        except StorageError:
            assert path.read_bytes() == data[at > 2]
        else:
            assert at == 4
    storage.sweep(path.parent)
    assert list(path.parent.iterdir()) == [path]


def test_a_rename_that_a_disk_cannot_confirm_is_not_undone(tmp_path: Path) -> None:
    def step(action: str, path: Path) -> None:
        if action == "sync":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "old").write_bytes(b"data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "step", step)
        with pytest.raises(StorageError, match="check the disk"):
            storage.rename(tmp_path / "old", tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == b"data"


def test_only_storage_changes_the_disk() -> None:
    """Not a proof: the words with which Python changes a disk, looked for in the pipeline."""
    words = re.compile(
        r"write_bytes\(|write_text\(|\.mkdir\(|\.unlink\(|(?<!storage)\.rename\(|rmtree\(|os\.replace"
    )
    pipeline = Path(storage.__file__).parent
    modules = [path for path in pipeline.rglob("*.py") if path.name != "storage.py"]
    assert len(modules) > 40
    assert [path.name for path in modules if words.search(path.read_text("utf-8"))] == []
