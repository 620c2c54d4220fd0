"""Windows behave like slices of an array."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segpipe.pipeline.window import Window

windows = st.builds(
    Window, st.integers(0, 30), st.integers(0, 30), st.integers(1, 30), st.integers(1, 30)
)


def mask(window: Window) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    canvas = np.zeros((64, 64), np.bool_)
    canvas[window.slices] = True
    return canvas


@given(windows, windows)
def test_intersection_is_that_of_the_pixels(one: Window, other: Window) -> None:
    both = mask(one) & mask(other)
    shared = one.intersection(other)
    assert both.sum() == (shared.pixels if shared else 0)
    assert shared is None or (mask(shared) == both).all()
    assert one.contains(other) == bool((both == mask(other)).all())


@given(windows, st.integers(0, 9))
def test_a_window_grows_as_far_as_the_raster_goes(window: Window, margin: int) -> None:
    raster = Window(0, 0, 64, 64)
    near = np.zeros((64, 64), np.bool_)
    for row, column in np.argwhere(mask(window)):
        top, left = max(row - margin, 0), max(column - margin, 0)
        near[top : row + margin + 1, left : column + margin + 1] = True
    grown = window.grown(margin, raster)
    assert raster.contains(grown)
    assert (mask(grown) == near).all()


@given(windows, st.integers(1, 40))
def test_squares_share_the_pixels_between_them(window: Window, side: int) -> None:
    squares = list(window.squares(side))
    assert (np.sum([mask(one) for one in squares], axis=0) == mask(window)).all()
    assert squares == sorted(squares)
    assert all(max(one.shape) <= side for one in squares)
    assert {one.top % side for one in squares} == {window.top % side}
    assert {one.left % side for one in squares} == {window.left % side}


@given(windows)
def test_halves_share_the_pixels_between_them(window: Window) -> None:
    if window.pixels == 1:
        with pytest.raises(ValueError, match="one pixel"):
            window.halves()
        return
    one, other = window.halves()
    assert one.intersection(other) is None
    assert (mask(one) | mask(other) == mask(window)).all()


@given(windows, windows)
def test_relative_windows_index_the_same_pixels(window: Window, outer: Window) -> None:
    canvas = np.arange(64 * 64).reshape(64, 64)
    if outer.contains(window):
        part = canvas[outer.slices][window.relative_to(outer).slices]
        assert (part == canvas[window.slices]).all()


@given(windows)
def test_windows_survive_pickling(window: Window) -> None:
    assert pickle.loads(pickle.dumps(window)) == window


@pytest.mark.parametrize("values", [(0, 0, 0, 1), (0, 0, 1, 0), (0, 0, -1, 5)])
def test_empty_windows_cannot_be_built(values: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="a pixel or more"):
        Window(*values)


def test_only_whole_numbers_make_a_window() -> None:
    with pytest.raises(TypeError, match="whole numbers"):
        Window(0, 0, 1.5, 2)  # type: ignore[arg-type]
