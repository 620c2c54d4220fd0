"""Where the work is done: in this process, on a cluster inside it, or on one that exists.

The only module that knows `distributed`. A runner holds one *resident* in every worker process
(whatever must be loaded once, such as a network) and calls functions with it. Tasks carry small
values to the workers and bring small values back; pixels never travel. Several runs may use one
runner at a time, each in a thread of its own.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import pickle
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar, cast, runtime_checkable

from dask import config
from dask.utils import parse_timedelta
from distributed import (
    Client,
    LocalCluster,
    Worker,
    WorkerPlugin,
    get_worker,
    rejoin,
    secede,
)
from distributed.client import ClosedClientError, FutureCancelledError
from distributed.comm.core import CommClosedError
from distributed.config import defaults
from distributed.protocol.pickle import dumps
from distributed.scheduler import KilledWorker
from distributed.security import Security
from distributed.utils import silence_logging_cmgr
from distributed.utils_comm import gather_from_workers
from tornado.ioloop import PeriodicCallback

from segpipe.pipeline.errors import (
    ClusterError,
    OverdueError,
    StoppedError,
    TilesFailedError,
    WorkerDiedError,
)
from segpipe.pipeline.flow import Flow
from segpipe.pipeline.patience import STRICT, Deadlines, Failed, Patience, again_alone
from segpipe.pipeline.scenes.raster import WORKER_ENVIRONMENT
from segpipe.pipeline.versions import differences, installed

Resident = TypeVar("Resident")
Held = TypeVar("Held", covariant=True)
Item = TypeVar("Item")
Result = TypeVar("Result")

_LOOPBACK = "127.0.0.1"
_PATIENCE = 10
"""Seconds to wait for a scheduler."""

_BEAT = 5.0
"""Seconds of silence after which the scheduler is asked whether it is there."""

_NO_WORKERS = 60.0
"""Seconds that a scheduler may be without workers, where Dask's configuration doesn't say."""

_ARENAS = "distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX"
"""One heap for all threads of a worker: others can't hold what a network makes."""

_GPU = "GPU"
"""The resource that workers with a device declare, `dask worker --resources GPU=1`."""

_SHARE = 0.25
"""Of a GPU, for a tile: so many at once read, write, and take turns on the device. A power of two,
because Dask adds and subtracts it."""

_LOOK = 60_000
"""Milliseconds after which a worker looks whether anyone wants its resident still."""

_INSIST = 1000
"""Milliseconds after which a client looks whether its resident was given up."""

_FRESH = 5.0
"""Seconds for which the number of slots is believed."""

_MOMENT = 0.05
"""Seconds for which tasks are put together that are sent, or fetched, at once."""

_PART = 8
"""One task in so many of those in flight is fetched at once. No worker waits meanwhile: twice the
slots are in flight."""

