"""A cluster that somebody else started: how it is found, and what it must have."""

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from dask import config
from distributed import Client
from distributed.utils import silence_logging_cmgr

from segpipe.pipeline.errors import ClusterError
from segpipe.pipeline.execution.certificates import require_certificates
from segpipe.pipeline.execution.cluster import Cluster, dashboard_of
from segpipe.pipeline.execution.losses import brief, losses_reported, of_the_network
from segpipe.pipeline.execution.parcel import settled
from segpipe.pipeline.execution.settings import connect_timeout, longest_unmanned, quiet
from segpipe.pipeline.execution.skew import require_one_version

Resident = TypeVar("Resident")


@contextlib.contextmanager
def existing(
    resident: Resident,
    *,
    scheduler: str | None = None,
    scheduler_file: str | None = None,
    digest: str = "",
    run: str = "",
) -> Iterator[Cluster[Resident]]:
    """A cluster that somebody else started, found by its address or its scheduler file.

    Args:
        resident: what every worker process holds.
        scheduler: the address.
        scheduler_file: or the file.
        digest: names the resident among all; by default nobody else's.
        run: how the names of tasks go on after `segpipe-`.

    Raises:
        ClusterError: there is no scheduler, or it has no workers, or they have other versions.
    """
    place = scheduler or scheduler_file or ""
    with quiet(), silence_logging_cmgr(logging.CRITICAL), contextlib.ExitStack() as stack:
        client = stack.enter_context(_connected(scheduler, place))
        _await_workers(client, place)
        try:
            with losses_reported(client), of_the_network():
                require_one_version(client)
                name = stack.enter_context(settled(client, resident, digest))
        except ImportError as error:
            raise ClusterError(
                f"the scheduler or a worker of {place} can't load segpipe ({brief(error)}); "
                "install the same version of segpipe there"
            ) from error
        yield Cluster(client, name, run=run, dashboard=dashboard_of(client))


def configured() -> str | None:
    """The address of the scheduler that Dask's configuration or environment names."""
    address: str | None = config.get("scheduler-address", None)
    return address or None


def address_in(scheduler_file: Path) -> str:
    """The address that a scheduler wrote, or is about to write.

    `Client` itself would wait for the file for ever.

    Raises:
        OSError: there is no file.
        ValueError: it has no address.
    """
    deadline = time.monotonic() + connect_timeout()
    while True:
        try:
            match json.loads(scheduler_file.read_bytes()):
                case {"address": str(address)}:
                    return address
            raise ValueError("the file has no address")
        except (FileNotFoundError, ValueError):
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def _connected(scheduler: str | None, place: str) -> Client:
    """A client of the scheduler at this address, or of the one whose file `place` is.

    Raises:
        ClusterError: there is none.
    """
    try:
        address = scheduler or address_in(Path(place))
        require_certificates(address)
        return Client(address, timeout=connect_timeout(), set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {place} ({brief(error)}); start one with "
            "`dask scheduler`, or run on this machine, with --workers 1 in place of it"
        ) from error


def _await_workers(client: Client, place: str) -> None:
    """Waits for a worker.

    Raises:
        ClusterError: none comes, or the scheduler is lost meanwhile.
    """
    with losses_reported(client), of_the_network():
        try:
            client.wait_for_workers(1, timeout=longest_unmanned())
        except TimeoutError as error:
            raise ClusterError(
                f"the Dask scheduler at {place} has no workers; start some with "
                f"`dask worker {place}`"
            ) from error
