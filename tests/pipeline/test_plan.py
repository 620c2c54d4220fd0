"""Every pixel is written once, and everything that it depends on is read."""

import json
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segpipe.pipeline.grid import Grid
from segpipe.pipeline.plan import CHUNK, Axis, Margin, Plan, Stretch
from segpipe.pipeline.window import Window

extents = st.integers(0, 300)
grids = st.builds(
    Grid,
    st.integers(1, 2000),
    st.integers(1, 2000),
    st.just((28.5, 0.0, 630534.0, 0.0, -28.5, 228114.0)),
    st.sampled_from([None, "EPSG:32119"]),
)
plans = st.builds(
    Plan,
    grids,
    st.sampled_from([256, 512, 768, 1024]),
    st.integers(1, 40),
    st.builds(Margin, extents, extents, extents, extents),
)


@given(plans)
def test_every_pixel_lies_in_exactly_one_core(plan: Plan) -> None:
    written = np.zeros(plan.grid.shape, np.uint8)
    for tile in plan.tiles():
        written[tile.core.slices] += 1
    assert (written == 1).all()


@given(plans)
def test_cores_are_whole_numbers_of_chunks(plan: Plan) -> None:
    for tile in plan.tiles():
        core = tile.core
        assert core.top % CHUNK == core.left % CHUNK == 0
        assert core.bottom % CHUNK == 0 or core.bottom == plan.grid.height
        assert core.right % CHUNK == 0 or core.right == plan.grid.width


@given(plans)
def test_every_dependency_is_read_or_lies_beyond_the_edge(plan: Plan) -> None:
    margin, scene = plan.margin, plan.grid.window
    for tile in plan.tiles():
        core = tile.core
        needed = Window(
            core.top - margin.top,
            core.left - margin.left,
            core.height + margin.top + margin.bottom,
            core.width + margin.left + margin.right,
        )
        inside = needed.intersection(scene)
        assert inside is not None
        assert tile.read.contains(inside)
        assert scene.contains(tile.read)


@given(plans)
def test_reads_start_and_end_on_the_stride_or_at_the_edge(plan: Plan) -> None:
    for tile in plan.tiles():
        read = tile.read
        assert read.top % plan.stride == read.left % plan.stride == 0
        assert read.bottom % plan.stride == 0 or read.bottom == plan.grid.height
        assert read.right % plan.stride == 0 or read.right == plan.grid.width


@given(plans)
def test_windows_hold_no_more_than_is_needed_or_a_chunk_would_need(plan: Plan) -> None:
    margin = plan.margin
    chunk = [CHUNK + margin.top + margin.bottom, CHUNK + margin.left + margin.right]
    least = [-(-length // plan.stride) * plan.stride for length in chunk]
    for tile in plan.tiles():
        needed = plan.reads(tile.core)
        assert tile.read.contains(needed)
        for length, own, short, raster in zip(
            tile.read.shape, needed.shape, least, plan.grid.shape, strict=True
        ):
            assert length == own or own < length <= short
            # An end at the raster's own can cut off less than a stride.
            assert length > min(short, raster) - plan.stride


@given(plans)
def test_extents_are_those_of_the_tiles(plan: Plan) -> None:
    def stretch(start: int, low: int, length: int, high: int) -> Stretch:
        return Stretch(start - low, length, -(-high // plan.stride) * plan.stride - start - length)

    found = Counter(
        (
            stretch(tile.core.top, tile.read.top, tile.core.height, tile.read.bottom),
            stretch(tile.core.left, tile.read.left, tile.core.width, tile.read.right),
        )
        for tile in plan.tiles()
    )
    assert plan.extents == found
    assert plan.read_shape == tuple(max(one[at].length for one in found) for at in (0, 1))


@given(plans, st.data())
def test_a_part_of_a_core_needs_no_more_than_the_core_reads(
    plan: Plan, data: st.DataObject
) -> None:
    tiles = list(plan.tiles())
    tile = data.draw(st.sampled_from(tiles))
    part = tile.core
    while part.pixels > 1 and data.draw(st.booleans()):
        part = part.halves()[data.draw(st.integers(0, 1))]
        assert tile.read.contains(plan.reads(part))


@given(plans)
def test_the_extra_work_is_what_the_tiles_add_up_to(plan: Plan) -> None:
    def padded(length: int) -> int:
        return -(-length // plan.stride) * plan.stride

    reads = [tile.read for tile in plan.tiles()]
    computed = sum(padded(read.height) * padded(read.width) for read in reads)
    assert plan.extra_work == pytest.approx(computed / plan.grid.pixels)
    assert len(plan) == sum(1 for _ in plan.tiles())


@given(plans)
def test_plans_survive_pickle_and_json(plan: Plan) -> None:
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@given(plans, st.integers(1, 40))
def test_other_plans_have_other_digests(plan: Plan, stride: int) -> None:
    other = replace(plan, stride=stride)
    assert (other.digest == plan.digest) == (other == plan)


def test_a_long_axis_is_planned_without_walking_it() -> None:
    axis = Axis(length=10**12, side=256, stride=37, before=5, after=9)
    assert axis.stretches.total() == axis.count
    assert max(one.length for one in axis.stretches) >= 256 + 14
    start, end = axis.read(axis.count - 1)
    assert start % 37 == 0
    assert end == axis.length


@pytest.mark.parametrize("side", [0, -256, 255, 300])
def test_a_side_that_is_no_multiple_is_refused_with_the_next_one(side: int) -> None:
    grid = Grid(10, 10, (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), None)
    with pytest.raises(ValueError, match=r"multiple of 256, got .*; (256|512) is the next"):
        Plan(grid, side, 1, Margin(0, 0, 0, 0))
