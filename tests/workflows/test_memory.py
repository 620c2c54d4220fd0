"""Memory does not grow with the scene, and is never more than the plan says."""

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest

from segpipe.models.architectures.network import Option
from segpipe.models.package import save
from segpipe.workflows.plan import plan
from tests import toys
from tests.workflows.conftest import finish, start

MOST = 1.35
"""Of a scene with a sixteenth of the tiles, in which the three that are in flight are seldom all at
their greatest at once."""

LEAST = 0.4
"""Of the plan's figure; below it tiles could be larger than they are."""


def peak(scene: Path, package: Path, output: Path) -> int:
    """The most bytes that a run of this scene held, as the report says and the kernel confirms."""
    script = (
        "import resource, sys; from segpipe.workflows import cli\n"
        "try: cli.main()\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    words = ["run", str(scene), "-m", str(package), "-o", str(output), "--tile", "2048", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=True
    )
    reported: int = json.loads(done.stdout)["peak_rss_bytes"]
    kernel = 1024 * int(done.stderr.split()[-1])
    assert reported <= kernel <= 1.05 * reported
    return kernel


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_scene_sixteen_times_as_large_takes_no_more(examples: Path, tmp_path: Path) -> None:
    package = tmp_path / "toy"
    save(toys.model("unet", depth=1, width=2), package)
    tile = examples / "landsat8-224077-rgb.tif"
    peaks = {
        side: peak(
            toys.repeated(tmp_path / f"{side}.vrt", tile, side), package, tmp_path / f"{side}.tif"
        )
        for side in (5000, 20000)
    }
    print({side: f"{size / 1e6:.0f} MB" for side, size in peaks.items()})
    assert peaks[20000] <= MOST * peaks[5000]


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
    """

    architecture: str | None
    side: int
    words: dict[str, str]
    built: dict[str, Option] = field(default_factory=dict)
    dtype: str = "uint16"
    further: tuple[str, ...] = ()
    suffix: str = ".tif"


FULL, HALF = {"precision": "fp32"}, {"precision": "bf16"}
NARROW: dict[str, Option] = {"width": 16}
SHAPES = {
    "bundled": Shape(None, 0, {}),
    "resnet18-bf16": Shape("unet-resnet18", 1500, {**HALF, "tile": "768"}),
    "resnet18-fp32-zarr": Shape("unet-resnet18", 700, {**FULL, "tile": "512"}, suffix=".zarr"),
    "fcn8s": Shape("fcn8s-vgg16", 1000, FULL, NARROW, dtype="float32"),
    "fcn32s": Shape("fcn32s-alexnet", 900, HALF),
    "huge-margins": Shape("unet", 1500, FULL, {"depth": 6, "width": 1}),
    "two-workers": Shape(
        "unet", 2000, {**FULL, "tile": "512"}, {"depth": 2, "width": 8}, further=("--workers", "2")
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_no_process_takes_more_than_the_plan_says(
    shape: Shape, examples: Path, tmp_path: Path
) -> None:
    scene, output = examples / "landsat7-nc-2000.tif", tmp_path / f"map{shape.suffix}"
    named: dict[str, str] = {}
    if shape.architecture:
        pixels = np.random.default_rng(0).integers(1, 250, (3, shape.side, shape.side))
        scene = toys.write_scene(
            tmp_path / "scene.tif", pixels.astype(shape.dtype), compress="zstd", tiled=True
        )
        save(toys.model(shape.architecture, 0, "toy", **shape.built), tmp_path / "model")
        named = {"model": str(tmp_path / "model")}
    expected = plan(scene, output=output, **named, **shape.words)  # type: ignore[arg-type]
    options = [
        word for name, value in {**named, **shape.words}.items() for word in (f"--{name}", value)
    ]
    command = start("run", scene, "-o", output, *options, *shape.further, cwd=tmp_path)
    peaks = _peaks(command.pid)
    outcome = finish(command)
    assert outcome.code == 0, outcome.err
    most = max(peaks)
    print(
        f"{most / 1e6:.0f} of {expected.memory_bytes / 1e6:.0f} MB, "
        f"{most / expected.memory_bytes:.2f}, tiles of {expected.tile}"
    )
    assert LEAST * expected.memory_bytes < most <= expected.memory_bytes


def _peaks(number: int) -> list[int]:
    """The most bytes that a process and each of its children holds, until the first has ended."""
    peaks: dict[int, int] = {}
    first = psutil.Process(number)
    while first.is_running() and first.status() != psutil.STATUS_ZOMBIE:
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            for one in (first, *first.children(recursive=True)):
                peaks[one.pid] = max(peaks.get(one.pid, 0), _high_water(one.pid))
        time.sleep(0.01)
    return list(peaks.values())


def _high_water(number: int) -> int:
    """The most bytes that a process has held, as the kernel counts; 0 of one that has ended."""
    for line in Path(f"/proc/{number}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    return 0
