"""Whatever stops a publication, nothing half-made is seen, and the next call ends it."""

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segpipe.pipeline import storage
from segpipe.pipeline.errors import FingerprintMismatchError, StorageError
from segpipe.pipeline.maps.pam import geotiff_pam
from segpipe.pipeline.maps.publish import publish_cog, publish_zarr
from segpipe.pipeline.maps.qml import qgis_style
from tests.pipeline.maps import LAYER, LEGEND, counts, grid, random_labels, stored

LABELS = random_labels((300, 300))
COUNTS = counts(LABELS)
Publish = Callable[[Path, bool, bool], None]
Tree = dict[str, bytes]


class Killed(BaseException):
    """Stands for SIGKILL: no handler of errors sees it."""


def tree(path: Path) -> Tree:
    """What stands in a folder, hidden things left out."""
    found = (file for file in sorted(path.rglob("*")) if file.is_file())
    named = {file.relative_to(path).as_posix(): file.read_bytes() for file in found}
    return {name: data for name, data in named.items() if not name.startswith(".")}


def publish_file(folder: Path, style: bool, overwrite: bool) -> None:
    staged = folder / ".run" / "map.tif"
    publish_cog(staged, folder / "map.tif", LAYER, COUNTS, style=style, overwrite=overwrite)


def publish_store(folder: Path, style: bool, overwrite: bool) -> None:
    staged = folder / ".run" / "map.zarr"
    publish_zarr(staged, folder / "map.zarr", LAYER, COUNTS, style=style, overwrite=overwrite)


def body(found: Tree) -> Tree:
    """What stands under the output's own name."""
    return {
        name: data
        for name, data in found.items()
        if name == "map.tif" or name.startswith("map.zarr/")
    }


def harmless(found: Tree, before: Tree, after: Tree) -> bool:
    """Whether there is no map, the new one, or the old one without the side-cars of another."""
    old = body(found) == body(before) and found.items() <= before.items()
    return found == after or old or not body(found)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[Publish, Path]:
    """For each way to publish, a folder with a staged map and, beside it, an older one."""
    file, store = tmp_path_factory.mktemp("file"), tmp_path_factory.mktemp("store")
    (file / ".run").mkdir()
    (file / ".run" / "map.tif").write_bytes(b"new labels")
    (file / "map.tif").write_bytes(b"old labels")
    (file / "map.tif.aux.xml").write_bytes(b"old legend")
    stored(store / ".run" / "map.zarr", grid(300, 300), LABELS)
    stored(store / "map.zarr", grid(300, 300), random_labels((300, 300), 1))
    (store / "map.qml").write_bytes(b"old style")
    return {publish_file: file, publish_store: store}


ways = pytest.mark.parametrize("publish", [publish_file, publish_store])


def stopped(
    publish: Publish, folder: Path, last: int, cause: BaseException, patch: pytest.MonkeyPatch
) -> bool:
    """Whether `publish` was stopped before step number `last`; a killed process takes no more."""
    steps = 0

    def step(action: str, path: Path) -> None:
        nonlocal steps
        steps += 1
        if steps == last or (steps > last and isinstance(cause, Killed)):
            raise cause

    with patch.context() as patched:
        patched.setattr(storage, "step", step)
        try:
            publish(folder, True, True)
        except (Killed, StorageError):
            return True
    return False


