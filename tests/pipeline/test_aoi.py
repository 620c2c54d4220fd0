"""What an area of interest leaves of a plan is what GDAL burns of its polygons, tile by tile."""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
import rasterio.features
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.plan import Margin, Plan, Tile
from segpipe.pipeline.vectors import polygons
from segpipe.pipeline.vectors.aoi import Piece, Selection, open_aoi
from segpipe.pipeline.window import Window
from tests import toys

CRS = "EPSG:32119"
GRID = replace(toys.grid(700, 600), crs=pyproj.CRS(CRS).to_wkt())
STRIDE = 8
Corners = Sequence[tuple[float, float]]

# Quarters of a pixel: corners on centres and edges come up all the time.
coordinate = st.integers(-400, 3200).map(lambda quarters: quarters / 4)
corners = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=6)


def write(path: Path, layer: Sequence[Corners], crs: str = CRS) -> Path:
    """A file of polygons whose corners are (column, row) of the grid."""
    a, _, c, _, e, f = GRID.transform
    shapes = [
        shapely.Polygon([(c + a * column, f + e * row) for column, row in ring]) for ring in layer
    ]
    moved = [
        shapely.geometry.shape(rasterio.warp.transform_geom(CRS, crs, shape)) for shape in shapes
    ]
    pyogrio.raw.write(
        path,
        geometry=shapely.to_wkb(np.array(moved, object)),
        field_data=[],
        fields=[],
        geometry_type="Polygon",
        crs=crs,
    )
    return path


def burnt(layer: Sequence[Corners]) -> NDArray[np.bool_]:
    """The same by one call of rasterio, in pixels, where no rounding moves a corner."""
    shapes = [shapely.Polygon(ring) for ring in layer]
    return np.asarray(rasterio.features.rasterize(shapes, out_shape=GRID.shape) > 0)


def square(left: float, top: float, side: float) -> Corners:
    return [(left, top), (left + side, top), (left + side, top + side), (left, top + side)]


def plan(side: int) -> Plan:
    return Plan(GRID, side, STRIDE, Margin(9, 9, 9, 9))


