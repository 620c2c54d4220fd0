"""Simplified polygons are the same regions with the same neighbours, and together a coverage."""

import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segpipe.pipeline.scenes.scene import Scene
from segpipe.pipeline.vectors.polygonise import Outlines, polygonise
from segpipe.pipeline.vectors.simplify import simplified
from tests.pipeline.maps import GRIDS, grid, random_labels
from tests.pipeline.test_polygonise import (
    CHAINED,
    NODATA,
    PINCHED,
    PIXELS,
    TRANSFORMS,
    over,
    rasters,
    scene,
)


def whole(batches: list[Outlines]) -> Outlines:
    return Outlines(
        np.concatenate([found.values for found in batches]),
        np.concatenate([found.shapes for found in batches]),
        np.concatenate([found.areas for found in batches]),
    )


def simple(labels: Scene, tolerance: float, block: int) -> Outlines:
    return whole(list(simplified(labels, tolerance, block)))


def facts(found: Outlines) -> Counter[tuple[int, float]]:
    return Counter(zip(found.values.tolist(), found.areas.round(6).tolist(), strict=True))


def corners(found: Outlines) -> int:
    return int(shapely.get_num_coordinates(found.shapes).sum())


def coast(side: int) -> NDArray[np.uint8]:
    """Two classes along a wavy border, islands, and nodata in a corner."""
    row, column = np.mgrid[:side, :side]
    labels: NDArray[np.uint8] = (row + 6 * np.sin(column / 7) > side / 2).astype(np.uint8)
    labels[np.hypot(row - side / 4, column - side / 2) < side / 8] = 1
    labels[row + column < side / 3] = NODATA
    return labels


@settings(max_examples=100, deadline=None)
@given(
    rasters(),
    st.integers(1, 13),
    st.sampled_from([0.01, 0.8, 1.5, 100.0]),
    st.sampled_from(TRANSFORMS),
)
@example(PINCHED, 2, 1.0, PIXELS)
@example(CHAINED, 3, 100.0, PIXELS)
@example(np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.uint8), 2, 100.0, PIXELS)
def test_they_are_the_same_regions_and_a_coverage(
    labels: NDArray[np.uint8],
    block: int,
    pixels: float,
    transform: tuple[float, float, float, float, float, float],
) -> None:
    source = scene(labels, over(labels, transform))
    found = simple(source, pixels * source.grid.pixel_area**0.5, block)
    exact = whole(list(polygonise(source)) or [found])
    assert facts(found) == facts(exact)
    assert (shapely.get_type_id(found.shapes) == shapely.GeometryType.POLYGON).all()
    assert shapely.is_valid(found.shapes).all()
    assert all(shape.exterior.is_ccw for shape in found.shapes)
    assert shapely.coverage_is_valid(found.shapes)
    if not (labels == NODATA).any():
        # No gaps: together they are the raster.
        assert shapely.area(found.shapes).sum() == pytest.approx(exact.areas.sum(), rel=1e-9)


def test_stairs_become_lines() -> None:
    labels = np.tri(40, dtype=np.uint8)
    source = scene(labels, grid(40, 40))
    exact = whole(list(polygonise(source)))
    assert corners(simple(source, 30 * 0.7, 64)) == corners(exact)
    smooth = simple(source, 30 * 0.75, 64)
    assert corners(smooth) < 20 < corners(exact)
    np.testing.assert_array_equal(smooth.areas, 900 * np.array([780, 820])[smooth.values.argsort()])


def test_borders_move_by_less_than_they_are_told() -> None:
    """The corners that are left are corners of before, and the border is near the old one."""
    labels = coast(90)
    source = scene(labels)
    exact, smooth = whole(list(polygonise(source))), simple(source, 2.0, 128)
    assert corners(smooth) < corners(exact) / 3
    before = {tuple(place) for place in shapely.get_coordinates(exact.shapes)}
    assert {tuple(place) for place in shapely.get_coordinates(smooth.shapes)} <= before
    for value in (0, 1):
        old = shapely.union_all(exact.shapes[exact.values == value])
        new = shapely.union_all(smooth.shapes[smooth.values == value])
        assert shapely.hausdorff_distance(old.boundary, new.boundary) < 5


def test_a_region_across_many_blocks_is_one_polygon() -> None:
    labels = coast(60)
    for block in (7, 16, 100):
        found = simple(scene(labels), 1.0, block)
        assert facts(found) == facts(whole(list(polygonise(scene(labels)))))


def test_borders_with_nodata_are_simplified_too() -> None:
    labels = np.where(np.tri(40, dtype=np.bool_), 1, NODATA).astype(np.uint8)
    assert corners(simple(scene(labels), 1.0, 64)) < 10


@pytest.mark.parametrize("name", ["geographic", "rotated", "no crs"])
def test_areas_are_those_of_the_pixels(name: str) -> None:
    where = replace(GRIDS[name], height=200, width=300)
    source = scene(random_labels(where.shape), where)
    exact = whole(list(polygonise(source)))
    found = simple(source, 2 * where.pixel_area**0.5, 128)
    for value in np.unique(exact.values):
        expected = exact.areas[exact.values == value].sum()
        total = found.areas[found.values == value].sum()
        assert total == pytest.approx(expected, rel=1e-9, nan_ok=True)


def test_what_is_kept_does_not_grow_with_the_map() -> None:
    def peak(height: int) -> int:
        labels = scene(np.tile(random_labels((128, 200)), (height // 128, 1)))
        tracemalloc.start()
        try:
            for _ in simplified(labels, 2.0, 64):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(1280) < 1.4 * peak(256)
