"""Tiles that fail are tried alone, noted and left out; and the next run goes on from there."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from segpipe.models.engine import Engine
from segpipe.pipeline import mapping
from segpipe.pipeline.mapping import Job
from segpipe.pipeline.maps.map_facts import read_provenance
from segpipe.pipeline.receipt import Receipt
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.pipeline.vectors.aoi import Piece
from segpipe.pipeline.window import Window
from segpipe.workflows import tiles
from segpipe.workflows.resident import Resident, Use, map_one
from segpipe.workflows.terminal.options import Duration
from tests.workflows.conftest import Command, noise, write_scene

SIDE = 256
TILED = {"tiled": True, "blockxsize": SIDE, "blockysize": SIDE, "compress": "deflate"}
HEIGHT, WIDTH = 3 * SIDE, 4 * SIDE


def damage(path: Path, row: int, column: int) -> None:
    """Flips a bit at the beginning of a block, where the decoder notices it."""
    with rasterio.open(path) as dataset:
        offset = int(dataset.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=1))
    data = bytearray(path.read_bytes())
    data[offset] ^= 16
    path.write_bytes(data)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "scene.tif", noise(HEIGHT, WIDTH), interleave="pixel", **TILED)


@pytest.fixture
def damaged(sound: Path) -> Path:
    """A scene whose last block can't be decoded; no sample of the scene reads it."""
    damage(sound, 2, 3)
    return sound


def staged(folder: Path) -> Path:
    (found,) = folder.glob(".*.segpipe-*")
    return found


