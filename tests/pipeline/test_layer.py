"""Layers with bands are read by programs that nobody here wrote: names, scale, nodata, place."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rio_cogeo.cogeo import cog_validate

from segpipe.pipeline.errors import VerificationError
from segpipe.pipeline.maps.cog import write_cog
from segpipe.pipeline.maps.label_store import LabelStore, ZarrFormat, create
from segpipe.pipeline.maps.layer import Layer, confidence_layer, probability_layer
from segpipe.pipeline.maps.publish import publish_cog, publish_zarr
from segpipe.pipeline.window import Window
from tests.pipeline.maps import GRIDS, grid, read_by, tiles

NAMES = ("water", "developed area", "forêt & <bois>", "rock", "ice")
WHERE = GRIDS["north-up"]
Shares = NDArray[np.uint8]


def layer(bands: int) -> Layer:
    """A layer of so many bands: with two, that of confidence."""
    if bands == 2:
        return confidence_layer("Land cover")
    return probability_layer("Land cover", (NAMES * 5)[:bands])


def random_shares(bands: int, height: int = 700, width: int = 900, seed: int = 0) -> Shares:
    random = np.random.default_rng(seed)
    shares = random.integers(0, 251, (bands, height, width), dtype=np.uint8)
    shares[:, random.random((height, width)) < 0.1] = 255
    shares[:, 0, 0] = 7
    return shares


def stored(path: Path, shares: Shares, zarr_format: ZarrFormat = 2, side: int = 512) -> LabelStore:
    bands, *shape = shares.shape
    where = grid(*shape)
    store = create(path, where, layer(bands), side=side, attributes={}, zarr_format=zarr_format)
    for window in tiles(where.shape, side):
        store.write(window, shares[(slice(None), *window.slices)])
    return store


def written(folder: Path, shares: Shares, zarr_format: ZarrFormat = 2) -> Path:
    store, path = stored(folder / "layer.zarr", shares, zarr_format), folder / "layer.tif"
    bands, *shape = shares.shape
    write_cog(
        store,
        grid(*shape),
        layer(bands),
        path,
        folder,
        counts=None,
        tags={"segpipe_model": "demo"},
        cache_bytes=2**24,
    )
    return path


@settings(deadline=None, max_examples=12)
@given(
    st.integers(1, 20), st.integers(1, 400), st.integers(1, 400), st.sampled_from([2, 3]), st.data()
)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    bands: int,
    height: int,
    width: int,
    zarr_format: ZarrFormat,
    data: st.DataObject,
) -> None:
    shares = random_shares(bands, height, width)
    folder = tmp_path_factory.mktemp("store")
    store = stored(folder / "layer.zarr", shares, zarr_format, side=256)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = Window(
        top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    )
    assert np.array_equal(store.read(window), shares[(slice(None), *window.slices)])
    corner = Window(0, 0, min(256, height), min(256, width))
    files = [path for path in store.chunk_files(corner) if path.exists()]
    assert store.digest(corner)[0] == sum(path.stat().st_size for path in files)
    # Whoever changes any of its bands changes a tile's digest.
    before = store.digest(corner)
    files[data.draw(st.integers(0, len(files) - 1))].write_bytes(b"torn")
    assert store.digest(corner) != before


def test_a_window_takes_all_of_its_bands(tmp_path: Path) -> None:
    store = stored(tmp_path / "layer.zarr", random_shares(3, 256, 256))
    with pytest.raises(ValueError, match=r"\(3, 256, 256\)"):
        store.write(Window(0, 0, 256, 256), np.zeros((256, 256), np.uint8))


# Three bands might be taken for colours, and a fourth for a mask.
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5])
def test_rasterio_reads_a_geotiff(tmp_path: Path, bands: int) -> None:
    shares = random_shares(bands)
    path = written(tmp_path, shares)
    assert cog_validate(path, strict=True, quiet=True) == (True, [], [])
    named = layer(bands).bands
    assert named is not None
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(), shares)
        assert tuple(file.transform)[:6] == WHERE.transform
        assert file.crs.to_epsg() == 32119
        assert file.descriptions == named.names
        assert file.scales == (1 / 250,) * bands
        assert file.offsets == (0.0,) * bands
        assert file.nodatavals == (255,) * bands
        assert file.colorinterp[0] is ColorInterp.gray
        assert set(file.colorinterp[1:]) <= {ColorInterp.undefined}
        assert file.mask_flag_enums == ([MaskFlags.nodata],) * bands
        assert float(file.tags(1)["STATISTICS_MAXIMUM"]) == 250
        assert file.tags()["segpipe_model"] == "demo"
        assert file.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == "2"


def test_overviews_are_means_of_what_is_there(tmp_path: Path) -> None:
    shares = random_shares(3, 1024, 1024)
    path = written(tmp_path, shares)
    with rasterio.open(path, overview_level=0) as file:
        overview = file.read()
    blocks = shares.reshape(3, 512, 2, 512, 2).swapaxes(2, 3).reshape(3, 512, 512, 4)
    known = blocks != 255
    count = known.sum(axis=-1)
    mean = np.where(known, blocks, 0).sum(axis=-1) / np.maximum(count, 1)
    assert np.array_equal(overview == 255, count == 0)
    assert np.abs(overview - mean)[count > 0].max() <= 0.5


def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    shares = random_shares(4)
    found = set()
    for name, zarr_format in (("a", 2), ("b", 2), ("c", 3)):
        (tmp_path / name).mkdir()
        path = written(tmp_path / name, shares, zarr_format)  # type: ignore[arg-type]
        found.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(found) == 1


def test_a_band_that_changed_on_the_way_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = rasterio.shutil.copy

    def corrupted(source: Path, target: Path, **options: str) -> None:
        with rasterio.open(source, "r+") as file:
            torn = file.read(3)
            torn[17, 42] ^= 4
            file.write(torn, 3)
        copy(source, target, **options)

    monkeypatch.setattr(rasterio.shutil, "copy", corrupted)
    with pytest.raises(VerificationError, match="doesn't hold"):
        written(tmp_path, random_shares(3, 300, 300))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("bands", [2, 5])
def test_xarray_reads_a_store(tmp_path: Path, zarr_format: ZarrFormat, bands: int) -> None:
    shares, what = random_shares(bands), layer(bands)
    assert what.bands is not None
    path = stored(tmp_path / "layer.zarr", shares, zarr_format).path
    with xarray.open_zarr(path, decode_coords="all") as dataset:
        assert list(dataset.data_vars) == [what.name]
        array = dataset[what.name]
        assert array.dims == (what.bands.dimension, "y", "x")
        assert tuple(array[what.bands.dimension].values) == what.bands.names
        expected = np.where(shares == 255, np.nan, shares / 250)
        assert np.allclose(array, expected, rtol=0, atol=1e-6, equal_nan=True)
        last = array.sel({what.bands.dimension: what.bands.names[-1]})
        assert np.allclose(last, expected[-1], rtol=0, atol=1e-6, equal_nan=True)
        assert array.rio.crs.to_epsg() == 32119
        assert tuple(array.rio.transform())[:6] == WHERE.transform
        assert array.rio.encoded_nodata == 255


def test_rasterio_reads_a_store_with_the_names_of_its_bands(tmp_path: Path) -> None:
    shares = random_shares(5)
    with rasterio.open(stored(tmp_path / "layer.zarr", shares).path) as file:
        assert np.array_equal(file.read(), shares)
        assert file.descriptions == NAMES
        assert file.scales == (1 / 250,) * 5
        assert file.nodatavals == (255,) * 5
        assert [file.tags(band)["DIM_class_VALUE"] for band in file.indexes] == list(NAMES)


_GDAL = """
import hashlib, json, sys
from osgeo import gdal
gdal.UseExceptions()
dataset = gdal.Open(sys.argv[1])
bands = [dataset.GetRasterBand(n + 1) for n in range(dataset.RasterCount)]
print(json.dumps({
    "names": [band.GetDescription() for band in bands],
    "scales": [band.GetScale() for band in bands],
    "nodata": [band.GetNoDataValue() for band in bands],
    "epsg": dataset.GetSpatialRef().GetAuthorityCode(None),
    "transform": dataset.GetGeoTransform(),
    "sha256": hashlib.sha256(dataset.ReadAsArray().tobytes()).hexdigest(),
}))
"""

_QGIS = """
import json, os, sys
from qgis.core import QgsApplication, QgsMapRendererParallelJob, QgsMapSettings, QgsRasterLayer
from qgis.PyQt.QtCore import QSize
application = QgsApplication([], False)
application.initQgis()
layer = QgsRasterLayer(sys.argv[1], "layer")
settings = QgsMapSettings()
settings.setLayers([layer])
settings.setExtent(layer.extent())
settings.setDestinationCrs(layer.crs())
settings.setOutputSize(QSize(90, 70))
job = QgsMapRendererParallelJob(settings)
job.start()
job.waitForFinished()
image = job.renderedImage()
print(json.dumps({
    "valid": layer.isValid(),
    "bands": layer.bandCount(),
    "names": [layer.bandName(n + 1) for n in range(layer.bandCount())],
    "renderer": layer.renderer().type(),
    "centre": layer.dataProvider().sample(layer.extent().center(), 1)[0],
    "color": image.pixelColor(45, 35).name(),
}), flush=True)
os._exit(0)
"""


def published(folder: Path, suffix: str, shares: Shares) -> Path:
    staging, output = folder / ".staging", folder / f"layer{suffix}"
    staging.mkdir()
    cog = suffix == ".tif"
    staged = written(staging, shares) if cog else stored(staging / "layer.zarr", shares).path
    publish = publish_cog if cog else publish_zarr
    publish(staged, output, layer(len(shares)), {}, style=True, overwrite=False)
    return output


def sha256(shares: Shares) -> str:
    return hashlib.sha256(np.ascontiguousarray(shares).tobytes()).hexdigest()


def test_the_systems_gdal_reads_a_geotiff(tmp_path: Path) -> None:
    shares = random_shares(5)
    assert read_by(_GDAL, "osgeo.gdal", published(tmp_path, ".tif", shares)) == {
        "names": list(NAMES),
        "scales": [1 / 250] * 5,
        "nodata": [255] * 5,
        "epsg": "32119",
        "transform": [630000, 30, 0, 228000, 0, -30],
        "sha256": sha256(shares),
    }


def test_the_systems_gdal_reads_a_band_of_a_store(tmp_path: Path) -> None:
    shares = random_shares(5)
    path = published(tmp_path, ".zarr", shares)
    # GDAL 3.6 opens arrays of three dimensions a band at a time.
    read = read_by(_GDAL, "osgeo.gdal", f'ZARR:"{path}":/probabilities:3', tmp_path)
    assert read["sha256"] == sha256(shares[3])
    assert (read["scales"], read["nodata"]) == ([1 / 250], [255])
    assert (read["epsg"], read["transform"]) == ("32119", [630000, 30, 0, 228000, 0, -30])


@pytest.mark.parametrize(("value", "color"), [(0, "#440154"), (125, "#21918c"), (250, "#fde725")])
def test_qgis_shows_numbers_from_0_to_1_in_colours(tmp_path: Path, value: int, color: str) -> None:
    shares = np.full((5, 700, 900), value, np.uint8)
    read: dict[str, Any] = read_by(_QGIS, "qgis.core", published(tmp_path, ".tif", shares))
    assert read == {
        "valid": True,
        "bands": 5,
        "names": [f"Band {number}: {name}" for number, name in enumerate(NAMES, 1)],
        "renderer": "singlebandpseudocolor",
        "centre": pytest.approx(value / 250),
        "color": color,
    }


def test_metadata_are_those_of_cf(tmp_path: Path) -> None:
    path = stored(tmp_path / "layer.zarr", random_shares(2, 300, 300)).path
    attributes = json.loads((path / "confidence/.zattrs").read_text())
    assert attributes["scale_factor"] == 1 / 250
    assert attributes["add_offset"] == 0
    assert attributes["units"] == "1"
    assert attributes["grid_mapping"] == "spatial_ref"
    assert json.loads((path / "confidence/.zarray").read_text())["fill_value"] == 255
