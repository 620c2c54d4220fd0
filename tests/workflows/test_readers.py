"""What programs that nobody here wrote see in the maps that a run writes, and what they find wrong.

One law for each container and each reader: place, nodata, names, colours and a coarser level are
those of the run, wherever the reader has a word for them.
"""

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray
import xarray
import zarr_cm
from compliance_checker.runner import CheckSuite, ComplianceChecker
from numpy.typing import NDArray
from rasterio.crs import CRS
from rio_cogeo.cogeo import cog_validate

from segpipe.pipeline.maps.label_store import ZarrFormat
from segpipe.workflows.evaluate import evaluate
from segpipe.workflows.export import export_map
from segpipe.workflows.plan import plan
from segpipe.workflows.run import run
from segpipe.workflows.verify import verify
from tests.pipeline.maps import read_by_gdal, read_by_qgis
from tests.workflows.conftest import CLASSES, noise, write_scene

PLACE = (30.0, 0.0, 630000.0, 0.0, -30.0, 228000.0)
COARSER = (350, 450)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a reader says of a map; None where it has no word for it."""

    epsg: int | None
    transform: tuple[float, ...] | None
    nodata: float | None
    names: Mapping[int, str] | None = None
    colors: Mapping[int, str] | None = None
    coarser: bool | None = None


TRUE = Seen(
    32119,
    PLACE,
    255,
    {entry.value: entry.name for entry in CLASSES},
    {entry.value: entry.color for entry in CLASSES},
    True,
)


def by_rasterio(path: Path) -> Seen:
    with rasterio.open(path) as file:
        colors = file.colormap(1)
        seen = Seen(
            file.crs.to_epsg(),
            tuple(file.transform)[:6],
            file.nodata,
            None,
            {value: f"#{bytes(colors[value][:3]).hex()}" for value in TRUE.colors or {}},
            len(file.overviews(1)) > 0,
        )
    with rasterio.open(path, overview_level=0) as file:
        assert file.shape == COARSER
    return seen


def by_gdal(path: Path) -> Seen:
    read = read_by_gdal(path)
    c, a, b, f, d, e = read["transform"]
    names = colors = None
    if read["names"]:
        names = {value: name for value, name in enumerate(read["names"]) if name}
        colors = {int(row[0]): f"#{bytes(map(int, row[3:6])).hex()}" for row in read["table"]}
    coarser = [*COARSER] in read["pyramid"] or None
    return Seen(int(read["epsg"]), (a, b, c, d, e, f), read["nodata"], names, colors, coarser)


def by_xarray(path: Path) -> Seen:
    if path.suffix == ".tif":
        level = opened(path, overview_level=0)
        assert level.shape[-2:] == COARSER
        return Seen(*placed(opened(path)), coarser=True)
    with xarray.open_zarr(path, decode_coords="all", mask_and_scale=False) as dataset:
        array = dataset["classes"]
        values = array.attrs["flag_values"]
        names = dict(zip(values, array.attrs["flag_meanings"].split(), strict=True))
        colors = dict(zip(values, array.attrs["flag_colors"].split(), strict=True))
        seen = placed(array)
    if not (path / "zarr.json").exists():
        return Seen(*seen, names, colors)
    with xarray.open_zarr(path, group="ovr_2x", decode_coords="all") as dataset:
        level = dataset["classes"]
        assert level.shape == COARSER
        assert tuple(level.rio.transform())[:6] == (60.0, 0.0, PLACE[2], 0.0, -60.0, PLACE[5])
        assert level.rio.crs.to_epsg() == TRUE.epsg
    return Seen(*seen, names, colors, coarser=True)


def opened(path: Path, **options: Any) -> xarray.DataArray:
    """A GeoTIFF as rioxarray opens it."""
    array = rioxarray.open_rasterio(path, **options)
    assert isinstance(array, xarray.DataArray)
    return array


def placed(array: xarray.DataArray) -> tuple[int, tuple[float, ...], float]:
    nodata = array.rio.nodata if array.rio.encoded_nodata is None else array.rio.encoded_nodata
    return array.rio.crs.to_epsg(), tuple(array.rio.transform())[:6], nodata


def by_qgis(path: Path) -> Seen:
    read = read_by_qgis(path)
    assert read["valid"]
    upper, lower = (pair.split(",") for pair in read["extent"].split(" : "))
    left, bottom, right, top = map(float, (*upper, *lower))
    return Seen(
        int(read["epsg"].removeprefix("EPSG:")),
        ((right - left) / 900, 0, left, 0, (bottom - top) / 700, top),
        read["nodata"],
        {int(value): name for value, (name, _) in read["classes"].items()},
        {int(value): color for value, (_, color) in read["classes"].items()},
        read["pyramid"] or None,
    )


PLACED = {"epsg", "transform", "nodata"}
ALL = PLACED | {"names", "colors", "coarser"}
READERS: list[tuple[str, Callable[[Path], Seen], set[str]]] = [
    # QGIS up to 3.42 and GDAL up to 3.12 can't open format 3 with shards, so they aren't asked.
    ("map.tif", by_rasterio, ALL - {"names"}),
    ("map.tif", by_gdal, ALL),
    ("map.tif", by_xarray, PLACED | {"coarser"}),
    ("map.tif", by_qgis, ALL),
    ("map2.zarr", by_rasterio, ALL - {"names"}),
    # Debian's 3.6 doesn't look for a legend or overviews inside of a store.
    ("map2.zarr", by_gdal, PLACED),
    ("map2.zarr", by_xarray, ALL - {"coarser"}),
    ("map2.zarr", by_qgis, ALL - {"coarser"}),
    ("map3.zarr", by_xarray, ALL),
]


def at(path: Path, pixels: NDArray[np.uint16], transform: rasterio.Affine) -> Path:
    """A scene of bands that the model knows, in North Carolina."""
    return write_scene(path, pixels, transform=transform, crs=f"EPSG:{TRUE.epsg}")


@pytest.fixture(scope="module")
def maps(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same map in each container, each as a run writes it."""
    folder = tmp_path_factory.mktemp("maps")
    scene = at(folder / "scene.tif", noise(700, 900), rasterio.Affine(*PLACE))
    for name, zarr_format in (("map.tif", 2), ("map2.zarr", 2), ("map3.zarr", 3)):
        run(scene, model=str(tiny_model), output=folder / name, tile=512, zarr_format=zarr_format)
    return folder