_LOST = (
    CommClosedError,
    ClosedClientError,
    FutureCancelledError,
    asyncio.CancelledError,
    TimeoutError,
)


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

    def on(self, device: str) -> "Runner[Held]":
        """Only the workers that have this kind of device: `auto`, `cpu`, `cuda` or `cuda:N`."""
        ...

    def of_run(self, run: str, rank: int) -> "Runner[Held]":
        """The same workers, for a run whose tasks come after those of runs of lower rank."""
        ...

    def call(self, function: Callable[[Held], Result]) -> Result:
        """What the function gives on one worker."""
        ...

    def everywhere(self, function: Callable[[], Result]) -> Mapping[str, Result]:
        """What the function gives in every worker process, by the worker's address."""
        ...

    def map(
        self, function: Callable[[Held, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """What the function gives for each item, in the order in which they are finished."""
        ...

    def attempt(
        self,
        function: Callable[[Held, Item], Result],
        items: Iterable[Item],
        patience: Patience,
    ) -> Iterator[Result | Failed[Item]]:
        """Likewise; an item that failed alone too comes as `Failed`."""
        ...


@dataclass(frozen=True, slots=True)
class Serial(Generic[Resident]):
    """One item after another in this thread: the oracle of the others."""

    resident: Resident
    deadlines: Deadlines = field(default_factory=Deadlines, compare=False, repr=False)

    @property
    def dashboard(self) -> str | None:
        """None."""
        return None

    def on(self, device: str) -> "Serial[Resident]":
        """The same: there is one process."""
        return self

    def of_run(self, run: str, rank: int) -> "Serial[Resident]":
        """The same."""
        return self

    def call(self, function: Callable[[Resident], Result]) -> Result:
        """What the function gives."""
        return function(self.resident)

    def everywhere(self, function: Callable[[], Result]) -> Mapping[str, Result]:
        """What the function gives here."""
        return {"this process": function()}

    def map(
        self, function: Callable[[Resident, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """What the function gives for each item, in their order."""
        return (function(self.resident, item) for item in items)

    def attempt(
        self,
        function: Callable[[Resident, Item], Result],
        items: Iterable[Item],
        patience: Patience,
    ) -> Iterator[Result | Failed[Item]]:
        """What the function gives for each item, in their order, then for those tried again.

        Raises:
            StoppedError: the time is over; an item that was begun is finished first.
        """
        return again_alone(partial(self._pass, function, patience), items)

    def _pass(
        self,
        function: Callable[[Resident, Item], Result],
        patience: Patience,
        items: Iterable[Item],
    ) -> Iterator[Result | Failed[Item]]:
        for item in items:
            _require_time(patience)
            try:
                yield self.deadlines.call(patience.deadline, partial(function, self.resident, item))
            except OverdueError as error:
                yield Failed(item, error)
            except patience.forgiven as error:
                yield Failed(item, error)


class _Residence(WorkerPlugin):
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
        return _Residence, (self.name, self.parcel, None, self._versions)

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
                self.held = self.held or self._beside() or self._fetched()
        return self.held

    def _beside(self) -> object:
        """The same resident for another run in this process, if there is one."""
        for plugin in self._worker.plugins.values():
            if isinstance(plugin, _Residence) and plugin.parcel == self.parcel and plugin.held:
                return plugin.held
        return None

    def _fetched(self) -> object:
        return pickle.loads(self._run(self._awaited()))

    def _run(self, reading: Coroutine[Any, Any, Result]) -> Result:
        loop = self._worker.loop.asyncio_loop  # type: ignore[attr-defined]
        return asyncio.run_coroutine_threadsafe(reading, loop).result()

    async def _parcel(self) -> bytes | None:
        """The packed resident, from a worker that has it; None where nobody has."""
        holders = await self._worker.scheduler.who_has(keys=[self.parcel])
        if holders[self.parcel]:
            found, *_ = await gather_from_workers(holders, self._worker.rpc)
            if self.parcel in found:
                return cast(bytes, found[self.parcel])
        return None

    async def _awaited(self) -> bytes:
        """The packed resident, as soon as somebody has it.

        Raises:
            ClusterError: nobody has it for too long.
        """
        until = time.monotonic() + _silence()
        while time.monotonic() < until:
            if packed := await self._parcel():
                return packed
            await asyncio.sleep(0.05)
        raise ClusterError(
            f"the worker {self._worker.address} finds nobody who has the model; type the same "
            "command again"
        )

    async def look(self) -> None:
        """Lets go of a resident whose clients are all gone, however they ended."""
        with contextlib.suppress(*_LOST, OSError):
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


@dataclass(frozen=True, slots=True)
class Cluster(Generic[Resident]):
    """Runs tasks on a Dask cluster whose workers all hold the resident called `name`.

    Attributes:
        client: its own connection, which threads share.
        name: of the resident.
        flow: one limit for the tasks in flight of all runs.
        run: how the names of tasks go on after `segpipe-`.
        rank: tasks of lower rank come first.
        share: of a GPU, for each task; 0 where any worker will do.
        dashboard: the address of the scheduler's pages; Dask asks the scheduler for it every time.
    """

    client: Client
    name: str
    flow: Flow = field(default_factory=Flow, compare=False, repr=False)
    run: str = ""
    rank: int = 0
    share: float = 0.0
    dashboard: str | None = None

    @property
    def slots(self) -> int:
        """How many tasks can run at once."""
        found = _within(self.client, _silence(), partial(_slots, self.client, self.share))
        return int(found)

    def on(self, device: str) -> "Cluster[Resident]":
        """Only the workers that declare a GPU, where there are such and one is wanted.

        Each takes a few tasks at a time, which take turns on the device; what other programs ask of
        it with `GPU=1` waits for them, and they for it.
        """
        if device == "cpu":
            return replace(self, share=0.0)
        with _losses_reported(self.client):
            declared = _within(self.client, _silence(), partial(_slots, self.client, _SHARE))
        return replace(self, share=_SHARE if declared else 0.0)

    def of_run(self, run: str, rank: int) -> "Cluster[Resident]":
        """The same workers, for a run whose tasks come after those of runs of lower rank."""
        return replace(self, run=run, rank=rank)

    def call(self, function: Callable[[Resident], Result]) -> Result:
        """What the function gives on one worker."""
        return next(self.map(_ignore_item(function), [None]))

    def everywhere(self, function: Callable[[], Result]) -> Mapping[str, Result]:
        """What the function gives in every worker process that there is now, however busy it is.

        A worker where it raises, or that dies meanwhile, is left out.

        Raises:
            ClusterError: the scheduler was lost, or a worker is silent.
        """

        def ask() -> Awaitable[Any]:
            answers = self.client.run(function, on_error="ignore")
            return cast(Awaitable[Any], answers)

        with _losses_reported(self.client):
            found: Mapping[str, Result] = _within(self.client, _silence(), ask)
        return found

    def map(
        self, function: Callable[[Resident, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """What the function gives for each item, in the order in which they are finished.

        Raises:
            ClusterError: the scheduler or all workers were lost.
            TilesFailedError: an item killed its worker each time it was tried, alone at last.
        """
        guilty: list[Item] = []
        for outcome in self.attempt(function, items, STRICT):
            if isinstance(outcome, Failed):
                guilty.append(outcome.item)
            else:
                yield outcome
        if guilty:
            raise TilesFailedError(
                f"{len(guilty)} tiles killed every worker that tried them, the first is "
                f"{guilty[0]}; give the workers more memory, or a smaller --tile"
            )

    def attempt(
        self,
        function: Callable[[Resident, Item], Result],
        items: Iterable[Item],
        patience: Patience,
    ) -> Iterator[Result | Failed[Item]]:
        """What the function gives for each item, or `Failed` where it failed alone too.

        Raises:
            ClusterError: the scheduler or all workers were lost.
            StoppedError: the time is over; what is in flight is left.
        """
        return again_alone(partial(self._pass, function, patience), items)

    def _pass(
        self,
        function: Callable[[Resident, Item], Result],
        patience: Patience,
        items: Iterable[Item],
    ) -> Iterator[Result | Failed[Item]]:
        source = iter(items)
        finished: SimpleQueue[Any] = SimpleQueue()
        running: dict[Any, Item] = {}
        room = _Room(self)
        stream = self.flow.stream(partial(finished.put, None))
        # Packed once for all tasks; the scheduler, which repacks each of them, needn't open it.
        packed = dumps(function)

        def submit() -> None:
            while free := stream.take(room.limit()):
                batch = _at_hand(source, free)
                stream.give(free - len(batch))
                if not batch:
                    break
                for future, item in zip(self._sent(packed, batch, patience), batch, strict=True):
                    running[future] = item
                    future.add_done_callback(finished.put)
            stream.offer()

        with _losses_reported(self.client), contextlib.closing(stream):
            submit()
            pulse = _Pulse(self)
            while running:
                ended = pulse.wait(finished, room.limit() // _PART, patience)
                results = self._fetched(ended)
                for future in ended:
                    try:
                        outcome = self._outcome(future, running[future], patience, results)
                    except TimeoutError:
                        # The worker that has the result doesn't give it; it will be made again.
                        pulse.feel()
                        future.add_done_callback(finished.put)
                        continue
                    del running[future]
                    stream.give()
                    yield outcome
                submit()

    def _fetched(self, futures: Sequence[Any]) -> Mapping[Any, Any]:
        """The results of finished tasks by their futures, unless one of them doesn't come."""
        ready = {future.key: future for future in futures if future.status == "finished"}
        if not ready:
            return {}
        scheduler: Any = self.client.scheduler
        try:
            answer = _within(self.client, _BEAT, lambda: scheduler.gather(keys=list(ready)))
        except TimeoutError:
            return {}
        found = answer["data"] if answer["status"] == "OK" else {}
        return {ready[key]: result for key, result in found.items()}

    def _outcome(
        self, future: Any, item: Item, patience: Patience, results: Mapping[Any, Any]
    ) -> Any:
        """What a finished task gave, or `Failed`; it is asked for where it isn't among `results`.

        Raises:
            TimeoutError: the result doesn't come.
        """
        try:
            if future in results:
                result = results[future]
            # One that was finished may have gone with its worker in the meantime, and waits again.
            elif future.status in ("finished", "pending"):
                with _of_the_network():
                    result = future.result(timeout=_BEAT if future.status == "finished" else 0.1)
            else:
                result = future.result()
        except KilledWorker:
            return Failed(item, WorkerDiedError("it ended every process that tried it"))
        except patience.forgiven as error:
            return Failed(item, error)
        if isinstance(result, _LeftBehind):
            self._restart(result)
            return Failed(item, OverdueError(result.reason))
        return result

    def _restart(self, left: "_LeftBehind") -> None:
        """Ends a worker in which a thread hangs, if there is a nanny that starts it again."""
        if left.has_nanny:
            with contextlib.suppress(*_LOST, OSError, KeyError, ValueError):
                _within(
                    self.client,
                    _silence(),
                    lambda: self.client.restart_workers([left.worker], raise_for_error=False),
                )

    def _sent(self, packed: bytes, items: Sequence[object], patience: Patience) -> list[Any]:
        """The tasks of these items, in one message."""
        run = "-".join(["segpipe", *filter(None, [self.run])])
        places = (item.name if isinstance(item, Named) else "call" for item in items)
        futures: list[Any] = self.client.map(
            partial(_on_worker, self.name, packed, patience.deadline),
            items,
            key=[f"{run}-{place}-{uuid.uuid4().hex[:8]}" for place in places],
            pure=False,
            priority=-self.rank,
            resources={_GPU: self.share} if self.share else None,
        )
        return futures


def _at_hand(source: Iterator[Item], most: int) -> list[Item]:
    """The next items, as many as come within a moment; none where there are no more."""
    until = time.monotonic() + _MOMENT
    found: list[Item] = []
    for item in itertools.islice(source, most):
        found.append(item)
        if time.monotonic() > until:
            break
    return found


class _Room:
    """How many tasks may be in flight: workers come and go."""

    def __init__(self, cluster: Cluster[Any]) -> None:
        self._cluster = cluster
        self._known = 0
        self._until = 0.0

    def limit(self) -> int:
        """Twice the slots keep every worker busy; more would only fill the scheduler."""
        now = time.monotonic()
        if now > self._until:
            self._known, self._until = 2 * max(self._cluster.slots, 1), now + _FRESH
        return self._known


class _Pulse:
    """Waits for tasks, and makes sure that there is still someone to wait for."""

    def __init__(self, cluster: Cluster[Any]) -> None:
        self._client = cluster.client
        self._share = cluster.share
        self._manned = time.monotonic()

    def wait(self, finished: "SimpleQueue[Any]", most: int, patience: Patience) -> list[Any]:
        """The next tasks that are finished, and others that are within a moment; or none.

        Raises:
            ClusterError: there have been no workers for too long.
            CommClosedError, TimeoutError: the scheduler is gone, or doesn't answer.
            StoppedError: the time is over.
        """
        ended = [self._next(finished, patience)]
        until = time.monotonic() + _MOMENT
        while len(ended) < most and (left := until - time.monotonic()) > 0:
            with contextlib.suppress(Empty):
                ended.append(finished.get(timeout=left))
        return [future for future in ended if future is not None]

    def _next(self, finished: "SimpleQueue[Any]", patience: Patience) -> Any:
        while True:
            left = _require_time(patience)
            try:
                return finished.get(timeout=min(left, _BEAT, _silence()))
            except Empty:
                self.feel()

    def feel(self) -> None:
        """Asks the scheduler for its workers."""
        if _within(self._client, _silence(), partial(_slots, self._client, self._share)):
            self._manned = time.monotonic()
            return
        limit = _longest_unmanned()
        if time.monotonic() - self._manned > limit:
            lacking = "workers with a GPU" if self._share else "workers"
            raise ClusterError(
                f"the Dask scheduler at {_address_of(self._client)} has had no {lacking} for "
                f"{limit:g} s; what is finished is safe: start some, and type the same command "
                "again"
            )


async def _slots(client: Client, share: float) -> int:
    """How many tasks can run at once that take this share of a GPU, or none."""
    scheduler: Any = client.scheduler
    found = await scheduler.identity(n_workers=-1)
    return sum(
        min(worker["nthreads"], int(worker["resources"].get(_GPU, 0) / share))
        if share
        else worker["nthreads"]
        for worker in found["workers"].values()
    )


def _longest_unmanned() -> float:
    """Seconds that a scheduler may be without workers: a batch system's queue may take its time."""
    given = config.get("distributed.scheduler.no-workers-timeout", None)
    return _NO_WORKERS if given is None else float(parse_timedelta(given))


def _require_time(patience: Patience) -> float:
    """Seconds that are left.

    Raises:
        StoppedError: there are none.
    """
    if patience.until is None:
        return float("inf")
    left = patience.until - time.monotonic()
    if left <= 0:
        raise StoppedError("the time that the run was given is over")
    return left


def _silence() -> float:
    """Seconds after which whoever doesn't answer counts as lost."""
    seconds: float = parse_timedelta(config.get("distributed.comm.timeouts.tcp"))
    return seconds


def _within(client: Client, seconds: float, call: Callable[[], Awaitable[Any]]) -> Any:
    """What a coroutine of the client gives.

    Raises:
        TimeoutError: not in time.
        CommClosedError: there is no connection, and none can be made.
    """
    if client.status != "running":
        raise CommClosedError("the connection is closed")

    async def bounded() -> Any:
        return await asyncio.wait_for(call(), seconds)

    with _of_the_network():
        return client.sync(bounded)


@contextlib.contextmanager
def _of_the_network() -> Iterator[None]:
    """Errors of connections told from those of disks, which are of the same class."""
    try:
        yield
    except TimeoutError:
        raise
    except OSError as error:
        raise CommClosedError(_short(error)) from error


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
        _quiet(),
        config.set({"distributed.dashboard.link": pages, _ARENAS: 1}),
        _local(
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
    ):
        name = _unique()
        if shared:
            (worker,) = cluster.workers.values()
            residence = _Residence(name, name, resident)
            client.sync(worker.plugin_add, plugin=residence, name=name)
            yield Cluster(client, name, run=run, dashboard=_dashboard(client))
        else:
            with _settled(client, name, resident, digest):
                yield Cluster(client, name, run=run, dashboard=_dashboard(client))


def _local(gpus: Sequence[str], **options: Any) -> LocalCluster:
    """A local cluster, with a worker for each GPU if there are some.

    dask-cuda's, where it is installed, puts a worker on the cores next to its GPU as well.
    """
    if not gpus:
        return LocalCluster(**options)
    try:
        from dask_cuda import LocalCUDACluster  # type: ignore[import-not-found]
    except ImportError:
        return _Pinned(gpus, **options)
    # Tensors are the predictor's own: there is nothing to spill from the device.
    cluster: LocalCluster = LocalCUDACluster(
        **{**options, "n_workers": len(gpus)},
        CUDA_VISIBLE_DEVICES=",".join(gpus),
        device_memory_limit=0,
    )
    return cluster


class _Pinned(LocalCluster):
    """A local cluster whose workers see one GPU each."""

    def __init__(self, gpus: Sequence[str], **options: Any) -> None:
        self._gpus = itertools.cycle(gpus)
        super().__init__(**{**options, "n_workers": 0})
        self.scale(len(gpus))

    def new_worker_spec(self) -> dict[str | int, dict[str, Any]]:
        """The next worker, and its GPU."""
        ((name, spec),) = super().new_worker_spec().items()
        environment = {"CUDA_VISIBLE_DEVICES": next(self._gpus)}
        return {name: {**spec, "options": {**spec["options"], "env": environment}}}


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
        ClusterError: there is no scheduler, or it has no workers.
    """
    place = scheduler or scheduler_file or ""
    with _quiet(), silence_logging_cmgr(logging.CRITICAL), contextlib.ExitStack() as stack:
        try:
            address = scheduler or _address(Path(place))
            _require_certificates(address)
            client = stack.enter_context(Client(address, timeout=_PATIENCE, set_as_default=False))
        except (OSError, TimeoutError, ValueError) as error:
            raise ClusterError(
                f"no Dask scheduler answers at {place} ({_short(error)}); start one with "
                "`dask scheduler`, or run on this machine, with --workers 1 in place of it"
            ) from error
        with _losses_reported(client), _of_the_network():
            try:
                client.wait_for_workers(1, timeout=_longest_unmanned())
            except TimeoutError as error:
                raise ClusterError(
                    f"the Dask scheduler at {place} has no workers; start some with "
                    f"`dask worker {place}`"
                ) from error
        name = _unique()
        try:
            with _losses_reported(client), _of_the_network():
                _require_one_version(client)
                stack.enter_context(_settled(client, name, resident, digest))
        except ImportError as error:
            raise ClusterError(
                f"the scheduler or a worker of {place} can't load segpipe ({_short(error)}); "
                "install the same version of segpipe there"
            ) from error
        yield Cluster(client, name, run=run, dashboard=_dashboard(client))


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


def _unique() -> str:
    """What a client is called on its cluster: two of them may drive the same run."""
    return f"segpipe-{uuid.uuid4().hex[:12]}"


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


@dataclass(frozen=True, slots=True)
class _LeftBehind:
    """Where a thread goes on with an item that is overdue, and why that is so."""

    worker: str
    has_nanny: bool
    reason: str


def _on_worker(
    name: str, packed: bytes, deadline: float | None, item: Item
) -> object | _LeftBehind:
    worker = get_worker()
    residence = worker.plugins.get(name)
    if not isinstance(residence, _Residence):
        raise ClusterError(
            f"the scheduler of the worker {worker.address} was started anew and knows nothing of "
            "this run; type the same command again"
        )
    if skew := residence.skew:
        raise _skewed(f"the worker {worker.address}", skew)
    resident = residence.resident()
    function: Callable[[object, Item], object] = pickle.loads(packed)
    try:
        return residence.deadlines.call(deadline, partial(function, resident, item))
    except OverdueError as error:
        return _LeftBehind(worker.address, worker.nanny is not None, str(error))
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
        ImportError: one of them has no segpipe.
    """
    here = installed()
    # It unpickles tasks on their way, but computes nothing.
    told = _within(client, _silence(), lambda: client.run_on_scheduler(installed))
    packages = {name: told[name] for name in ("python", "segpipe", "dask", "distributed")}
    found = {"the scheduler": packages}
    workers = _within(client, _silence(), lambda: client.run(installed))
    for address, versions in sorted(workers.items()):
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
def _settled(client: Client, name: str, resident: object, digest: str) -> Iterator[None]:
    """The resident in every worker, those that come later too, while the block runs.

    It goes to the scheduler once, as a parcel that Dask keeps while a client wants it, and to the
    workers from each other.
    """
    parcel = f"segpipe-parcel-{digest or name}"
    # Nobody can do anything without it: it goes before everything else.
    sent = client.submit(_unchanged, dumps(resident), key=parcel, priority=1)
    client.register_plugin(_Residence(name, parcel), name=name)

    async def insist() -> None:
        # Dask gives up what workers had that died, guilty or not.
        if sent.status == "error":
            with contextlib.suppress(*_LOST, OSError):
                await client.retry([sent], asynchronous=True)

    watch, loop = PeriodicCallback(insist, _INSIST), cast(Any, client.loop)
    loop.add_callback(watch.start)
    try:
        yield
    finally:
        loop.add_callback(watch.stop)
        if client.status == "running":
            with contextlib.suppress(*_LOST, OSError):
                _within(client, _BEAT, lambda: client.unregister_worker_plugin(name))
                sent.release()


def _unchanged(parcel: bytes) -> bytes:
    return parcel


@contextlib.contextmanager
def _losses_reported(client: Client) -> Iterator[None]:
    address = _address_of(client)
    try:
        yield
    except _LOST as error:
        raise ClusterError(
            f"the Dask scheduler at {address} was lost ({_short(error)}); what is finished is "
            "safe: the same command goes on there when there is a scheduler again"
        ) from error


def _address_of(client: Client) -> str:
    return str(getattr(client.scheduler, "address", "an unknown address"))


def _dashboard(client: Client) -> str | None:
    with _losses_reported(client), _of_the_network():
        return client.dashboard_link or None


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
        "distributed.scheduler.worker-ttl": _unless_set("distributed.scheduler.worker-ttl", "60s"),
        "distributed.comm.timeouts.connect": f"{_PATIENCE}s",
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


def _unless_set(name: str, ours: object) -> object:
    """Our value of a setting, or the user's where it isn't Dask's own."""
    theirs: object = config.get(name)
    return ours if theirs == config.get(name, config=defaults) else theirs


def _short(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
