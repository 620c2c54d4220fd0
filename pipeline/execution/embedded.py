"""A cluster that a run starts for itself, inside this machine."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import TypeVar

from dask import config
from distributed import Client, LocalCluster

from segpipe.pipeline.execution.cluster import Cluster, dashboard_of
from segpipe.pipeline.execution.local import local_cluster
from segpipe.pipeline.execution.parcel import settled, unique_name
from segpipe.pipeline.execution.residence import Residence
from segpipe.pipeline.execution.settings import quiet

Resident = TypeVar("Resident")

_LOOPBACK = "127.0.0.1"

_ARENAS = "distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX"
"""One heap for all threads of a worker: others can't hold what a network makes."""


@contextlib.contextmanager
def embedded(
    resident: Resident,
    *,
    digest: str = "",
    workers: int = 1,
    threads: int = 3,
    gpus: Sequence[str] = (),
    run: str = "",
) -> Iterator[Cluster[Resident]]:
    """A cluster inside this machine that listens on the loopback interface alone.

    One worker shares this process, so that the resident is neither copied nor pickled; several
    are processes of their own. Three threads read, predict and write side by side.

    Args:
        resident: what every worker process holds.
        digest: names it among all; by default nobody else's.
        workers: how many there are.
        threads: of each worker.
        gpus: the devices, as CUDA_VISIBLE_DEVICES names them; with some, each has a worker, that
            sees no other.
        run: how the names of tasks go on after `segpipe-`.
    """
    shared = workers == 1 and not gpus
    pages = str(config.get("distributed.dashboard.link")).replace("{host}", _LOOPBACK)
    with (
        quiet(),
        config.set({"distributed.dashboard.link": pages, _ARENAS: 1}),
        local_cluster(
            gpus,
            n_workers=workers,
            threads_per_worker=threads,
            processes=not shared,
            host=None if shared else _LOOPBACK,
            dashboard_address=f"{_LOOPBACK}:0",
            worker_dashboard_address=f"{_LOOPBACK}:0",
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
        _shared(client, cluster, resident) if shared else settled(client, resident, digest) as name,
    ):
        yield Cluster(client, name, run=run, dashboard=dashboard_of(client))


@contextlib.contextmanager
def _shared(client: Client, cluster: LocalCluster, resident: object) -> Iterator[str]:
    """The name of the resident in the one worker, which shares this process."""
    (worker,) = cluster.workers.values()
    name = unique_name()
    client.sync(worker.plugin_add, plugin=Residence(name, name, resident), name=name)
    yield name
