"""Files that others damaged or forged end with a line and the right exit code, whatever is in them.

Each case is a seed: `python -m tests.mutations SAMPLES KIND SEED 1` does it again.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.mutations import ALLOWED, make_samples, mutate
from tests.workflows.conftest import Command

KINDS = ("tiled", "striped", "plain", "zarr2", "zarr3", "package")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    assert tuple(make_samples(folder)) == KINDS
    return folder


def read_mutated(samples: Path, kind: str, count: int) -> Iterator[tuple[int, str]]:
    """Each seed with what became of its file, read in a process of its own with bounded memory."""
    command = [sys.executable, "-m", "tests.mutations", str(samples), kind, "0", str(count)]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    yield from ((line["seed"], line["outcome"]) for line in lines if "outcome" in line)
    if done.returncode or len(lines) != 2 * count:
        seed = lines[-1]["seed"] if lines else None
        pytest.fail(f"{kind}, seed {seed}: killed with {done.returncode}: {done.stderr[-500:]}")


def test_the_sound_files_are_read(samples: Path) -> None:
    from tests.mutations import outcome

    found = {path.stem: outcome(path) for path in samples.iterdir()}
    assert found == dict.fromkeys(KINDS, "read")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "count", [pytest.param(25, id="some"), pytest.param(500, id="many", marks=pytest.mark.slow)]
)
def test_no_mutated_file_gets_further_than_an_error(samples: Path, kind: str, count: int) -> None:
    found = dict(read_mutated(samples, kind, count))
    wrong = {seed: outcome for seed, outcome in found.items() if outcome not in ALLOWED}
    assert not wrong, f"{kind}: {wrong}"
    # Some are harmless, and most aren't: the mutations reach what is read.
    assert sum(outcome != "read" for outcome in found.values()) > count / 4


@pytest.mark.parametrize("seed", range(6))
def test_the_command_says_it_in_one_line(
    segpipe: Command, samples: Path, tiny_model: Path, tmp_path: Path, seed: int
) -> None:
    sound = samples / ("tiled.tif" if seed % 2 else "zarr3.zarr")
    scene = tmp_path / f"scene{sound.suffix}"
    shutil.copytree(sound, scene) if sound.is_dir() else shutil.copy(sound, scene)
    mutate(scene, seed)
    done = segpipe("run", scene, "-m", tiny_model, "-o", "map.tif", "--bands", "1,2,3", "--quiet")
    assert done.code in (0, 3, 6)
    assert done.code == 0 or not (tmp_path / "map.tif").exists()
    assert "Traceback" not in done.err
