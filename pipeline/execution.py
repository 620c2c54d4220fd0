"""Where the work is done: in this process, on a cluster inside it, or on one that exists.

The only module that knows `distributed`. A runner holds one *resident* in every worker process
(whatever must be loaded once, such as a network) and calls functions with it. Tasks carry small
values to the workers and bring small values back; pixels never travel.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast, runtime_checkable

from dask import config
from distributed import Client, LocalCluster, Worker, WorkerPlugin, as_completed, get_worker
from distributed.client import FutureCancelledError
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker
from distributed.security import Security

from segpipe.pipeline.errors import ClusterError, TilesFailedError
from segpipe.pipeline.scenes.raster import WORKER_ENVIRONMENT
from segpipe.pipeline.versions import differences, installed

Resident = TypeVar("Resident")
Held = TypeVar("Held", covariant=True)
Item = TypeVar("Item")
Result = TypeVar("Result")

_LOOPBACK = "127.0.0.1"
_PATIENCE = 10
"""Seconds to wait for a scheduler or for its first worker."""

_LOST = (CommClosedError, FutureCancelledError, asyncio.CancelledError, TimeoutError)


@runtime_checkable
class Named(Protocol):
    """An item by whose name its task is found on Dask's dashboard."""

    @property
    def name(self) -> str:
        """Its place among the others."""
        ...


