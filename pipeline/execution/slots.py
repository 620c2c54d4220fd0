"""How many tasks a cluster's workers can run at once, and so how many are kept in flight."""

import time
from functools import partial
from typing import Any

from distributed import Client

from segpipe.pipeline.execution.losses import within
from segpipe.pipeline.execution.settings import silence

GPU = "GPU"
"""The resource that workers with a device declare, `dask worker --resources GPU=1`."""

SHARE = 0.25
"""Of a GPU, for a tile: so many at once read, write, and take turns on the device. A power of two,
because Dask adds and subtracts it."""

_FRESH = 5.0
"""Seconds for which the number of slots is believed."""


class Room:
    """How many tasks may be in flight: workers come and go."""

    def __init__(self, client: Client, share: float) -> None:
        self._client = client
        self._share = share
        self._known = 0
        self._until = 0.0

    def limit(self) -> int:
        """Twice the slots keep every worker busy; more would only fill the scheduler."""
        now = time.monotonic()
        if now > self._until:
            slots = slots_of(self._client, self._share)
            self._known, self._until = 2 * max(slots, 1), now + _FRESH
        return self._known


def slots_of(client: Client, share: float) -> int:
    """How many tasks can run at once that take this share of a GPU, or none.

    Raises:
        CommClosedError, TimeoutError: the scheduler is gone, or doesn't answer.
    """
    return int(within(client, silence(), partial(_counted, client, share)))


async def _counted(client: Client, share: float) -> int:
    scheduler: Any = client.scheduler
    found = await scheduler.identity(n_workers=-1)
    return sum(
        min(worker["nthreads"], int(worker["resources"].get(GPU, 0) / share))
        if share
        else worker["nthreads"]
        for worker in found["workers"].values()
    )
