"""Residents travel once, by their digest; GPU workers are found by the resource they declare."""

import os
import pickle
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, Worker

from segpipe.pipeline.errors import ClusterError
from segpipe.pipeline.execution.cluster import Cluster
from segpipe.pipeline.execution.embedded import embedded
from segpipe.pipeline.execution.existing import existing
from segpipe.pipeline.execution.local import local_cluster
from segpipe.pipeline.execution.residence import Residence
from segpipe.pipeline.execution.task import on_worker
from tests.pipeline.test_execution import dask

SIZE = 3_000_000


class Weighty:
    """Something large that notes in a folder where it was unpacked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weights = bytes(SIZE)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        (self.folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()


def process(resident: Weighty, item: int) -> int:
    time.sleep(0.02)
    assert len(resident.weights) == SIZE
    return os.getpid()


def where(resident: object, item: int) -> int:
    time.sleep(0.02)
    return os.getpid()


def devices(resident: object, item: int) -> str:
    time.sleep(0.05)
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


def held(dask_worker: Worker) -> int:
    residences = (one for one in dask_worker.plugins.values() if isinstance(one, Residence))
    return sum(one.held is not None for one in residences)


async def look(dask_worker: Worker) -> None:
    for one in list(dask_worker.plugins.values()):
        if isinstance(one, Residence):
            await one.look()


def connected(file: str | Path) -> Any:
    client: Any = Client
    return client(scheduler_file=str(file), set_as_default=False)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of a scheduler with a worker that declares a GPU, and one that doesn't."""
    file = tmp_path_factory.mktemp("mixed") / "scheduler.json"
    scheduler = dask("scheduler", file, "--port", "0")
    workers = [
        dask("worker", file, "--no-nanny", "--nthreads", "6", "--resources", "GPU=1"),
        dask("worker", file, "--no-nanny", "--nthreads", "2"),
    ]
    with connected(file) as client:
        client.wait_for_workers(2, timeout=60)
    yield file
    for process in (*workers, scheduler):
        process.terminate()
        process.wait(20)


def test_a_process_unpacks_a_resident_once_and_lets_it_go(cluster: Path, tmp_path: Path) -> None:
    resident, file = Weighty(tmp_path), str(cluster)
    with existing(resident, scheduler_file=file, digest="abc") as first:
        used = set(first.map(process, range(16)))
        assert len(list(tmp_path.iterdir())) == len(used)
        with existing(resident, scheduler_file=file, digest="abc") as second:
            again = set(second.map(process, range(16)))
            unpacked = len(list(tmp_path.iterdir()))
            assert unpacked == len(used | again), "the neighbour's was taken"
        assert sum(first.client.run(held).values()) == len(used)
        first.client.run(look)
        assert sum(first.client.run(held).values()) == len(used), "somebody wants it still"
    with connected(file) as client:
        assert sum(client.run(held).values()) == 0


def test_what_a_client_that_was_lost_left_is_let_go(cluster: Path, tmp_path: Path) -> None:
    with connected(cluster) as client:
        lost = connected(cluster)
        parcel = lost.submit(lambda packed: packed, pickle.dumps(Weighty(tmp_path)), key="parcel-x")
        lost.register_plugin(Residence("lost", "parcel-x"), name="lost")
        runner: Cluster[Weighty] = Cluster(lost, "lost")
        used = set(runner.map(process, range(16)))
        assert sum(client.run(held).values()) == len(used)
        parcel.release()
        lost.close()
        client.run(look)
        assert sum(client.run(held).values()) == 0
        client.unregister_worker_plugin("lost")


def test_a_worker_that_nobody_gives_the_resident_says_so(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(cluster) as client:
        client.register_plugin(Residence("nothing", "parcel-y"), name="nothing")
        client.run(lambda: __import__("dask").config.set({"distributed.comm.timeouts.tcp": "1s"}))
        runner: Cluster[int] = Cluster(client, "nothing")
        with pytest.raises(ClusterError, match="finds nobody who has the model"):
            list(runner.map(where, range(1)))
        client.run(lambda: __import__("dask").config.set({"distributed.comm.timeouts.tcp": "30s"}))
        client.unregister_worker_plugin("nothing")


def test_tasks_of_a_gpu_go_to_those_who_declare_one(cluster: Path) -> None:
    with existing(7, scheduler_file=str(cluster)) as runner:
        anywhere = set(runner.on("cpu").map(where, range(40)))
        assert len(anywhere) == 2
        (gpu,) = set(runner.on("cuda").map(where, range(40)))
        assert {gpu} == set(runner.on("auto").map(where, range(10))) < anywhere
        assert runner.on("cpu").slots == 8
        assert runner.on("cuda:0").slots == 4, "a quarter of the GPU each, whatever the threads"
        # Fractions that don't add up would leave the device idle after a while.
        assert len(list(runner.on("cuda").map(where, range(100)))) == 100


def test_without_a_declared_gpu_all_workers_are_asked() -> None:
    with embedded(7) as runner:
        assert runner.on("cuda") == runner.on("cpu") == runner


def test_runs_share_one_limit(cluster: Path) -> None:
    with existing(7, scheduler_file=str(cluster)) as runner:
        first, second = (
            runner.of_run(name, rank).map(where, range(40)) for rank, name in enumerate("ab")
        )
        done = [next(first), next(second), *first, *second]
        assert len(done) == 80
        assert runner.flow.peak <= 2 * runner.slots + 1


def test_each_gpu_has_a_worker_that_sees_no_other() -> None:
    with embedded(7, gpus=("3", "GPU-5"), threads=1) as runner:
        assert set(runner.map(devices, range(8))) == {"3", "GPU-5"}


def test_dask_cuda_starts_the_workers_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}

    def cluster(**options: Any) -> None:
        asked.update(options)

    module = types.ModuleType("dask_cuda")
    module.LocalCUDACluster = cluster  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_cuda", module)
    local_cluster(("0", "1"), n_workers=1, threads_per_worker=3, host="127.0.0.1")
    assert asked == {
        "CUDA_VISIBLE_DEVICES": "0,1",
        "n_workers": 2,
        "threads_per_worker": 3,
        "host": "127.0.0.1",
        "device_memory_limit": 0,
    }


def test_a_call_that_is_sent_holds_no_weights(tmp_path: Path) -> None:
    call = (on_worker, "segpipe-x", process, 3, None)
    assert len(pickle.dumps(call)) < 10_000
    assert len(pickle.dumps(Residence("name", "parcel", Weighty(tmp_path)))) < 10_000
