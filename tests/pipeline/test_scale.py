"""What grows with the number of tiles, and what doesn't."""

import pytest

from segpipe.pipeline.plan import CHUNK, Margin, Plan
from tests import toys
from tests.simulated import costs

SIDE = 40


def test_a_plan_gives_its_tiles_as_it_gives_one() -> None:
    plan = Plan(toys.grid(SIDE * CHUNK - 7, SIDE * CHUNK + 9), CHUNK, 32, Margin(287, 280, 255, 1))
    columns = plan.columns.count
    assert [plan.tile(*divmod(index, columns)) for index in range(len(plan))] == list(plan.tiles())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_memory_does_not_grow_with_the_tiles() -> None:
    """Of real client and scheduler, over 64 simulated workers with 192 threads."""
    before, early, late = costs(workers=64, tiles=4000, every=2000)
    assert before.tiles == 0
    assert late.tiles == 4000
    # Distributed keeps a log of what it did last; pixels, or tasks that are kept, would be more.
    tiles = late.tiles - early.tiles
    assert (late.client_rss - early.client_rss) / tiles < 4096
    assert (late.scheduler_rss - early.scheduler_rss) / tiles < 16384
