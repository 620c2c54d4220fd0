"""What a run says of itself while it goes on, after it was stopped, and when it is done."""

import fcntl
import json
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from segpipe.models.package import save
from segpipe.pipeline.driver import Driver, Pulse, beating
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.failure import Failure
from segpipe.pipeline.journal import Journal
from segpipe.pipeline.plan import Margin, Plan
from segpipe.pipeline.staging import Staging, staging
from segpipe.workflows.run import run
from segpipe.workflows.status import Status, status
from tests import toys
from tests.workflows.conftest import Command, finish, start

PLACES = st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=20)


def driver(tiles: int = 144, **facts: Any) -> Driver:
    told: dict[str, Any] = {
        "run": "1a2b3c4d",
        "started": time.time() - 100,
        "host": "node7",
        "pid": 123,
        "command": "segpipe run scene.tif",
        "folder": "/data",
        "dashboard": "http://127.0.0.1:8787/status",
    }
    plan = Plan(toys.grid(3000, 3000), 256, 4, Margin(8, 8, 8, 8))
    return Driver(tiles=tiles, plan=plan, layers=("classes",), **{**told, **facts})


def begin(output: Path) -> Staging:
    with staging(output, {"model": "m"}, new_run=False, create=Path.mkdir, run="1a2b3c4d") as made:
        return made


def only(path: Path) -> Status:
    (found,) = status(path)
    return found


@given(stored=PLACES, failed=PLACES)
@settings(deadline=None, max_examples=30)
def test_it_counts_what_is_noted(
    tmp_path_factory: pytest.TempPathFactory,
    stored: set[tuple[int, int]],
    failed: set[tuple[int, int]],
) -> None:
    output = tmp_path_factory.mktemp("run") / "map.tif"
    staged = begin(output)
    driver().announce(staged)
    for row, column in stored:
        file = staged.folder / "receipts" / str(row) / f"{column}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        file.with_name(f".{column}.json.ab12.part").touch()
    for row, column in failed:
        staged.give_up(Failure(row, column, "memory", f"because {row} {column}", 2))
    found = only(output)
    assert (found.stored, found.failed, found.state) == (len(stored), len(failed), "stopped")
    assert found.in_flight is found.seconds_left is None
    if failed:
        row, column = min(failed)
        assert found.failure == f"tile {row}.{column}: because {row} {column}"


