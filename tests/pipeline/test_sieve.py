"""The sieve, tile by tile, is that of the whole map, and GDAL's where the rules are the same."""

from collections import Counter

import numpy as np
import pytest
import rasterio.features
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segpipe.pipeline.maps import sieve
from segpipe.pipeline.maps.sieve import sieved
from segpipe.pipeline.window import Window
from tests.pipeline.test_polygonise import NODATA, rasters, scene

Labels = NDArray[np.uint8]
Place = tuple[int, int]


def areas(labels: Labels) -> dict[Place, int]:
    """For each pixel with data the number of its area, in the order of their first pixels."""
    found: dict[Place, int] = {}
    count = 0
    for start in np.ndindex(*labels.shape):
        if labels[start] == NODATA or start in found:
            continue
        todo = [start]
        found[start] = count
        while todo:
            for place in around(todo.pop(), labels):
                if labels[place] == labels[start] and place not in found:
                    found[place] = count
                    todo.append(place)
        count += 1
    return found


def around(place: Place, labels: Labels) -> list[Place]:
    row, column = place
    near = (row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)
    return [(r, c) for r, c in near if 0 <= r < labels.shape[0] and 0 <= c < labels.shape[1]]


def by_rule(labels: Labels, least: int) -> Labels:
    """What `sieved` says, in plain words, for the whole map at once."""
    of = areas(labels)
    sizes, borders = Counter(of.values()), Counter[tuple[int, int]]()
    value = {area: int(labels[place]) for place, area in of.items()}
    for place, area in of.items():
        borders.update((area, of[near]) for near in around(place, labels) if near in of)

    def largest(area: int) -> int:
        ranks = [
            (-min(sizes[other], least), -length, value[other], other)
            for (one, other), length in borders.items()
            if one == area != other
        ]
        return min(ranks)[3] if ranks and -min(ranks)[0] > sizes[area] else area

    def end(area: int) -> int:
        at = area
        while sizes[at] < least:
            if (further := largest(at)) == at:
                return area
            at = further
        return at

    ends = {area: end(area) for area in sizes}
    out = labels.copy()
    for place, area in of.items():
        out[place] = value[ends[area]]
    return out


def all_of(labels: Labels, least: int) -> Labels:
    pixels, valid = sieved(scene(labels), least).read(Window(0, 0, *labels.shape))
    np.testing.assert_array_equal(valid, labels != NODATA)
    return np.where(valid, pixels[0], NODATA).astype(np.uint8)


@settings(max_examples=150, deadline=None)
@given(rasters(), st.integers(1, 20), st.integers(1, 5), st.integers(1, 5))
def test_it_is_that_of_the_whole_map(labels: Labels, least: int, height: int, width: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sieve, "_HEIGHT", height)
        patch.setattr(sieve, "_WIDTH", width)
        patch.setattr(sieve, "_margin", lambda least: 1)
        np.testing.assert_array_equal(all_of(labels, least), by_rule(labels, least))


@pytest.mark.parametrize("least", [5, 9, 40])
def test_so_it_is_for_larger_maps(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(least)
    labels = rng.choice(np.array([0, 0, 0, 1, 2, NODATA], np.uint8), (50, 60))
    labels = labels.repeat(2, 0).repeat(2, 1)
    monkeypatch.setattr(sieve, "_HEIGHT", 16)
    monkeypatch.setattr(sieve, "_WIDTH", 32)
    expected = by_rule(labels, least)
    np.testing.assert_array_equal(all_of(labels, least), expected)
    assert (expected != labels).any()


def islands(seed: int) -> Labels:
    """Specks apart from each other in two halves: each has one neighbour."""
    rng = np.random.default_rng(seed)
    labels = np.ones((60, 80), np.uint8)
    labels[:, 40:] = 2
    for row in range(3, 56, 8):
        for column in (3, 11, 19, 27, 43, 51, 59, 67):
            height, width = rng.integers(1, 6, 2)
            labels[row : row + height, column : column + width] = 3
    return labels


@pytest.mark.parametrize("least", [2, 7, 16, 100])
def test_islands_are_as_gdal_has_them(least: int) -> None:
    labels = islands(least)
    np.testing.assert_array_equal(
        all_of(labels, least), rasterio.features.sieve(labels, least, connectivity=4)
    )


def test_no_small_area_is_left_where_each_has_a_large_neighbour() -> None:
    out = all_of(islands(0), 1000)
    assert set(np.unique(out)) == {1, 2}


def test_a_long_thin_area_is_followed_beyond_the_first_margin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A river of one pixel's width whose length decides: 300 pixels, read from the middle."""
    labels = np.zeros((9, 300), np.uint8)
    labels[4] = 1
    monkeypatch.setattr(sieve, "_WIDTH", 8)
    assert (all_of(labels, 300) == labels).all()
    assert (all_of(labels, 301) == 0).all()


def test_any_part_is_the_same_as_in_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sieve, "_HEIGHT", 16)
    monkeypatch.setattr(sieve, "_WIDTH", 16)
    labels = islands(3)
    expected, source = all_of(labels, 9), sieved(scene(labels), 9)
    for window in (Window(0, 0, 1, 80), Window(13, 7, 30, 50), Window(59, 79, 1, 1)):
        np.testing.assert_array_equal(source.read(window)[0][0], expected[window.slices])