class Runner(Protocol[Held]):
    """Calls functions with the resident of a worker process."""

    @property
    def dashboard(self) -> str | None:
        """The address of Dask's dashboard, where there is one."""
        ...

    def call(self, function: Callable[[Held], Result]) -> Result:
        """What the function gives on one worker."""
        ...

    def map(
        self, function: Callable[[Held, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """What the function gives for each item, in the order in which they are finished."""
        ...


@dataclass(frozen=True, slots=True)
class Serial(Generic[Resident]):
    """One item after another in this thread: the oracle of the others."""

    resident: Resident

    @property
    def dashboard(self) -> str | None:
        """None."""
        return None

    def call(self, function: Callable[[Resident], Result]) -> Result:
        """What the function gives."""
        return function(self.resident)

    def map(
        self, function: Callable[[Resident, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """What the function gives for each item, in their order."""
        return (function(self.resident, item) for item in items)


class _Residence(WorkerPlugin):
    """Keeps the resident in a worker process that has the versions of the process it came from."""

    def __init__(self, name: str, resident: object) -> None:
        self.name = name
        self.resident = resident
        self.skew = ""
        self._versions = installed()

    def setup(self, worker: Worker) -> None:
        """Compares the versions: a worker may join when the run has long begun."""
        self.skew = differences(self._versions, installed())


@dataclass(frozen=True, slots=True)
class Cluster(Generic[Resident]):
    """Runs tasks on a Dask cluster whose workers all hold the resident called `name`."""

    client: Client
    name: str

    @property
    def dashboard(self) -> str | None:
        """The address of the scheduler's pages."""
        return self.client.dashboard_link or None

    @property
    def slots(self) -> int:
        """How many tasks can run at once."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return sum(worker["nthreads"] for worker in workers)

    def call(self, function: Callable[[Resident], Result]) -> Result:
        """What the function gives on one worker."""
        return next(self.map(_ignore_item(function), [None]))

    def map(
        self, function: Callable[[Resident, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """What the function gives for each item, in the order in which they are finished.

        Raises:
            ClusterError: the scheduler was lost.
            TilesFailedError: an item killed its worker each time it was tried, alone at last.
        """
        suspects: list[Item] = []
        yield from self._pass(function, items, suspects)
        # A worker that dies takes innocent tasks with it: each suspect gets a chance alone.
        guilty: list[Item] = []
        for suspect in suspects:
            yield from self._pass(function, [suspect], guilty)
        if guilty:
            raise TilesFailedError(
                f"{len(guilty)} tiles killed every worker that tried them, the first is "
                f"{guilty[0]}; give the workers more memory, or a smaller --tile"
            )

    def _pass(
        self,
        function: Callable[[Resident, Item], Result],
        items: Iterable[Item],
        killers: list[Item],
    ) -> Iterator[Result]:
        source = iter(items)
        started = finished = 0
        running: dict[Any, Item] = {}
        with _losses_reported():
            # Twice the slots keeps every worker busy; more would only fill the scheduler.
            completed = as_completed(loop=self.client.loop)
            for item in itertools.islice(source, 2 * max(self.slots, 1)):
                completed.add(self._submit(function, item, running))
                started += 1
            for future in completed:
                finished += 1
                item = running.pop(future)
                for following in itertools.islice(source, 1):
                    completed.add(self._submit(function, following, running))
                    started += 1
                try:
                    result = future.result()
                except KilledWorker:
                    killers.append(item)
                else:
                    yield result
            # When a scheduler dies, as_completed ends as if all were done.
            if finished < started or self.client.status != "running":
                raise CommClosedError("the scheduler is gone")

    def _submit(
        self,
        function: Callable[[Resident, Item], Result],
        item: Item,
        running: dict[Any, Item],
    ) -> Any:
        place = item.name if isinstance(item, Named) else "call"
        key = f"{self.name}-{place}-{uuid.uuid4().hex[:8]}"
        future = self.client.submit(_on_worker, self.name, function, item, key=key)
        running[future] = item
        return future


@contextlib.contextmanager
def embedded(
    resident: Resident, *, workers: int = 1, threads: int = 3, run: str = ""
) -> Iterator[Cluster[Resident]]:
    """A cluster inside this machine that listens on the loopback interface alone.

    One worker shares this process, so that the resident is neither copied nor pickled; several
    are processes of their own. Three threads read, predict and write side by side. The names of
    tasks begin with `segpipe-` and `run`.
    """
    shared = workers == 1
    pages = str(config.get("distributed.dashboard.link")).replace("{host}", _LOOPBACK)
    with (
        _quiet(),
        config.set({"distributed.dashboard.link": pages}),
        LocalCluster(
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
    ):
        name = _unique(run)
        if shared:
            (worker,) = cluster.workers.values()
            client.sync(worker.plugin_add, plugin=_Residence(name, resident), name=name)
            yield Cluster(client, name)
        else:
            with _settled(client, name, resident):
                yield Cluster(client, name)


@contextlib.contextmanager
def existing(
    resident: Resident,
    *,
    scheduler: str | None = None,
    scheduler_file: str | None = None,
    run: str = "",
) -> Iterator[Cluster[Resident]]:
    """A cluster that somebody else started, found by its address or its scheduler file.

    The names of tasks begin with `segpipe-` and `run`.

    Raises:
        ClusterError: there is no scheduler, or it has no workers.
    """
    place = scheduler or scheduler_file or ""
    with _quiet(), contextlib.ExitStack() as stack:
        try:
            address = scheduler or _address(Path(place))
            _require_certificates(address)
            client = stack.enter_context(Client(address, timeout=_PATIENCE, set_as_default=False))
        except (OSError, TimeoutError, ValueError) as error:
            raise ClusterError(
                f"no Dask scheduler answers at {place} ({_short(error)}); start one with "
                "`dask scheduler`, or leave the option out to run on this machine"
            ) from error
        try:
            client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError as error:
            raise ClusterError(
                f"the Dask scheduler at {place} has no workers; start some with "
                f"`dask worker {place}`"
            ) from error
        name = _unique(run)
        try:
            with _losses_reported():
                _require_one_version(client)
                stack.enter_context(_settled(client, name, resident))
        except ImportError as error:
            raise ClusterError(
                f"the workers of {place} can't load segpipe ({_short(error)}); install the same "
                "version of segpipe there"
            ) from error
        yield Cluster(client, name)


def configured() -> str | None:
    """The address of the scheduler that Dask's configuration or environment names."""
    address: str | None = config.get("scheduler-address", None)
    return address or None


def _require_certificates(address: str) -> None:
    """Passes if Dask's settings have what this address takes; a `Client` would hang without.

    Raises:
        ClusterError: there are no certificates, or they can't be read, or encryption is required.
    """
    security = Security()
    try:
        has_certificates = security.get_connection_args("client")["ssl_context"] is not None
    except OSError as error:
        raise ClusterError(
            f"the certificates that Dask's configuration names can't be read ({_short(error)}); "
            "see distributed.comm.tls there"
        ) from error
    encrypted = address.startswith(("tls://", "wss://"))
    if encrypted and not has_certificates:
        raise ClusterError(
            f"the Dask scheduler at {address} takes certificates, and Dask's configuration has "
            "none; set ca-file, client.cert and client.key under distributed.comm.tls"
        )
    if security.require_encryption and not encrypted:
        raise ClusterError(
            f"Dask's configuration requires encryption, and {address} has none; start the "
            "scheduler with `--protocol tls`"
        )


def _unique(run: str) -> str:
    """What a resident is called on its cluster: two clients may drive the same run."""
    return "-".join(["segpipe", *filter(None, [run]), uuid.uuid4().hex[:12]])


def _address(scheduler_file: Path) -> str:
    """The address that a scheduler wrote, or is about to write.

    `Client` itself would wait for the file for ever.

    Raises:
        OSError: there is no file.
        ValueError: it has no address.
    """
    deadline = time.monotonic() + _PATIENCE
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


def _on_worker(name: str, function: Callable[[Resident, Item], Result], item: Item) -> Result:
    worker = get_worker()
    residence = worker.plugins[name]
    resident: Resident = residence.resident  # type: ignore[attr-defined]
    if skew := residence.skew:  # type: ignore[attr-defined]
        raise _skewed(f"the worker {worker.address}", skew)
    try:
        return function(resident, item)
    except BaseException as error:
        # Dask pickles causes too, and what can't be pickled (GDAL's errors) would arrive as a
        # bare `Exception`.
        error.__cause__ = error.__context__ = None
        raise


def _ignore_item(
    function: Callable[[Resident], Result],
) -> Callable[[Resident, None], Result]:
    return _WithoutItem(function)


@dataclass(frozen=True, slots=True)
class _WithoutItem(Generic[Resident, Result]):
    function: Callable[[Resident], Result]

    def __call__(self, resident: Resident, item: None) -> Result:
        return self.function(resident)


def _require_one_version(client: Client) -> None:
    """Passes if scheduler and workers have the versions of this process.

    Raises:
        ClusterError: one of them differs.
        ImportError: a worker has no segpipe.
    """
    here = installed()
    # A scheduler needs no segpipe; Dask tells its versions.
    scheduler = cast(Mapping[str, Any], client.get_versions())["scheduler"]
    packages = {
        "python": ".".join(scheduler["host"]["python"].split(".")[:2]),
        **{name: scheduler["packages"][name] for name in ("dask", "distributed")},
    }
    found = {"the scheduler": packages}
    for address, versions in sorted(client.run(installed).items()):
        found[f"the worker {address}"] = versions
    for who, versions in found.items():
        if skew := differences(here, versions):
            raise _skewed(who, skew)


def _skewed(who: str, skew: str) -> ClusterError:
    return ClusterError(
        f"{who} has {skew}; install the versions of the machine that starts the run there, or run "
        "from one that has the cluster's"
    )


@contextlib.contextmanager
def _settled(client: Client, name: str, resident: object) -> Iterator[None]:
    """The resident in every worker, those that come later too, while the block runs."""
    client.register_plugin(_Residence(name, resident), name=name)
    try:
        yield
    finally:
        if client.status == "running":
            with contextlib.suppress(*_LOST, OSError):
                client.unregister_worker_plugin(name)


@contextlib.contextmanager
def _losses_reported() -> Iterator[None]:
    try:
        yield
    except _LOST as error:
        raise ClusterError(
            f"the Dask scheduler was lost ({_short(error)}); what is finished is safe"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Settings under which Dask neither chats nor gives up on a tile at the first death.

    Worker processes are started with GDAL's drivers for the network switched off.
    """
    environment = {
        f"distributed.nanny.environ.{name}": value for name, value in WORKER_ENVIRONMENT.items()
    }
    settings: dict[str, object] = environment | {
        "distributed.scheduler.allowed-failures": 3,
        "distributed.scheduler.worker-ttl": "60s",
        "distributed.comm.timeouts.connect": f"{_PATIENCE}s",
        # It looks at every thread a hundred times a second, beside the network.
        "distributed.worker.profile.enabled": False,
    }
    with config.set(settings):
        yield


def _short(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
