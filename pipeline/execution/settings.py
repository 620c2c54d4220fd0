"""Dask's settings: those that a run makes, and those that it goes by."""

import contextlib
from collections.abc import Iterator

from dask import config
from dask.utils import parse_timedelta
from distributed.config import defaults

from segpipe.pipeline.scenes.raster import WORKER_ENVIRONMENT

CONNECT = 10
"""Seconds to wait for a scheduler."""

_NO_WORKERS = 60.0
"""Seconds that a scheduler may be without workers, where Dask's configuration doesn't say."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Settings under which Dask neither chats nor gives up on a tile at the first death.

    Worker processes are started with GDAL's drivers for the network switched off.
    """
    environment = {
        f"distributed.nanny.environ.{name}": value for name, value in WORKER_ENVIRONMENT.items()
    }
    settings: dict[str, object] = environment | {
        "distributed.scheduler.allowed-failures": 3,
        "distributed.scheduler.worker-ttl": _unless_set("distributed.scheduler.worker-ttl", "60s"),
        "distributed.comm.timeouts.connect": f"{CONNECT}s",
        # Each connection keeps what it sent last, for debugging: tasks, thousands for each worker.
        "distributed.admin.low-level-log-length": _unless_set(
            "distributed.admin.low-level-log-length", 100
        ),
        # The resident's parcel is meant to be as large as it is.
        "distributed.admin.large-graph-warning-threshold": "1 TB",
        # It looks at every thread a hundred times a second, beside the network.
        "distributed.worker.profile.enabled": False,
    }
    with config.set(settings):
        yield


def connect_timeout() -> float:
    """Seconds to wait for a scheduler that isn't there yet."""
    return float(parse_timedelta(config.get("distributed.comm.timeouts.connect")))


def silence() -> float:
    """Seconds after which whoever doesn't answer counts as lost."""
    return float(parse_timedelta(config.get("distributed.comm.timeouts.tcp")))


def longest_unmanned() -> float:
    """Seconds that a scheduler may be without workers: a batch system's queue may take its time."""
    given = config.get("distributed.scheduler.no-workers-timeout", None)
    return _NO_WORKERS if given is None else float(parse_timedelta(given))


def _unless_set(name: str, ours: object) -> object:
    """Our value of a setting, or the user's where it isn't Dask's own."""
    theirs: object = config.get(name)
    return ours if theirs == config.get(name, config=defaults) else theirs
