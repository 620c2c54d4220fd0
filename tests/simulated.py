"""Workers that compute nothing: what a cluster costs beside the work itself.

Client, scheduler and messages are the real ones, over sockets of this machine; workers answer at
once, with receipts that say how long a tile took. So all the time that passes is overhead.

    python -m tests.simulated --tiles 1000000 --workers 256

prints, every now and then, what a tile costs: CPU time and memory of client and scheduler.
"""

# mypy: disallow-untyped-calls=False

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from dask.utils import typename
from distributed import Client
from distributed.batched import BatchedSend
from distributed.comm.core import connect
from distributed.core import Server, Status
from distributed.protocol.pickle import dumps
from distributed.protocol.serialize import to_serialize
from distributed.versions import get_versions

from segpipe.models.engine import Engine
from segpipe.pipeline.execution.cluster import Cluster
from segpipe.pipeline.execution.existing import address_in
from segpipe.pipeline.execution.settings import quiet
from segpipe.pipeline.mapping import Job
from segpipe.pipeline.plan import Margin, Plan
from segpipe.pipeline.predictor import Predictor
from segpipe.pipeline.receipt import ClassCount, Receipt
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.pipeline.staging import Staging
from segpipe.pipeline.vectors.aoi import Piece, Selection
from tests import toys

TILE = 2048
READ, PREDICT, WRITE = 0.25, 1.2, 0.1
"""Seconds of a tile with a side of 2,048 on a machine with a GPU and slow storage."""

RECEIPT = Receipt(
    row=500,
    column=500,
    stored=1_400_000,
    sha256="0" * 64,
    counts=tuple(ClassCount(value, 1_000_000, 9e8) for value in range(1, 5)),
    read=READ,
    predict=PREDICT,
    write=WRITE,
    worker="node-0123.cluster:12345",
    peak_rss=7_000_000_000,
)

METRICS = {
    "memory": 2**30,
    "managed_bytes": 0,
    "spilled_bytes": {"memory": 0, "disk": 0},
    "bandwidth": {"total": 1e8, "workers": {}, "types": {}},
    "digests_total_since_heartbeat": {},
    "event_loop_interval": 0.02,
}
"""What a worker tells of itself when it enlists."""


class SimulatedWorker(Server):
    """A worker as the scheduler sees it: it takes a task, is done, and gives its result."""

    def __init__(self, number: int, threads: int) -> None:
        self._number = number
        self._threads = threads
        self._stream = BatchedSend(interval="2ms")
        super().__init__(
            handlers={"get_data": self._give},
            stream_handlers={"compute-task": self._compute},
            deserialize=False,
        )

    async def enlist(self, scheduler: str) -> None:
        """Listens, and tells the scheduler that it is there."""
        await self.listen("tcp://127.0.0.1:0")
        comm = await connect(scheduler)
        await comm.write(
            {
                "op": "register-worker",
                "reply": False,
                "address": self.address,
                "status": "running",
                "nthreads": self._threads,
                "name": f"simulated-{self._number}",
                "now": time.time(),
                "resources": {},
                "memory_limit": 2**36,
                "local_directory": "",
                "services": {},
                "nanny": None,
                "pid": 0,
                "versions": get_versions(),
                "metrics": METRICS,
                "extra": {},
                "stimulus_id": "worker-connect",
                "server_id": self.id,
            },
            serializers=["msgpack"],
        )
        response = await comm.read()
        if response["status"] != "OK":
            raise ValueError(response["message"])
        self._stream.start(comm)
        self._following = asyncio.ensure_future(self._follow(comm))

    async def _follow(self, comm: Any) -> None:
        with contextlib.suppress(OSError):
            while True:
                for message in await comm.read():
                    if message.get("op") == "compute-task":
                        self._compute(**message)

    def _compute(self, key: str, run_id: int, stimulus_id: str, **_: object) -> None:
        now = time.time()
        took = READ + PREDICT + WRITE
        self._stream.send(
            {
                "op": "task-finished",
                "status": "OK",
                "key": key,
                "run_id": run_id,
                "nbytes": 600,
                "type": dumps(Receipt),
                "typename": typename(Receipt),
                "metadata": {},
                "thread": 1,
                "startstops": [{"action": "compute", "start": now - took, "stop": now}],
                "stimulus_id": stimulus_id,
            }
        )

    async def _give(self, comm: Any, keys: list[str], **_: object) -> Status:
        await comm.write({"status": "OK", "data": {key: to_serialize(RECEIPT) for key in keys}})
        await comm.read()  # "OK"
        return Status.dont_reply


async def _work(scheduler: str, workers: int, threads: int) -> None:
    crew = [SimulatedWorker(number, threads) for number in range(workers)]
    for worker in crew:
        await worker.enlist(scheduler)
    await crew[0]._following


