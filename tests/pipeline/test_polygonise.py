"""Polygons of a map, strip by strip, are those of GDAL for the whole raster, and a coverage."""

import tracemalloc
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import rasterio.features
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segpipe.pipeline.area import row_areas
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.grid import Affine, Grid
from segpipe.pipeline.scenes.scene import Scene
from segpipe.pipeline.vectors.polygonise import polygonise
from segpipe.pipeline.window import Window
from tests.pipeline.maps import GRIDS, LEGEND, grid, random_labels

NODATA = 255
PIXELS: Affine = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
# Whole numbers, so that GDAL's corners and ours are one to the last bit.
TRANSFORMS = (PIXELS, (30.0, 0.0, 6e5, 0.0, -30.0, 2e5), (3.0, 1.0, 0.0, 2.0, 5.0, 0.0))

Shape = tuple[int, bytes]


@dataclass(frozen=True)
class Memory:
    """A source of pixels."""

    pixels: NDArray[Any]

    def read(
        self, window: Window, indexes: tuple[int, ...], dtype: str
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        return self.pixels[window.slices][None].copy(), np.ones(window.shape, np.bool_)

    def identity(self, full: bool) -> dict[str, Any]:
        return {}


def over(pixels: NDArray[Any], transform: Affine) -> Grid:
    height, width = pixels.shape
    return grid(height, width, transform)


def scene(pixels: NDArray[Any], where: Grid | None = None) -> Scene:
    return Scene(
        path="map",
        grid=where or over(pixels, PIXELS),
        dtype=pixels.dtype.name,
        band_indexes=(1,),
        band_names=("classes",),
        nodata=(NODATA if pixels.dtype == np.uint8 else None,),
        block_shape=(256, 256),
        warnings=(),
        source=Memory(pixels),
    )


def polygons(labels: Scene, rows: int | None = None) -> list[tuple[int, shapely.Polygon]]:
    return [
        (value, shape)
        for found in polygonise(labels, rows)
        for value, shape in zip(found.values.tolist(), found.shapes, strict=True)
    ]


def turns(ring: shapely.LinearRing) -> NDArray[np.float64]:
    """The corners of a ring, without vertices on straight edges."""
    corners = np.array(ring.coords)[:-1]
    before, after = corners - np.roll(corners, 1, 0), np.roll(corners, -1, 0) - corners
    return np.asarray(corners[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]])


def normal(value: int, polygon: shapely.Polygon) -> Shape:
    plain = shapely.Polygon(turns(polygon.exterior), [turns(ring) for ring in polygon.interiors])
    return value, shapely.to_wkb(shapely.normalize(plain))


def by_gdal(labels: NDArray[np.uint8], transform: Affine) -> Counter[Shape]:
    """What GDAL says of the whole raster."""
    found = rasterio.features.shapes(
        labels, labels != NODATA, connectivity=4, transform=rasterio.Affine(*transform)
    )
    return Counter(normal(int(value), shapely.geometry.shape(shape)) for shape, value in found)


@st.composite
def rasters(draw: st.DrawFn) -> NDArray[np.uint8]:
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    values = st.sampled_from([NODATA, 0, 1, 2][: draw(st.integers(1, 4))])
    row = st.lists(values, min_size=width, max_size=width)
    return np.array(draw(st.lists(row, min_size=height, max_size=height)), np.uint8)


# A region that touches itself, once around a hole and once around two.
PINCHED = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], np.uint8)
CHAINED = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], np.uint8)


@settings(max_examples=150, deadline=None)
@given(rasters(), st.integers(1, 13), st.sampled_from(TRANSFORMS))
@example(PINCHED, 2, PIXELS)
@example(PINCHED[::-1].copy(), 1, PIXELS)
@example(CHAINED, 1, PIXELS)
@example(CHAINED[:, ::-1].copy(), 3, PIXELS)
def test_strips_give_what_gdal_gives_for_the_whole(
    labels: NDArray[np.uint8], rows: int, transform: Affine
) -> None:
    found = polygons(scene(labels, over(labels, transform)), rows)
    assert Counter(normal(*each) for each in found) == by_gdal(labels, transform)
    shapes = [shape for _, shape in found]
    assert all(shape.is_valid and shape.exterior.is_ccw for shape in shapes)
    assert not any(ring.is_ccw for shape in shapes for ring in shape.interiors)
    assert shapely.coverage_is_valid(shapes)


def test_large_regions_across_many_strips_are_one() -> None:
    """A spiral and its complement: two regions that every strip cuts into many parts."""
    longest = 100
    labels = np.zeros((longest + 1, longest + 1), np.uint8)
    row, column, step = 0, 0, (0, 1)
    for length in (longest, *(longest - 2 * (turn // 2) for turn in range(longest))):
        for _ in range(length):
            labels[row, column] = 1
            row, column = row + step[0], column + step[1]
        step = step[1], -step[0]
    found = polygons(scene(labels), 7)
    assert sorted(value for value, _ in found) == [0, 1]
    assert by_gdal(labels, PIXELS) == Counter(normal(*each) for each in found)


@pytest.mark.parametrize("name", GRIDS)
def test_areas_add_up_to_those_of_the_raster(name: str) -> None:
    where = GRIDS[name]
    labels = random_labels(where.shape)
    pixel = row_areas(where, 0, where.height)
    found = list(polygonise(scene(labels, where), 100))
    if pixel is None:
        assert all(np.isnan(outlines.areas).all() for outlines in found)
        return
    for value in LEGEND.values:
        areas = [outlines.areas[outlines.values == value].sum() for outlines in found]
        assert sum(areas) == pytest.approx(((labels == value).sum(axis=1) * pixel).sum(), rel=1e-9)


def test_an_area_is_that_of_the_shape() -> None:
    labels = random_labels((60, 70))
    where = grid(60, 70)
    for outlines in polygonise(scene(labels, where), 9):
        np.testing.assert_allclose(outlines.areas, shapely.area(outlines.shapes), rtol=1e-9)


def test_what_is_kept_does_not_grow_with_the_map() -> None:
    def peak(height: int) -> int:
        labels = scene(np.tile(random_labels((128, 200)), (height // 128, 1)))
        tracemalloc.start()
        try:
            for _ in polygonise(labels, 64):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    short, tall = peak(256), peak(4096)
    assert tall < 1.2 * short


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "int32", "uint32", "int64"])
def test_any_whole_numbers_will_do(dtype: str) -> None:
    highest = min(np.iinfo(dtype).max, 2**31 - 1)
    labels = np.array([[0, highest], [7, highest]], dtype)
    assert sorted(value for value, _ in polygons(scene(labels))) == [0, 7, highest]


def test_other_numbers_are_refused() -> None:
    with pytest.raises(InputRefusedError, match="holds float32, expected whole numbers"):
        polygons(scene(np.zeros((2, 2), np.float32)))
    with pytest.raises(InputRefusedError, match="holds 4294967295, expected whole numbers of 32"):
        polygons(scene(np.full((2, 2), 2**32 - 1, np.uint32)))
