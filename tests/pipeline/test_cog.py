"""A GeoTIFF holds the store's labels, and everything that a GIS wants to know of them."""

import hashlib
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rio_cogeo.cogeo import cog_validate

from segpipe.pipeline.errors import StorageError, VerificationError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.maps import cog
from segpipe.pipeline.maps.cog import write_cog
from segpipe.pipeline.maps.label_store import LabelStore, ZarrFormat
from segpipe.pipeline.maps.publish import publish_cog
from segpipe.pipeline.window import Window
from tests.pipeline.maps import (
    CLASSES,
    GRIDS,
    LAYER,
    LEGEND,
    Labels,
    counts,
    grid,
    random_labels,
    read_by_gdal,
    read_by_qgis,
    stored,
)

TAGS = {"segpipe_model": "demo 1", "segpipe_exact": "yes"}
SIZES = [(1, 1), (1, 700), (300, 1), (1000, 777)]


def written(folder: Path, where: Grid, labels: Labels, zarr_format: ZarrFormat = 2) -> Path:
    store = stored(folder / "map.zarr", where, labels, zarr_format=zarr_format)
    convert(store, where, folder / "map.tif", labels)
    return folder / "map.tif"


def convert(store: LabelStore, where: Grid, path: Path, labels: Labels) -> None:
    write_cog(
        store,
        where,
        LAYER,
        path,
        path.parent,
        counts=counts(labels),
        tags=TAGS,
        cache_bytes=2**24,
    )


def modes(block: Sequence[int]) -> set[int]:
    """The values that stand most often in a block, nodata only where there is nothing else."""
    labels = [value for value in block if value != LEGEND.nodata] or [LEGEND.nodata]
    most = max(map(labels.count, labels))
    return {value for value in labels if labels.count(value) == most}


@pytest.mark.parametrize("where", GRIDS.values(), ids=GRIDS)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_it_holds_labels_place_and_palette(tmp_path: Path, where: Grid) -> None:
    labels = random_labels(where.shape)
    with rasterio.open(written(tmp_path, where, labels)) as file:
        assert np.array_equal(file.read(1), labels)
        assert tuple(file.transform)[:6] == where.transform
        crs = None if where.crs is None else rasterio.CRS.from_wkt(where.crs)
        assert file.crs == crs
        assert (file.count, file.dtypes, file.nodata) == (1, ("uint8",), 255)
        assert file.colorinterp == (ColorInterp.palette,)
        colors = file.colormap(1)
        for entry in LEGEND.entries:
            assert colors[entry.value] == entry.rgba
        assert file.descriptions == ("Land cover",)
        assert file.tags().items() >= TAGS.items()
        assert file.tags()["TIFFTAG_SOFTWARE"].startswith("segpipe ")
        assert file.profile["blockxsize"] == file.profile["blockysize"] == 512


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_odd_sizes_are_valid_and_kept(
    tmp_path: Path, shape: tuple[int, int], zarr_format: ZarrFormat
) -> None:
    labels = random_labels(shape)
    path = written(tmp_path, grid(*shape), labels, zarr_format)
    assert cog_validate(path, strict=True, quiet=True) == (True, [], [])
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(1), labels)


def test_a_map_without_any_label_is_a_map(tmp_path: Path) -> None:
    labels = np.full((600, 600), LEGEND.nodata, dtype=np.uint8)
    path = written(tmp_path, grid(600, 600), labels)
    assert cog_validate(path, strict=True, quiet=True) == (True, [], [])
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(1), labels)


def test_overviews_hold_the_most_frequent_label(tmp_path: Path) -> None:
    values = np.array([*LEGEND.values, LEGEND.nodata], dtype=np.uint8)
    labels = np.random.default_rng(0).choice(values, (1024, 1024))
    path = written(tmp_path, grid(1024, 1024), labels)
    with rasterio.open(path) as file:
        assert file.overviews(1) == [2]
    with rasterio.open(path, overview_level=0) as file:
        overview = file.read(1)
    blocks = labels.reshape(512, 2, 512, 2).swapaxes(1, 2).reshape(-1, 4).tolist()
    wrong = [
        (block, value)
        for block, value in zip(blocks, overview.ravel().tolist(), strict=True)
        if value not in modes(block)
    ]
    assert not wrong


def test_two_runs_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = GRIDS["north-up"]
    labels = random_labels(where.shape)
    found = set()
    for threads in ("ALL_CPUS", "1", "5"):
        monkeypatch.setitem(cog._COG, "NUM_THREADS", threads)
        for zarr_format in (2, 3):
            folder = tmp_path / f"{threads}{zarr_format}"
            folder.mkdir()
            path = written(folder, where, labels, zarr_format)
            found.add(hashlib.sha256(path.read_bytes()).hexdigest())
            assert {entry.name for entry in folder.iterdir()} == {"map.tif", "map.zarr"}
    assert len(found) == 1


def test_leftovers_of_a_killed_conversion_are_replaced(tmp_path: Path) -> None:
    where = GRIDS["north-up"]
    labels = random_labels(where.shape)
    path = written(tmp_path, where, labels)
    whole = path.read_bytes()
    for name in ("map.tif", ".map.tif.part", ".map.tif.part.ovr.tmp", ".map.tif.plain.part"):
        (tmp_path / name).write_bytes(b"torn")
    convert(LabelStore(tmp_path / "map.zarr"), where, path, labels)
    assert path.read_bytes() == whole
    assert {entry.name for entry in tmp_path.iterdir()} == {"map.tif", "map.zarr"}


