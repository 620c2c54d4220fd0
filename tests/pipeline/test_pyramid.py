"""A pyramid holds the labels that stand most often, whatever stopped its making."""

import math
import shutil
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401
import xarray
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from segpipe.pipeline import storage
from segpipe.pipeline.budget import disk_bytes
from segpipe.pipeline.errors import StorageError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.maps import pyramid
from segpipe.pipeline.maps.cog import write_cog
from segpipe.pipeline.maps.label_store import LabelStore, ZarrFormat, create
from segpipe.pipeline.maps.layer import Layer, class_layer, confidence_layer, probability_layer
from segpipe.pipeline.maps.pyramid import OVERVIEWS, coarser, halved, write_pyramid
from segpipe.pipeline.plan import Margin, Plan
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.pipeline.window import Window
from tests.pipeline.maps import GRIDS, LEGEND, Labels, counts, grid, random_labels, stored, tiles

MAP = class_layer(LEGEND)
NODATA = LEGEND.nodata
CACHE = 16_000_000
formats = pytest.mark.parametrize("zarr_format", [2, 3])


class Killed(BaseException):
    """Stands for SIGKILL: no handler of errors sees it."""


def files(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, by its place."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def most_frequent(block: Sequence[int]) -> int:
    """The label that is the first to stand as often as none stands more often."""
    labels = [value for value in block if value != NODATA]
    most = max(Counter(labels).values(), default=0)
    seen: Counter[int] = Counter()
    for value in labels:
        seen[value] += 1
        if seen[value] == most:
            return value
    return NODATA


def expected(labels: Labels) -> Labels:
    """The next level, pixel by pixel."""
    rows, columns = (-(-length // 2) for length in labels.shape)
    found = np.empty((rows, columns), np.uint8)
    for row in range(rows):
        for column in range(columns):
            block = labels[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            found[row, column] = most_frequent(block.ravel().tolist())
    return found


def with_pyramid(
    folder: Path, where: Grid, labels: Labels, zarr_format: ZarrFormat, side: int = 512
) -> LabelStore:
    store = stored(folder / "map.zarr", where, labels, side=side, zarr_format=zarr_format)
    write_pyramid(store, where, MAP, folder / "scratch", cache_bytes=CACHE)
    return store


def attributes(path: Path) -> dict[str, Any]:
    """What a node says of itself."""
    return dict(zarr.open(path, mode="r").attrs)


def levels(store: LabelStore) -> list[Labels]:
    """The levels that a reader finds, from the second on."""
    if store.zarr_format == 3:
        layout = attributes(store.path).get("multiscales", {"layout": [None]})["layout"]
        arrays = [zarr.open_array(store.path / level["asset"], mode="r") for level in layout[1:]]
        return [np.asarray(array[:], np.uint8) for array in arrays]
    return overviews(store.path)


def overviews(path: Path) -> list[Labels]:
    """What GDAL shows of a raster from further away."""
    with rasterio.open(path) as file:
        count = len(file.overviews(1))
    found = []
    for level in range(count):
        with rasterio.open(path, overview_level=level) as file:
            found.append(file.read() if file.count > 1 else file.read(1))
    return found


small = npst.arrays(
    np.uint8,
    npst.array_shapes(min_dims=2, max_dims=2, max_side=7),
    elements=st.sampled_from([0, 1, 2, NODATA]),
)


@given(small)
def test_a_pixel_is_the_most_frequent_of_four(labels: Labels) -> None:
    assert np.array_equal(halved(labels, MAP), expected(labels))


@given(small)
def test_of_numbers_a_pixel_is_the_mean(numbers: Labels) -> None:
    layer = confidence_layer("map")
    found = halved(np.stack([numbers, 250 - np.minimum(numbers, 250)]), layer)
    assert found.shape[0] == 2
    for row, column in np.ndindex(found.shape[1:]):
        block = numbers[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].ravel().tolist()
        valid = [value for value in block if value != NODATA]
        mean = math.floor(Fraction(sum(valid), len(valid)) + Fraction(1, 2)) if valid else NODATA
        assert found[0, row, column] == mean


@pytest.mark.parametrize(
    "layer", [probability_layer("map", ("a", "b", "c")), confidence_layer("m")]
)
@formats
def test_other_layers_have_pyramids_too(
    tmp_path: Path, layer: Layer, zarr_format: ZarrFormat
) -> None:
    where = grid(600, 512)
    numbers = np.random.default_rng(0).integers(0, 251, (layer.count, 600, 512), np.uint8)
    numbers[:, :300] = NODATA
    store = create(
        tmp_path / "map.zarr", where, layer, side=256, attributes={}, zarr_format=zarr_format
    )
    for window in tiles(where.shape, 256):
        store.write(window, numbers[(..., *window.slices)])
    write_pyramid(store, where, layer, tmp_path / "scratch", cache_bytes=CACHE)
    found = levels(store)
    assert found
    assert np.array_equal(found[0], halved(numbers, layer))
    assert np.array_equal(store.read(where.window), numbers)


@pytest.mark.parametrize("seams", [256, 2048])
@formats
def test_every_level_is_made_of_the_one_before(
    tmp_path: Path, zarr_format: ZarrFormat, seams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyramid, "_SIDE", seams)
    labels = np.random.default_rng(0).choice(np.array([1, 2, 5, NODATA], np.uint8), (1100, 601))
    store = with_pyramid(tmp_path, grid(1100, 601), labels, zarr_format)
    found = levels(store)
    assert len(found) == (3 if zarr_format == 3 else 2)
    level = labels
    # What comes after the first level in format 2 is GDAL's, which has its own way with odd sides.
    for read in found if zarr_format == 3 else found[:1]:
        level = expected(level)
        assert np.array_equal(read, level)


def test_gdals_overviews_are_ours(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).choice(np.array([1, 2, 5, NODATA], np.uint8), (1024, 1536))
    where, cog = grid(1024, 1536), tmp_path / "map.tif"
    two = with_pyramid(tmp_path / "2", where, labels, 2)
    three = with_pyramid(tmp_path / "3", where, labels, 3)
    write_cog(two, where, MAP, cog, tmp_path, counts=counts(labels), tags={}, cache_bytes=CACHE)
    gdals = [overviews(two.path), overviews(cog)]
    assert [len(found) for found in gdals] == [2, 2]
    for found in gdals:
        for theirs, ours in zip(found, levels(three), strict=False):
            assert np.array_equal(theirs, ours)


@formats
def test_the_base_stays_as_it_is(tmp_path: Path, zarr_format: ZarrFormat) -> None:
    labels = random_labels((700, 900))
    store = stored(tmp_path / "map.zarr", grid(700, 900), labels, zarr_format=zarr_format)
    before = files(store.path)
    write_pyramid(store, grid(700, 900), MAP, tmp_path / "scratch", cache_bytes=CACHE)
    after = files(store.path)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == ({"zarr.json"} if zarr_format == 3 else set())
    assert np.array_equal(store.read(Window(0, 0, 700, 900)), labels)
    assert files(tmp_path / "scratch") == {}


@formats
def test_the_bytes_depend_on_the_map_alone(tmp_path: Path, zarr_format: ZarrFormat) -> None:
    labels = random_labels((700, 900))
    found = []
    for number, side in enumerate((256, 1024, 1024)):
        folder = tmp_path / str(number)
        made = files(with_pyramid(folder, grid(700, 900), labels, zarr_format, side).path)
        # The side of a run's tiles decides the shards of the base, and what the root says of it.
        of_pyramid = ("ovr_", f"classes/{OVERVIEWS}")
        found.append({k: v for k, v in made.items() if k.startswith(of_pyramid)})
    assert len(found[0]) > 0
    assert found[0] == found[1] == found[2]


@formats
def test_memory_does_not_grow_with_the_map(
    tmp_path: Path, zarr_format: ZarrFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyramid, "_SIDE", 256)
    read: list[int] = []
    plain = LabelStore.read

    def watched(store: LabelStore, window: Window) -> Labels:
        read.append(window.pixels)
        return plain(store, window)

    where = grid(1100, 900)
    store = stored(
        tmp_path / "map.zarr", where, random_labels(where.shape), zarr_format=zarr_format
    )
    monkeypatch.setattr(LabelStore, "read", watched)
    monkeypatch.setattr("segpipe.pipeline.maps.cog._STRIPE", 512)
    write_pyramid(store, where, MAP, tmp_path / "scratch", cache_bytes=CACHE)
    assert read
    assert max(read) <= 512 * 512


@formats
def test_the_disk_that_a_plan_asks_for_is_enough(
    tmp_path: Path, zarr_format: ZarrFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = grid(1024, 1024)
    labels = np.random.default_rng(0).choice(np.array(LEGEND.values, np.uint8), where.shape)
    store = stored(tmp_path / "map.zarr", where, labels, zarr_format=zarr_format)
    taken = []

    def step(action: str, path: Path) -> None:
        taken.append(sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()))

    monkeypatch.setattr(storage, "step", step)
    write_pyramid(store, where, MAP, tmp_path / "scratch", cache_bytes=CACHE)
    step("end", tmp_path)
    need = disk_bytes(Plan(where, 512, 1, Margin(0, 0, 0, 0)), cog=False)
    assert need / 5 < max(taken) <= need


@formats
def test_a_map_of_one_chunk_needs_none(tmp_path: Path, zarr_format: ZarrFormat) -> None:
    labels = random_labels((256, 200))
    store = stored(tmp_path / "map.zarr", grid(256, 200), labels, zarr_format=zarr_format)
    before = files(store.path)
    write_pyramid(store, grid(256, 200), MAP, tmp_path / "scratch", cache_bytes=CACHE)
    assert files(store.path) == before
    assert levels(store) == []


@formats
def test_a_map_without_any_label_has_a_pyramid_without_any(
    tmp_path: Path, zarr_format: ZarrFormat
) -> None:
    labels = np.full((600, 600), NODATA, np.uint8)
    found = levels(with_pyramid(tmp_path, grid(600, 600), labels, zarr_format))
    assert found
    assert all((level == NODATA).all() for level in found)


@formats
def test_killed_anywhere_it_ends_with_the_same_bytes(
    tmp_path: Path, zarr_format: ZarrFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", int)
    where, labels = grid(300, 520), random_labels((300, 520))
    fresh = stored(tmp_path / "fresh.zarr", where, labels, zarr_format=zarr_format).path
    whole = tmp_path / "whole.zarr"
    shutil.copytree(fresh, whole)
    scratch = tmp_path / "scratch"
    steps = 0
    last = -1

    def step(action: str, path: Path) -> None:
        nonlocal steps
        steps += 1
        if 0 <= last < steps:
            raise Killed

    def attempt(path: Path) -> None:
        nonlocal steps
        steps = 0
        write_pyramid(LabelStore(path), where, MAP, scratch, cache_bytes=CACHE)

    monkeypatch.setattr(storage, "step", step)
    attempt(whole)
    before, whole_files, number = files(fresh), files(whole), steps
    assert number > 5
    for last in sorted({*range(0, number, -(-number // 12)), number - 1}):
        path = tmp_path / "killed.zarr"
        for left_over in (path, scratch):
            shutil.rmtree(left_over, ignore_errors=True)
        shutil.copytree(fresh, path)
        with pytest.raises(Killed):
            attempt(path)
        # The root names all levels, once they are there, or none.
        left, names = files(path), ("zarr.json", ".zattrs", ".zmetadata")
        roots = [{name: made.get(name) for name in names} for made in (left, before, whole_files)]
        assert roots[0] == roots[1] or left == whole_files
        stop, last = last, -1
        storage.sweep(path)
        attempt(path)
        assert files(path) == whole_files, stop
        assert files(scratch) == {}


@formats
def test_a_full_disk_is_told_in_a_line(
    tmp_path: Path, zarr_format: ZarrFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = grid(300, 520)
    labels = random_labels(where.shape)
    store = stored(tmp_path / "map.zarr", where, labels, zarr_format=zarr_format)

    def full(action: str, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "step", full)
    with pytest.raises(StorageError, match="No space left on device; free some space"):
        write_pyramid(store, where, MAP, tmp_path / "scratch", cache_bytes=CACHE)


@pytest.mark.parametrize("where", GRIDS.values(), ids=GRIDS)
def test_every_level_knows_where_it_lies(tmp_path: Path, where: Grid) -> None:
    store = with_pyramid(tmp_path, where, random_labels(where.shape), 3)
    root = attributes(store.path)
    layout = root["multiscales"]["layout"]
    assert [entry["asset"] for entry in layout] == [
        "classes",
        "ovr_2x/classes",
        "ovr_4x/classes",
    ]
    assert [entry.get("derived_from") for entry in layout] == [
        None,
        "classes",
        "ovr_2x/classes",
    ]
    names = {convention["name"] for convention in root["zarr_conventions"]}
    assert {"multiscales", "spatial"} <= names
    level = where
    for factor, entry in ((1, layout[0]), (2, layout[1]), (4, layout[2])):
        assert tuple(entry["spatial:transform"]) == level.transform
        assert tuple(entry["spatial:shape"]) == level.shape
        array = zarr.open_array(store.path / entry["asset"], mode="r")
        assert array.shape == level.shape
        assert (
            tuple(attributes(store.path / entry["asset"])["spatial:transform"]) == level.transform
        )
        group = None if factor == 1 else f"ovr_{factor}x"
        with xarray.open_zarr(store.path, group=group, decode_coords="all") as dataset:
            read = dataset["classes"]
            assert tuple(read.rio.transform())[:6] == level.transform
            assert (read.rio.crs is None) == (where.crs is None)
            assert read.rio.encoded_nodata == NODATA
            assert read.attrs["flag_meanings"] == "developed_area foret_bois water"
        level = coarser(level)


def test_a_tree_holds_all_levels(tmp_path: Path) -> None:
    store = with_pyramid(tmp_path, GRIDS["north-up"], random_labels((700, 900)), 3)
    with xarray.open_datatree(store.path, engine="zarr") as tree:
        assert set(tree.children) == {"ovr_2x", "ovr_4x"}
        assert tree["ovr_4x/classes"].shape == (175, 225)


@formats
def test_it_is_still_a_scene(tmp_path: Path, zarr_format: ZarrFormat) -> None:
    labels = random_labels((700, 900))
    store = with_pyramid(tmp_path, GRIDS["north-up"], labels, zarr_format)
    scene = open_scene(store.path, None, ("Land cover",))
    assert scene.grid.transform == GRIDS["north-up"].transform
    pixels, _ = scene.read(Window(0, 0, 700, 900))
    assert np.array_equal(pixels[0], labels)
