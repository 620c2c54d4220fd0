"""A grid's outline holds its pixels and no others, wherever on the globe it lies."""

import math

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer
from shapely.geometry import shape

from segpipe.pipeline.grid import Grid
from segpipe.pipeline.vectors.outline import Outline, outline

NORTH, SOUTH = "EPSG:3413", "EPSG:3031"
EDGE, POLAR_EDGE = 1e-4, 1e-2
"""Share of a side within which a place may lie on either side of the line: degrees are straight
lines between corners, and near a pole that isn't what a crs means by straight."""


def grid(crs: str, left: float, top: float, width: float, height: float, turn: float = 0) -> Grid:
    """Ten by twelve pixels over a rectangle in the crs, turned around its upper left corner."""
    x, y, angle = width / 12, height / 10, math.radians(turn)
    sine, cosine = math.sin(angle), math.cos(angle)
    transform = (x * cosine, y * sine, left, x * sine, -y * cosine, top)
    return Grid(10, 12, transform, CRS(crs).to_wkt())


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Scenes of any size in zones of UTM, around the poles, and in degrees."""
    kind = draw(st.sampled_from(["utm", "polar", "degrees"]))
    turn = draw(st.sampled_from([0.0, 0.0, 30.0, 180.0]))
    if kind == "utm":
        zone = draw(st.sampled_from([1, 17, 31, 60]))
        size = draw(st.sampled_from([300.0, 30_000.0, 300_000.0]))
        left, top = draw(st.floats(3e5, 7e5)), draw(st.floats(5e5, 8e6))
        return grid(f"EPSG:{32600 + zone}", left, top, size, size, turn)
    if kind == "polar":
        size = draw(st.sampled_from([3_000.0, 800_000.0, 4_000_000.0]))
        left, top = (draw(st.sampled_from([-1.0, -0.5, -0.2, 0.0, 0.3])) * size for _ in range(2))
        return grid(draw(st.sampled_from([NORTH, SOUTH])), left, top, size, size, turn)
    width, height = draw(st.floats(0.01, 300)), draw(st.floats(0.01, 90))
    left, top = draw(st.floats(-180, 180)), draw(st.floats(-89.9 + height, 89.9))
    return grid(draw(st.sampled_from(["EPSG:4326", "EPSG:4269"])), left, top, width, height)


def degrees(
    of: Grid, columns: NDArray[np.float64], rows: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Points (n, 2) at shares of the grid's width and height."""
    a, b, c, d, e, f = of.transform
    columns, rows = columns * of.width, rows * of.height
    to_degrees = Transformer.from_crs(CRS(of.crs), "OGC:CRS84", always_xy=True)
    found = to_degrees.transform(a * columns + b * rows + c, d * columns + e * rows + f)
    longitudes = (found[0] + 180) % 360 - 180
    return np.stack([longitudes, found[1]], axis=1)


