"""What is held out and what is learnt from never meet."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.window import Window
from segpipe.workflows.holdout import SIDES, Holdout, Split


@given(
    st.sampled_from(SIDES),
    st.floats(0.05, 0.95),
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(0, 40),
)
def test_both_parts_lie_in_the_scene_a_gap_apart(
    side: str, share: float, height: int, width: int, gap: int
) -> None:
    try:
        split = Holdout(side, share).split(height, width, gap)
    except InputRefusedError:
        length = width if side in ("east", "west") else height
        held = round(length * share)
        assert held < 1 or length - held - gap < 1
        return
    whole, training, held_out = Window(0, 0, height, width), split.training, split.held_out
    assert whole.contains(training)
    assert whole.contains(held_out)
    wider = Window(
        training.top - gap, training.left - gap, training.height + 2 * gap, training.width + 2 * gap
    )
    assert wider.intersection(held_out) is None
    rows = height if side in ("east", "west") else gap
    columns = gap if side in ("east", "west") else width
    assert training.pixels + held_out.pixels + rows * columns == whole.pixels


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        ("east", Split(Window(0, 0, 30, 55), Window(0, 60, 30, 30))),
        ("west", Split(Window(0, 35, 30, 55), Window(0, 0, 30, 30))),
        ("north", Split(Window(15, 0, 15, 90), Window(0, 0, 10, 90))),
        ("south", Split(Window(0, 0, 15, 90), Window(20, 0, 10, 90))),
    ],
)
def test_sides_are_those_of_the_raster(side: str, expected: Split) -> None:
    assert Holdout(side, 1 / 3).split(30, 90, 5) == expected


@given(st.sampled_from(SIDES), st.integers(1, 99))
def test_what_is_printed_can_be_parsed(side: str, percent: int) -> None:
    holdout = Holdout(side, percent / 100)
    assert Holdout.parse(str(holdout)) == holdout


@pytest.mark.parametrize("text", ["", "east", "up:0.3", "east:0", "east:1", "east:nan", "east:x"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as east:0\.33, got"):
        Holdout.parse(text)


def test_a_gap_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(InputRefusedError, match="leaves 0 rows or columns"):
        Holdout("east", 0.5).split(10, 40, 20)
