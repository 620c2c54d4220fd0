"""How a scheduler that is gone, or silent, is noticed, and how that is said."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from distributed import Client
from distributed.client import ClosedClientError, FutureCancelledError
from distributed.comm.core import CommClosedError

from segpipe.pipeline.errors import ClusterError

BEAT = 5.0
"""Seconds of silence after which the scheduler is asked whether it is there."""

LOST = (
    CommClosedError,
    ClosedClientError,
    FutureCancelledError,
    asyncio.CancelledError,
    TimeoutError,
)


@contextlib.contextmanager
def losses_reported(client: Client) -> Iterator[None]:
    """The loss of the scheduler, in one line.

    Raises:
        ClusterError: it was lost while the block ran.
    """
    address = address_of(client)
    try:
        yield
    except LOST as error:
        raise ClusterError(
            f"the Dask scheduler at {address} was lost ({brief(error)}); what is finished is "
            "safe: the same command goes on there when there is a scheduler again"
        ) from error


@contextlib.contextmanager
def of_the_network() -> Iterator[None]:
    """Errors of connections told from those of disks, which are of the same class."""
    try:
        yield
    except TimeoutError:
        raise
    except OSError as error:
        raise CommClosedError(brief(error)) from error


def within(client: Client, seconds: float, call: Callable[[], Awaitable[Any]]) -> Any:
    """What a coroutine of the client gives.

    Raises:
        TimeoutError: not in time.
        CommClosedError: there is no connection, and none can be made.
    """
    if client.status != "running":
        raise CommClosedError("the connection is closed")

    async def bounded() -> Any:
        return await asyncio.wait_for(call(), seconds)

    with of_the_network():
        return client.sync(bounded)


def address_of(client: Client) -> str:
    """Where its scheduler is, or was."""
    return str(getattr(client.scheduler, "address", "an unknown address"))


def brief(error: BaseException) -> str:
    """What it says, in one line."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]
