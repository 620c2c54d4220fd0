"""Many scenes at a time: a few are begun, and what became of each is told in the order given."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")

AT_ONCE = 3
"""Scenes that are open: one is published, one is mapped, and one is prepared."""


def in_turn(
    work: Callable[[int, Task], Outcome], tasks: Iterable[Task], at_once: int = AT_ONCE
) -> Iterator[Outcome]:
    """What the work gives for each task and its number, in their order.

    No task is begun before the one `at_once` places ahead of it has been told, so that neither open
    scenes nor outcomes pile up behind one that takes long. An error ends the queue: tasks that are
    begun are finished first.
    """
    numbered = enumerate(tasks)
    begun: deque[Future[Outcome]] = deque()
    with ThreadPoolExecutor(at_once, thread_name_prefix="scene") as pool:
        try:
            while True:
                for number, task in islice(numbered, at_once - len(begun)):
                    begun.append(pool.submit(work, number, task))
                if not begun:
                    return
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()
