"""Thinned scenes hold pixels of the scene, evenly spread, whatever container they came from."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segpipe.pipeline.maps.thinned import thinned
from segpipe.pipeline.window import Window
from tests import toys
from tests.pipeline.test_picture import stored


def centres(start: int, end: int, count: int) -> list[int]:
    """The pixels that hold the centres of so many parts of a span, by exact arithmetic."""
    part = Fraction(end - start, count)
    return [int(start + (place + Fraction(1, 2)) * part) for place in range(count)]


@settings(deadline=None, max_examples=20, suppress_health_check=list(HealthCheck))
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    factor=st.integers(1, 40),
    data=st.data(),
)
def test_a_window_holds_the_pixels_at_its_parts_centres(
    tmp_path_factory: pytest.TempPathFactory,
    height: int,
    width: int,
    factor: int,
    data: st.DataObject,
) -> None:
    pixels = toys.landscape(height, width)
    first, second = stored(tmp_path_factory.mktemp("scenes"), pixels)
    small = thinned(first, factor)
    assert small.grid.shape == (-(-height // factor), -(-width // factor))
    top, left = (data.draw(st.integers(0, side - 1)) for side in small.grid.shape)
    window = Window(top, left, small.grid.height - top, data.draw(st.integers(1, 5)))
    window = window.intersection(small.grid.window) or window
    values, valid = small.read(window)
    rows = centres(top * factor, min(window.bottom * factor, height), window.height)
    columns = centres(left * factor, min(window.right * factor, width), window.width)
    assert np.array_equal(values, pixels[:, rows][:, :, columns])
    assert np.array_equal(valid, (values != 0).all(0))
    again, known = thinned(second, factor).read(window)
    assert np.array_equal(again, values)
    assert np.array_equal(known, valid)


def test_a_thinned_scene_has_its_corner_and_longer_steps(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    scene, _ = stored(tmp_path_factory.mktemp("scenes"), toys.landscape(90, 100))
    assert thinned(scene, 1) is scene
    small = thinned(scene, 8)
    assert small.grid.transform == (228.0, 0.0, 630534.0, 0.0, -228.0, 228114.0)
    assert small.grid.crs == scene.grid.crs
    with pytest.raises(ValueError, match="whole number from 1"):
        thinned(scene, 0)
