"""The areas of a map's classes and of what has none are the raster's, whatever its crs."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import Geod

from segpipe.models.package import load
from segpipe.workflows.run import run
from tests.workflows.conftest import noise, write_scene

UTM = rasterio.Affine(30, 0, 694005, 0, -30, -2766615)
TURNED = rasterio.Affine(24, 18, 694005, 18, -24, -2766615)
DEGREES = rasterio.Affine(0.1, 0, 20, 0, -0.05, 62)


def on_the_ellipsoid(top: float, bottom: float, degrees: float) -> float:
    """Square metres between two parallels, by geodesics along short pieces of them."""
    longitudes = np.linspace(0, degrees, 2000)
    ring = np.concatenate([longitudes, longitudes[::-1]])
    latitudes = np.repeat([top, bottom], 2000)
    area, _ = Geod(ellps="WGS84").polygon_area_perimeter(ring, latitudes)
    return abs(float(area))


@pytest.mark.parametrize("aoi", [False, True])
@pytest.mark.parametrize(
    ("crs", "transform"), [("EPSG:32621", UTM), ("EPSG:32621", TURNED), ("EPSG:4326", DEGREES)]
)
def test_classes_and_nodata_cover_the_raster(
    tmp_path: Path, tiny_model: Path, crs: str, transform: rasterio.Affine, aoi: bool
) -> None:
    pixels = noise(300, 280) + np.uint16(1)
    pixels[:, 250:, 33:190] = 0
    write_scene(tmp_path / "scene.tif", pixels, nodata=0, crs=crs, transform=transform)
    if aoi:
        a, b, c, d, e, f, *_ = transform
        corners = ((100, 100), (150, 100), (150, 260), (100, 100))
        ring = [[a * x + b * y + c, d * x + e * y + f] for x, y in corners]
        (tmp_path / "aoi.geojson").write_text(
            '{"type": "FeatureCollection", "crs": {"type": "name", "properties": {"name": '
            f'"{crs}"}}}}, "features": [{{"type": "Feature", "properties": {{}}, "geometry": '
            f'{{"type": "Polygon", "coordinates": [{ring}]}}}}]}}'
        )
    done = run(
        tmp_path / "scene.tif",
        model=load(tiny_model),
        output=tmp_path / "map.tif",
        tile=256,
        precision="fp32",
        aoi=tmp_path / "aoi.geojson" if aoi else None,
    )
    with rasterio.open(tmp_path / "map.tif") as dataset:
        labels = dataset.read(1)
    if crs == "EPSG:4326":
        rows = np.array(
            [on_the_ellipsoid(62 - 0.05 * row, 61.95 - 0.05 * row, 0.1) for row in range(300)]
        )
        whole = on_the_ellipsoid(62, 62 - 0.05 * 300, 28)
        close = 1e-6  # The oracle's parallels are pieces of geodesics.
    else:
        rows, whole, close = np.full(300, 900.0), 900.0 * 300 * 280, 1e-12
    assert done.area_m2 == pytest.approx(whole, rel=close)
    missing = float(((labels == 255).sum(axis=1) * rows).sum())
    assert done.nodata_area_m2 == pytest.approx(missing, rel=close)
    told = done.to_dict()
    areas = [count["area_m2"] for count in told["classes"].values()]
    for count, area in zip(told["classes"].values(), areas, strict=True):
        there = float(((labels == count["value"]).sum(axis=1) * rows).sum())
        assert area == pytest.approx(there, rel=close)
    assert sum(areas) + told["nodata"]["area_m2"] == pytest.approx(told["area_m2"], rel=1e-12)
    assert told["nodata"]["pixels"] == (labels == 255).sum()


def test_without_a_crs_there_are_no_areas(tmp_path: Path, tiny_model: Path) -> None:
    write_scene(tmp_path / "scene.tif", noise(30, 30), crs=None)
    done = run(tmp_path / "scene.tif", model=load(tiny_model), output=tmp_path / "map.tif")
    assert (done.area_m2, done.nodata_area_m2) == (None, None)