@settings(max_examples=40, deadline=None)
@given(st.lists(corners, min_size=1, max_size=4), st.sampled_from([256, 512, 768]))
def test_a_selection_is_what_gdal_burns(
    tmp_path_factory: pytest.TempPathFactory, layer: list[Corners], side: int
) -> None:
    expected = burnt(layer)
    path = write(tmp_path_factory.mktemp("a") / "aoi.fgb", layer)
    if not expected.any():
        with pytest.raises(InputRefusedError, match=r"has its centre inside|doesn't touch"):
            Selection.of(plan(side), open_aoi(path, GRID))
        return
    selection = Selection.of(plan(side), open_aoi(path, GRID))
    made = np.zeros(GRID.shape, np.bool_)
    for tile in selection.tiles():
        piece = pickle.loads(pickle.dumps(selection.piece(tile)))
        wanted = piece.wanted
        made[tile.core.slices] = True if wanted is None else wanted
        assert made[tile.core.slices].any()
    np.testing.assert_array_equal(made, expected)
    assert selection.pixels == expected.sum()
    assert len(selection) == len(list(selection.tiles())) == selection.share * len(plan(side))
    computed = sum(
        prod(-(-length // STRIDE) * STRIDE for length in tile.read.shape)
        for tile in selection.tiles()
    )
    assert selection.extra_work == pytest.approx(computed / expected.sum())


def densified(ring: Corners) -> NDArray[np.float64]:
    """A ring with seven more corners on each edge."""
    closed = np.array([*ring, ring[0]], float)
    steps = np.arange(8 * len(ring)) / 8
    across, down = (np.interp(steps, np.arange(len(closed)), axis) for axis in closed.T)
    return np.column_stack([across, down])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(corners, min_size=1, max_size=4),
    st.lists(st.integers(-100, 800), min_size=2, max_size=2),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.booleans(),
)
def test_corners_that_do_not_matter_are_left_out(
    layer: list[Corners], place: list[int], shape: tuple[int, int], joined: bool
) -> None:
    """Against all corners: in parts and holes, across each other and across the window."""
    dense = [shapely.Polygon(densified(ring)) for ring in layer]
    shapes = np.array([shapely.MultiPolygon(dense)] if joined else dense, object)
    window = Window(place[0], place[1], *shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(polygons, "_MANY", 10**9)
        expected = polygons.burn_shapes(shapes, window)
        patch.setattr(polygons, "_MANY", 0)
        np.testing.assert_array_equal(polygons.burn_shapes(shapes, window), expected)


def test_a_coast_with_a_million_corners_takes_no_time() -> None:
    angles = np.linspace(0, 2 * np.pi, 1_000_000, endpoint=False)
    radius = 12000 + 800 * np.sin(40 * angles)
    coast = shapely.Polygon(
        np.column_stack([16384 + radius * np.cos(angles), 16384 + radius * np.sin(angles)])
    )
    window = Window(12000, 3000, 512, 2048)
    trimmed = polygons._trimmed(coast, window)
    assert shapely.get_num_coordinates(trimmed) < 60_000
    made = polygons.burn_shapes(np.array([coast]), window)
    expected = rasterio.features.rasterize(
        [shapely.transform(trimmed, lambda xy: xy - (window.left, window.top))],
        out_shape=window.shape,
    )
    assert 0 < made.mean() < 1
    np.testing.assert_array_equal(made, expected > 0)


def test_without_an_area_all_is_wanted() -> None:
    selection = Selection.of(plan(256), None)
    assert list(selection.tiles()) == list(plan(256).tiles())
    assert (len(selection), selection.pixels, selection.share) == (9, 700 * 600, 1)
    assert selection.extra_work == plan(256).extra_work
    assert selection.wanted(GRID.window) is None


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_a_mask_travels_as_it_is(height: int, width: int, seed: int) -> None:
    core = Window(0, 0, height, width)
    tile = Tile(0, 0, core, core)
    mask = np.random.default_rng(seed).random(core.shape) < 0.5
    found = Piece.of(tile, mask).wanted
    np.testing.assert_array_equal(mask, np.ones(core.shape, np.bool_) if found is None else found)


def test_a_mask_travels_in_few_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "aoi.gpkg", [[(3, 5), (590, 40), (500, 690), (20, 600)]])
    selection = Selection.of(plan(768), open_aoi(path, GRID))
    (tile,) = selection.tiles()
    assert len(pickle.dumps(selection.piece(tile))) < 8000
    # A message that names the tile doesn't print the mask.
    assert len(str(selection.piece(tile))) < 300


def test_the_digest_is_that_of_the_polygons(tmp_path: Path) -> None:
    layer = [square(3, 5, 40), square(300, 400, 90)]
    paths = [
        write(tmp_path / "a.gpkg", layer),
        write(tmp_path / "b.shp", layer[::-1]),
        write(tmp_path / "c.gpkg", [square(3, 5, 40), square(300, 400, 91)]),
        write(tmp_path / "d.gpkg", layer[:1]),
    ]
    # Neither the order nor the sense of a Shapefile's rings matters.
    first, again, other, less = (open_aoi(path, GRID).sha256 for path in paths)
    assert first == again
    assert len({first, other, less}) == 3


def test_an_area_in_another_crs_lies_in_the_same_place(tmp_path: Path) -> None:
    layer = [[(3.3, 5.2), (590.1, 40.3), (500.4, 690.2), (20.3, 600.1)]]
    path = write(tmp_path / "aoi.geojson", layer, "EPSG:4326")
    made = open_aoi(path, GRID).mask(GRID.window)
    # An edge that is straight in degrees bends; by rasterio's own reprojection of many corners.
    shape = shapely.segmentize(shapely.from_wkb(pyogrio.raw.read(path)[2])[0], 1e-4)
    bent = shapely.geometry.shape(rasterio.warp.transform_geom("EPSG:4326", CRS, shape))
    expected = rasterio.features.rasterize(
        [bent], out_shape=GRID.shape, transform=rasterio.Affine(*GRID.transform)
    )
    assert np.count_nonzero(made != (expected > 0)) < 9
    assert made.sum() > 200_000


def test_a_ring_without_an_extent_ends_with_one_line(tmp_path: Path) -> None:
    layer = [square(3, 5, 40), [(9.0, 9.0)] * 3]
    near = open_aoi(write(tmp_path / "near.gpkg", layer), GRID)
    assert near.mask(GRID.window).sum() == 1600
    with pytest.raises(InputRefusedError, match="can't be read") as caught:
        open_aoi(write(tmp_path / "far.gpkg", layer, "EPSG:4326"), GRID)
    assert "\n" not in str(caught.value)


def test_what_is_no_area_is_refused(tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere.gpkg", [square(5000, 5000, 9)])
    with pytest.raises(InputRefusedError, match="doesn't touch the raster"):
        open_aoi(elsewhere, GRID)
    between = open_aoi(write(tmp_path / "between.gpkg", [square(10.6, 10.6, 0.3)]), GRID)
    with pytest.raises(InputRefusedError, match="no pixel of the raster has its centre inside"):
        Selection.of(plan(256), between)