def test_counts_that_the_store_doesnt_hold_are_noticed(tmp_path: Path) -> None:
    where = GRIDS["north-up"]
    labels = random_labels(where.shape)
    store = stored(tmp_path / "map.zarr", where, labels)
    other = labels.copy()
    other[0, 0] = 1 if labels[0, 0] != 1 else 2
    with pytest.raises(VerificationError, match="receipts"):
        convert(store, where, tmp_path / "map.tif", other)
    assert {entry.name for entry in tmp_path.iterdir()} == {"map.zarr"}


def test_a_value_that_is_no_class_is_noticed(tmp_path: Path) -> None:
    where = grid(256, 256)
    labels = np.full((256, 256), 77, dtype=np.uint8)
    store = stored(tmp_path / "map.zarr", where, labels)
    with pytest.raises(VerificationError, match="65536 pixels of none"):
        convert(store, where, tmp_path / "map.tif", labels)


def test_labels_that_changed_on_the_way_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = grid(256, 256)
    labels = random_labels(where.shape)
    store = stored(tmp_path / "map.zarr", where, labels)
    copy = rasterio.shutil.copy

    def corrupted(source: Path, target: Path, **options: str) -> None:
        with rasterio.open(source, "r+") as file:
            torn = file.read(1)
            torn[17, 42] ^= 4
            file.write(torn, 1)
        copy(source, target, **options)

    monkeypatch.setattr(rasterio.shutil, "copy", corrupted)
    with pytest.raises(VerificationError, match="doesn't hold the labels"):
        convert(store, where, tmp_path / "map.tif", labels)
    assert {entry.name for entry in tmp_path.iterdir()} == {"map.zarr"}


def test_a_folder_that_isnt_there_is_named(tmp_path: Path) -> None:
    where = grid(256, 256)
    labels = random_labels(where.shape)
    store = stored(tmp_path / "map.zarr", where, labels)
    with pytest.raises(StorageError, match="make the folder") as caught:
        convert(store, where, tmp_path / "nowhere" / "map.tif", labels)
    assert "\n" not in str(caught.value)


_LIMITED = """
import sys
from pathlib import Path
from segpipe.pipeline.errors import StorageError
from tests.pipeline import test_cog
folder = Path(sys.argv[1])
labels = test_cog.random_labels((700, 900), 3)
try:
    test_cog.convert(test_cog.LabelStore(folder / "map.zarr"), test_cog.GRIDS["north-up"],
                     folder / "map.tif", labels)
except StorageError as error:
    sys.exit(f"refused: {error}")
"""


def test_a_disk_that_takes_no_more_is_told_in_a_line(tmp_path: Path) -> None:
    where = GRIDS["north-up"]
    stored(tmp_path / "map.zarr", where, random_labels(where.shape, 3))
    sizes = [2**12, 2**14]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[0], sizes[0]))

    for _ in range(len(sizes)):
        done = subprocess.run(
            [sys.executable, "-B", "-c", _LIMITED, str(tmp_path)],
            preexec_fn=limit,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 1, done.stderr
        assert done.stderr.splitlines()[-1].startswith("refused: can't write ")
        assert "Traceback" not in done.stderr
        assert {entry.name for entry in tmp_path.iterdir()} == {"map.zarr"}
        sizes.pop(0)


def published(folder: Path, where: Grid, labels: Labels, style: bool) -> Path:
    staging = folder / ".staging"
    staging.mkdir()
    staged = written(staging, where, labels)
    output = folder / "map.tif"
    publish_cog(staged, output, LAYER, counts(labels), style=style, overwrite=False)
    return output


def test_the_systems_gdal_reads_all_of_it(tmp_path: Path) -> None:
    labels = random_labels((700, 900))
    read = read_by_gdal(published(tmp_path, GRIDS["north-up"], labels, style=False))
    number = counts(labels)
    assert read["transform"] == [630000, 30, 0, 228000, 0, -30]
    assert read["epsg"] == "32119"
    assert read["nodata"] == 255
    assert read["names"] == ["", "developed area", "forêt & <bois>", "", "", "water"]
    assert read["colors"][1:3] == [[208, 64, 64], [32, 128, 32]]
    assert read["colors"][5] == [64, 96, 200]
    assert read["usages"] == [5, 2, 1, 6, 7, 8, 9]
    assert read["table"] == [
        ["1", "developed area", str(number[1]), "208", "64", "64", "255"],
        ["2", "forêt & <bois>", str(number[2]), "32", "128", "32", "255"],
        ["5", "water", str(number[5]), "64", "96", "200", "255"],
    ]
    assert read["tags"].items() >= TAGS.items()
    assert read["sha256"] == hashlib.sha256(labels.tobytes()).hexdigest()


def test_qgis_shows_exactly_the_classes(tmp_path: Path) -> None:
    labels = random_labels((700, 900))
    assert read_by_qgis(published(tmp_path, GRIDS["north-up"], labels, style=True)) == {
        "valid": True,
        "epsg": "EPSG:32119",
        "extent": "630000.000,207000.000 : 657000.000,228000.000",
        "nodata": 255,
        "classes": CLASSES,
        "pyramid": True,
    }


def test_qgis_knows_the_classes_without_a_style(tmp_path: Path) -> None:
    labels = random_labels((700, 900))
    read = read_by_qgis(published(tmp_path, GRIDS["north-up"], labels, style=False))
    # Up to QGIS 3.28 the rest of the palette is shown too; later ones take the table.
    assert read["classes"].items() >= CLASSES.items()


def test_windows_cover_a_scene_once() -> None:
    where = grid(5000, 2049)
    seen = np.zeros(where.shape, dtype=np.uint8)
    for window in cog._windows(where):
        assert isinstance(window, Window)
        seen[window.slices] += 1
    assert seen.min() == seen.max() == 1
