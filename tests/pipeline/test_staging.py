"""A run lives in one folder, which only its own configuration and one process at a time may use."""

import fcntl
import json
import os
from pathlib import Path

import pytest

from segpipe.pipeline import storage
from segpipe.pipeline.errors import FingerprintMismatchError, StorageError
from segpipe.pipeline.fingerprint import Fields
from segpipe.pipeline.receipt import ClassCount, Receipt
from segpipe.pipeline.staging import Staging, discard, staged_beside, staging, sweep_discarded

FIELDS: Fields = {"model": {"sha256": "aa"}, "options": {"tile": 256}}
OTHER: Fields = {"model": {"sha256": "bb"}, "options": {"tile": 256}}


def receipt(row: int, column: int) -> Receipt:
    counts = (ClassCount(1, 60, 5.5), ClassCount(4, 2, None))
    return Receipt(row, column, 123, "ab", counts, 0.1, 0.2, 0.3, "host:1", 10**9)


def store(path: Path) -> None:
    path.mkdir()
    (path / "created").touch()


def begin(output: Path, fields: Fields = FIELDS) -> Staging:
    with staging(output, fields, new_run=False, create=store) as staged:
        staged.keep(receipt(0, 0))
        return staged


def test_what_was_kept_is_found_again(tmp_path: Path) -> None:
    output = tmp_path / "map.tif"
    first = begin(output)
    (first.store / "created").unlink()
    with staging(output, FIELDS, new_run=False, create=store) as again:
        assert again == first
        assert again.receipt(0, 0) == receipt(0, 0)
        assert again.receipt(0, 1) is None
        assert not (again.store / "created").exists(), "a finished store was made anew"


def test_the_receipt_of_another_tile_is_no_receipt(tmp_path: Path) -> None:
    staged = begin(tmp_path / "map.tif")
    path = staged.folder / "receipts" / "0" / "0.json"
    (path.parent / "7.json").write_bytes(path.read_bytes())
    assert staged.receipt(0, 7) is None
    path.write_bytes(path.read_bytes()[:-9])
    assert staged.receipt(0, 0) is None


def test_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    output = tmp_path / "map.tif"
    begin(output)
    with (
        pytest.raises(FingerprintMismatchError, match="sha256 was aa, is bb") as found,
        staging(output, OTHER, new_run=False, create=store),
    ):
        pass
    assert "--new-run" in str(found.value)
    assert len(staged_beside(output)) == 1


def test_a_new_run_throws_the_old_one_away(tmp_path: Path) -> None:
    output = tmp_path / "map.tif"
    begin(output)
    with staging(output, OTHER, new_run=True, create=store) as staged:
        assert staged_beside(output) == [staged.folder]
        assert staged.receipt(0, 0) is None


def test_a_folder_that_was_never_finished_is_made_again(tmp_path: Path) -> None:
    output = tmp_path / "map.tif"
    staged = begin(output)
    staged.run.unlink()
    begin(output, OTHER)
    assert json.loads(Staging(staged_beside(output)[0]).run.read_bytes()) == OTHER


def test_two_processes_never_drive_one_run(tmp_path: Path) -> None:
    output = tmp_path / "map.tif"
    staged = begin(output)
    descriptor = os.open(staged.folder / "lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with (
        pytest.raises(FingerprintMismatchError, match="another segpipe run"),
        staging(output, FIELDS, new_run=False, create=store),
    ):
        pass
    os.close(descriptor)
    begin(output)


def test_half_written_files_are_swept(tmp_path: Path) -> None:
    output = tmp_path / "map.tif"
    staged = begin(output)
    partial = staged.store / ".0.0.deadbeef.part"
    partial.touch()
    begin(output)
    assert not partial.exists()


def test_discarding_leaves_nothing(tmp_path: Path) -> None:
    discard(begin(tmp_path / "map.tif"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["map.tif", "a.segpipe-b.tif"])
def test_a_folder_that_was_removed_halfway_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    output = tmp_path / name
    staged = begin(output)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove", lambda path: (path / "run.json").unlink())
        discard(staged)
    assert staged_beside(output) == []
    assert len(list(tmp_path.iterdir())) == 1
    sweep_discarded(output)
    assert list(tmp_path.iterdir()) == []


def test_names_with_wildcards_find_their_own_folder(tmp_path: Path) -> None:
    begin(tmp_path / "map1.tif")
    output = tmp_path / "map[1].tif"
    staged = begin(output, OTHER)
    assert staged_beside(output) == [staged.folder]


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    storage.write(path, b"old")

    def fail(action: str, place: Path) -> None:
        if action == "replace":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "step", fail)
    with pytest.raises(StorageError, match="No space left on device; free some space"):
        storage.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_run_brings_back_what_an_overwrite_had_set_aside(tmp_path: Path) -> None:
    output = tmp_path / "map.tif"
    staged = begin(output)
    replaced = staged.scratch / "map.tif.replaced"
    replaced.mkdir(parents=True)
    (replaced / ".home").write_text(str(output))
    (replaced / "map.tif").write_bytes(b"old map")
    (replaced / "map.tif.aux.xml").write_bytes(b"old legend")
    with staging(output, OTHER, new_run=True, create=store):
        assert output.read_bytes() == b"old map"
        assert (tmp_path / "map.tif.aux.xml").read_bytes() == b"old legend"