@pytest.mark.parametrize(
    ("name", "reader", "told"), READERS, ids=[f"{r[0]} {r[1].__name__}" for r in READERS]
)
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_readers_see_what_the_run_made(
    maps: Path, name: str, reader: Callable[[Path], Seen], told: set[str]
) -> None:
    seen = reader(maps / name)
    for field in fields(Seen):
        found, true = getattr(seen, field.name), getattr(TRUE, field.name)
        if field.name == "transform":
            assert np.allclose(found, true, rtol=1e-12)
        elif field.name in told:
            assert found == true, field.name
        else:
            # A newer one may see more, but nothing else.
            assert found in (None, {}, true), field.name


def test_the_law_names_every_container_and_reader() -> None:
    assert {name for name, _, _ in READERS} == {"map.tif", "map2.zarr", "map3.zarr"}
    assert {reader for _, reader, _ in READERS} == {by_rasterio, by_gdal, by_xarray, by_qgis}


def test_all_containers_hold_the_same_labels(maps: Path) -> None:
    with rasterio.open(maps / "map.tif") as file:
        labels = file.read(1)
    for name in ("map2.zarr", "map3.zarr"):
        with xarray.open_zarr(maps / name, mask_and_scale=False) as dataset:
            assert np.array_equal(dataset["classes"], labels)


def test_rio_cogeo_is_content(maps: Path) -> None:
    assert cog_validate(maps / "map.tif", strict=True, quiet=True) == (True, [], [])


