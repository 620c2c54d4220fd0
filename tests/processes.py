"""Drivers, schedulers and workers: real processes that cost a tenth of a second each.

They are forked from a process that has imported all they need and has started no thread. What a
test does to them (SIGKILL at a random moment) is what happens to those that a user starts.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from segpipe.pipeline.mapping import Job, map_tile
from segpipe.pipeline.predictor import Predictor
from segpipe.pipeline.receipt import Receipt
from segpipe.pipeline.vectors.aoi import Piece

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "pytest",
        "tests.processes",
        "distributed.cli.dask_scheduler",
        "distributed.cli.dask_worker",
        "segpipe.workflows.cli",
        "segpipe.workflows.run",
        "segpipe.workflows.reading.scenes",
        "segpipe.workflows.terminal.progress",
        # Torch imports it, in seconds, for the first network that is built.
        "torch._dynamo",
    ]
)

Place = tuple[int, int]
"""Row and column of a tile."""


@dataclass(frozen=True, slots=True)
class Forked:
    """A process with the file that holds what it printed, on both streams."""

    process: ForkServerProcess
    log: Path

    @property
    def pid(self) -> int:
        """Its number."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def code(self) -> int | None:
        """Its exit code, None while it runs; minus the signal that killed it."""
        return self.process.exitcode

    def kill(self) -> bool:
        """Whether SIGKILL came before it ended by itself."""
        # Numbers are given again: that of a process long ended may be a thread of pytest's.
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.process.join()
        return self.code == -signal.SIGKILL

    def finish(self, timeout: float = 120) -> int:
        """Its exit code, once it has ended."""
        self.process.join(timeout)
        if self.code is None:
            self.kill()
            raise TimeoutError(f"still running after {timeout} s: {self.printed}")
        return self.code

    @property
    def printed(self) -> str:
        """What it has printed so far."""
        return self.log.read_text()

    @property
    def lines(self) -> list[str]:
        """The lines that segpipe said, apart from progress."""
        return [line for line in self.printed.splitlines() if line.startswith("segpipe: ")]


_LATE = ("--death-timeout", "5")
"""A worker that has read the address of a scheduler that is gone would look for it for ever."""

Setting = Callable[[], None]
"""What is done in a process before its program begins."""


def nothing() -> None:
    """No setting."""


def segpipe(*words: str | Path, log: Path, setting: Setting = nothing) -> Forked:
    """The command line."""
    return _forked(_segpipe, list(map(str, words)), log, setting)


def scheduler(file: Path, *words: str) -> Forked:
    """A Dask scheduler that can be found by this file."""
    file.unlink(missing_ok=True)
    begun = _forked(
        _dask_scheduler, [*_where(file), "--port", "0", *words], file.with_suffix(".log"), nothing
    )
    while not file.exists():
        time.sleep(0.01)
    return begun


def worker(file: Path, *words: str, threads: int = 1, setting: Setting = nothing) -> Forked:
    """A Dask worker without a nanny of the scheduler that is found by this file."""
    options = ["--no-nanny", "--nthreads", str(threads), "--memory-limit", "0", *words]
    return _forked(_dask_worker, [*_where(file), *options], file.with_name("workers.log"), setting)


def _where(file: Path) -> list[str]:
    return ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]


def _forked(
    program: Callable[[list[str]], None], words: list[str], log: Path, setting: Setting
) -> Forked:
    process = _FORKS.Process(target=_run, args=(program, words, log, setting))
    process.start()
    return Forked(process, log)


def _run(
    program: Callable[[list[str]], None], words: list[str], log: Path, setting: Setting
) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    setting()
    program(words)


def _segpipe(words: list[str]) -> None:
    from segpipe.workflows import cli

    sys.argv = ["segpipe", *words]
    cli.main()


def _dask_scheduler(words: list[str]) -> None:
    from distributed.cli.dask_scheduler import main

    main(words)


def _dask_worker(words: list[str]) -> None:
    from distributed.cli.dask_worker import main

    main(words)


@dataclass(frozen=True, slots=True)
class Noted:
    """The tiles that a process begins to compute are noted in a file, a line each."""

    file: Path

    def __call__(self) -> None:
        """Begins in this process."""
        from segpipe.workflows import resident

        file = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def noted(job: Job, piece: Piece, predictor: Predictor) -> Receipt:
            os.write(file, f"{piece.tile.row} {piece.tile.column}\n".encode())
            return map_tile(job, piece, predictor)

        resident.map_tile = noted  # type: ignore[attr-defined]

    def places(self) -> list[Place]:
        """The tiles that were begun, in that order; one that was begun twice is there twice."""
        if not self.file.exists():
            return []
        rows = (line.split() for line in self.file.read_text().splitlines())
        return [(int(row), int(column)) for row, column in rows]


@dataclass(slots=True)
class Crew:
    """Workers of one scheduler; one that dies is followed by another, as a nanny would do."""

    file: Path
    size: int
    threads: int = 1
    setting: Setting = nothing
    members: list[Forked] = field(default_factory=list)
    _end: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def at_work(self) -> Iterator["Crew"]:
        """All of them work while the block runs."""
        keeper = threading.Thread(target=self._keep)
        keeper.start()
        try:
            yield self
        finally:
            self._end.set()
            keeper.join()
            for member in self.members:
                member.kill()

    def _keep(self) -> None:
        while not self._end.is_set():
            self.members = [member for member in self.members if member.code is None]
            while len(self.members) < self.size:
                self.members.append(
                    worker(self.file, *_LATE, threads=self.threads, setting=self.setting)
                )
            self._end.wait(0.02)
