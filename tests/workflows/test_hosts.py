"""Three hosts with a network between them and a folder that they share; one of them is cut off.

Each is a network namespace of Linux with an address of its own: the kernel drops what is sent to a
host whose link is down, without a word to anyone, as it is when a cable is pulled.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from segpipe.models.package import save
from tests import toys
from tests.workflows.conftest import COMMAND, Outcome, finish

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HASTE = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s"}
"""How long a host may be silent: distributed takes no less."""


def ip(*words: str) -> None:
    """Changes namespaces, links or addresses."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass(frozen=True, slots=True)
class Host:
    """A machine as far as its network goes, with the processes that were started on it."""

    name: str
    address: str
    switch: str
    port: str
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """A process on this host."""
        begun = subprocess.Popen(
            ["ip", "netns", "exec", self.name, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | HASTE | {"PYTHONDONTWRITEBYTECODE": "1"},
        )
        self.processes.append(begun)
        return begun

    def scheduler(self, file: Path) -> None:
        """A Dask scheduler that is found by this file."""
        where = ["--host", self.address, "--port", "8786", "--no-dashboard"]
        self.start(sys.executable, "-m", "dask", "scheduler", *where, "--scheduler-file", file)

    def worker(self, file: Path) -> str:
        """How receipts name a worker that computes one tile at a time."""
        where = ["--host", self.address, "--no-dashboard", "--scheduler-file", str(file)]
        size = ["--no-nanny", "--nthreads", "1", "--memory-limit", "0"]
        return str(self.start(sys.executable, "-m", "dask", "worker", *where, *size).pid)

    def plug(self, state: str) -> None:
        """Its cable is in (`up`) or out (`down`)."""
        ip("-n", self.switch, "link", "set", self.port, state)


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """Three hosts on one switch, which is a bridge in a namespace of its own."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("namespaces take root and iproute2")
    mark = f"segpipe-{os.getpid()}"
    switch = f"{mark}-switch"
    made = [Host(f"{mark}-{n}", f"10.77.0.{n}", switch, f"port{n}") for n in (1, 2, 3)]
    with contextlib.ExitStack() as stack:
        try:
            _lay(stack, switch, made)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no namespaces here: {error.stderr.decode().strip()}")
        yield made
        for host in made:
            for process in host.processes:
                process.kill()
                process.communicate()


def _lay(stack: contextlib.ExitStack, switch: str, hosts: list[Host]) -> None:
    for name in (switch, *(host.name for host in hosts)):
        ip("netns", "add", name)
        stack.callback(ip, "netns", "del", name)
    ip("-n", switch, "link", "add", "bridge", "type", "bridge")
    ip("-n", switch, "link", "set", "bridge", "up")
    for host in hosts:
        cable = ["link", "add", host.port, "type", "veth", "peer", "name", "eth", "netns"]
        ip("-n", switch, *cable, host.name)
        ip("-n", switch, "link", "set", host.port, "master", "bridge", "up")
        ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth")
        ip("-n", host.name, "link", "set", "eth", "up")
        ip("-n", host.name, "link", "set", "lo", "up")


@dataclass(slots=True)
class Ledger:
    """Which workers have written a receipt for each tile, in their order, while a run lasts."""

    output: Path
    workers: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def __enter__(self) -> "Ledger":
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._end.wait(0.01):
            pattern = f".{self.output.name}.segpipe-*/receipts/*/[0-9]*.json"
            for path in self.output.parent.glob(pattern):
                with contextlib.suppress(OSError, ValueError):  # it is removed in the end
                    process = json.loads(path.read_bytes())["worker"].rpartition(":")[2]
                    seen = self.workers[f"{path.parent.name}/{path.name}"]
                    if seen[-1:] != [process]:
                        seen.append(process)

    def wait_for(self, worker: str, tiles: int, run: subprocess.Popen[str]) -> None:
        """Returns when a worker has mapped so many tiles of a run."""
        while sum(worker in seen for seen in list(self.workers.values())) < tiles:
            assert run.poll() is None, run.communicate()[1]
            time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Task:
    """What is mapped, and the map that this machine alone makes of it."""

    scene: Path
    package: Path
    expected: bytes

    def words(self, output: Path, *more: str | Path) -> list[str | Path]:
        """The command line that maps it."""
        options = ["--tile", "256", "--precision", "fp32", "--json"]
        return ["run", self.scene, "-m", self.package, "-o", output, *options, *more]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Forty-nine tiles."""
    folder = tmp_path_factory.mktemp("shared")
    scene = toys.write_scene(folder / "scene.tif", toys.landscape(1792, 1792), tiled=True)
    save(toys.model("unet", depth=3, width=8), folder / "model")
    made = Task(scene, folder / "model", b"")
    output = folder / "map.tif"
    subprocess.run([*COMMAND, *map(str, made.words(output))], check=True, capture_output=True)
    return Task(scene, folder / "model", output.read_bytes())


def test_the_tiles_of_a_host_that_is_cut_off_are_computed_by_another(
    hosts: list[Host], task: Task, tmp_path: Path
) -> None:
    first, second, third = hosts
    output, file = tmp_path / "map.tif", tmp_path / "scheduler.json"
    first.scheduler(file)
    survivor, lost = second.worker(file), third.worker(file)
    with Ledger(output) as ledger:
        run = first.start(*COMMAND, *task.words(output, "--scheduler-file", file))
        ledger.wait_for(survivor, 1, run)
        ledger.wait_for(lost, 2, run)
        third.plug("down")
        done = finish(run, timeout=240)
    assert done.code == 0, done.err
    assert output.read_bytes() == task.expected
    assert len(ledger.workers) == json.loads(done.out)["tiles"] == 49
    # It goes on until its queue is empty, and nobody hears of it.
    again = [tile for tile, workers in ledger.workers.items() if workers == [lost, survivor]]
    assert len(again) <= 4, "what it had stored was computed again"
    assert not [path.name for path in tmp_path.glob(".map.tif*")]


def test_a_client_that_is_cut_off_says_so_and_the_run_goes_on_later(
    hosts: list[Host], task: Task, tmp_path: Path
) -> None:
    first, second, third = hosts
    output, file = tmp_path / "map.tif", tmp_path / "scheduler.json"
    second.scheduler(file)
    workers = [second.worker(file), third.worker(file)]
    words = [*COMMAND, *task.words(output, "--scheduler-file", file)]
    with Ledger(output) as ledger:
        run = first.start(*words)
        for worker in workers:
            ledger.wait_for(worker, 2, run)
        first.plug("down")
        # Distributed closes a silent connection after 11 s here, and segpipe asks every 5 s.
        done = finish(run, timeout=60)
    _assert_lost(done)
    finished = len(ledger.workers)
    assert not output.exists()
    first.plug("up")
    done = finish(first.start(*words), timeout=240)
    assert done.code == 0, done.err
    assert json.loads(done.out)["tiles_resumed"] >= finished > 0
    assert output.read_bytes() == task.expected


def _assert_lost(done: Outcome) -> None:
    assert done.code == 8, done.err
    assert done.out == ""
    lost, resume = done.lines
    assert lost.startswith("segpipe: ")
    assert "lost" in lost
    assert resume.startswith("segpipe: resume with: segpipe run ")
