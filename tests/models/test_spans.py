"""Spans obey numpy: what is done to a tensor's indices is done to what they read."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from segpipe.models.footprints.spans import SHIFT, Span, Taps, mix

SHAPES = st.sampled_from(
    [
        ((1, 3, 8, 6), (1, 3, 48)),
        ((1, 3, 8, 6), (1, 3, 4, 2, 3, 2)),
        ((1, 4, 8), (1, 2, 2, 8, 1)),
        ((4, 8), (32,)),
        ((32, 1), (1, 4, 8)),
    ]
)


def image(shape: tuple[int, ...], dim: int) -> Span:
    return Span.image(shape[dim], dim % len(shape), len(shape))


@given(SHAPES, st.integers(-2, -1))
def test_a_view_reads_what_numpy_puts_there(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], dim: int
) -> None:
    before, after = shapes
    span = image(before, dim)
    expected = np.broadcast_to(span.low, before).reshape(after)
    viewed = span.reshape(before, after)
    assert (np.broadcast_to(viewed.low, after) == expected).all()
    back = viewed.reshape(after, before)
    assert back.shape == span.shape
    assert (back.mark == span.mark).all()


def test_a_convolution_reads_its_taps_and_knows_its_edge() -> None:
    index = np.arange(4)[:, None] * 2 - 1 + np.arange(3)
    taps = Taps.padded(index, 8, mix(1, np.arange(3)))
    span = Span.image(8, 0, 1).gather(0, taps)
    assert span.low.tolist() == [0, 1, 3, 5]
    assert span.high.tolist() == [1, 3, 5, 7]
    assert span.edge.tolist() == [True, False, False, False]


def test_marks_tell_a_shift_from_a_change() -> None:
    index = np.arange(1, 7)[:, None] + np.arange(-1, 2)
    same = Span.image(8, 0, 1).gather(0, Taps.padded(index, 8, mix(1, np.arange(3))))
    other = Span.image(8, 0, 1).gather(0, Taps.padded(index, 8, mix(1, index)))
    assert (same.mark[1:] == same.mark[:-1] * SHIFT).all()
    assert not (other.mark[1:] == other.mark[:-1] * SHIFT).any()


def test_a_sum_reads_all_that_its_terms_read() -> None:
    span = image((2, 8), 1)
    total = span.reduce([1], 0)
    assert (int(total.low.item()), int(total.high.item())) == (0, 7)
    nothing = Span.nothing(8, 2)
    assert nothing.widest == 0
    joined = span.join(nothing, 0)
    assert (joined.low == span.low).all()
    assert (joined.high == span.high).all()


@given(st.integers(0, 1 << 40), st.integers(-(1 << 40), 1 << 40))
def test_weights_are_odd_so_that_no_tap_vanishes(seed: int, key: int) -> None:
    assert int(mix(seed, key)) % 2 == 1
    assert mix(seed, key) != mix(seed, key + 1)