def mapped(job: Job, engine: Engine, resident: Predictor, piece: Piece) -> Receipt:
    """What a worker would be asked to do."""
    raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Cost:
    """What has been used up when so many tiles are done; seconds of CPU time, bytes of memory."""

    tiles: int
    seconds: float
    client_cpu: float
    scheduler_cpu: float
    client_rss: int
    scheduler_rss: int
    tasks: int
    """That the scheduler knows, and the client holds: the greater number."""

    def line(self, before: "Cost") -> str:
        """For people: since an earlier moment, for a tile."""
        tiles = self.tiles - before.tiles
        per = [
            1000 * (now - then) / tiles
            for now, then in (
                (self.seconds, before.seconds),
                (self.client_cpu, before.client_cpu),
                (self.scheduler_cpu, before.scheduler_cpu),
            )
        ]
        return (
            f"{self.tiles:>9,} tiles  {per[0]:.2f} ms a tile; CPU: client {per[1]:.2f} ms, "
            f"scheduler {per[2]:.2f} ms; memory: client {self.client_rss / 2**20:.0f} MiB, "
            f"scheduler {self.scheduler_rss / 2**20:.0f} MiB"
        )


@contextlib.contextmanager
def simulated(workers: int, threads: int = 3) -> Iterator[tuple[Client, psutil.Process]]:
    """A client of a cluster of simulated workers, and the scheduler's process."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        file = Path(folder) / "scheduler.json"
        words = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
        settings = {
            # Nobody sends heartbeats.
            "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "1h",
            "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "100",
        }
        scheduler = _started(
            stack, ["dask", "scheduler", *words, "--scheduler-file", str(file)], settings
        )
        address = address_in(file)
        _started(stack, ["tests.simulated", "--crew", address, f"{workers}", f"{threads}"], {})
        stack.enter_context(quiet())
        client = stack.enter_context(Client(address, set_as_default=False))
        client.wait_for_workers(workers)
        yield client, psutil.Process(scheduler.pid)


def _started(
    stack: contextlib.ExitStack, words: list[str], settings: dict[str, str]
) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", *words], env=os.environ | settings, stderr=subprocess.DEVNULL
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def job(side: int, scene: Path) -> Job:
    """A map of `side` x `side` tiles, of a scene that nobody opens."""
    plan = Plan(toys.grid(side * TILE, side * TILE), TILE, 32, Margin(287, 287, 255, 255))
    return Job(open_scene(scene, ("1", "2", "3")), plan, Staging(scene.parent), 255)


def costs(workers: int, tiles: int, every: int) -> Iterator[Cost]:
    """What it costs to map so many tiles, every so many of them; first what nothing costs."""
    here = psutil.Process()
    side = 1000
    with tempfile.TemporaryDirectory() as folder, simulated(workers) as (client, scheduler):
        scene = toys.write_scene(Path(folder) / "scene.tif", toys.landscape(64, 64))
        made = job(side, scene)
        selection = Selection.of(made.plan, None)

        def known(dask_scheduler: Any) -> int:
            """A function that takes no module with it: the scheduler needn't have torch."""
            return len(dask_scheduler.tasks)

        def cost(done: int) -> Cost:
            used = [sum(process.cpu_times()[:2]) for process in (here, scheduler)]
            held = [process.memory_info().rss for process in (here, scheduler)]
            tasks = max(len(client.futures), int(client.run_on_scheduler(known)))
            passed = time.monotonic() - start
            return Cost(done, passed, used[0], used[1], held[0], held[1], tasks)

        engine = Engine(device="cuda:0", precision="bf16")
        pieces: Iterator[Piece] = (
            selection.piece(tile) for tile, _ in zip(selection.tiles(), range(tiles), strict=False)
        )
        start = time.monotonic()
        yield cost(0)
        runner: Cluster[Any] = Cluster(client, "segpipe-simulated")
        for done, _ in enumerate(runner.map(partial(mapped, made, engine), pieces), 1):
            if done % every == 0 or done == tiles:
                yield cost(done)


def main() -> None:
    """Prints what a map of so many tiles costs."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulated")
    parser.add_argument("--tiles", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=256)
    parser.add_argument("--crew", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.crew:
        address, workers, threads = arguments.crew
        asyncio.run(_work(address, int(workers), int(threads)))
        return
    found = costs(arguments.workers, arguments.tiles, max(arguments.tiles // 50, 1))
    before = next(found)
    for cost in found:
        print(cost.line(before), flush=True)
        before = cost


if __name__ == "__main__":
    # By its name, so that tasks name functions and don't carry them.
    from tests import simulated as named

    named.main()
