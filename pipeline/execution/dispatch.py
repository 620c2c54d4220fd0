"""The tasks of one stream of items: as many are in flight as there is room for, until all ended."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from distributed import Client

from segpipe.pipeline.execution.batches import at_hand, fetched, soon_finished
from segpipe.pipeline.execution.flow import Flow
from segpipe.pipeline.execution.losses import losses_reported
from segpipe.pipeline.execution.outcome import outcome_of
from segpipe.pipeline.execution.patience import Patience
from segpipe.pipeline.execution.pulse import Pulse
from segpipe.pipeline.execution.slots import Room

Item = TypeVar("Item")

_PART = 8
"""One task in so many of those in flight is fetched at once. No worker waits meanwhile: twice the
slots are in flight."""


class Dispatch(Generic[Item]):
    """Sends items as tasks, and gives what became of them; for one stream of items."""

    def __init__(
        self,
        client: Client,
        flow: Flow,
        share: float,
        send: Callable[[Sequence[Item]], Sequence[Any]],
        patience: Patience,
    ) -> None:
        """Nothing is sent yet; `send` gives the futures of the items that it is given."""
        self._client = client
        self._share = share
        self._send = send
        self._patience = patience
        self._running: dict[Any, Item] = {}
        self._finished: SimpleQueue[Any] = SimpleQueue()
        self._stream = flow.stream(partial(self._finished.put, None))
        self._room = Room(client, share)

    def outcomes(self, items: Iterable[Item]) -> Iterator[Any]:
        """What each task gave, or `Failed`, in the order in which they end.

        Raises:
            ClusterError: the scheduler or all workers were lost.
            StoppedError: the time is over; what is in flight is left.
        """
        source = iter(items)
        with losses_reported(self._client), contextlib.closing(self._stream):
            self._submit(source)
            pulse = Pulse(self._client, self._share)
            while self._running:
                yield from self._ended(pulse)
                self._submit(source)

    def _submit(self, source: Iterator[Item]) -> None:
        """Sends what there is room for, and leaves the rest of the room to other streams."""
        while free := self._stream.take(self._room.limit()):
            batch = at_hand(source, free)
            self._stream.give(free - len(batch))
            if not batch:
                break
            for future, item in zip(self._send(batch), batch, strict=True):
                self._running[future] = item
                future.add_done_callback(self._finished.put)
        self._stream.offer()

    def _ended(self, pulse: Pulse) -> Iterator[Any]:
        """What became of the next tasks that end; nothing where there is only room for more."""
        most = self._room.limit() // _PART
        first = pulse.next(self._finished, self._patience)
        others = soon_finished(self._finished, most - 1)
        # None says that other streams have left room.
        ended = [future for future in (first, *others) if future is not None]
        results = fetched(self._client, ended)
        for future in ended:
            item = self._running[future]
            try:
                outcome = outcome_of(self._client, future, item, self._patience, results)
            except TimeoutError:
                # The worker that has the result doesn't give it; it will be made again.
                pulse.feel()
                future.add_done_callback(self._finished.put)
                continue
            del self._running[future]
            self._stream.give()
            yield outcome
