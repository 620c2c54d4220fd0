"""What is put up with of an item before it is given up, and how it is tried again."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from segpipe.pipeline.errors import ClusterError, OverdueError, StoppedError

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_LEFT = 3
"""Calls that hang in one process before it takes no other: as many as its worker has threads."""


@dataclass(frozen=True, slots=True)
class Patience:
    """When an item is given up, and when the whole is.

    Attributes:
        forgiven: errors that are an item's own; every other ends the whole at once.
        deadline: seconds that an item may take on its worker; None for any time.
        until: what `time.monotonic()` says when nothing is waited for any more; None for never.
    """

    forgiven: tuple[type[Exception], ...] = ()
    deadline: float | None = None
    until: float | None = None

    def left(self) -> float:
        """Seconds until nothing is waited for any more.

        Raises:
            StoppedError: there are none.
        """
        if self.until is None:
            return float("inf")
        left = self.until - time.monotonic()
        if left <= 0:
            raise StoppedError("the time that the run was given is over")
        return left


STRICT = Patience()
"""Forgives nothing but what killed its worker."""


@dataclass(frozen=True, slots=True)
class Failed(Generic[Item]):
    """An item that has no result, why, and in how many rounds it was tried."""

    item: Item
    error: Exception
    attempts: int = 1


class HungError(ClusterError):
    """So many items hang in one process that it can do nothing else."""


def again_alone(
    attempt: Callable[[Iterable[Item]], Iterator[Result | Failed[Item]]], items: Iterable[Item]
) -> Iterator[Result | Failed[Item]]:
    """What an attempt at all items gives; those that failed are tried once more, each by itself.

    A worker that dies takes innocent items with it, and neighbours take memory and time: only what
    fails when nothing else runs is called failed.
    """
    suspects: list[Failed[Item]] = []
    try:
        for outcome in attempt(items):
            if isinstance(outcome, Failed):
                suspects.append(outcome)
            else:
                yield outcome
        while suspects:
            for outcome in attempt([suspects[0].item]):
                tried = suspects.pop(0).attempts + 1
                yield replace(outcome, attempts=tried) if isinstance(outcome, Failed) else outcome
    except HungError:
        # What made the process useless mustn't be the first thing that the next one tries.
        yield from suspects
        raise


class Deadlines:
    """Calls functions, and leaves those behind that take too long: a thread can't be ended."""

    def __init__(self) -> None:
        self._left: list[threading.Thread] = []

    def call(self, seconds: float | None, function: Callable[[], Result]) -> Result:
        """What the function gives.

        Raises:
            OverdueError: it took more than `seconds`; its thread may go on.
            HungError: too many such threads go on, so that the function wasn't called.
        """
        if seconds is None:
            return function()
        self._left = [thread for thread in self._left if thread.is_alive()]
        if len(self._left) >= _MOST_LEFT:
            raise HungError(
                f"{len(self._left)} tiles take longer than --tile-timeout and hold a process that "
                "can't be ended; the same command begins with the other tiles, and --workers 2 has "
                "processes that can be ended"
            )
        found: Future[Result] = Future()

        def work() -> None:
            try:
                found.set_result(function())
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                found.set_exception(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            return found.result(seconds)
        except TimeoutError:
            if found.done():
                return found.result()
            self._left.append(thread)
            raise OverdueError(f"it took longer than {seconds:g} s") from None
