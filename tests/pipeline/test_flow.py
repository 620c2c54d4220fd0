"""One limit over all streams: never exceeded but by one task each, and nobody waits for room."""

from functools import partial

import hypothesis.strategies as st
from hypothesis import given

from segpipe.pipeline.execution.flow import Flow

MOVES = st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(1, 8)), max_size=60)


@given(limit=st.integers(1, 8), moves=MOVES)
def test_the_limit_holds_and_every_stream_has_one(
    limit: int, moves: list[tuple[int, bool, int]]
) -> None:
    flow = Flow()
    streams = [flow.stream(lambda: None) for _ in range(4)]
    for number, takes, count in moves:
        stream, total = streams[number], sum(one.count for one in streams)
        before = stream.count
        if takes:
            expected = max(limit - total, before == 0)
            assert stream.take(limit) == expected
            assert stream.count == before + expected
        else:
            stream.give(count := min(count, before))
            assert stream.count == before - count
    assert flow.peak <= limit + len(streams) - 1


def test_who_was_refused_is_woken_once_there_is_room() -> None:
    woken: list[str] = []
    flow = Flow()
    first, second = (flow.stream(partial(woken.append, name)) for name in "ab")
    assert [first.take(2), second.take(2)] == [2, 1]
    assert not second.take(2)
    first.give()
    first.offer()
    assert woken == [], "two are in flight still: whoever is woken would be refused again"
    first.give()
    assert woken == []
    first.offer()
    assert woken == ["b"]
    first.offer()
    assert woken == ["b"], "who wasn't refused again isn't woken again"
    assert second.take(2) == 1


def test_who_is_refused_alone_is_not_woken_by_itself() -> None:
    woken: list[str] = []
    flow = Flow()
    only = flow.stream(partial(woken.append, "a"))
    assert only.take(1) == 1
    assert only.take(1) == 0
    only.offer()
    assert woken == []


def test_a_stream_that_ends_leaves_its_room() -> None:
    woken: list[str] = []
    flow = Flow()
    first, second = (flow.stream(partial(woken.append, name)) for name in "ab")
    first.take(2)
    second.take(2)
    second.take(2)
    first.close()
    assert woken == ["b"]
    assert second.take(2) == 1
