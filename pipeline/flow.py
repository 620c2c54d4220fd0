"""How many tasks are in flight on a cluster: one limit over all streams of them."""

import threading
from collections.abc import Callable


class Flow:
    """Permits for tasks in flight, shared by streams of tasks, such as one for each scene.

    Whoever is refused one is woken when there is room. Every stream may always have one task, so
    that none of them starves: at most the limit and one for each other stream are in flight.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._peak = 0
        self._limit = 0
        self._hungry: list[Stream] = []

    @property
    def peak(self) -> int:
        """The most tasks that were in flight at once."""
        return self._peak

    def stream(self, wake: Callable[[], None]) -> "Stream":
        """A new stream; `wake` is called, in any thread, when it may ask again."""
        return Stream(self, wake)

    def _take(self, stream: "Stream", limit: int) -> bool:
        with self._lock:
            self._limit = limit
            if stream.count and self._count >= limit:
                if stream not in self._hungry:
                    self._hungry.append(stream)
                return False
            stream.count += 1
            self._count += 1
            self._peak = max(self._peak, self._count)
            return True

    def _give(self, stream: "Stream", count: int) -> None:
        with self._lock:
            stream.count -= count
            self._count -= count

    def _offer(self) -> None:
        with self._lock:
            if self._count >= self._limit:
                return  # whoever is woken would only fall asleep again
            hungry, self._hungry = self._hungry, []
        for stream in hungry:
            stream.wake()


class Stream:
    """The tasks in flight of one kind, `count` of them; used by one thread."""

    def __init__(self, flow: Flow, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.count = 0
        self._flow = flow

    def take(self, limit: int) -> bool:
        """Whether one more task may start, where `limit` may be in flight over all streams."""
        return self._flow._take(self, limit)

    def give(self) -> None:
        """Says that a task has ended, or that it didn't start."""
        self._flow._give(self, 1)

    def offer(self) -> None:
        """Leaves what room there is to the others."""
        self._flow._offer()

    def close(self) -> None:
        """Gives back what is left, and leaves it to the others."""
        self._flow._give(self, self.count)
        self._flow._offer()
