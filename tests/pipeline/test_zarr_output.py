"""What programs that nobody here wrote read from a store."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401
import xarray
import zarr

from segpipe.pipeline.grid import Grid
from segpipe.pipeline.maps.georeference import geozarr_attributes
from segpipe.pipeline.maps.label_store import ZarrFormat
from segpipe.pipeline.maps.qml import qgis_style
from tests.pipeline.maps import (
    CLASSES,
    GRIDS,
    LEGEND,
    Labels,
    counts,
    random_labels,
    read_by_gdal,
    read_by_qgis,
    stored,
)

every_grid = pytest.mark.parametrize("where", GRIDS.values(), ids=GRIDS)
# A rotated transform can't be told in coordinates, the only thing that GDAL looks at in format 2.
upright = pytest.mark.parametrize(
    "where",
    [g for n, g in GRIDS.items() if n != "rotated"],
    ids=[n for n in GRIDS if n != "rotated"],
)
formats = pytest.mark.parametrize("zarr_format", [2, 3])
LABELS = random_labels((700, 900))


def epsg(where: Grid) -> int | None:
    return None if where.crs is None else rasterio.CRS.from_wkt(where.crs).to_epsg()


def sha256(labels: Labels) -> str:
    return hashlib.sha256(np.ascontiguousarray(labels).tobytes()).hexdigest()


@every_grid
@formats
def test_xarray_reads_it(tmp_path: Path, where: Grid, zarr_format: ZarrFormat) -> None:
    path = stored(tmp_path / "map.zarr", where, LABELS, zarr_format=zarr_format).path
    with xarray.open_zarr(path, decode_coords="all") as dataset:
        assert list(dataset.data_vars) == ["classes"]
        assert dataset.attrs == {
            "Conventions": "CF-1.11",
            "title": "Land cover",
            "segpipe_model": "demo",
        }
        array = dataset["classes"]
        assert array.dims == ("y", "x")
        assert np.array_equal(array.fillna(255), LABELS)
        assert array.attrs["flag_values"] == [1, 2, 5]
        assert array.attrs["flag_meanings"] == "developed_area foret_bois water"
        assert array.attrs["flag_colors"] == "#d04040 #208020 #4060c8"
        assert array.rio.encoded_nodata == 255
        assert tuple(array.rio.transform())[:6] == where.transform
        assert (array.rio.crs and array.rio.crs.to_epsg()) == epsg(where)
        if "x" in array.coords:
            a, _, c, _, e, f = where.transform
            assert array.x.values[0] == c + a / 2
            assert array.y.values[-1] == f + e * 699.5
            assert array.x.attrs["axis"] == "X"


def test_coordinates_are_named_as_cf_wants(tmp_path: Path) -> None:
    for name, units, standard in (
        ("north-up", "metre", "projection_x_coordinate"),
        ("geographic", "degrees_east", "longitude"),
        ("US feet", "0.304800609601219 metre", "projection_x_coordinate"),
    ):
        path = stored(tmp_path / f"{name}.zarr", GRIDS[name], LABELS).path
        with xarray.open_zarr(path, decode_coords="all") as dataset:
            assert dataset.x.attrs["units"] == units
            assert dataset.x.attrs["standard_name"] == standard
            assert np.isfinite(dataset.x).all()


@upright
def test_rasterio_reads_it_with_its_legend(tmp_path: Path, where: Grid) -> None:
    store = stored(tmp_path / "map.zarr", where, LABELS)
    with rasterio.open(store.path) as file:
        assert np.allclose(tuple(file.transform)[:6], where.transform, rtol=1e-12)
        assert (file.crs and file.crs.to_epsg()) == epsg(where)
        assert file.nodata == 255
        assert file.descriptions == ("Land cover",)
        assert np.array_equal(file.read(1), LABELS)
        # Under a name that is GDAL's own affair; here it would be seen to change.
        assert file.colormap(1) == dict(enumerate(LEGEND.palette))


@upright
def test_the_systems_gdal_reads_it(tmp_path: Path, where: Grid) -> None:
    read = read_by_gdal(stored(tmp_path / "map.zarr", where, LABELS).path)
    a, b, c, d, e, f = where.transform
    assert np.allclose(read["transform"], (c, a, b, f, d, e), rtol=1e-12)
    assert read["epsg"] == (None if where.crs is None else str(epsg(where)))
    assert read["nodata"] == 255
    assert read["sha256"] == sha256(LABELS)


def test_qgis_shows_it_with_its_legend(tmp_path: Path) -> None:
    store = stored(tmp_path / "map.zarr", GRIDS["north-up"], LABELS)
    store.path.with_suffix(".qml").write_bytes(qgis_style(LEGEND))
    assert read_by_qgis(store.path) == {
        "valid": True,
        "epsg": "EPSG:32119",
        "extent": "630000.000,207000.000 : 657000.000,228000.000",
        "nodata": 255,
        "classes": CLASSES,
        "pyramid": False,
    }


@formats
@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (300, 1)])
def test_odd_sizes_are_kept(
    tmp_path: Path, shape: tuple[int, int], zarr_format: ZarrFormat
) -> None:
    where = Grid(*shape, GRIDS["north-up"].transform, GRIDS["north-up"].crs)
    labels = random_labels(shape)
    path = stored(tmp_path / "map.zarr", where, labels, zarr_format=zarr_format).path
    with xarray.open_zarr(path, decode_coords="all") as dataset:
        assert np.array_equal(dataset["classes"].fillna(255), labels)
        assert tuple(dataset["classes"].rio.transform())[:6] == where.transform


def test_the_legend_takes_counts(tmp_path: Path) -> None:
    store = stored(tmp_path / "map.zarr", GRIDS["north-up"], LABELS)
    store.write_legend(LEGEND, counts(LABELS))
    text = (store.path / "classes/.zarray.aux.xml").read_text("utf-8")
    assert all(f"<F>{count}</F>" in text for count in counts(LABELS).values())


@every_grid
def test_format_3_speaks_geozarr(tmp_path: Path, where: Grid) -> None:
    path = stored(tmp_path / "map.zarr", where, LABELS, zarr_format=3).path
    array = zarr.open_array(path, path="classes", mode="r")
    assert (array.chunks, array.shards) == ((256, 256), (512, 512))
    attributes: dict[str, Any] = dict(array.attrs)
    assert attributes["spatial:dimensions"] == ["y", "x"]
    assert tuple(attributes["spatial:transform"]) == where.transform
    assert attributes["spatial:shape"] == [700, 900]
    assert ("proj:wkt2" in attributes) == (where.crs is not None)
    names = [convention["name"] for convention in attributes["zarr_conventions"]]
    assert names == (["proj", "proj:"] if where.crs else []) + ["spatial", "spatial:"]
    assert geozarr_attributes(where).items() <= attributes.items()


def test_the_bounding_box_holds_a_rotated_grid() -> None:
    where = GRIDS["rotated"]
    a, b, c, d, e, f = where.transform
    corners = np.array([(0, 0), (900, 0), (0, 700), (900, 700)])
    x, y = a * corners[:, 0] + b * corners[:, 1] + c, d * corners[:, 0] + e * corners[:, 1] + f
    bbox = geozarr_attributes(where)["spatial:bbox"]
    assert bbox == [x.min(), y.min(), x.max(), y.max()]