def test_gdals_own_validator_is_content(maps: Path) -> None:
    module = "osgeo_utils.samples.validate_cloud_optimized_geotiff"
    python = "/usr/bin/python3"
    probe = [python, "-c", f"import {module}"]
    if not Path(python).exists() or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("the system's Python has no GDAL")
    done = subprocess.run(
        [python, "-m", module, str(maps / "map.tif"), "--full-check=yes"],
        capture_output=True,
        text=True,
        env={"LANG": "C.UTF-8"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "is a valid cloud optimized GeoTIFF" in done.stdout
    assert "warning" not in done.stdout.lower()


def test_zarr_cm_is_content(maps: Path) -> None:
    nodes = sorted((maps / "map3.zarr").rglob("zarr.json"))
    found = {}
    for path in nodes:
        attributes = json.loads(path.read_bytes())["attributes"]
        zarr_cm.validate_all(attributes)
        if revisions := zarr_cm.detect_revisions(attributes):
            found[path.parent.relative_to(maps / "map3.zarr").as_posix()] = set(revisions)
            assert None not in revisions.values()
    levels = ("classes", "ovr_2x/classes", "ovr_4x/classes")
    assert found == {
        ".": {"proj", "spatial", "multiscales"},
        **{level: {"proj", "spatial"} for level in levels},
    }


@pytest.mark.parametrize(
    ("name", "group"), [("map2.zarr", None), ("map3.zarr", None), ("map3.zarr", "ovr_2x")]
)
def test_the_cf_checker_finds_no_error(
    maps: Path, tmp_path: Path, name: str, group: str | None
) -> None:
    netcdf, report = tmp_path / "map.nc", tmp_path / "report.json"
    with xarray.open_zarr(maps / name, group=group, decode_cf=False) as dataset:
        as_netcdf(dataset.load()).to_netcdf(netcdf)
    CheckSuite.load_all_available_checkers()
    ComplianceChecker.run_checker(
        ds_loc=str(netcdf),
        checker_names=["cf:1.11"],
        verbose=0,
        criteria="normal",
        output_filename=str(report),
        output_format=["json"],
    )
    found = json.loads(report.read_bytes())["cf:1.11"]
    assert [entry["msgs"] for entry in found["high_priorities"] if entry["msgs"]] == []
    told = [line for entry in found["medium_priorities"] for line in entry["msgs"]]
    # A history has times in it, and maps of the same run have the same bytes; GeoZarr has colons.
    assert [
        line for line in told if "history" not in line and "should begin with" not in line
    ] == []


def as_netcdf(dataset: xarray.Dataset) -> xarray.Dataset:
    """What JSON says, as netCDF can say it: no objects, and flags of the array's own type."""
    for values in (dataset.attrs, *(variable.attrs for variable in dataset.variables.values())):
        objects = [
            name
            for name, value in values.items()
            if isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict))
        ]
        for name in objects:
            del values[name]
    array = dataset["classes"]
    array.attrs["flag_values"] = np.array(array.attrs["flag_values"], array.dtype)
    for name in dataset.variables:
        if dataset[name].ndim == 1:
            dataset[name].encoding["_FillValue"] = None
    return dataset


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_exported_map_has_the_same_pyramid(
    maps: Path, tmp_path: Path, zarr_format: ZarrFormat
) -> None:
    output = tmp_path / f"map{zarr_format}.zarr"
    export_map(maps / "map.tif", output, zarr_format=zarr_format)
    for path in (maps / output.name).rglob("*"):
        if path.is_file() and ("ovr" in path.name or "ovr" in path.parent.as_posix()):
            same = output / path.relative_to(maps / output.name)
            assert same.read_bytes() == path.read_bytes(), path


@pytest.mark.parametrize("name", ["map2.zarr", "map3.zarr"])
def test_maps_with_pyramids_are_maps(maps: Path, tiny_model: Path, name: str) -> None:
    scene = maps / "scene.tif"
    checked = verify(scene, maps / name, model=str(tiny_model), windows=2)
    assert (checked.differing, checked.holds) == (0, True)
    same = evaluate(maps / name, maps / "map.tif")
    assert (same.unmapped, same.unreferenced) == (0, 0)
    assert same.scores.overall_accuracy == 1


def test_a_rotated_scene_is_told_of(tiny_model: Path, tmp_path: Path) -> None:
    rotated = rasterio.Affine(30, 5, 630000, 3, -30, 228000)
    scene = at(tmp_path / "scene.tif", noise(), rotated)
    words: dict[str, Any] = {"model": str(tiny_model)}
    assert plan(scene, output=tmp_path / "map.tif", **words).warnings == ()
    (line,) = run(scene, output=tmp_path / "map.zarr", **words).warnings
    assert line.startswith("scene.tif is rotated: GDAL before 3.13")
    with xarray.open_zarr(tmp_path / "map.zarr", decode_coords="all") as dataset:
        assert tuple(dataset["classes"].rio.transform())[:6] == tuple(rotated)[:6]
    assert CRS.from_epsg(32119) == dataset["classes"].rio.crs
