"""What a run does before its first tile: nothing that the tile doesn't need."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from segpipe.pipeline.scenes.scene import Scene
from segpipe.pipeline.window import Window
from segpipe.workflows.plan import prepare
from segpipe.workflows.reading.inputs import Reading
from segpipe.workflows.resident import Resident, decide_engine
from tests import toys

SIDE = 32
"""Of a sample."""

HEAVY = {"torch._dynamo", "torch._inductor", "sympy", "matplotlib", "sklearn", "onnxruntime"}
"""Each takes from a third of a second to more than one."""

RUN = """
import json, sys
from segpipe.workflows.run import run
run(sys.argv[1], model=sys.argv[2], output=sys.argv[3], tile=256, engine="torch")
print(json.dumps(sorted(sys.modules)))
"""


def test_a_run_of_a_package_imports_no_compiler(tiny_model: Path, tmp_path: Path) -> None:
    scene = toys.write_scene(tmp_path / "scene.tif", toys.landscape(300, 300))
    words = (str(scene), str(tiny_model), str(tmp_path / "map.tif"))
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words], check=True, timeout=300, capture_output=True
    )
    assert not HEAVY & set(json.loads(done.stdout))


HELP = """
import json, sys
from click.testing import CliRunner
from segpipe.workflows.cli import cli

def ask(command, words):
    assert CliRunner().invoke(cli, [*words, "--help"]).exit_code == 0
    for name, other in getattr(command, "commands", {}).items():
        ask(other, [*words, name])

ask(cli, [])
print(json.dumps(sorted(sys.modules)))
"""


def test_help_waits_for_no_library_of_arrays_rasters_or_networks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP], check=True, timeout=300, capture_output=True
    )
    found = set(json.loads(done.stdout))
    assert "segpipe.workflows.commands.bench_sweep" in found
    slow = {"numpy", "torch", "rasterio", "zarr", "dask", "distributed", "obstore", "matplotlib"}
    assert not slow & found


@pytest.mark.parametrize("hidden", [0, 1, 2, 5])
def test_samples_are_read_until_one_holds_measurements_alone(
    hidden: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = ((2, 2), (1, 1), (1, 3), (3, 1), (3, 3))
    pixels = np.random.default_rng(0).integers(1, 9000, (3, 256, 256), np.uint16)
    for down, across in places[:hidden]:
        pixels[:, 64 * down, 64 * across] = 0
    path = toys.write_scene(tmp_path / "scene.tif", pixels)
    ready = prepare(
        path,
        model=toys.small(),
        output=tmp_path / "map.tif",
        reading=Reading(),
        tile=256,
        memory=None,
    )
    seen: list[Window] = []
    read = Scene.read

    def counted(self: Scene, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        seen.append(window)
        return read(self, window)

    monkeypatch.setattr("segpipe.workflows.resident._SAMPLE", SIDE)
    monkeypatch.setattr(Scene, "read", counted)
    resident = Resident(ready.model)
    decide_engine(ready.scene, ready.plan, "cpu", "auto", "torch", ready.use(), resident)
    assert len(seen) == min(hidden + 1, len(places))
    assert {window.shape for window in seen} == {(SIDE, SIDE)}
