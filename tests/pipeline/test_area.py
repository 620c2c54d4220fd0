"""Areas agree with pyproj's geodesics, the shoelace formula and the size of the Earth."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import CRS, Geod

from segpipe.pipeline.area import pixel_size, row_areas
from segpipe.pipeline.grid import Grid
from tests.pipeline.maps import grid

WGS84 = Geod(ellps="WGS84")


def areas(where: Grid, top: int = 0, height: int | None = None) -> NDArray[np.float64]:
    found = row_areas(where, top, where.height if height is None else height)
    assert found is not None
    return found


def on_wgs84(corners: list[tuple[float, float]]) -> float:
    longitudes, latitudes = zip(*corners, strict=True)
    return float(abs(WGS84.polygon_area_perimeter(longitudes, latitudes)[0]))


def between_parallels(west: float, east: float, south: float, north: float) -> float:
    """Geodesic area of a pixel whose upper and lower edges are cut so fine that they are round."""
    along = np.linspace(west, east, 3000)
    longitudes = np.concatenate([along, along[::-1]])
    latitudes = np.concatenate([np.full(3000, south), np.full(3000, north)])
    return float(abs(WGS84.polygon_area_perimeter(longitudes, latitudes)[0]))


@settings(max_examples=30, deadline=None)
@given(
    st.floats(-180, 170),
    st.floats(-89, 79),
    st.floats(1e-4, 10),
    st.floats(1e-3, 10),
    st.booleans(),
)
def test_geographic_pixels_have_their_geodesic_area(
    west: float, south: float, width: float, height: float, south_up: bool
) -> None:
    north = south + height
    transform = (
        width,
        0.0,
        west,
        0.0,
        height if south_up else -height,
        south if south_up else north,
    )
    found = areas(grid(1, 1, transform, 4326))
    assert found[0] == pytest.approx(between_parallels(west, west + width, south, north), rel=1e-6)


def test_the_earths_pixels_are_the_earth() -> None:
    degrees = grid(180, 360, (1.0, 0.0, -180.0, 0.0, -1.0, 90.0), 4326)
    # Area of the WGS 84 ellipsoid in square metres (NIMA TR8350.2, 2000).
    assert areas(degrees).sum() * 360 == pytest.approx(510_065_621_724_000, rel=1e-12)


def test_a_window_of_rows_is_a_part_of_all_rows() -> None:
    where = grid(50, 3, (0.5, 0.0, 10.0, 0.0, -0.5, 60.0), 4326)
    assert np.array_equal(areas(where, 7, 11), areas(where)[7:18])


def test_small_pixels_agree_with_pyprojs_polygons() -> None:
    a = 30 / 111_000
    where = grid(5, 5, (a, 0.0, -78.7, 0.0, -a, 35.8), 4326)
    for row, area in enumerate(areas(where)):
        top = 35.8 - a * row
        west, east = -78.7, -78.7 + a
        corners = [(west, top), (east, top), (east, top - a), (west, top - a)]
        assert area == pytest.approx(on_wgs84(corners), rel=1e-7)


def test_rotated_geographic_pixels_have_their_geodesic_area() -> None:
    a, b, c, d, e, f = transform = (0.01, 0.002, 10.0, 0.003, -0.01, 50.0)
    for row, area in enumerate(areas(grid(20, 9, transform, 4326))):
        corners = [(4, row), (5, row), (5, row + 1), (4, row + 1)]
        pixel = [(a * x + b * y + c, d * x + e * y + f) for x, y in corners]
        assert area == pytest.approx(on_wgs84(pixel), rel=1e-9)


@pytest.mark.parametrize(
    "transform", [(30.0, 0.0, 6e5, 0.0, -20.0, 2e5), (3.0, 1.0, 0.0, 2.0, 5.0, 0)]
)
@pytest.mark.parametrize(
    ("epsg", "metres"), [(32119, 1.0), (2264, 1200 / 3937), (2277, 1200 / 3937), (3857, 1.0)]
)
def test_projected_pixels_have_their_area_in_the_plane(
    transform: tuple[float, float, float, float, float, float], epsg: int, metres: float
) -> None:
    a, b, c, d, e, f = transform
    corners = [(0, 0), (1, 0), (1, 1), (0, 1)]
    x, y = np.array([(a * x + b * y + c, d * x + e * y + f) for x, y in corners]).T
    shoelace = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    expected = np.full(7, shoelace * metres**2)
    assert np.allclose(areas(grid(7, 3, transform, epsg)), expected, rtol=1e-9)


def test_a_height_or_a_datum_shift_in_the_crs_changes_nothing() -> None:
    transform = (100.0, 0.0, 2e6, 0.0, -100.0, 7e5)
    plain = areas(grid(3, 3, transform, 2264))
    compound = CRS.from_user_input("EPSG:2264+5703").to_wkt()
    assert np.array_equal(areas(Grid(3, 3, transform, compound)), plain)
    bound = CRS.from_proj4("+proj=utm +zone=17 +ellps=clrk66 +towgs84=1,2,3").to_wkt()
    assert np.array_equal(areas(Grid(3, 3, transform, bound)), np.full(3, 1e4))


def test_angles_may_come_in_grads() -> None:
    # NTF (Paris), in grads: a hundred of them are a right angle.
    where = grid(200, 400, (1.0, 0.0, -200.0, 0.0, -1.0, 100.0), 4807)
    axis = CRS.from_epsg(4807).ellipsoid
    assert axis is not None
    geod = Geod(a=axis.semi_major_metre, b=axis.semi_minor_metre)
    eccentricity = math.sqrt(geod.es)
    whole = 2 * math.pi * geod.a**2 * (1 + (1 - geod.es) / eccentricity * math.atanh(eccentricity))
    assert areas(where).sum() * 400 == pytest.approx(whole, rel=1e-12)


def test_a_sphere_will_do() -> None:
    sphere = CRS.from_proj4("+proj=longlat +R=6371000 +no_defs").to_wkt()
    where = Grid(180, 360, (1.0, 0.0, -180.0, 0.0, -1.0, 90.0), sphere)
    assert areas(where).sum() * 360 == pytest.approx(4 * math.pi * 6371000**2, rel=1e-12)


def test_a_local_plane_has_its_unit() -> None:
    local = 'ENGCRS["site",EDATUM["x"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],'
    wkt = local + 'LENGTHUNIT["foot",0.3048]]'
    where = Grid(2, 2, (10.0, 0.0, 0.0, 0.0, -10.0, 0.0), wkt)
    assert np.allclose(areas(where), 100 * 0.3048**2)


def test_no_crs_no_area() -> None:
    assert row_areas(grid(3, 3, epsg=None), 0, 3) is None
    assert row_areas(grid(3, 3, epsg=4978), 0, 3) is None


@settings(max_examples=30, deadline=None)
@given(st.floats(-180, 170), st.floats(-85, 79), st.floats(1e-5, 1e-2), st.floats(0.2, 5))
def test_sides_of_geographic_pixels_multiply_to_their_area(
    west: float, south: float, side: float, ratio: float
) -> None:
    where = grid(3, 5, (side, 0.0, west, 0.0, -side * ratio, south), 4326)
    size = pixel_size(where)
    assert size is not None
    assert size[0] * size[1] == pytest.approx(areas(where)[1], rel=1e-4)


def test_sides_of_projected_pixels_are_metres_in_the_plane() -> None:
    turned = grid(3, 5, (3.0, 4.0, 0.0, 4.0, -3.0, 0.0), 32617)
    assert pixel_size(turned) == pytest.approx((5.0, 5.0))
    feet = grid(3, 5, (10.0, 0.0, 0.0, 0.0, -20.0, 0.0), 2264)
    assert pixel_size(feet) == pytest.approx((10 * 1200 / 3937, 20 * 1200 / 3937))
    assert pixel_size(Grid(3, 5, (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), None)) is None