def copies(template: Path, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    for number in range(1, 60):
        folder = tmp_path / str(number)
        shutil.copytree(template, folder)
        yield number, folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls the plug here, and waiting for the disk takes long."""
    monkeypatch.setattr("os.fsync", int)


@ways
def test_a_killed_publication_ends_the_same(
    publish: Publish, stages: dict[Publish, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(stages[publish], whole)
    before = tree(whole)
    publish(whole, True, True)
    after = tree(whole)
    for number, folder in copies(stages[publish], tmp_path):
        if not stopped(publish, folder, number, Killed(), monkeypatch):
            assert number > 8
            return
        assert harmless(tree(folder), before, after)
        storage.sweep(folder)
        publish(folder, True, True)
        assert tree(folder) == after
        assert not list((folder / ".run").iterdir())
    pytest.fail("publishing takes more steps than expected")


@ways
def test_a_publication_killed_twice_ends_the_same(
    publish: Publish, stages: dict[Publish, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(stages[publish], whole)
    publish(whole, True, True)
    for number, folder in copies(stages[publish], tmp_path):
        if not stopped(publish, folder, number, Killed(), monkeypatch):
            return
        stopped(publish, folder, 1 + number % 5, Killed(), monkeypatch)
        publish(folder, True, True)
        storage.sweep(folder)
        assert tree(folder) == tree(whole)


@ways
def test_a_full_disk_leaves_what_was_there(
    publish: Publish, stages: dict[Publish, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(stages[publish])
    whole = tmp_path / "whole"
    shutil.copytree(stages[publish], whole)
    publish(whole, True, True)
    for number, folder in copies(stages[publish], tmp_path):
        full = OSError(errno.ENOSPC, "No space left on device")
        if not stopped(publish, folder, number, full, monkeypatch):
            return
        # Cleaning up may fail too, when the new map is there already.
        assert tree(folder) in (before, tree(whole))
        publish(folder, True, True)
        assert tree(folder) == tree(whole)


@ways
def test_an_output_is_never_replaced_unasked(
    publish: Publish, stages: dict[Publish, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(stages[publish], folder)
    before = tree(folder)
    with pytest.raises(FingerprintMismatchError, match="--overwrite"):
        publish(folder, True, False)
    assert tree(folder) == before


def test_side_cars_carry_the_legend(tmp_path: Path) -> None:
    (tmp_path / ".run").mkdir()
    (tmp_path / ".run" / "map.tif").write_bytes(b"new labels")
    publish_file(tmp_path, True, False)
    assert tree(tmp_path) == {
        "map.tif": b"new labels",
        "map.tif.aux.xml": geotiff_pam(LEGEND, COUNTS),
        "map.qml": qgis_style(LEGEND),
    }


def test_a_style_of_the_users_own_stays(tmp_path: Path) -> None:
    (tmp_path / ".run").mkdir()
    (tmp_path / ".run" / "map.tif").write_bytes(b"new labels")
    (tmp_path / "map.qml").write_bytes(b"my colours")
    publish_file(tmp_path, True, False)
    assert (tmp_path / "map.qml").read_bytes() == b"my colours"


@pytest.mark.parametrize("publish", [publish_file, publish_store])
def test_no_style_no_file(publish: Publish, stages: dict[Publish, Path], tmp_path: Path) -> None:
    shutil.copytree(stages[publish] / ".run", tmp_path / ".run")
    publish(tmp_path, False, False)
    assert not (tmp_path / "map.qml").exists()


@ways
def test_nothing_staged_is_told(publish: Publish, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nothing at"):
        publish(tmp_path, True, False)


def test_a_published_store_has_counts(stages: dict[Publish, Path], tmp_path: Path) -> None:
    shutil.copytree(stages[publish_store] / ".run", tmp_path / ".run")
    publish_store(tmp_path, True, False)
    text = (tmp_path / "map.zarr" / "classes" / ".zarray.aux.xml").read_text("utf-8")
    assert f"<F>{COUNTS[5]}</F>" in text


@pytest.mark.parametrize("killed", [False, True])
def test_what_a_late_worker_was_writing_is_not_published(
    stages: dict[Publish, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    shutil.copytree(stages[publish_store], tmp_path, dirs_exist_ok=True)
    output = tmp_path / "map.zarr"
    late = output / "classes" / ".0.0123.part"

    def step(action: str, path: Path) -> None:
        if action == "rename" and path == output:
            (tmp_path / ".run" / "map.zarr" / "classes" / late.name).touch()
        elif killed and late.exists():
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(storage, "step", step)
        with pytest.raises(Killed) if killed else contextlib.nullcontext():
            publish_store(tmp_path, True, True)
    if killed:
        assert late.exists()
        publish_store(tmp_path, True, True)
    assert not late.exists()
