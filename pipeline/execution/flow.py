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

    def _take(self, stream: "Stream", limit: int) -> int:
        with self._lock:
            self._limit = limit
            room = max(limit - self._count, 0 if stream.count else 1)
            if not room and stream not in self._hungry:
                self._hungry.append(stream)
            stream.count += room
            self._count += room
            self._peak = max(self._peak, self._count)
            return room

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

    def take(self, limit: int) -> int:
        """How many more tasks may start now, where `limit` may be in flight over all streams."""
        return self._flow._take(self, limit)

    def give(self, count: int = 1) -> None:
        """Says that so many tasks have ended, or didn't start."""
        self._flow._give(self, count)

    def offer(self) -> None:
        """Leaves what room there is to the others."""
        self._flow._offer()

    def close(self) -> None:
        """Gives back what is left, and leaves it to the others."""
        self._flow._give(self, self.count)
        self._flow._offer()
