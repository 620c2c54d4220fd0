"""One limit over all streams: never exceeded but by one task each, and nobody waits for room."""

from functools import partial

import hypothesis.strategies as st
from hypothesis import given

from segpipe.pipeline.flow import Flow

MOVES = st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60)


@given(limit=st.integers(1, 8), moves=MOVES)
def test_the_limit_holds_and_every_stream_has_one(
    limit: int, moves: list[tuple[int, bool]]
) -> None:
    flow = Flow()
    streams = [flow.stream(lambda: None) for _ in range(4)]
    for number, takes in moves:
        stream, total = streams[number], sum(one.count for one in streams)
        before = stream.count
        if takes:
            expected = before == 0 or total < limit
            assert stream.take(limit) is expected
            assert stream.count == before + expected
        elif before:
            stream.give()
            assert stream.count == before - 1
    assert flow.peak <= limit + len(streams) - 1


def test_who_was_refused_is_woken_once_there_is_room() -> None:
    woken: list[str] = []
    flow = Flow()
    first, second = (flow.stream(partial(woken.append, name)) for name in "ab")
    assert [first.take(2), first.take(2), second.take(2)] == [True, True, True]
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
    assert second.take(2)


def test_who_is_refused_alone_is_not_woken_by_itself() -> None:
    woken: list[str] = []
    flow = Flow()
    only = flow.stream(partial(woken.append, "a"))
    assert only.take(1)
    assert not only.take(1)
    only.offer()
    assert woken == []


def test_a_stream_that_ends_leaves_its_room() -> None:
    woken: list[str] = []
    flow = Flow()
    first, second = (flow.stream(partial(woken.append, name)) for name in "ab")
    first.take(2)
    first.take(2)
    second.take(2)
    second.take(2)
    first.close()
    assert woken == ["b"]
    assert second.take(2)
