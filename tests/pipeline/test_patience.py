"""What fails is tried once more alone; what is overdue is left behind."""

import threading
import time
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segpipe.pipeline.errors import OverdueError
from segpipe.pipeline.execution.embedded import embedded
from segpipe.pipeline.execution.patience import Deadlines, Failed, HungError, Patience, again_alone
from segpipe.pipeline.execution.serial import Serial

ITEMS = range(12)


@given(poison=st.sets(st.sampled_from(ITEMS)), nervous=st.sets(st.sampled_from(ITEMS)))
def test_only_what_fails_alone_too_is_failed(poison: set[int], nervous: set[int]) -> None:
    """Nervous items fail only in company."""
    sizes: list[int] = []

    def attempt(items: Iterable[int]) -> Iterator[int | Failed[int]]:
        batch = list(items)
        sizes.append(len(batch))
        for item in batch:
            if item in poison or (item in nervous and len(batch) > 1):
                yield Failed(item, MemoryError())
            else:
                yield -item

    outcomes = list(again_alone(attempt, ITEMS))
    failed = {outcome.item for outcome in outcomes if isinstance(outcome, Failed)}
    assert failed == poison
    done = [outcome for outcome in outcomes if not isinstance(outcome, Failed)]
    assert sorted(done) == sorted(-item for item in ITEMS if item not in poison)
    assert {outcome.attempts for outcome in outcomes if isinstance(outcome, Failed)} <= {2}
    assert sizes == [len(ITEMS)] + [1] * len(poison | nervous)


def test_what_hangs_is_told_before_the_end() -> None:
    def attempt(items: Iterable[int]) -> Iterator[int | Failed[int]]:
        yield Failed(3, OverdueError("slow"))
        yield 4
        raise HungError("no more")

    outcomes: list[int | Failed[int]] = []
    with pytest.raises(HungError):
        outcomes.extend(again_alone(attempt, ITEMS))
    assert outcomes[0] == 4
    assert isinstance(outcomes[1], Failed)


def test_an_overdue_call_is_left_behind_and_too_many_are_refused() -> None:
    release = threading.Event()
    deadlines = Deadlines()
    for _ in range(3):
        with pytest.raises(OverdueError, match=r"longer than 0\.01 s"):
            deadlines.call(0.01, release.wait)
    with pytest.raises(HungError, match="--workers 2"):
        deadlines.call(0.01, release.wait)
    assert deadlines.call(None, lambda: 5) == 5
    release.set()
    time.sleep(0.2)
    assert deadlines.call(10, lambda: 5) == 5
    with pytest.raises(TimeoutError, match="its own"):
        deadlines.call(10, _times_out)


def _times_out() -> None:
    raise TimeoutError("its own")


def fragile(resident: threading.Event, item: int) -> int:
    """The resident of an embedded runner is the very one that it was given."""
    if item == 3:
        raise MemoryError("too large")
    if item == 5:
        resident.wait(60)
    return item


@pytest.mark.parametrize("where", ["serial", "embedded"])
def test_runners_finish_the_others(where: str) -> None:
    patience = Patience((MemoryError,), deadline=0.5)
    release = threading.Event()
    if where == "serial":
        outcomes = list(Serial(release).attempt(fragile, range(9), patience))
    else:
        with embedded(release) as runner:
            outcomes = list(runner.attempt(fragile, range(9), patience))
    release.set()
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    assert {type(outcome.error) for outcome in failed} == {MemoryError, OverdueError}
    assert {(outcome.item, outcome.attempts) for outcome in failed} == {(3, 2), (5, 2)}
    assert sorted(outcome for outcome in outcomes if isinstance(outcome, int)) == [
        *(0, 1, 2, 4, 6, 7, 8)
    ]