def held(found: Outline, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points the outline's geometry holds."""
    inside: NDArray[np.bool_] = shapely.contains_xy(shape(found.geometry), points)
    return inside


def within(
    bbox: tuple[float, float, float, float], points: NDArray[np.float64]
) -> NDArray[np.bool_]:
    west, south, east, north = bbox
    longitudes, latitudes = points.T
    if west <= east:
        between = (longitudes >= west) & (longitudes <= east)
    else:
        between = (longitudes >= west) | (longitudes <= east)
    there: NDArray[np.bool_] = between & (latitudes >= south) & (latitudes <= north)
    return there


@given(grids(), st.integers(0, 2**32 - 1))
@settings(max_examples=120, deadline=None)
def test_it_holds_the_pixels_and_no_others(of: Grid, seed: int) -> None:
    random = np.random.default_rng(seed)
    found = outline(of)
    assert found is not None
    edge = POLAR_EDGE if "polar" in CRS(of.crs).name.lower() else EDGE
    near = random.uniform(edge, 1 - edge, (2, 200))
    inside = degrees(of, *near)
    assert held(found, inside).all()
    assert within(found.bbox, inside).all()
    around = random.uniform(-0.5, 1.5, (2, 200))
    out = ((around < -edge) | (around > 1 + edge)).any(axis=0)
    beyond = degrees(of, *around[:, out])
    if CRS(of.crs).is_geographic:
        # What lies beyond in degrees may be the other side of the same scene, or no place at all.
        assume(of.transform[0] * of.width < 170)
        _, _, _, _, e, f = of.transform
        latitudes = f + e * around[1, out] * of.height
        beyond = beyond[np.abs(latitudes) < 90]
    assert not held(found, beyond).any()


@given(grids())
@settings(max_examples=60, deadline=None)
def test_it_is_geojson(of: Grid) -> None:
    found = outline(of)
    assert found is not None
    whole = shape(found.geometry)
    assert whole.is_valid
    west, south, east, north = whole.bounds
    assert -180 <= west <= east <= 180
    assert -90 <= south <= north <= 90
    assert (found.bbox[1], found.bbox[3]) == (south, north)
    for part in shapely.get_parts(whole):
        assert part.exterior.is_ccw
    assert outline(of) == found


def test_a_scene_across_the_antimeridian_is_two_parts() -> None:
    found = outline(grid("EPSG:4326", 175, 10, 10, 20))
    assert found is not None
    assert found.bbox == (175.0, -10.0, -175.0, 10.0)
    assert found.geometry["type"] == "MultiPolygon"
    assert [part.bounds for part in shapely.get_parts(shape(found.geometry))] == [
        (-180, -10, -175, 10),
        (175, -10, 180, 10),
    ]


@pytest.mark.parametrize(("crs", "latitude"), [(NORTH, 90), (SOUTH, -90)])
def test_a_scene_around_a_pole_holds_it(crs: str, latitude: float) -> None:
    found = outline(grid(crs, -50_000, 50_000, 100_000, 100_000))
    assert found is not None
    assert found.bbox[::2] == (-180, 180)
    assert latitude in found.bbox
    # What is missing between the straight lines of degrees would show in the area.
    area = sum(
        abs(Geod(ellps="WGS84").geometry_area_perimeter(part)[0])
        for part in shapely.get_parts(shapely.segmentize(shape(found.geometry), 0.5))
    )
    assert area == pytest.approx(1e10 / 0.97**2, rel=0.05)


@pytest.mark.parametrize("left", [-180, 0])
def test_the_whole_world_is_the_whole_world(left: float) -> None:
    found = outline(grid("EPSG:4326", left, 90, 360, 180))
    assert found is not None
    assert found.bbox == (-180.0, -90.0, 180.0, 90.0)
    assert shape(found.geometry).area == 360 * 180
    mercator = outline(grid("EPSG:3857", -20037508.34, 20037508.34, 40075016.68, 40075016.68))
    assert mercator is not None
    assert mercator.bbox == pytest.approx((-180, -85.051129, 180, 85.051129))


@pytest.mark.parametrize(
    ("crs", "half"),
    [
        ("+proj=geos +h=35785831 +lon_0=140.7 +sweep=y", 5_500_000),
        ("+proj=sinu +lon_0=0 +R=6371007.181", 20_015_109),
    ],
)
def test_a_grid_beyond_the_globe_has_the_rectangle_around_what_is_seen(
    crs: str, half: float
) -> None:
    found = outline(grid(crs, -half, half, 2 * half, 2 * half))
    assert found is not None
    assert held(found, np.array([[141.0, 0.0], [100.0, 40.0], [-175.0, -30.0]])).all()


def test_without_a_place_on_the_globe_there_is_none() -> None:
    axes = 'CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]'
    local = f'ENGCRS["site",EDATUM["site"],{axes}]'
    assert outline(Grid(3, 4, (1, 0, 0, 0, -1, 0), local)) is None
    assert outline(Grid(3, 4, (1, 0, 0, 0, -1, 0), None)) is None
