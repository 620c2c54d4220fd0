"""Many scenes on one cluster give the bytes of one by one; a ledger tells what became of each."""

import json
import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segpipe.models.card import ModelCard
from segpipe.models.engine import Engine
from segpipe.models.errors import ModelError
from segpipe.models.package import SegmentationModel, load
from segpipe.pipeline.execution.existing import existing
from segpipe.pipeline.execution.serial import Serial
from segpipe.workflows.catalogue import find
from segpipe.workflows.reading.ledger import Entry, note, read
from segpipe.workflows.resident import Resident, Use
from tests.pipeline.test_execution import dask
from tests.workflows.conftest import Command, finish, noise, start, write_scene

OPTIONS = ("--precision", "fp32", "--tile", "256", "--no-style")


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Three scenes of several tiles, and one that is refused."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    for name, height in (("a", 300), ("b", 520), ("d", 270)):
        write_scene(folder / f"{name}.tif", noise(height, 280))
    write_scene(folder / "c.tif", noise(30, 30, 1))
    (tmp_path / "maps").mkdir()
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of a scheduler with two workers of two threads."""
    file = tmp_path_factory.mktemp("cluster") / "scheduler.json"
    scheduler = dask("scheduler", file, "--port", "0")
    workers = [dask("worker", file, "--no-nanny", "--nthreads", "2") for _ in range(2)]
    yield file
    for process in (*workers, scheduler):
        process.terminate()
        process.wait(20)


def maps(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tif"))}


def test_a_batch_gives_the_bytes_of_one_by_one(
    segpipe: Command,
    scenes: Path,
    tiny_model: Path,
    tmp_path: Path,
    cluster: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = ("-m", tiny_model, *OPTIONS)
    (tmp_path / "single").mkdir()
    for name in "abd":
        assert segpipe("run", scenes / f"{name}.tif", *model, "-o", tmp_path / "single").code == 0
    opened: list[str] = []

    def noted(resident: Resident, **options: Any) -> Any:
        opened.append(options["digest"])
        return existing(resident, **options)

    monkeypatch.setattr("segpipe.workflows.workers.existing", noted)
    done = segpipe(
        "run", scenes, *model, "-o", tmp_path / "maps", "--scheduler-file", cluster, "--json"
    )
    assert done.code == 3
    assert opened == [load(tiny_model).digest], "one connection for all scenes"
    assert maps(tmp_path / "maps") == maps(tmp_path / "single")
    told = json.loads(done.out)
    assert [Path(run["scene"]).name for run in told["runs"]] == ["a.tif", "b.tif", "d.tif"]
    assert [entry["state"] for entry in told["scenes"]] == ["mapped", "mapped", "failed", "mapped"]
    assert [entry["exit_code"] for entry in told["scenes"]] == [0, 0, 3, 0]


def test_the_ledger_tells_what_became_of_each_scene(
    segpipe: Command, scenes: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = ("run", scenes, "-m", tiny_model, *OPTIONS, "-o", tmp_path / "maps")
    first = segpipe(*words, "--quiet")
    assert first.code == 3
    for _ in range(2):
        entries = read(tmp_path / "maps")
        assert [Path(entry.scene).name for entry in entries] == [f"{x}.tif" for x in "abcd"]
        assert [entry.state for entry in entries] == ["mapped", "mapped", "failed", "mapped"]
        assert [entry.pixels for entry in entries] == [300 * 280, 520 * 280, None, 270 * 280]
        assert "--bands" in str(entries[2].error)
        assert entries[2].exit_code == 3
        assert all(entry.output.endswith(".classes.tif") and entry.time > 1e9 for entry in entries)
        assert segpipe(*words, "--quiet").code == 3, "typed again, it says the same"
    rows = first.out[first.out.index("scene ") :].splitlines()
    assert [row.split()[-1] for row in rows[-4:]] == ["mapped", "mapped", "(3)", "mapped"]


def test_a_ledger_that_was_cut_off_is_read(tmp_path: Path) -> None:
    output = str(tmp_path / "a.tif")
    note([Entry("a", output, "pending"), Entry("b", str(tmp_path / "b.tif"), "pending")])
    note([Entry("a", output, "running")])
    place = tmp_path / ".segpipe-batch" / "ledger.jsonl"
    place.write_bytes(place.read_bytes() + b'{"scene": "a", "outp')
    assert [(entry.scene, entry.state) for entry in read(tmp_path)] == [
        ("a", "running"),
        ("b", "pending"),
    ]
    assert read(tmp_path / "nowhere") == []


def test_a_lost_scheduler_fails_the_scenes_that_were_not_begun(
    segpipe: Command, scenes: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = ("-m", tiny_model, *OPTIONS, "-o", tmp_path / "maps")
    done = segpipe("run", scenes, *words, "--scheduler", "tcp://127.0.0.1:9", "--json")
    told = json.loads(done.out)
    assert done.code == 8
    assert {failed["exit_code"] for failed in told["failed"]} <= {3, 8}
    assert len(told["failed"]) == 4
    assert maps(tmp_path / "maps") == {}


@pytest.mark.slow
def test_a_batch_that_is_killed_shows_what_was_done_and_goes_on(
    segpipe: Command, scenes: Path, tiny_model: Path, tmp_path: Path
) -> None:
    (scenes / "c.tif").unlink()
    words = ("run", scenes, "-m", tiny_model, *OPTIONS, "-o", tmp_path / "maps")
    batch = start(*words, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not any(entry.state == "mapped" for entry in read(tmp_path / "maps")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(batch.pid, signal.SIGKILL)
    finish(batch)
    states = {Path(entry.scene).name: entry.state for entry in read(tmp_path / "maps")}
    assert "mapped" in states.values()
    for name, state in states.items():
        there = (tmp_path / "maps" / f"{Path(name).stem}.classes.tif").exists()
        assert there or state != "mapped"
    assert segpipe(*words).code == 0
    assert {entry.state for entry in read(tmp_path / "maps")} == {"mapped"}
    killed = maps(tmp_path / "maps")
    (tmp_path / "whole").mkdir()
    assert segpipe(*words[:-1], tmp_path / "whole").code == 0
    assert maps(tmp_path / "whole") == killed


def test_a_worker_with_another_model_refuses(tiny_model: Path) -> None:
    model = load(tiny_model)
    other = SegmentationModel(model.network, renamed(model.card))
    use = Use(other.digest, other.card, other.footprint)
    worker = Serial(Resident(model))
    with pytest.raises(ModelError, match="was to have the model"):
        worker.call(lambda resident: resident.predictor(use, Engine()))


def test_what_tasks_tell_of_a_model_has_no_weights() -> None:
    model = find(None)
    assert len(pickle.dumps(Resident(model))) > 100_000
    assert len(pickle.dumps(Use(model.digest, model.card, model.footprint))) < 5_000


def renamed(card: ModelCard) -> ModelCard:
    return ModelCard("other", card.bands, card.classes, card.mean, card.std)
