"""Schedulers and workers that stop, vanish or freeze: nothing is waited for without an end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from dask import config

from segpipe.pipeline.errors import ClusterError, OverdueError, WorkerDiedError
from segpipe.pipeline.execution.embedded import embedded
from segpipe.pipeline.execution.existing import existing
from segpipe.pipeline.execution.patience import Failed, Patience

ITEMS = 40
TTL = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "3s"}
HASTE = {"distributed.comm.timeouts.tcp": "11s", "distributed.scheduler.no-workers-timeout": "3s"}


def slow(_: int, item: int) -> int:
    time.sleep(0.2)
    return item


def poisonous(_: int, item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 5:
        time.sleep(600)
    return item


def dask(role: str, file: Path, *options: str) -> subprocess.Popen[bytes]:
    where = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
    return subprocess.Popen(
        [sys.executable, "-m", "dask", role, *where, *options],
        stderr=subprocess.DEVNULL,
        env=os.environ | TTL,
    )


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    file = tmp_path / "scheduler.json"
    process = dask("scheduler", file, "--port", "0")
    while not file.exists():
        time.sleep(0.1)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def workers(
    scheduler: subprocess.Popen[bytes], tmp_path: Path
) -> Iterator[list[subprocess.Popen[bytes]]]:
    file = tmp_path / "scheduler.json"
    processes = [dask("worker", file, "--nthreads", "1") for _ in range(2)]
    yield processes
    for process in processes:
        for child in children(process):
            child.kill()
        process.kill()
        process.wait()


def children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes in which a nanny's tasks run."""
    return [] if process.poll() is not None else psutil.Process(process.pid).children(True)


def outlive(file: Path, harm: Callable[[], None]) -> list[int]:
    """What comes of some items; harm is done when the fifth is there."""
    found = []
    with existing(7, scheduler_file=str(file)) as runner, config.set(HASTE):
        for item in runner.map(slow, range(ITEMS)):
            found.append(item)
            if len(found) == 5:
                harm()
    return found


@pytest.mark.slow
def test_a_scheduler_that_stands_still_is_lost(
    scheduler: subprocess.Popen[bytes], workers: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    with pytest.raises(ClusterError, match=r"scheduler at tcp://127.0.0.1:\d+ was lost"):
        outlive(tmp_path / "scheduler.json", lambda: scheduler.send_signal(signal.SIGSTOP))
    assert workers


@pytest.mark.slow
def test_a_cluster_without_workers_is_lost(
    workers: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    def harm() -> None:
        for worker in workers:
            worker.terminate()

    with pytest.raises(ClusterError, match="has had no workers for 3 s"):
        outlive(tmp_path / "scheduler.json", harm)


@pytest.mark.slow
def test_a_frozen_workers_items_are_done_by_the_others(
    workers: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    def harm() -> None:
        for child in children(workers[0]):
            child.suspend()

    assert sorted(outlive(tmp_path / "scheduler.json", harm)) == list(range(ITEMS))


@pytest.mark.slow
def test_processes_that_die_or_hang_are_replaced() -> None:
    with embedded(7, workers=2, threads=1) as runner:
        outcomes = list(runner.attempt(poisonous, range(9), Patience((), deadline=5.0)))
    failed = {type(o.error): o.item for o in outcomes if isinstance(o, Failed)}
    assert failed == {WorkerDiedError: 3, OverdueError: 5}
    done = sorted(outcome for outcome in outcomes if isinstance(outcome, int))
    assert done == [0, 1, 2, 4, 6, 7, 8]
    assert not [
        child for child in psutil.Process().children(True) if "spawn" in str(child.cmdline())
    ]


@pytest.mark.slow
def test_a_frozen_process_of_this_machine_is_given_up() -> None:
    found = []
    ttl = {"distributed.scheduler.worker-ttl": "4s"}
    with config.set(ttl), embedded(7, workers=2, threads=1) as runner:
        pids = set(runner.everywhere(os.getpid).values())
        for item in runner.map(slow, range(ITEMS)):
            found.append(item)
            if len(found) == 5:
                os.kill(min(pids), signal.SIGSTOP)
    assert sorted(found) == list(range(ITEMS))
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