def test_the_lock_tells_whether_a_run_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "map.tif"
    staged = begin(output)
    driver().announce(staged)
    (staged.folder / "receipts" / "0").mkdir(parents=True)
    for column in range(44):
        (staged.folder / "receipts" / "0" / f"{column}.json").touch()
    (staged.folder / "pulse.json").write_text(
        json.dumps({"at": time.time() - 50, "stored": 20, "running": 6})
    )
    assert only(output).state == "stopped"
    lock = os.open(staged.folder / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    found = only(output)
    assert found.state == "mapping"
    assert found.in_flight == 6
    assert found.tiles_per_second == pytest.approx(20 / 50, rel=0.1)
    assert found.seconds_left == pytest.approx(100 / (20 / 50), rel=0.1)
    assert found.silent == pytest.approx(50, abs=9)
    driver(tiles=44).announce(staged)
    assert only(output).state == "publishing"
    os.close(lock)
    assert only(output).state == "stopped"


def test_who_looks_keeps_nobody_out(tmp_path: Path) -> None:
    output = tmp_path / "map.tif"
    staged = begin(output)
    looking = os.open(staged.folder / "lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)

    # While the run waits for the lock: its first attempt finds it held.
    end = threading.Timer(0.005, fcntl.flock, (looking, fcntl.LOCK_UN))
    end.start()
    try:
        assert begin(output) == staged
    finally:
        end.join()
        os.close(looking)


def test_a_pulse_of_an_earlier_process_says_nothing(tmp_path: Path) -> None:
    output = tmp_path / "map.tif"
    staged = begin(output)
    (staged.folder / "pulse.json").write_text(
        json.dumps({"at": time.time() - 500, "stored": 20, "running": 6})
    )
    driver().announce(staged)
    with staging(output, {"model": "m"}, new_run=False, create=Path.mkdir, run="1a2b3c4d"):
        found = only(output)
    assert found.state == "mapping"
    assert found.in_flight is found.tiles_per_second is found.seen is None


def test_what_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    staged = begin(tmp_path / "map.tif")
    (staged.folder / "receipts").mkdir()
    for torn in (b"", b"{", b"[]", b'{"run": "x"}', b"\xff"):
        staged.driver.write_bytes(torn)
        staged.pulse.write_bytes(torn)
        assert Driver.of(staged) is None
        assert Pulse.of(staged) is None
        assert only(tmp_path / "map.tif") == Status(tmp_path / "map.tif", "stopped", stored=0)


def test_a_pulse_is_written_while_the_block_runs_and_never_again(tmp_path: Path) -> None:
    staged = begin(tmp_path / "map.tif")
    counts = iter(range(1, 99))
    with beating(staged, lambda: (next(counts), 7)):
        until = time.monotonic() + 60
        while (found := Pulse.of(staged)) is None or found.stored < 2:
            assert time.monotonic() < until
            time.sleep(0.05)
    assert found.running == 7
    staged.pulse.unlink()
    time.sleep(1.5)
    assert not staged.pulse.exists()


def test_nothing_there_is_told_in_one_line(segpipe: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign.tif").write_bytes(b"II*\0")
    for name in ("none.tif", "none.zarr", "empty", "foreign.tif"):
        done = segpipe("status", name)
        assert (done.code, done.out) == (InputRefusedError.exit_code, "")
        (line,) = done.err.splitlines()
        assert name in line


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and two scenes on one grid."""
    folder = tmp_path_factory.mktemp("made")
    save(toys.model("unet", depth=2, width=4), folder / "toy")
    for number in (0, 1):
        toys.write_scene(folder / f"{number}.tif", toys.landscape(700, 1100, number))
    return folder


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_one_id_is_in_all_that_a_run_leaves(made: Path, segpipe: Command, tmp_path: Path) -> None:
    done = segpipe(
        *("run", made / "0.tif", "-m", made / "toy", "-o", "map.tif", "--tile", "256"),
        *("--precision", "fp32", "--json", "--log", "log.jsonl"),
    )
    assert done.code == 0, done.err
    report = json.loads(done.out)
    name = report["run"]
    assert re.fullmatch("[0-9a-f]{8}", name)
    with rasterio.open("map.tif") as file:
        assert file.tags()["SEGPIPE_RUN"] == name
    told = lines(tmp_path / "log.jsonl")
    assert {line["run"] for line in told} == {name}
    assert [line["time"] for line in told] == sorted(line["time"] for line in told)
    events = [line["event"] for line in told]
    assert events[:2] == ["planned", "cluster"]
    assert events[-3:] == ["seam", "publishing", "published"]
    stored = [line["tile"] for line in told if line["event"] == "stored"]
    assert sorted(stored) == [[row, column] for row in range(3) for column in range(5)]
    (found,) = status(tmp_path / "map.tif")
    assert (found.state, found.run) == ("published", name)
    assert json.loads(segpipe("status", "map.tif", "--json").out)["state"] == "published"


def test_the_id_tells_scenes_and_models_apart_and_nothing_else(made: Path, tmp_path: Path) -> None:
    def name(scene: str, output: str, **options: Any) -> str:
        model = options.pop("model", made / "toy")
        report = run(made / scene, model=model, output=tmp_path / output, **options)
        return report.run

    one = name("0.tif", "a.tif", tile=256)
    assert name("0.tif", "b.tif", tile=512) == one
    assert name("0.tif", "c.zarr", zarr_format=3) == one
    os.utime(made / "0.tif")
    assert name("0.tif", "d.tif") == one
    assert name("1.tif", "e.tif") != one
    assert name("0.tif", "f.tif", model=toys.small(seed=5)) != one


def test_errors_are_noted(made: Path, segpipe: Command, tmp_path: Path) -> None:
    for scene in ("missing.tif", made / "0.tif"):
        (tmp_path / "map.tif").write_bytes(b"there")
        segpipe("run", scene, "-m", made / "toy", "-o", "map.tif", "--log", "log.jsonl")
    missing, taken = lines(tmp_path / "log.jsonl")
    assert (missing["event"], missing["level"], missing["run"]) == ("error", "error", None)
    assert (missing["exit_code"], taken["exit_code"]) == (3, 5)
    assert "missing.tif" in missing["message"]


def test_a_journal_on_standard_error(made: Path, segpipe: Command) -> None:
    done = segpipe("run", made / "0.tif", "-m", made / "toy", "-o", "map.tif", "--log", "-")
    assert done.code == 0
    assert json.loads(done.err.splitlines()[0])["event"] == "planned"
    assert all(json.loads(line)["run"] for line in done.err.splitlines())


def test_a_journal_that_goes_nowhere(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Journal().note("planned", path=tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_run_is_looked_at_stopped_looked_at_and_resumed(tmp_path: Path, segpipe: Command) -> None:
    save(toys.model("unet", depth=3, width=4), tmp_path / "toy")
    pixels = np.tile(toys.landscape(1024, 1024), (1, 2, 2))
    toys.write_scene(tmp_path / "scene.tif", pixels, tiled=True)
    words = ("run", "scene.tif", "-m", "toy", "-o", "map.zarr", "--tile", "256")
    more = ("--precision", "fp32", "--log", "log.jsonl")
    process = start(*words, *more, cwd=tmp_path)
    until, seen = time.monotonic() + 120, []
    while time.monotonic() < until and process.poll() is None:
        try:
            seen += status(tmp_path / "map.zarr")
        except InputRefusedError:
            continue  # it hasn't begun
        if (seen[-1].stored or 0) >= 8 and seen[-1].tiles_per_second:
            break
    process.send_signal(signal.SIGTERM)
    left = finish(process)
    assert left.code == 143, left.err
    going = seen[-1]
    assert going.state == "mapping"
    assert going.tiles == 64
    assert going.in_flight
    assert going.seconds_left
    assert going.driver is not None
    assert going.driver.pid == process.pid
    (stopped,) = status(tmp_path / "map.zarr")
    assert stopped.state == "stopped"
    assert stopped.driver is not None
    assert stopped.driver.folder == str(tmp_path)
    assert stopped.run is not None
    assert stopped.run in next(tmp_path.glob(".map.zarr.segpipe-*")).name
    shown = segpipe("status", "map.zarr").out
    assert shown.endswith(f"{stopped.driver.command}\n")
    assert lines(tmp_path / "log.jsonl")[-1]["event"] == "interrupted"
    resumed = finish(start(*stopped.driver.command.split()[1:], "--json", cwd=tmp_path))
    assert resumed.code == 0, resumed.err
    assert json.loads(resumed.out)["tiles_resumed"] >= (going.stored or 0)
    (done,) = status(tmp_path / "map.zarr")
    assert (done.state, done.run) == ("published", stopped.run)
