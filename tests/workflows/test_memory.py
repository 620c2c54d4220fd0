"""Memory does not grow with the scene, and is never more than the plan says."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import rasterio
from dask.utils import parse_bytes
from rasterio.transform import Affine
from rasterio.windows import Window

from segpipe.models import openvino_session
from segpipe.models.architectures.network import Option
from segpipe.models.package import save
from segpipe.workflows import memory
from segpipe.workflows.plan import plan
from tests import toys
from tests.workflows.conftest import finish, start

MOST = 1.2
"""Of what a scene with a sixteenth of the pixels takes."""

LEAST = 0.35
"""Of the plan's figure; below it tiles could be larger than they are."""


def written(path: Path, side: int) -> Path:
    """A square scene of three bands whose blocks are alike, which packs well."""
    pixels = np.random.default_rng(0).integers(1, 5000, (3, 16, 16), np.uint16)
    strip = np.tile(pixels, (1, 512 // 16, -(-side // 16)))[:, :, :side]
    profile: dict[str, Any] = {
        **{"driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint16"},
        **{"compress": "zstd", "tiled": True, "blockxsize": 512, "blockysize": 512},
        **{"crs": "EPSG:32621", "transform": Affine(30, 0, 700000, 0, -30, -2700000)},
    }
    with rasterio.open(path, "w", **profile) as file:
        file.descriptions = ("red", "green", "blue")
        for top in range(0, side, 512):
            height = min(512, side - top)
            file.write(strip[:, :height], window=Window(0, top, side, height))
    return path


def peak(scene: Path, package: Path, output: Path) -> int:
    """The most bytes that a run of this scene held, as the kernel says and the report confirms."""
    words = (
        "-m",
        package,
        "-o",
        output,
        "--tile",
        "1024",
        "--engine",
        "torch",
        "--json",
        "--quiet",
    )
    command = start("run", scene, *words, cwd=output.parent)
    (most, *_) = _peaks(command.pid)
    outcome = finish(command)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["peak_rss_bytes"] == pytest.approx(most, rel=0.05)
    return most


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_scene_sixteen_times_as_large_takes_no_more(tmp_path: Path) -> None:
    package = tmp_path / "toy"
    save(toys.model("unet", depth=1, width=2), package)
    peaks = {
        side: peak(written(tmp_path / f"{side}.tif", side), package, tmp_path / f"{side}.map.tif")
        for side in (3168, 12672)
    }
    print({side: f"{size / 1e6:.0f} MB" for side, size in peaks.items()})
    assert peaks[12672] <= MOST * peaks[3168]


@dataclass(frozen=True, slots=True)
class Shape:
    """A run that isn't like the others.

    Attributes:
        architecture: of the model; None for the bundled one, on its own example.
        side: of the scene in pixels.
        words: of the command line that `plan` has too.
        built: options of the architecture.
        dtype: of the scene's three bands.
        further: words of the command line that only `run` has.
        suffix: of the output.
        cluster: whether a worker of a cluster that exists computes the tiles.
    """

    architecture: str | None
    side: int
    words: dict[str, str]
    built: dict[str, Option] = field(default_factory=dict)
    dtype: str = "uint16"
    further: tuple[str, ...] = ()
    suffix: str = ".tif"
    cluster: bool = False


TORCH = {"engine": "torch"}
FULL, HALF = {**TORCH, "precision": "fp32"}, {**TORCH, "precision": "bf16"}
LIBRARY = {"engine": openvino_session.NAME}
NARROW: dict[str, Option] = {"width": 16}
SMALL: dict[str, Option] = {"depth": 2, "width": 8}
SHAPES = {
    "bundled": Shape(None, 0, TORCH),
    "resnet18-bf16": Shape("unet-resnet18", 1500, {**HALF, "tile": "768"}),
    "resnet18-fp32-zarr": Shape("unet-resnet18", 700, {**FULL, "tile": "512"}, suffix=".zarr"),
    "resnet50-bf16": Shape("fcn-resnet50", 1200, {**HALF, "tile": "1280"}),
    "fcn8s": Shape("fcn8s-vgg16", 1000, FULL, NARROW, dtype="float32"),
    "fcn32s": Shape("fcn32s-alexnet", 900, HALF),
    "segnet-fp32": Shape("segnet-vgg16", 1600, FULL, NARROW, dtype="uint8"),
    "segnet-probabilities": Shape("segnet-vgg16", 1400, {**HALF, "probabilities": "p.tif"}, NARROW),
    "huge-margins": Shape("unet", 1500, FULL, {"depth": 6, "width": 1}),
    "openvino-bf16": Shape("unet-resnet18", 1500, {**HALF, **LIBRARY, "tile": "768"}),
    "openvino-probabilities": Shape(
        *("unet", 1200, {**FULL, **LIBRARY, "tile": "512", "probabilities": "p.tif"}),
        {"width": 32},
    ),
    "a-ceiling": Shape("unet", 2500, {**FULL, "memory": "1700MB"}, SMALL),
    "two-workers": Shape("unet", 2000, {**FULL, "tile": "1024"}, SMALL, further=("--workers", "2")),
    "a-worker-of-a-cluster": Shape("unet", 2000, {**FULL, "tile": "1024"}, SMALL, cluster=True),
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_no_process_takes_more_than_the_plan_says(
    shape: Shape, examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shape.words["engine"] == openvino_session.NAME and not openvino_session.is_installed():
        pytest.skip("OpenVINO isn't installed")
    monkeypatch.chdir(tmp_path)
    scene, output = examples / "landsat7-nc-2000.tif", tmp_path / f"map{shape.suffix}"
    named: dict[str, str] = {}
    if shape.architecture:
        pixels = np.random.default_rng(0).integers(1, 250, (3, shape.side, shape.side))
        scene = toys.write_scene(
            tmp_path / "scene.tif", pixels.astype(shape.dtype), compress="zstd", tiled=True
        )
        save(toys.model(shape.architecture, 0, "toy", **shape.built), tmp_path / "model")
        named = {"model": str(tmp_path / "model")}
    words = {**named, **shape.words}
    expected = plan(scene, output=output, **words)  # type: ignore[arg-type]
    monkeypatch.setattr(memory, "_KEPT", memory._KEPT / 2)
    words["tile"] = str(expected.tile)
    too_little = plan(scene, output=output, **words)  # type: ignore[arg-type]
    options = [
        word for name, value in {**named, **shape.words}.items() for word in (f"--{name}", value)
    ]
    with contextlib.ExitStack() as stack:
        others = stack.enter_context(_cluster(tmp_path)) if shape.cluster else []
        where: tuple[str | Path, ...] = ()
        if shape.cluster:
            where = ("--scheduler-file", tmp_path / "scheduler.json")
        command = start("run", scene, "-o", output, *options, *shape.further, *where, cwd=tmp_path)
        peaks = _peaks(command.pid, *others)
        outcome = finish(command)
    assert outcome.code == 0, outcome.err
    most = max(peaks)
    print(
        f"{[round(peak / 1e6) for peak in peaks]} of {expected.memory_bytes / 1e6:.0f} MB, "
        f"{most / expected.memory_bytes:.2f}, with half the tensors "
        f"{too_little.memory_bytes / 1e6:.0f}, tiles of {expected.tile}"
    )
    assert LEAST * expected.memory_bytes < most <= expected.memory_bytes
    if "memory" in shape.words:
        assert most <= parse_bytes(shape.words["memory"])


def _peaks(*numbers: int) -> list[int]:
    """The most bytes that each process and its children hold, until the first one has ended."""
    peaks: dict[int, int] = {}
    first, *_ = roots = [psutil.Process(number) for number in numbers]
    while first.is_running() and first.status() != psutil.STATUS_ZOMBIE:
        for root in roots:
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                for one in (root, *root.children(recursive=True)):
                    peaks[one.pid] = max(peaks.get(one.pid, 0), _high_water(one.pid))
        time.sleep(0.01)
    return list(peaks.values())


def _high_water(number: int) -> int:
    """The most bytes that a process has held, as the kernel counts; 0 of one that has ended."""
    for line in Path(f"/proc/{number}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    return 0


@contextlib.contextmanager
def _cluster(folder: Path) -> Iterator[list[int]]:
    """The process numbers of a scheduler and of its one worker, which has three threads."""
    where = ["--host", "127.0.0.1", "--no-dashboard"]
    where += ["--scheduler-file", str(folder / "scheduler.json")]
    roles = (["scheduler", "--port", "0"], ["worker", "--no-nanny", "--nthreads", "3"])
    with contextlib.ExitStack() as stack:
        processes = []
        for role in roles:
            command = [sys.executable, "-m", "dask", *role, *where]
            process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
            processes.append(process.pid)
        yield processes
