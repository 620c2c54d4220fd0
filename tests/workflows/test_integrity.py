"""A byte of a map that changes is always seen, and where it is is told."""

import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segpipe.models.package import save
from segpipe.pipeline.errors import InputRefusedError, StorageError, VerificationError
from segpipe.pipeline.maps.checksums import BlockSums, differing
from segpipe.pipeline.window import Window
from segpipe.workflows.export import export_map
from segpipe.workflows.integrity import check
from segpipe.workflows.run import run
from segpipe.workflows.stages import Progress
from tests import toys
from tests.workflows.conftest import Command

SEED = 20261123


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map in each container, with probabilities, their scene and their model."""
    folder = tmp_path_factory.mktemp("maps")
    save(toys.model("unet", depth=2, width=4), folder / "toy")
    toys.write_scene(folder / "scene.tif", toys.landscape(1100, 1400))
    for name, zarr_format in (("map.tif", 2), ("two.zarr", 2), ("three.zarr", 3)):
        run(
            folder / "scene.tif",
            model=folder / "toy",
            output=folder / name,
            probabilities=folder / f"of-{name}",
            zarr_format=zarr_format,
            tile=256,
        )
    return folder


OUTPUTS = [
    f"{kind}{name}" for kind in ("", "of-") for name in ("map.tif", "two.zarr", "three.zarr")
]


def files(path: Path) -> list[Path]:
    """What the bytes of a map are in: chunks and documents."""
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    return [file for file in found if file.is_file() and not file.name.endswith(".aux.xml")]


def copy(path: Path, folder: Path) -> Path:
    target = folder / path.name
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target))


def flipped(file: Path, place: int, mask: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(place)
        (byte,) = opened.read(1)
        opened.seek(place)
        opened.write(bytes([byte ^ mask]))


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_was_published_is_whole(maps: Path, name: str) -> None:
    found = check(maps / name)
    assert found.holds
    assert found.checked == ("file" if name.endswith(".tif") else "store")


@pytest.mark.parametrize("name", OUTPUTS)
def test_any_byte_that_changes_is_seen(maps: Path, tmp_path: Path, name: str) -> None:
    chance = random.Random(f"{SEED}{name}")
    path = copy(maps / name, tmp_path)
    sound = files(path)
    for _ in range(15):
        file = chance.choice(sound)
        place, mask = chance.randrange(file.stat().st_size), 1 << chance.randrange(8)
        flipped(file, place, mask)
        with pytest.raises(VerificationError, match=path.name):
            check(path).require()
        flipped(file, place, mask)
    assert check(path).holds


@pytest.mark.parametrize("name", ["map.tif", "two.zarr", "three.zarr"])
def test_a_changed_label_is_found_where_it_is(maps: Path, tmp_path: Path, name: str) -> None:
    path = copy(maps / name, tmp_path)
    if path.is_dir():
        prefix = "classes" if name == "two.zarr" else "classes/c"
        file = path / prefix / "2" / "3"
        flipped(file, file.stat().st_size // 2, 1)
        expected = "rows 512 to 767 of columns 768 to 1023 are in classes/"
    else:
        with rasterio.open(path) as opened:
            offset = int(opened.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1)) + 40
        flipped(path, offset, 1)
        expected = "rows 512 to 1023 of columns 512 to 1023 "
    assert expected in str(check(path).damage)


def test_a_chunk_that_goes_or_comes_is_seen(maps: Path, tmp_path: Path) -> None:
    path = copy(maps / "two.zarr", tmp_path)
    chunk = path / "classes" / "1" / "1"
    held = chunk.read_bytes()
    chunk.unlink()
    assert "classes/1/1, which is gone" in str(check(path).damage)
    chunk.write_bytes(held)
    (path / "classes" / "9").mkdir()
    (path / "classes" / "9" / "9").write_bytes(held)
    assert "classes/9/9 wasn't there" in str(check(path).damage)


def test_a_torn_file_and_a_torn_list_are_seen(maps: Path, tmp_path: Path) -> None:
    path = copy(maps / "map.tif", tmp_path)
    whole = path.read_bytes()
    for length in (0, 7, 300, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert not check(path).holds, length
    store = copy(maps / "two.zarr", tmp_path)
    listed = store / "classes" / ".sha256"
    text = listed.read_bytes()
    for length in (0, 7, len(text) // 2, len(text) - 1):
        listed.write_bytes(text[:length])
        assert not check(store).holds, length


def test_other_tools_read_the_list(maps: Path) -> None:
    for name in ("two.zarr", "three.zarr"):
        words = ["sha256sum", "--check", "--strict", "--quiet", "classes/.sha256"]
        subprocess.run(words, cwd=maps / name, check=True)


def test_statistics_beside_a_map_are_no_damage(maps: Path, tmp_path: Path) -> None:
    for name in ("two.zarr", "three.zarr"):
        store = copy(maps / name, tmp_path)
        for side_car in store.rglob("*.aux.xml"):
            side_car.write_text("<PAMDataset/>")
        assert check(store).holds


def test_an_exported_map_tells_of_its_own_bytes(maps: Path, tmp_path: Path) -> None:
    for source, target in (("map.tif", "a.zarr"), ("two.zarr", "b.tif")):
        made = export_map(maps / source, tmp_path / target)
        assert check(made.output).checked
        assert check(made.output).holds
    sieved = export_map(maps / "map.tif", tmp_path / "c.tif", sieve=9)
    assert check(sieved.output).holds


def test_a_file_of_others_tells_nothing(maps: Path, segpipe: Command) -> None:
    done = segpipe("verify", maps / "scene.tif")
    assert done.code == InputRefusedError.exit_code
    assert "doesn't tell" in done.err
    assert segpipe("verify", "nothing.tif").code == InputRefusedError.exit_code


def test_the_command_looks_at_bytes_then_at_labels(
    maps: Path, tmp_path: Path, segpipe: Command
) -> None:
    assert segpipe("verify", maps / "map.tif").code == 0
    words = ("verify", maps / "scene.tif", maps / "map.tif", "-m", maps / "toy", "--windows", "2")
    assert json.loads(segpipe(*words, "--json").out)["windows"] == 2
    path = copy(maps / "map.tif", tmp_path)
    flipped(path, path.stat().st_size // 2, 4)
    for scenes in ((), (maps / "scene.tif",)):
        done = segpipe("verify", *scenes, path, "-m", maps / "toy", "--json")
        assert done.code == VerificationError.exit_code
        assert json.loads(done.out)["holds"] is False
        assert "rows " in done.err


def test_stored_tiles_of_a_run_that_was_stopped(maps: Path, tmp_path: Path) -> None:
    class StoppedError(Exception):
        """Ends a run where it is."""

    def stop(progress: Progress) -> None:
        if progress.done == 12:
            raise StoppedError

    output = tmp_path / "map.tif"
    with pytest.raises(StoppedError):
        run(
            *(maps / "scene.tif",),
            model=maps / "toy",
            output=output,
            probabilities=tmp_path / "shares.tif",
            tile=256,
            watch=stop,
        )
    found = check(output)
    assert found.holds
    assert (found.checked, found.tiles is not None and found.tiles >= 12) == ("tiles", True)
    (staged,) = tmp_path.glob(".map.tif.segpipe-*")
    chunks = [path for path in staged.glob("*.zarr/*/[0-9]*/**/*") if path.is_file()]
    receipts = list(staged.glob("receipts/*/*.json"))
    named = {(path.parent.name, path.stem) for path in receipts}
    chance = random.Random(SEED)
    seen = 0
    for file in chance.sample(chunks, 12):
        if (file.parent.name, file.name) not in named:
            continue  # its tile was still on its way
        place, mask = chance.randrange(file.stat().st_size), 1 << chance.randrange(8)
        flipped(file, place, mask)
        with pytest.raises(VerificationError, match=f"tile {file.parent.name}.{file.name}"):
            check(output).require()
        flipped(file, place, mask)
        seen += 1
    assert seen > 4
    receipts[0].write_bytes(b"{")
    assert not check(output).holds


BLOCKS = st.tuples(st.integers(0, 3), st.integers(0, 4))


@given(changed=st.sets(BLOCKS, max_size=4), order=st.randoms())
@settings(deadline=None)
def test_block_sums_tell_which_block_differs(
    changed: set[tuple[int, int]], order: random.Random
) -> None:
    pixels = np.random.default_rng(0).integers(0, 9, (2, 50, 70), np.uint8)
    after = pixels.copy()
    for row, column in changed:
        after[1, row * 16, column * 16] += 1

    def told(raster: NDArray[np.uint8]) -> str:
        sums, windows = BlockSums(16), list(_windows())
        order.shuffle(windows)
        for window in windows:
            sums.add(window, raster[(..., *window.slices)])
        return str(sums)

    found = differing(told(pixels), told(after))
    if not changed:
        assert found is None
        return
    first = min(row for row, _ in changed)
    assert found is not None
    window, side = found
    assert (window.top, side) == (first, 16)
    if len({row for row, _ in changed}) == 1:
        assert window == Window(first, min(column for _, column in changed), 1, 1)


def _windows() -> Iterator[Window]:
    for top in range(0, 50, 32):
        for left in range(0, 70, 32):
            yield Window(top, left, min(32, 50 - top), min(32, 70 - left))


def test_what_cannot_be_read_is_told(maps: Path, tmp_path: Path) -> None:
    path = copy(maps / "two.zarr", tmp_path)
    (path / "classes" / ".sha256").unlink()
    (path / "classes" / ".sha256").mkdir()
    assert check(path).checked is None
    with pytest.raises((InputRefusedError, StorageError)):
        check(path).require()
