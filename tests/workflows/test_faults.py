"""Tiles that fail are tried alone, noted and left out; and the next run goes on from there."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

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


def read(path: Path) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], dict[str, str]]:
    """The labels of a map, and what it says of itself."""
    if path.is_dir():
        import zarr

        group = zarr.open_group(path, mode="r")
        labels = np.asarray(group["classes"][:], np.uint8)
        return labels, {name: str(value) for name, value in group.attrs.items()}
    with rasterio.open(path) as dataset:
        return dataset.read(1), dataset.tags()


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_a_damaged_block_costs_its_tiles_alone(
    segpipe: Command, tmp_path: Path, tiny_model: Path, damaged: Path, suffix: str
) -> None:
    output = tmp_path / f"map{suffix}"
    words = ("run", damaged, "-m", tiny_model, "-o", output, "--tile", SIDE, "--json")
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
    assert "nodata there" in partial.err
    report = json.loads(partial.out)
    assert report["tiles_failed"] == len(notes)
    assert report["tiles_resumed"] == 12 - len(notes)
    assert report["canaries"]["differing"] == 0
    places = {(failure["row"], failure["column"]) for failure in report["failed"]}
    assert {failure["attempts"] for failure in report["failed"]} == {4}

    labels, tags = read(output)
    assert tags["SEGPIPE_FAILED_TILES"].startswith(f"{len(notes)}: ")
    missing = np.zeros((HEIGHT, WIDTH), np.bool_)
    for row, column in places:
        missing[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = True
    assert (labels[missing] == 255).all()
    assert (labels[~missing] != 255).all()
    assert sum(count["pixels"] for count in report["classes"].values()) == (~missing).sum()
    assert not list(tmp_path.glob(".*segpipe*"))
