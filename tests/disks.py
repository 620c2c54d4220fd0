"""Runs of a twentieth of a second whose every step on the disk can be counted and stopped.

Reading, staging, writing, publishing and the files beside a map are those of any run. The network
is a table, the work is done in this thread, and `fsync` doesn't wait: what a test calls a loss of
power is made up of the steps that a run has noted.
"""

import contextlib
import errno
import itertools
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from segpipe.models.engine import Engine
from segpipe.models.workspace import Workspace
from segpipe.pipeline import driver, storage
from segpipe.pipeline.errors import FingerprintMismatchError, StorageError
from segpipe.pipeline.execution.serial import Serial
from segpipe.pipeline.maps import cog
from segpipe.pipeline.staging import staged_beside
from segpipe.workflows import cli, order, plan, resident, run
from segpipe.workflows.pages import page_sections
from segpipe.workflows.pages.markup import Html
from tests import toys

Tree = Mapping[str, bytes]
"""Files by their path inside of a folder."""

Watch = Callable[[int, str, Path], None]
"""Is told of each step: its number from 0, its kind, its place."""

_PATIENCE = 120
"""Seconds after which a child that doesn't end is taken for stuck."""


class Killed(BaseException):
    """Stands for SIGKILL in this process: no handler of errors sees it."""


