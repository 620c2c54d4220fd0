"""A run that is killed at any moment goes on where it was and ends with the same bytes."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from segpipe.models.package import save
from tests import toys

SEED = 20261122
KILLS = 30


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "toy"
    save(toys.model("unet", depth=3, width=4), folder)
    return folder


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    return toys.write_scene(path, toys.landscape(1500, 2000), tiled=True, compress="zstd")


def command(scene: Path, package: Path, output: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "segpipe.workflows.cli",
        "run",
        str(scene),
        "-m",
        str(package),
        "-o",
        str(output),
        "--tile",
        "256",
        "--precision",
        "fp32",
        "--json",
        *more,
    ]


def finish(words: list[str]) -> dict[str, int]:
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, int] = json.loads(done.stdout)
    return report


def digest(output: Path) -> str:
    """A hash over the bytes of a file or of all files of a folder, and over their names."""
    files = sorted(output.rglob("*")) if output.is_dir() else [output]
    sidecars = [output.with_name(f"{output.name}.aux.xml"), output.with_suffix(".qml")]
    found = hashlib.sha256()
    for path in (*files, *(path for path in sidecars if path.exists())):
        if path.is_file():
            found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def receipts(output: Path) -> dict[Path, int]:
    """The receipts in the staging folder, and when each was written."""
    found = output.parent.glob(f".{output.name}.segpipe-*/receipts/*/[0-9]*.json")
    return {path: path.stat().st_mtime_ns for path in found}


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_killed_drivers(scene: Path, package: Path, tmp_path: Path, suffix: str) -> None:
    print(f"seed {SEED}")
    chance = random.Random(f"{SEED}{suffix}")
    whole = tmp_path / f"whole{suffix}"
    start = time.monotonic()
    finish(command(scene, package, whole))
    length = time.monotonic() - start
    killed = resumed = 0
    for number in range(KILLS // 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        # The name is in the side-cars' names, so it must be the same.
        output = folder / f"whole{suffix}"
        words = command(scene, package, output)
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as driver:
            time.sleep(chance.uniform(0.3, 1.05) * length)
            driver.kill()
        if driver.returncode == 0:
            assert digest(output) == digest(whole)
            continue
        killed += 1
        before = receipts(output)
        published = output.exists()
        if published and not list(folder.glob(".*.segpipe-*")):
            continue  # it was killed after its last step
        with_kept = command(scene, package, output)
        report = finish(with_kept)
        assert digest(output) == digest(whole), number
        assert report["tiles_resumed"] >= len(before), number
        resumed += report["tiles_resumed"]
        assert [path.name for path in folder.glob(".*")] == []
    assert killed >= KILLS // 4
    assert resumed > 0, "no kill hit a run that had finished a tile"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_finished_tiles_are_not_computed_again(scene: Path, package: Path, tmp_path: Path) -> None:
    output = tmp_path / "map.tif"
    words = command(scene, package, output)
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as driver:
        while len(receipts(output)) < 5:
            time.sleep(0.01)
            assert driver.poll() is None
        driver.kill()
    before = receipts(output)
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as driver:
        while len(receipts(output)) < len(before) + 3:
            time.sleep(0.01)
            assert driver.poll() is None
        driver.kill()
    after = receipts(output)
    assert {path: after[path] for path in before} == before
    report = finish(words)
    assert report["tiles_resumed"] >= len(after)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_workers(scene: Path, package: Path, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    whole = tmp_path / "map.tif"
    finish(command(scene, package, whole))
    kills = 0
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        output = folder / "map.tif"
        words = command(scene, package, output, "--workers", "2")
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as driver:
            for _ in range(2):
                wanted = len(receipts(output)) + chance.randint(1, 12)
                while len(receipts(output)) < wanted and driver.poll() is None:
                    time.sleep(0.01)
                kills += kill_a_worker(driver.pid, chance)
            driver.communicate(timeout=120)
        assert driver.returncode == 0
        assert digest(output) == digest(whole), number
    assert kills >= 5


def kill_a_worker(driver: int, chance: random.Random) -> bool:
    """Whether a worker process of the driver was there to be killed."""
    try:
        children = psutil.Process(driver).children(recursive=True)
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        if workers:
            chance.choice(workers).send_signal(signal.SIGKILL)
        return bool(workers)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_tile_order_workers_and_cluster_do_not_change_the_bytes(
    scene: Path, package: Path, tmp_path: Path
) -> None:
    digests = set()
    for number, more in enumerate([(), ("--workers", "2"), ("--workers", "3")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        finish(command(scene, package, folder / "map.tif", *more))
        digests.add(digest(folder / "map.tif"))
    file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    where = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
    with subprocess.Popen(
        [*dask, "scheduler", "--port", "0", *where], stderr=subprocess.DEVNULL
    ) as scheduler:
        crew = [
            subprocess.Popen([*dask, "worker", *where], stderr=subprocess.DEVNULL) for _ in range(2)
        ]
        try:
            folder = tmp_path / "cluster"
            folder.mkdir()
            more = ("--scheduler-file", str(file))
            finish(command(scene, package, folder / "map.tif", *more))
            digests.add(digest(folder / "map.tif"))
        finally:
            for process in (*crew, scheduler):
                process.terminate()
                process.wait(20)
    assert len(digests) == 1
