"""Tasks that travel together: those that are sent in one message, or fetched with one request."""

import contextlib
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from distributed import Client

from segpipe.pipeline.execution.losses import BEAT, within

Item = TypeVar("Item")

_MOMENT = 0.05
"""Seconds for which tasks are put together that are sent, or fetched, at once."""


def at_hand(source: Iterator[Item], most: int) -> list[Item]:
    """The next items, as many as come within a moment; none where there are no more."""
    until = time.monotonic() + _MOMENT
    found: list[Item] = []
    for item in itertools.islice(source, most):
        found.append(item)
        if time.monotonic() > until:
            break
    return found


def soon_finished(finished: SimpleQueue[Item], most: int) -> list[Item]:
    """The next tasks that are finished, as many as are so within a moment."""
    until = time.monotonic() + _MOMENT
    found: list[Item] = []
    while len(found) < most and (left := until - time.monotonic()) > 0:
        with contextlib.suppress(Empty):
            found.append(finished.get(timeout=left))
    return found


def fetched(client: Client, futures: Sequence[Any]) -> Mapping[Any, Any]:
    """The results of finished tasks by their futures, unless one of them doesn't come."""
    ready = {future.key: future for future in futures if future.status == "finished"}
    if not ready:
        return {}
    scheduler: Any = client.scheduler
    try:
        answer = within(client, BEAT, lambda: scheduler.gather(keys=list(ready)))
    except TimeoutError:
        return {}
    found = answer["data"] if answer["status"] == "OK" else {}
    return {ready[key]: result for key, result in found.items()}
