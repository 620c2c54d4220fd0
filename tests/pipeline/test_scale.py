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
def test_neither_side_keeps_what_is_done() -> None:
    """Real client and scheduler, over 16 simulated workers with 48 threads."""
    before, early, late = costs(workers=16, tiles=2000, every=1000)
    assert before.tiles == before.tasks == 0
    assert late.tiles == 2000
    # Twice the threads are in flight, and some are being forgotten.
    assert early.tasks <= 4 * 48
    assert late.tasks <= 4 * 48
    # Distributed keeps a log of what it did last; pixels would be more.
    tiles = late.tiles - early.tiles
    assert (late.client_rss - early.client_rss) / tiles < 16384
    assert (late.scheduler_rss - early.scheduler_rss) / tiles < 16384