def read(path: Path) -> NDArray[np.uint8]:
    """The labels of a map."""
    pixels, _ = open_scene(path, ["1"]).read(Window(0, 0, HEIGHT, WIDTH))
    return np.asarray(pixels[0], np.uint8)


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_a_damaged_block_costs_its_tiles_alone(
    segpipe: Command, tmp_path: Path, tiny_model: Path, damaged: Path, suffix: str
) -> None:
    output, page = tmp_path / f"map{suffix}", tmp_path / "page.html"
    scene = ("run", damaged, "-m", tiny_model, "--tile", SIDE)
    words = (*scene, "-o", output, "--report", page, "--json")
    refused = segpipe(*words)
    assert refused.code == 6
    assert not output.exists()
    line, resume = refused.lines
    for told in ("of 12 tiles failed", "damaged", "--allow-failed", "--new-run", "/failed"):
        assert told in line
    assert resume.startswith("segpipe: resume with: segpipe run ")
    notes = sorted(staged(tmp_path).glob("failed/*/*.json"))
    assert notes
    first = json.loads(notes[0].read_bytes())
    assert (first["kind"], first["attempts"]) == ("corrupt", 2)

    partial = segpipe(*words, "--allow-failed")
    assert partial.code == 9
    assert "of 12 tiles failed, the first in row" in page.read_text()
    assert "nodata there" in partial.err
    report = json.loads(partial.out)
    assert report["tiles_failed"] == len(notes)
    assert report["tiles_resumed"] == 12 - len(notes)
    assert report["canaries"]["differing"] == 0
    places = {(failure["row"], failure["column"]) for failure in report["failed"]}
    assert {failure["attempts"] for failure in report["failed"]} == {4}

    labels, tags = read(output), read_provenance(output)
    assert tags["SEGPIPE_FAILED_TILES"].startswith(f"{len(notes)}: ")
    missing = np.zeros((HEIGHT, WIDTH), np.bool_)
    for row, column in places:
        missing[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = True
    assert (labels[missing] == 255).all()
    assert (labels[~missing] != 255).all()
    assert sum(count["pixels"] for count in report["classes"].values()) == (~missing).sum()
    assert not list(tmp_path.glob(".*segpipe*"))


def spoil(monkeypatch: pytest.MonkeyPatch, spoiler: Callable[[tuple[int, int]], None]) -> None:
    """Calls a copy of `spoiler` with each tile's place before it is mapped, in this process."""
    true = map_one

    def mapper(job: Job, use: Use, engine: Engine, resident: Resident, piece: Piece) -> Receipt:
        spoiler((piece.tile.row, piece.tile.column))
        return true(job, use, engine, resident, piece)

    monkeypatch.setattr(tiles, "map_one", mapper)


def whole(segpipe: Command, scene: Path, model: Path, folder: Path) -> bytes:
    """The bytes of a map that nothing disturbed."""
    folder.mkdir()
    done = segpipe("run", scene, "-m", model, "-o", folder / "map.tif", "--tile", SIDE)
    assert done.code == 0
    return (folder / "map.tif").read_bytes()


def test_a_tile_without_memory_is_noted_and_tried_again_by_the_same_command(
    segpipe: Command,
    tmp_path: Path,
    tiny_model: Path,
    sound: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = whole(segpipe, sound, tiny_model, tmp_path / "expected")
    tried = tmp_path / "tried"
    tried.mkdir()

    def spoiler(place: tuple[int, int]) -> None:
        before = len(list(tried.glob(f"{place}*")))
        (tried / f"{place}{before}").touch()
        if place == (1, 2) or (place == (0, 1) and not before):
            raise MemoryError("no room")

    output = tmp_path / "map.tif"
    words = ("run", sound, "-m", tiny_model, "-o", output, "--tile", SIDE, "--json")
    with monkeypatch.context() as patch:
        spoil(patch, spoiler)
        done = segpipe(*words)
    assert done.code == 9
    assert "1 of 12 tiles failed, the first in row 1, column 2" in done.lines[0]
    assert "no room" in done.lines[0]
    assert "resume with" in done.lines[1]
    assert len(list(tried.iterdir())) == 14
    assert {path.name[:6] for path in tried.glob("*1")} == {"(1, 2)", "(0, 1)"}
    again = segpipe(*words)
    assert again.code == 0
    assert json.loads(again.out)["tiles_failed"] == 0
    assert json.loads(again.out)["tiles_resumed"] == 11
    assert output.read_bytes() == expected


def test_a_tile_over_its_time_is_left_behind(
    segpipe: Command,
    tmp_path: Path,
    tiny_model: Path,
    sound: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = tmp_path / "release"

    def spoiler(place: tuple[int, int]) -> None:
        while place == (0, 0) and not release.exists():
            time.sleep(0.1)

    spoil(monkeypatch, spoiler)
    output = tmp_path / "map.zarr"
    words = ("run", sound, "-m", tiny_model, "-o", output, "--tile", SIDE, "--json")
    done = segpipe(*words, "--tile-timeout", "5s", "--allow-failed")
    release.touch()
    assert done.code == 9
    (failure,) = json.loads(done.out)["failed"]
    assert (failure["kind"], failure["row"], failure["column"]) == ("overdue", 0, 0)
    assert "longer than 5 s" in failure["reason"]
    labels = read(output)
    assert (labels[:SIDE, :SIDE] == 255).all()
    assert (labels[:SIDE, SIDE:] != 255).all()


def test_a_run_whose_time_is_over_goes_on(
    segpipe: Command,
    tmp_path: Path,
    tiny_model: Path,
    sound: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = whole(segpipe, sound, tiny_model, tmp_path / "expected")
    output = tmp_path / "map.tif"
    words = ("run", sound, "-m", tiny_model, "-o", output, "--tile", SIDE, "--json")
    with monkeypatch.context() as patch:
        spoil(patch, lambda place: time.sleep(1))
        done = segpipe(*words, "--stop-after", "3s")
    assert done.code == 75
    assert "of 12 tiles are finished" in done.lines[0]
    assert "resume with" in done.lines[1]
    assert not output.exists()
    again = segpipe(*words)
    assert again.code == 0
    assert output.read_bytes() == expected


def test_a_machine_that_computes_otherwise_is_found_by_canaries(
    segpipe: Command,
    tmp_path: Path,
    tiny_model: Path,
    sound: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "map.tif"
    words = ("run", sound, "-m", tiny_model, "-o", output, "--tile", SIDE, "--json")

    def spoiler(place: tuple[int, int]) -> None:
        if place == (1, 1):
            raise MemoryError

    with monkeypatch.context() as patch:
        spoil(patch, spoiler)
        true = mapping.layers

        def other(*arguments: Any) -> dict[str, NDArray[np.uint8]]:
            return {name: layer // 255 * 255 for name, layer in true(*arguments).items()}

        patch.setattr(mapping, "layers", other)
        assert segpipe(*words).code == 9
    done = segpipe(*words)
    assert done.code == 10
    assert "come out otherwise now" in done.lines[0]
    assert "--new-run" in done.lines[0]
    assert segpipe(*words, "--new-run").code == 0


@pytest.mark.parametrize("text", ["", "soon", "-3s", "5 minutes", "0s", "1h-2m"])
def test_what_is_no_time_is_refused(segpipe: Command, sound: Path, text: str) -> None:
    done = segpipe("run", sound, "--stop-after", text)
    assert done.code == 2
    assert "write 90s, 10m, 2h or 1h30m" in done.err


@given(st.integers(0, 99), st.integers(0, 99), st.integers(1, 99))
def test_times_are_sums(hours: int, minutes: int, seconds: int) -> None:
    found = Duration().convert(f"{hours}h{minutes}m{seconds}s", None, None)
    assert found == 3600 * hours + 60 * minutes + seconds
    assert Duration().convert(str(found), None, None) == found
