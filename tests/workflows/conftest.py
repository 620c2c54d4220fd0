"""A network small enough for any test, and the command line as a user meets it."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray

from segpipe.models.architectures.registry import build
from segpipe.models.package import ClassInfo, ModelCard, SegmentationModel, save
from segpipe.workflows import cli
from tests.conftest import ROOT

CLASSES = (
    ClassInfo(1, "water", "#4060c8"),
    ClassInfo(2, "forest", "#206020"),
    ClassInfo(3, "field", "#c0c040"),
    ClassInfo(7, "town", "#c04040"),
)
COMMAND = [sys.executable, "-m", "segpipe.workflows.entry"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left: its exit code, what it printed, and how long it took."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        """The lines on standard error that aren't progress."""
        return [line for line in self.err.splitlines() if line and " tiles" not in line[:20]]


Command = Callable[..., Outcome]
Refusal = Callable[..., tuple[int, str]]


def package(folder: Path, *, seed: int, width: int = 4) -> Path:
    """A package with a small U-Net whose weights are random but always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build("unet", 3, len(CLASSES), depth=2, width=width)
    card = ModelCard(
        folder.name, ("red", "green", "blue"), CLASSES, (500.0, 510.0, 520.0), (280.0,) * 3
    )
    save(SegmentationModel(network, card), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a package: three bands, four classes, stride 4."""
    return package(tmp_path_factory.mktemp("models") / "tiny", seed=1)


def noise(height: int = 300, width: int = 280, bands: int = 3) -> NDArray[np.uint16]:
    """Pixels (band, row, column) under 1000 that no codec makes much smaller."""
    return np.random.default_rng(0).integers(0, 1000, (bands, height, width), dtype=np.uint16)


def write_scene(path: Path, pixels: NDArray[np.generic], **options: Any) -> Path:
    """A GeoTIFF of the pixels (band, row, column)."""
    count, height, width = pixels.shape
    profile = {
        "crs": "EPSG:32621",
        "transform": rasterio.Affine(30, 0, 694005, 0, -30, -2766615),
        "dtype": pixels.dtype.name,
        **options,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", count=count, height=height, width=width, **profile
        ) as dataset:
            dataset.write(pixels)
    return path


@pytest.fixture
def segpipe(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    """Runs a command line in this process: the same code as a process of its own, only sooner.

    Logging and warnings go where they'd go without pytest, to standard error.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(logging.root, "handlers", [])

    def call(*words: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["segpipe", *map(str, words)])
        capfd.readouterr()
        start = time.monotonic()
        with warnings.catch_warnings():
            warnings.resetwarnings()
            for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning):
                warnings.simplefilter("ignore", category)
            warnings.showwarning = _show
            with pytest.raises(SystemExit) as stopped:
                cli.main()
        seconds = time.monotonic() - start
        printed = capfd.readouterr()
        code = stopped.value.code
        return Outcome(int(code or 0), printed.out, printed.err, seconds)

    return call


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(warnings.formatwarning(message, category, filename, lineno), file=sys.stderr)


def start(*words: str | Path, **options: Any) -> subprocess.Popen[str]:
    """A command line in a process of its own."""
    return subprocess.Popen(
        [*COMMAND, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        **options,
    )


def finish(process: subprocess.Popen[str], timeout: float = 120) -> Outcome:
    """What a process leaves when it has ended."""
    start = time.monotonic()
    out, err = process.communicate(timeout=timeout)
    return Outcome(process.returncode, out, err, time.monotonic() - start)


def tree(folder: Path) -> dict[str, str]:
    """What a folder shows: the hash of every file that doesn't lie in something hidden there."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in named.items()
        if not name.startswith(".")
    }


def hidden(folder: Path) -> list[str]:
    """What a run may leave beside its output only as long as it isn't finished."""
    return sorted(path.name for path in folder.glob(".*"))


@pytest.fixture
def refused(segpipe: Command, tmp_path: Path) -> Refusal:
    """Exit code and message of an export that says one line and leaves the folder as it was."""

    def export(source: Path, output: Path, *words: str) -> tuple[int, str]:
        before = sorted(tmp_path.rglob("*"))
        done = segpipe("export", source, "-o", output, *words)
        assert len(done.lines) == 1
        assert done.out == ""
        assert sorted(tmp_path.rglob("*")) == before
        return done.code, done.err

    return export
