"""How a resident comes to all workers of a cluster: once to the scheduler, then from each other."""

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any, cast

from distributed import Client
from distributed.protocol.pickle import dumps
from tornado.ioloop import PeriodicCallback

from segpipe.pipeline.execution.losses import BEAT, LOST, within
from segpipe.pipeline.execution.residence import Residence

_INSIST = 1000
"""Milliseconds after which a client looks whether its resident was given up."""


def unique_name() -> str:
    """What a resident is called on its cluster: two clients may drive the same run."""
    return f"segpipe-{uuid.uuid4().hex[:12]}"


@contextlib.contextmanager
def settled(client: Client, resident: object, digest: str) -> Iterator[str]:
    """The name of the resident, in every worker, those that come later too, while the block runs.

    It goes to the scheduler once, as a parcel that Dask keeps while a client wants it, and to the
    workers from each other.
    """
    name = unique_name()
    parcel = f"segpipe-parcel-{digest or name}"
    # Nobody can do anything without it: it goes before everything else.
    sent = client.submit(_unchanged, dumps(resident), key=parcel, priority=1)
    client.register_plugin(Residence(name, parcel), name=name)

    async def insist() -> None:
        # Dask gives up what workers had that died, guilty or not.
        if sent.status == "error":
            with contextlib.suppress(*LOST, OSError):
                await client.retry([sent], asynchronous=True)

    watch, loop = PeriodicCallback(insist, _INSIST), cast(Any, client.loop)
    loop.add_callback(watch.start)
    try:
        yield name
    finally:
        loop.add_callback(watch.stop)
        if client.status == "running":
            with contextlib.suppress(*LOST, OSError):
                within(client, BEAT, lambda: client.unregister_worker_plugin(name))
                sent.release()


def _unchanged(parcel: bytes) -> bytes:
    return parcel
