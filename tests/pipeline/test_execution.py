"""Runners give what a plain loop gives, whoever does the work and whoever dies."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
from dask import config
from distributed import get_worker

from segpipe.pipeline import versions
from segpipe.pipeline.errors import ClusterError, InputRefusedError, TilesFailedError
from segpipe.pipeline.execution import settings
from segpipe.pipeline.execution.cluster import Cluster
from segpipe.pipeline.execution.embedded import embedded
from segpipe.pipeline.execution.existing import existing
from segpipe.pipeline.execution.patience import Failed, Patience
from segpipe.pipeline.execution.serial import Serial
from segpipe.pipeline.plan import Tile
from segpipe.pipeline.window import Window


def scaled(factor: int, item: int) -> int:
    return factor * item


def refused(_: int, item: int) -> int:
    if item == 3:
        raise InputRefusedError("found 3, expected anything else")
    return item


def deadly(_: int, item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def own_key(_: str, tile: Tile) -> str:
    return str(get_worker().get_current_task())


def place(resident: object) -> int:
    return os.getpid()


def skipped(_: int, item: int) -> str:
    return os.environ.get("GDAL_SKIP", "")


def slow(_: int, item: int) -> int:
    time.sleep(0.2)
    return item


def listening() -> set[str]:
    """Addresses on which this process and its children listen."""
    here = psutil.Process()
    return {
        connection.laddr.ip
        for process in (here, *here.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def dask(role: str, file: Path, *options: str) -> subprocess.Popen[bytes]:
    """A real scheduler or worker that meets the others through a file."""
    where = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
    return subprocess.Popen(
        [sys.executable, "-m", "dask", role, *where, *options], stderr=subprocess.DEVNULL
    )


def await_status(runner: Cluster[int], *wanted: str) -> None:
    """Waits until the client's connection is in one of these states."""
    while runner.client.status not in wanted:
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The scheduler file of a real scheduler with two real workers."""
    file = tmp_path_factory.mktemp("cluster") / "scheduler.json"
    scheduler = dask("scheduler", file, "--port", "0")
    workers = [dask("worker", file, "--nthreads", "2") for _ in range(2)]
    yield file
    for process in (*workers, scheduler):
        process.terminate()
        process.wait(20)


def test_embedded_gives_what_serial_gives() -> None:
    expected = list(Serial(7).map(scaled, range(50)))
    with embedded(7) as runner:
        assert sorted(runner.map(scaled, range(50))) == expected
        assert runner.call(place) == os.getpid()


def test_a_shared_resident_is_neither_copied_nor_pickled() -> None:
    lock = open(os.devnull)  # noqa: SIM115, PTH123  # a handle that can't be pickled
    with lock, embedded(lock) as runner:
        assert runner.call(id) == id(lock)


def test_nothing_listens_off_the_loopback() -> None:
    with embedded(7) as runner:
        runner.call(place)
        assert listening() <= {"127.0.0.1"}
    with embedded(7, workers=2) as runner:
        runner.call(place)
        assert listening() == {"127.0.0.1"}


def test_worker_processes_have_no_drivers_for_the_network() -> None:
    with embedded(7, workers=2) as runner:
        assert all("WMS" in found.split() for found in runner.map(skipped, range(4)))


def test_an_error_arrives_as_it_was_raised() -> None:
    with embedded(7) as runner, pytest.raises(InputRefusedError, match="found 3"):
        list(runner.map(refused, range(10)))


def test_a_deadly_item_is_named_and_the_others_are_done() -> None:
    done: list[int] = []
    with embedded(7, workers=2) as runner, pytest.raises(TilesFailedError, match="3"):
        done.extend(runner.map(deadly, range(4)))  # extend keeps what came before the error


def test_an_existing_cluster_gives_what_serial_gives(cluster: Path) -> None:
    with existing(7, scheduler_file=str(cluster)) as runner:
        assert sorted(runner.map(scaled, range(50))) == [7 * item for item in range(50)]
        assert runner.call(place) != os.getpid()


def pretend(patch: pytest.MonkeyPatch, package: str) -> None:
    """In this process alone the package has the version 1.0."""
    true = versions._version
    patch.setattr(versions, "_version", lambda name: "1.0" if name == package else true(name))


@pytest.mark.parametrize("package", ["distributed", "numpy"])
def test_another_version_is_refused_before_any_task(
    cluster: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    pretend(monkeypatch, package)
    who = "scheduler" if package == "distributed" else r"worker tcp://\S+"
    told = rf"the {who} has {package} {version(package)} instead of 1\.0; install"
    with pytest.raises(ClusterError, match=told), existing(2, scheduler_file=str(cluster)):
        pytest.fail("the cluster was taken")


def test_a_worker_of_another_version_that_joins_later_ends_the_run(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "segpipe.pipeline.execution.existing.require_one_version", lambda client: None
    )
    pretend(monkeypatch, "zarr")
    with (
        existing(2, scheduler_file=str(cluster)) as runner,
        pytest.raises(ClusterError, match=r"has zarr \S+ instead of 1\.0"),
    ):
        list(runner.map(scaled, range(3)))


def test_no_scheduler_is_said_in_one_line() -> None:
    with (
        pytest.raises(ClusterError, match="no Dask scheduler answers") as caught,
        existing(7, scheduler=f"tcp://127.0.0.1:{free_port()}"),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_lost_scheduler_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    scheduler = dask("scheduler", file, "--port", "0")
    worker = dask("worker", file, "--death-timeout", "1")

    def outlive(runner: Cluster[int]) -> None:
        for _ in runner.map(slow, range(1000)):
            scheduler.kill()

    try:
        with (
            pytest.raises(ClusterError, match="lost"),
            existing(7, scheduler_file=str(file)) as runner,
        ):
            outlive(runner)
    finally:
        scheduler.kill()
        worker.kill()
        scheduler.wait()
        worker.wait()


def test_a_scheduler_that_is_gone_or_started_anew_ends_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "CONNECT", 60)
    file, port = tmp_path / "scheduler.json", str(free_port())
    with contextlib.ExitStack() as stack:

        def started(role: str, *options: str) -> subprocess.Popen[bytes]:
            process = dask(role, file, *options)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        def lost() -> None:
            scheduler.kill()
            await_status(runner, "connecting", "closed")

        scheduler = started("scheduler", "--port", port)
        started("worker", "--no-nanny")
        runner = stack.enter_context(existing(7, scheduler_file=str(file)))
        assert runner.call(place)

        lost()
        scheduler = started("scheduler", "--port", port)
        await_status(runner, "running")
        started("worker", "--no-nanny")
        with pytest.raises(ClusterError, match="started anew"):
            runner.call(place)

        runner.client._timeout = 1
        lost()
        for wanted in (("connecting", "closed"), ("closed",)):
            await_status(runner, *wanted)
            for call in (partial(runner.call, place), partial(runner.everywhere, os.getpid)):
                with pytest.raises(ClusterError, match="was lost"):
                    call()


@pytest.mark.parametrize("together", [True, False])
def test_results_that_are_not_fetched_together_are_asked_for_one_by_one(
    cluster: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    if not together:
        monkeypatch.setattr("segpipe.pipeline.execution.dispatch.fetched", lambda *_: {})
    with existing(7, scheduler_file=str(cluster)) as runner:
        patience = Patience(forgiven=(InputRefusedError,))
        outcomes = list(runner.attempt(refused, range(50), patience))
        (failed,) = (outcome for outcome in outcomes if isinstance(outcome, Failed))
        assert (failed.item, failed.attempts) == (3, 2)
        assert {*outcomes} - {failed} == {*range(50)} - {3}


def test_tasks_go_in_few_messages_and_no_later_than_their_items_come(cluster: Path) -> None:
    sent: list[int] = []

    def slowly(items: Iterable[int]) -> Iterator[int]:
        for item in items:
            time.sleep(0.06)
            yield item

    with existing(7, scheduler_file=str(cluster)) as runner, pytest.MonkeyPatch.context() as patch:
        true: Callable[..., object] = runner.client.map

        def noted(function: object, items: Sequence[int], **options: object) -> object:
            sent.append(len(items))
            return true(function, items, **options)

        patch.setattr(runner.client, "map", noted)
        assert sorted(runner.map(scaled, range(8))) == [7 * item for item in range(8)]
        assert len(sent) <= 2
        sent.clear()
        assert sorted(runner.map(scaled, slowly(range(8)))) == [7 * item for item in range(8)]
        assert sent == [1] * 8


def test_a_users_own_dask_work_goes_where_it_went_before() -> None:
    with embedded("resident"):
        assert config.get("scheduler", None) is None
    assert config.get("scheduler", None) is None


def test_versions_differ_in_words() -> None:
    here = {"numpy": "2.2", "torch": "2.13.0+cpu", "zarr": "3.1"}
    assert not versions.differences(here, {**here, "torch": "2.13.0+cu130"})
    assert not versions.differences(here, {"numpy": "2.2"})
    there = {**here, "numpy": "2.1", "zarr": "none"}
    assert versions.differences(here, there) == "numpy 2.1 instead of 2.2, zarr none instead of 3.1"


def test_tasks_are_named_after_the_run_and_the_tile() -> None:
    tile = Tile(4, 7, Window(0, 0, 1, 1), Window(0, 0, 1, 1))
    with embedded("resident", run="1a2b3c4d") as cluster:
        assert cluster.dashboard
        assert cluster.dashboard.startswith("http://127.0.0.1:")
        (key,) = cluster.map(own_key, [tile])
    assert key.startswith("segpipe-1a2b3c4d-")
    assert "-4.7-" in key
