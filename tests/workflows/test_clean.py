"""What is left of runs goes; everything else, however it is called, stays as it is."""

import fcntl
import hashlib
import json
import os
import pty
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.receipt import Receipt
from segpipe.pipeline.staging import Staging, staging
from segpipe.workflows.clean import clean, found
from tests.workflows.conftest import COMMAND, Command

HEX = "0123456789abcdef"
PARTIAL = f".map.tif.{HEX}{HEX}.part"
SIMILAR = (
    *(".map.tif.segpipe-notes", f".map.tif.segpipe-{HEX[:15]}", f".map.tif.segpipe-{HEX}0"),
    *(f".map.tif.segpipe-{HEX.upper()}", f"map.tif.segpipe-{HEX}", f".segpipe-{HEX}"),
    *(f".map.tif.segpipe-{HEX}-{HEX}", ".map.tif.removed-old", f".map.tif.removed-{HEX}.bak"),
    *(".map.tif.part", f".map.tif.{HEX}.part", f"map.tif.{HEX}{HEX}.part", "scratch", "receipts"),
    *(f".map.tif.{HEX}{HEX}.part.txt", ".segpipe-batch", "map.tif.replaced", "run.json"),
)
"""Names that a user may give to files and folders."""


def begin(output: Path, model: str = "m") -> Staging:
    """A run that was stopped after a tile."""
    with staging(output, {"model": model}, new_run=False, create=Path.mkdir, run="1a2b3c4d") as run:
        run.keep(Receipt(0, 0, 1, "ab", (), 0.1, 0.1, 0.1, "w", 1))
        return run


def old(path: Path) -> Path:
    path.write_bytes(b"half")
    os.utime(path, (time.time() - 7200,) * 2)
    return path


def contents(folder: Path) -> dict[str, str]:
    """What is in a folder: each name with a hash, a target, or nothing for a folder."""
    told = {}
    for path in folder.rglob("*"):
        what = str(path.readlink()) if path.is_symlink() else ""
        if path.is_file() and not path.is_symlink():
            what = hashlib.sha256(path.read_bytes()).hexdigest()
        told[path.relative_to(folder).as_posix()] = what
    return told


@given(
    names=st.sets(st.sampled_from(SIMILAR)),
    folders=st.sets(st.sampled_from(SIMILAR)),
    links=st.sets(st.sampled_from(SIMILAR)),
    by_name=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_nothing_but_its_own_is_removed(
    tmp_path_factory: pytest.TempPathFactory,
    names: set[str],
    folders: set[str],
    links: set[str],
    by_name: bool,
) -> None:
    folder = tmp_path_factory.mktemp("maps")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "lock").touch()
    (elsewhere / "precious").write_bytes(b"mine")
    for name in sorted(folders):
        (folder / name).mkdir()
        (folder / name / "lock").touch()
    for name in sorted(names - folders):
        old(folder / name)
    for name in sorted(links - names - folders):
        (folder / name).symlink_to(elsewhere)
    (folder / "map.tif").write_bytes(b"a map")
    # Called exactly as a run's folder and a half-written file are, but links, or the other kind.
    (folder / f".linked.tif.segpipe-{HEX}").symlink_to(elsewhere)
    (folder / f".linked.tif.removed-{HEX}").symlink_to(elsewhere)
    (folder / f".linked.tif.{HEX}{HEX}.part").symlink_to(elsewhere / "precious")
    (folder / f".a.tif.{HEX}{HEX}.part").mkdir()
    old(folder / f".file.tif.segpipe-{HEX}")
    before, away = contents(folder), contents(elsewhere)
    staged = begin(folder / "map.tif")
    (staged.folder / "scratch").mkdir()
    (staged.folder / "scratch" / "out").symlink_to(elsewhere)
    old(folder / PARTIAL)
    gone = folder / f".map.tif.removed-{HEX}"
    gone.mkdir()
    (gone / "store.zarr").mkdir()
    done = clean(found([folder / "map.tif" if by_name else folder]))
    assert {left.path for left in done.removed} == {staged.folder, folder / PARTIAL, gone}
    assert contents(folder) == before
    assert contents(elsewhere) == away


def test_a_run_that_goes_on_is_kept(tmp_path: Path) -> None:
    staged = begin(tmp_path / "map.tif")
    before = contents(tmp_path)
    lock = os.open(staged.folder / "lock", os.O_RDWR)
    planned = found([tmp_path])
    fcntl.flock(lock, fcntl.LOCK_EX)
    # Whether it was resumed before or after someone looked.
    for plan in (planned, found([tmp_path])):
        done = clean(plan)
        assert done.removed == ()
        assert [left.reason for left in done.kept] == ["a process drives it at this moment"]
    assert contents(tmp_path) == before
    os.close(lock)
    assert len(clean(found([tmp_path])).removed) == 1
    assert contents(tmp_path) == {}


def test_a_folder_with_someone_elses_file_is_kept(tmp_path: Path) -> None:
    staged = begin(tmp_path / "map.tif")
    (staged.folder / "thesis.doc").write_bytes(b"mine")
    before = contents(tmp_path)
    (kept,) = clean(found([tmp_path])).kept
    assert "thesis.doc" in str(kept.reason)
    assert contents(tmp_path) == before


def test_a_file_that_may_still_be_written_is_kept(tmp_path: Path) -> None:
    (tmp_path / PARTIAL).write_bytes(b"half")
    done = clean(found([tmp_path]))
    assert (len(done.removed), len(done.kept)) == (0, 1)
    assert (tmp_path / PARTIAL).exists()


def test_only_what_is_named_goes(tmp_path: Path) -> None:
    begin(tmp_path / "map.tif")
    other = begin(tmp_path / "map2.tif")
    clean(found([tmp_path / "map.tif"]))
    assert [path.name for path in tmp_path.iterdir()] == [other.folder.name]


def test_what_an_overwrite_had_set_aside_comes_back(tmp_path: Path) -> None:
    output = tmp_path / "map.tif"
    replaced = begin(output).folder / "scratch" / "map.tif.replaced"
    replaced.mkdir(parents=True)
    (replaced / ".home").write_text(str(output))
    (replaced / "map.tif").write_bytes(b"old map")
    (replaced / "map.tif.aux.xml").write_bytes(b"old legend")
    clean(found([output]))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "map.tif": b"old map",
        "map.tif.aux.xml": b"old legend",
    }


def test_the_command_asks_tells_and_removes(segpipe: Command, tmp_path: Path) -> None:
    begin(tmp_path / "map.tif")
    before = contents(tmp_path)
    looked = segpipe("clean", "--dry-run", "--json")
    assert looked.code == 0
    told = json.loads(looked.out)
    assert told["freed_bytes"] > 0
    unasked = segpipe("clean", "map.tif")
    assert unasked.code == 2
    assert "--yes" in unasked.err
    assert contents(tmp_path) == before
    done = segpipe("clean", "map.tif", "--yes", "--json")
    assert json.loads(done.out)["removed"] == told["removed"]
    assert contents(tmp_path) == {}
    assert segpipe("clean", "map.tif").out == "nothing is left behind here\n"
    assert segpipe("clean", "no/such/map.tif").code == InputRefusedError.exit_code


@pytest.mark.parametrize(("answer", "left"), [("n", 1), ("", 1), ("y", 0)])
def test_a_terminal_is_asked(tmp_path: Path, answer: str, left: int) -> None:
    begin(tmp_path / "map.tif")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "clean"], cwd=tmp_path, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        out, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    assert b"unfinished run" in out
    assert len(list(tmp_path.iterdir())) == left
