"""A resident in a worker process: fetched once, and let go when nobody wants it any more."""

import asyncio
import contextlib
import pickle
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, TypeVar, cast

from distributed import Worker, WorkerPlugin, rejoin, secede
from distributed.utils_comm import gather_from_workers
from tornado.ioloop import PeriodicCallback

from segpipe.pipeline.errors import ClusterError
from segpipe.pipeline.execution.losses import LOST
from segpipe.pipeline.execution.patience import Deadlines
from segpipe.pipeline.execution.settings import silence
from segpipe.pipeline.versions import differences, installed

Result = TypeVar("Result")

_LOOK = 60_000
"""Milliseconds after which a worker looks whether anyone wants its resident still."""


class Residence(WorkerPlugin):
    """Keeps the resident in a worker process that has the versions of the process it came from.

    It comes without the resident. The first task fetches that from the worker that has the parcel,
    unless another client's residence here has unpacked the same one.
    """

    def __init__(
        self, name: str, parcel: str, held: object = None, versions: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.parcel = parcel
        self.held = held
        self.skew = ""
        self.deadlines = Deadlines()
        self._lock = threading.Lock()
        self._versions = installed() if versions is None else versions

    def __reduce__(self) -> tuple[Any, ...]:
        return Residence, (self.name, self.parcel, None, self._versions)

    def setup(self, worker: Worker) -> None:
        """Compares the versions: a worker may join when the run has long begun."""
        self.skew = differences(self._versions, installed())
        self._worker = worker
        self._watch = PeriodicCallback(self.look, _LOOK)
        if self.held is None:
            self._watch.start()

    def teardown(self, worker: Worker) -> None:
        """Lets go of the resident."""
        self._watch.stop()
        self.held = None

    def resident(self) -> object:
        """The resident; it is fetched when it is first asked for."""
        if self.held is None:
            with _thread_left(), self._lock:
                self.held = self.held or self._beside() or self._unpacked()
        return self.held

    def _beside(self) -> object:
        """The same resident for another run in this process, if there is one."""
        for plugin in self._worker.plugins.values():
            if isinstance(plugin, Residence) and plugin.parcel == self.parcel and plugin.held:
                return plugin.held
        return None

    def _unpacked(self) -> object:
        return pickle.loads(self._run(self._awaited()))

    def _run(self, reading: Coroutine[Any, Any, Result]) -> Result:
        loop = self._worker.loop.asyncio_loop  # type: ignore[attr-defined]
        return asyncio.run_coroutine_threadsafe(reading, loop).result()

    async def _awaited(self) -> bytes:
        """The packed resident, as soon as somebody has it.

        Raises:
            ClusterError: nobody has it for too long.
        """
        until = time.monotonic() + silence()
        while time.monotonic() < until:
            if packed := await self._packed():
                return packed
            await asyncio.sleep(0.05)
        raise ClusterError(
            f"the worker {self._worker.address} finds nobody who has the model; type the same "
            "command again"
        )

    async def _packed(self) -> bytes | None:
        """The packed resident, from a worker that has it; None where nobody has."""
        holders = await self._worker.scheduler.who_has(keys=[self.parcel])
        if holders[self.parcel]:
            found, *_ = await gather_from_workers(holders, self._worker.rpc)
            if self.parcel in found:
                return cast(bytes, found[self.parcel])
        return None

    async def look(self) -> None:
        """Lets go of a resident whose clients are all gone, however they ended."""
        with contextlib.suppress(*LOST, OSError):
            holders = await self._worker.scheduler.who_has(keys=[self.parcel])
            if not holders[self.parcel]:
                self.held = None


@contextlib.contextmanager
def _thread_left() -> Iterator[None]:
    """Leaves this task's place to another while the block waits for a resident.

    One that went with its worker is made again by a task, perhaps here: there must be room.
    """
    secede()
    try:
        yield
    finally:
        rejoin()
