"""What is held out, what is validated on and what is learnt from never meet."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from segpipe.pipeline.window import Window
from segpipe.workflows.errors import OptionError
from segpipe.workflows.labels.holdout import (
    SIDES,
    BlockHoldout,
    Holdout,
    Part,
    Partition,
    SideHoldout,
    parse_holdout,
)

sides = st.builds(SideHoldout, st.sampled_from(SIDES), st.integers(1, 99).map(lambda n: n / 100))
blocks = st.builds(BlockHoldout, st.integers(2, 12), st.integers(6, 30))
holdouts = st.one_of(sides, blocks)
sizes = st.tuples(st.integers(1, 70), st.integers(1, 70))


def parts(partition: Partition, shape: tuple[int, int]) -> dict[Part, NDArray[np.bool_]]:
    return {part: partition.mask(part, shape, Window(0, 0, *shape)) for part in Part}


def grown(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Every pixel from which one that is set is at most `reach` away, along both axes."""
    found = np.zeros_like(mask)
    for row, column in np.argwhere(mask):
        found[
            max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1
        ] = 1
    return found


@given(holdouts, st.none() | holdouts, st.integers(0, 6), sizes)
def test_parts_are_a_gap_apart_and_nothing_else_is_left_out(
    test: Holdout, validation: Holdout | None, gap: int, shape: tuple[int, int]
) -> None:
    partition = Partition(test, validation, gap)
    found = parts(partition, shape)
    alone = parts(Partition(test, None, gap), shape)
    np.testing.assert_array_equal(found[Part.TEST], alone[Part.TEST])
    near = grown(found[Part.TEST], gap)
    np.testing.assert_array_equal(alone[Part.LEARN], ~near)
    if validation is None:
        assert not found[Part.VALIDATE].any()
        return
    wanted = parts(Partition(validation, None, 0), shape)[Part.TEST]
    np.testing.assert_array_equal(found[Part.VALIDATE], wanted & ~near)
    np.testing.assert_array_equal(found[Part.LEARN], ~near & ~grown(wanted, gap))


@given(holdouts, st.none() | holdouts, st.integers(0, 6), sizes, st.data())
def test_a_window_shows_its_part_of_the_whole(
    test: Holdout,
    validation: Holdout | None,
    gap: int,
    shape: tuple[int, int],
    data: st.DataObject,
) -> None:
    partition = Partition(test, validation, gap)
    top = data.draw(st.integers(0, shape[0] - 1))
    left = data.draw(st.integers(0, shape[1] - 1))
    height = data.draw(st.integers(1, shape[0] - top))
    width = data.draw(st.integers(1, shape[1] - left))
    window = Window(top, left, height, width)
    for part, whole in parts(partition, shape).items():
        np.testing.assert_array_equal(partition.mask(part, shape, window), whole[window.slices])


@pytest.mark.parametrize(
    ("side", "held", "learnt"),
    [
        ("east", Window(0, 60, 30, 30), Window(0, 0, 30, 55)),
        ("west", Window(0, 0, 30, 30), Window(0, 35, 30, 55)),
        ("north", Window(0, 0, 10, 90), Window(15, 0, 15, 90)),
        ("south", Window(20, 0, 10, 90), Window(0, 0, 15, 90)),
    ],
)
def test_sides_are_those_of_the_raster(side: str, held: Window, learnt: Window) -> None:
    found = parts(Partition(SideHoldout(side, 1 / 3), None, 5), (30, 90))
    for part, window in ((Part.TEST, held), (Part.LEARN, learnt)):
        expected = np.zeros((30, 90), bool)
        expected[window.slices] = True
        np.testing.assert_array_equal(found[part], expected)


@given(st.integers(2, 12), st.integers(1, 9))
def test_blocks_are_spread_evenly(every: int, side: int) -> None:
    # As many rows and columns of blocks as there are in a period.
    shape = every * side, every * side
    held = BlockHoldout(every, side).holds(shape, np.arange(shape[0]), np.arange(shape[1]))
    assert set(held.sum(axis=0)) == set(held.sum(axis=1)) == {side}
    corners = held[::side, ::side]
    np.testing.assert_array_equal(held, corners.repeat(side, 0).repeat(side, 1))


@given(holdouts)
def test_what_is_printed_can_be_parsed(holdout: Holdout) -> None:
    assert parse_holdout(str(holdout)) == holdout


@pytest.mark.parametrize(
    "text",
    ["", "east", "up:0.3", "east:0", "east:1", "east:nan", "blocks:", "blocks:1/5", "blocks:3/0"],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"such as east:0\.33, or one in N blocks"):
        parse_holdout(text)


def test_a_gap_that_blocks_cannot_have_is_refused() -> None:
    for gap in (-1, 21):
        with pytest.raises(OptionError, match="at most a block's side"):
            Partition(SideHoldout(), BlockHoldout(3, 20), gap)
