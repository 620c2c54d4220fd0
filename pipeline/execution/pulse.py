"""Whether there is still someone to wait for: a scheduler that answers, and workers."""

import time
from queue import Empty, SimpleQueue
from typing import TypeVar

from distributed import Client

from segpipe.pipeline.errors import ClusterError
from segpipe.pipeline.execution.losses import BEAT, address_of
from segpipe.pipeline.execution.patience import Patience
from segpipe.pipeline.execution.settings import longest_unmanned, silence
from segpipe.pipeline.execution.slots import slots_of

Item = TypeVar("Item")


class Pulse:
    """Waits for tasks, and feels the scheduler's pulse when none is finished for a while."""

    def __init__(self, client: Client, share: float) -> None:
        self._client = client
        self._share = share
        self._manned = time.monotonic()

    def next(self, finished: SimpleQueue[Item], patience: Patience) -> Item:
        """The next task that is finished.

        Raises:
            ClusterError: there have been no workers for too long.
            CommClosedError, TimeoutError: the scheduler is gone, or doesn't answer.
            StoppedError: the time is over.
        """
        while True:
            left = patience.left()
            try:
                return finished.get(timeout=min(left, BEAT, silence()))
            except Empty:
                self.feel()

    def feel(self) -> None:
        """Asks the scheduler for its workers; raises as `next` does."""
        if slots_of(self._client, self._share):
            self._manned = time.monotonic()
            return
        limit = longest_unmanned()
        if time.monotonic() - self._manned > limit:
            lacking = "workers with a GPU" if self._share else "workers"
            raise ClusterError(
                f"the Dask scheduler at {address_of(self._client)} has had no {lacking} for "
                f"{limit:g} s; what is finished is safe: start some, and type the same command "
                "again"
            )