class Table:
    """A predictor that has no network: a pixel's class is its first band in hundreds."""

    def layers(
        self,
        pixels: NDArray[np.generic],
        valid: NDArray[np.bool_],
        core: tuple[slice, slice],
        names: tuple[str, ...],
    ) -> dict[str, NDArray[np.uint8]]:
        """Layers of the core by name."""
        labels = (pixels[0][core] // 100).astype(np.uint8)
        shares = np.stack([np.where(labels == value, 150, 25) for value in range(1, 6)])
        made = {
            "classes": labels,
            "probabilities": shares.astype(np.uint8),
            "confidence": np.stack(
                [np.full(labels.shape, share, np.uint8) for share in (150, 125)]
            ),
        }
        return {name: made[name] for name in names}

    def workspace(self, *_: object) -> Workspace:
        """Next to nothing."""
        return Workspace(0.0, 10.0, 10.0)


@contextlib.contextmanager
def quick_runs() -> Iterator[None]:
    """Runs are as the module says while the block runs, in children too."""
    model = toys.small()

    def alone(*_: object, **__: object) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext(Serial(resident.Resident(model)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "find", lambda *_, **__: model)
        patch.setattr(order, "decide_engine", lambda *_, **__: Engine())
        patch.setattr(run, "workers_for", alone)
        patch.setattr(resident.Resident, "predictor", lambda *_, **__: Table())
        patch.setattr(plan, "gives_shares", lambda *_: False)
        patch.setattr(page_sections, "measured", lambda *_: Html(""))
        # GDAL's threads wouldn't be there in a child.
        patch.setitem(cog._COG, "NUM_THREADS", "1")
        patch.setattr(os, "fsync", lambda descriptor: None)
        # A pulse is no step: it comes when time has passed.
        patch.setattr(driver, "_BEAT", 3600.0)
        yield


def pixels(seed: int = 0) -> NDArray[np.uint16]:
    """Three bands of a few rectangles, some nodata among them, in two tiles of 256."""
    values = np.full((3, 300, 200), 100, np.uint16)
    values[:, 100:] = 200
    values[:, 270:, 50:] = 300 + 100 * seed
    values[:, :40, 150:] = 500
    values[:, 10:20, 10:20] = 0
    return values


@dataclass(frozen=True)
class Desk:
    """A folder in which one command is typed, again and again.

    Attributes:
        folder: where its files go.
        scene: what it maps.
        output: the map's name.
        beside: options that name a file, with that name.
        options: the other options.
    """

    folder: Path
    scene: Path
    output: str
    beside: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def place(self) -> Path:
        """The map."""
        return self.folder / self.output

    def run(self, **more: object) -> None:
        """Types the command."""
        names = {option: self.folder / name for option, name in self.beside.items()}
        words: dict[str, object] = {"tile": 256, **names, **self.options, **more}
        run.run(self.scene, output=self.place, **words)  # type: ignore[arg-type]

    def clear(self, template: Path | None = None) -> None:
        """Leaves the folder as `template` is, or empty."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if template is None:
            self.folder.mkdir()
        else:
            shutil.copytree(template, self.folder)

    def seen(self) -> Tree:
        """All that isn't hidden."""
        return {name: data for name, data in tree(self.folder).items() if name[0] != "."}

    @property
    def hidden(self) -> list[str]:
        """The names of all that is."""
        return sorted(path.name for path in self.folder.iterdir() if path.name[0] == ".")

    @property
    def is_finished(self) -> bool:
        """Whether there is a map, and no unfinished run."""
        return self.place.exists() and not staged_beside(self.place)

    def steps(self) -> list[tuple[str, Path]]:
        """The steps of a run that nothing stops."""
        found: list[tuple[str, Path]] = []
        with watched(lambda number, action, path: found.append((action, path))):
            self.run()
        return found


def desks(folder: Path) -> dict[str, Desk]:
    """A desk of each kind."""
    scene = toys.write_scene(folder / "scene.tif", pixels())
    work = folder / "work"
    layer = {"confidence": "sure.tif"}
    products = {"polygons": "areas.gpkg", "report": "page.html", "stac": "item.json"}
    return {
        "cog": Desk(work, scene, "map.tif"),
        "zarr-2": Desk(work, scene, "map.zarr"),
        "zarr-3": Desk(work, scene, "map.zarr", options={"zarr_format": 3}),
        "layers": Desk(work, scene, "map.zarr", layer, {"zarr_format": 3}),
        "products": Desk(work, scene, "map.tif", products),
    }


def tree(folder: Path) -> Tree:
    """All files in a folder and below."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def outputs(files: Tree) -> dict[str, Tree]:
    """The files of each output: a file by itself, a store with all that is in it."""
    found: dict[str, dict[str, bytes]] = {}
    for name, data in files.items():
        found.setdefault(name.partition("/")[0], {})[name] = data
    return dict(found)


def half_made(seen: Tree, *wholes: Tree) -> list[str]:
    """The outputs that are in none of the states in which they may be seen."""
    whole = [outputs(files) for files in wholes]
    return [
        name
        for name, files in outputs(seen).items()
        if not any(files == state.get(name) for state in whole)
    ]


@contextlib.contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Every step is told while the block runs."""
    numbers = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "step", lambda action, path: watch(next(numbers), action, path))
        yield


# What may happen at a step


def kill(at: int) -> Watch:
    """The process is killed before step `at`."""

    def watch(number: int, action: str, path: Path) -> None:
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return watch


def tear(at: int) -> Watch:
    """The process is killed when half of step `at` is on the disk: of a file, or of a removal."""
    torn: list[Path] = []

    def watch(number: int, action: str, path: Path) -> None:
        if number == at and action == "write":
            torn.append(path)
        elif number == at and path.is_dir():
            halve_folder(path)
            os.kill(os.getpid(), signal.SIGKILL)
        elif number == at + 1 and torn:
            for file in filter(Path.is_file, torn):
                os.truncate(file, file.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    return watch


def halve_folder(folder: Path) -> None:
    """Removes every second file below a folder."""
    for file in [path for path in sorted(folder.rglob("*")) if path.is_file()][::2]:
        file.unlink()


def can_tear(action: str, path: Path) -> bool:
    """Whether a step can be done by half."""
    return action == "write" or (action == "remove" and path.suffix != ".part")


def fill(at: int) -> Watch:
    """The disk is full from step `at` on; what is there can be removed."""

    def watch(number: int, action: str, path: Path) -> None:
        if number >= at and action != "remove":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return watch


def fail(at: int) -> Watch:
    """The disk fails once, at step `at`."""

    def watch(number: int, action: str, path: Path) -> None:
        if number == at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    return watch


def stop(at: int) -> Watch:
    """The process takes no step from `at` on; for where a real SIGKILL costs too much."""

    def watch(number: int, action: str, path: Path) -> None:
        if number >= at:
            raise Killed

    return watch


# Runs, and what is left of them


def killed(desk: Desk, watch: Watch, **more: object) -> bool:
    """Whether the command, in a process of its own, was killed before it ended by itself."""
    child = os.fork()
    if child == 0:
        try:
            with watched(watch):
                desk.run(**more)
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    status = _wait(child)
    assert status == 0 or os.WIFSIGNALED(status), f"a child ended with {status}"
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def typed(desk: Desk, watch: Watch, setting: Callable[[], None]) -> tuple[int, list[str]]:
    """The exit code of `segpipe run` in a process of its own, and its lines on standard error.

    `setting` is called there before the command line is read.
    """
    named = {option: desk.folder / name for option, name in desk.beside.items()}
    options = {"output": desk.place, "tile": 256, **named, **desk.options}
    words = [str(word) for pair in options.items() for word in (f"--{pair[0]}", pair[1])]
    words = [word.replace("_", "-") if word.startswith("--") else word for word in words]
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(writing, 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            sys.argv = ["segpipe", "run", str(desk.scene), *words, "--quiet"]
            setting()
            with watched(watch):
                cli.main()
        except SystemExit as error:
            sys.stderr.flush()
            os._exit(int(error.code or 0))
        finally:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as said:
        lines = said.read().splitlines()
    return os.waitstatus_to_exitcode(_wait(child)), lines


def refused(desk: Desk, watch: Watch, **more: object) -> StorageError | None:
    """What the command says of a disk that fails; None where it ends all the same."""
    with watched(watch):
        try:
            desk.run(**more)
        except StorageError as error:
            found = error
        else:
            return None
    assert found.exit_code == 7
    assert "\n" not in str(found)
    return found


def go_on(desk: Desk, whole: Tree, **more: object) -> None:
    """Types the command again: all must be as if nothing had happened, and nothing be left over."""
    if desk.is_finished and not more.get("overwrite"):
        # All that was missing is that the folder goes away; a map isn't made twice.
        with pytest.raises(FingerprintMismatchError, match="exists"):
            desk.run(**more)
    else:
        desk.run(**more)
    seen = desk.seen()
    assert half_made(seen, whole) == []
    assert seen.keys() == whole.keys()
    assert desk.hidden == []


def _wait(child: int) -> int:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError(f"a child took more than {_PATIENCE} s")
