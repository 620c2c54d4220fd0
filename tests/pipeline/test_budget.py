"""Tiles fit into the memory, and those are chosen by which a run is done first."""

from dataclasses import replace
from itertools import product
from math import ceil, prod

import psutil
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from segpipe.pipeline.budget import LARGEST_SIDE, Costs, choose_plan, memory_limit
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.plan import CHUNK, Margin, Plan, window_pixels
from tests import toys

margins = st.integers(0, 600)
plans = st.builds(
    Plan,
    st.builds(toys.grid, st.integers(1, 20_000), st.integers(1, 20_000)),
    st.just(CHUNK),
    st.sampled_from([1, 8, 32]),
    st.builds(Margin, margins, margins, margins, margins),
)
costs = st.builds(
    Costs,
    fixed=st.integers(0, 10**9),
    computed=st.floats(1, 3000),
    around=st.floats(1, 3000),
    held=st.floats(1, 100),
    threads=st.integers(1, 4),
    least=st.integers(0, 10**7),
)
limits = st.integers(10**8, 10**11)
counts = st.integers(1, 40)


def sides(plan: Plan) -> list[Plan]:
    """The plan with every side that may be chosen."""
    longest = ceil(max(plan.grid.shape) / CHUNK) * CHUNK
    return [
        replace(plan, side=side) for side in range(CHUNK, min(longest, LARGEST_SIDE) + 1, CHUNK)
    ]


def rounds(plan: Plan, workers: int) -> int:
    """Pixels that the busiest worker computes."""
    turns = ceil(len(plan) / workers)
    return max(prod(plan.read_shape), turns * window_pixels(plan.extents) // len(plan))


@given(plans, costs, limits, counts)
def test_no_side_that_fits_is_done_sooner(
    plan: Plan, costs: Costs, limit: int, workers: int
) -> None:
    fitting = [one for one in sides(plan) if costs.of(one) <= limit]
    assume(fitting)
    chosen = choose_plan(plan, costs, limit, workers)
    assert costs.of(chosen) <= limit
    assert rounds(chosen, workers) == min(rounds(one, workers) for one in fitting)


@given(plans, costs, st.floats(0, 0.99))
def test_where_nothing_fits_the_least_need_is_told(plan: Plan, costs: Costs, share: float) -> None:
    limit = int(share * min(costs.of(one) for one in sides(plan)))
    with pytest.raises(InputRefusedError, match=r"a tile of 256 pixels needs .*--memory"):
        choose_plan(plan, costs, limit)


@given(plans, costs)
def test_a_worker_needs_no_more_than_for_as_many_tiles_as_there_are(
    plan: Plan, costs: Costs
) -> None:
    held = min(costs.threads, len(plan)) * costs.held * prod(plan.read_shape)
    last = plan.rows.count - 1, plan.columns.count - 1
    places = product(*((0, 1, count // 2, count) for count in last))
    for row, column in places:
        tile = plan.tile(min(row, last[0]), min(column, last[1]))
        computed = prod(ceil(n / plan.stride) * plan.stride for n in tile.read.shape)
        others = computed - tile.core.pixels
        need = costs.computed * tile.core.pixels + costs.around * others + held
        assert costs.of(plan) >= costs.fixed + int(need)
    assert costs.of(plan) >= costs.fixed + int(costs.least * costs.computed)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_share_what_is_free(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    free = psutil.virtual_memory()._replace(available=12_000_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    assert workers * memory_limit(None, workers) <= 0.6 * 12_000_000_000
    assert memory_limit("8GB", workers) == 8_000_000_000
