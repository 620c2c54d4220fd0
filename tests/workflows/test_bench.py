"""Benchmarks tell the truth: ratios are those of their parts, and every table says the same."""

import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import rasterio
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from segpipe.models.bandwidth import Bandwidth, bandwidth
from segpipe.models.engine import Engine, default_threads
from segpipe.models.predictor import ENGINES, TorchPredictor
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.scenes.raster import open_raster
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.workflows.bench import STAGES, Benchmark
from segpipe.workflows.errors import OptionError
from segpipe.workflows.limits import Limit
from segpipe.workflows.machine import machine
from segpipe.workflows.measured import Measured, busy_seconds, covered, tiles_in
from segpipe.workflows.reading.repeated import repeat
from segpipe.workflows.results import bench_plot, plots
from segpipe.workflows.results.bench_plot import draw_benchmark, draw_sweep
from segpipe.workflows.results.bench_text import Text, benchmark_text, sweep_text
from segpipe.workflows.sweep import AXES, Row, Sweep, as_shape, settings_for
from tests import toys
from tests.workflows.conftest import Command, noise, start, write_scene


def measured(total: float, pixels: int = 1_000_000, memory: int = 10**9) -> Measured:
    """A run that nobody has made."""
    seconds = {"total": total, "read": 0.1, "predict": 1.5, "write": 0.2, "publish": 0.3}
    report = {
        **{"pixels": pixels, "tiles": 4, "tile": 512, "device": "cpu", "engine": "torch"},
        **{"precision": "fp32", "peak_rss_bytes": memory, "seconds": seconds},
    }
    return Measured(report, total + 1, 2 * total, 1.25, total / 2, "0" * 64)


def benchmark() -> Benchmark:
    limits = (Limit("forward", 1.25), Limit("decoding", 0.5), Limit("memory", 9.0))
    bus = Bandwidth(8e9, 2e9, 1e9)
    return Benchmark(
        "a.tif", (1000, 1000), "toy", machine(), measured(2.0), limits, bus, 1.6, 1.0, 0.01
    )


def made_up(axis: str = "tile") -> Sweep:
    runs = [measured(4.0), measured(2.0, memory=3 * 10**9), measured(5.0, 2_500_000)]
    rows = [Row(str(n), run, 1.5, 3 * n) for n, run in enumerate(runs)]
    return Sweep("a.tif", "toy", axis, machine(), (*rows, Row("9", left_out="too long")))


# What is read from a run


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=9))
def test_what_overlaps_counts_once(intervals: list[tuple[int, int]]) -> None:
    seconds = {second for begin, length in intervals for second in range(begin, begin + length)}
    assert covered((begin, begin + length) for begin, length in intervals) == len(seconds)


def test_a_journal_tells_when_tiles_were_predicted() -> None:
    def line(second: float, worker: str, **took: float) -> str:
        facts = {"event": "stored", "worker": worker, **took}
        return json.dumps({"time": f"2026-01-01T00:00:{second:06.3f}Z", **facts})

    tiles = list(
        tiles_in(
            [
                json.dumps({"event": "planned", "time": "2026-01-01T00:00:00.000Z"}),
                line(9, "one", read=1.0, predict=4.0, write=0.5),  # predicts from 4.5 to 8.5
                line(10, "one", read=1.0, predict=5.0, write=0.5),  # from 4.5 to 9.5
                line(9, "two", read=0.5, predict=1.0, write=1.0),  # from 7 to 8
            ]
        )
    )
    midnight = tiles[0].begin - 3.5
    assert [tile.begin - midnight for tile in tiles] == pytest.approx([3.5, 3.5, 6.5])
    assert busy_seconds(tiles) == pytest.approx((5 + 1) / 2)
    assert busy_seconds([]) == 0


# Scenes that are repeated


@settings(
    deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.integers(1, 90), columns=st.integers(1, 90), seed=st.integers(0, 9))
def test_a_repeated_scene_is_the_scene_side_by_side(
    rows: int, columns: int, seed: int, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 9, (3, 20, 33), dtype=np.uint16)
    scene = toys.write_scene(tmp_path / "a.tif", pixels)
    repeat(scene, (rows, columns), tmp_path / "b.vrt")
    found = open_scene(tmp_path / "b.vrt", None, ("red", "green", "blue"))
    assert (found.grid.shape, found.dtype) == ((rows, columns), "uint16")
    values, valid = found.read(found.grid.window)
    tiled = np.tile(pixels, (1, 5, 3))[:, :rows, :columns]
    assert (values == tiled).all()
    assert (valid == (tiled != 0).all(0)).all()
    assert found.grid.transform == open_raster(scene).grid.transform


def test_what_cant_be_repeated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefusedError, match="no file of this machine"):
        repeat("s3://bucket/a.tif", (9, 9), tmp_path / "b.vrt")
    small = write_scene(tmp_path / "small.tif", noise(2, 2))
    with pytest.raises(InputRefusedError, match="too often to make 2000 x 2000"):
        repeat(small, (2000, 2000), tmp_path / "b.vrt")
    masked = tmp_path / "masked.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write_scene(masked, noise(20, 20))
        with rasterio.open(masked, "r+") as file:
            file.write_mask(np.eye(20, dtype=np.uint8) * 255)
    with pytest.raises(InputRefusedError, match="has a mask"):
        repeat(masked, (30, 30), tmp_path / "b.vrt")
    assert not (tmp_path / "b.vrt").exists()


# What a sweep goes over


@given(st.integers(1, 40_000), st.integers(1, 40_000))
def test_shapes_are_read_as_they_are_written(rows: int, columns: int) -> None:
    assert as_shape(f"{rows}x{columns}") == (rows, columns)
    assert as_shape(str(rows**2)) == (rows, rows)


def test_every_axis_has_values_that_it_takes() -> None:
    for name in AXES:
        values = [setting.value for setting in settings_for(name, None)]
        assert len(values) == len(set(values)) > 0
        assert [setting.value for setting in settings_for(name, values[:1])] == values[:1]
    assert {setting.value for setting in settings_for("engine", None)} == {*ENGINES} - {"auto"}
    assert max(setting.cores or 0 for setting in settings_for("threads", None)) == default_threads()
    shapes = [setting.shape or (0, 0) for setting in settings_for("size", None)]
    assert [round(np.log10(rows * columns)) for rows, columns in shapes] == [6, 7, 8, 9]


@pytest.mark.parametrize(
    "words",
    [
        ("--over", "colour"),
        ("--over", "tile=300"),
        ("--over", "tile=512,512"),
        ("--over", "tile="),
        ("--over", "precision=fp64"),
        ("--over", "engine=abacus"),
        ("--over", "threads=0"),
        ("--over", "threads=100000"),
        ("--over", "workers=-1"),
        ("--over", "size=0"),
        ("--over", "size=3x"),
        ("--over", "size=nan"),
        ("--over", "tile", "--size", "large"),
        ("--over", "tile", "--plot", "a.jpg"),
    ],
)
def test_values_that_make_no_sense_are_refused(segpipe: Command, words: tuple[str, ...]) -> None:
    done = segpipe("bench", "sweep", "scene.tif", *words)
    assert (done.code, done.out, len(done.lines)) == (2, "", 1), done.err


def test_places_are_tried_before_anything_is_measured(segpipe: Command) -> None:
    done = segpipe("bench", "scene.tif", "--markdown", "missing/a.md")
    assert done.code == 7
    assert "there is no folder" in done.err


# Ratios, and the same numbers everywhere


def test_ratios_are_those_of_their_parts() -> None:
    told = benchmark().to_dict()
    total = told["run"]["seconds"]["total"]
    assert told["slowest_limit"] == "forward"  # memory is no bound
    assert told["ratios"] == pytest.approx(
        {
            "over_forward": total / 1.25,
            "over_forward_without_margins": total / 1.25 * 1.6,
            "over_slowest_limit": total / 1.25,
            "extra_work": 1.6,
            "device_busy": 1.0 / total,
            "scheduling_share": 0.01 / total,
        }
    )
    for limit in told["limits"].values():
        assert limit["share"] == pytest.approx(limit["seconds"] / total)
        assert limit["megapixels_per_second"] == pytest.approx(1 / limit["seconds"])
    assert told["shares"] == {name: told["run"]["seconds"][name] / total for name in STAGES}
    rows = made_up().to_dict()["rows"]
    assert [row["ratios"] for row in rows] == [
        {"speed": 1, "memory": 1, "pixels": 1},
        {"speed": 2, "memory": 3, "pixels": 1},
        {"speed": 2, "memory": 1, "pixels": 2.5},
        None,
    ]


def numbers(text: Text) -> list[list[str]]:
    """The cells of every table, as both forms have them."""
    page, plain = text.as_markdown("segpipe bench"), text.for_terminal()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("|") and "---" not in line
    ]
    assert cells == [list(row) for table in text.tables for row in table]
    for row in cells:
        assert any(all(cell in line for cell in row) for line in plain.splitlines()), row
    return cells


def test_a_benchmark_says_the_same_in_each_form(monkeypatch: pytest.MonkeyPatch) -> None:
    found = benchmark()
    told, cells = found.to_dict(), numbers(benchmark_text(found))
    for name, limit in told["limits"].items():
        row = next(row for row in cells if row[0] == name)
        assert row[1:3] == [f"{limit['seconds']:.2f}", f"{limit['share']:.1%}"]
    assert [float(row[1]) for row in cells if row[0].startswith("run over")] == [1.6, 1.6]
    drawn = labels(monkeypatch, lambda: draw_benchmark(found, "a.png"))
    seconds = [limit["seconds"] for limit in told["limits"].values()]
    seconds += [found.run.seconds, *(found.run.report["seconds"][name] for name in STAGES)]
    assert drawn == [f" {value:.2f} s, {value / found.run.seconds:.2f}" for value in seconds]


@pytest.mark.parametrize("axis", ["tile", "size"])
def test_a_sweep_says_the_same_in_each_form(axis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = made_up(axis)
    _, *rows = numbers(sweep_text(found))
    assert len(rows) == 3
    for cells, told in zip(rows, found.to_dict()["rows"], strict=False):
        assert float(cells[4]) == told["ratios"]["speed"]
        assert float(cells[9]) == told["ratios"]["memory"]
        assert cells[2] == f"{told['seconds']['total']:.2f}"
    assert sweep_text(found).remarks == ["9: too long"]
    drawn = labels(monkeypatch, lambda: draw_sweep(found, "a.png"))
    if axis == "size":
        assert drawn == ["1", "0.5", "1.25", "1", "3", "1"]
    else:
        assert drawn[::2] == [" 1.00 x, 0.25 Mpx/s", " 2.00 x, 0.50 Mpx/s", " 2.00 x, 0.50 Mpx/s"]
        assert drawn[1::2] == [" 1.00 x, 1.00 GB", " 3.00 x, 3.00 GB", " 1.00 x, 1.00 GB"]


def labels(monkeypatch: pytest.MonkeyPatch, draw: Any) -> list[str]:
    """What is written on a picture, beside its axes."""
    kept: list[Any] = []
    real = plots.figure

    @contextlib.contextmanager
    def spied(path: Any, *size: float) -> Iterator[Any]:
        with tempfile.TemporaryDirectory() as folder, real(Path(folder, "a.png"), *size) as axes:
            kept.append(axes)
            yield axes

    monkeypatch.setattr(bench_plot, "figure", spied)
    draw()
    return [text.get_text() for text in kept[0].texts]


def test_memory_moves_at_a_speed() -> None:
    found = bandwidth("cpu", 1, 1 << 20)
    assert found.memory > 1e6
    assert found.to_device is found.from_device is None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_tells_its_own_time() -> None:
    found = bandwidth("cuda:0", 1, 1 << 26)
    assert found.to_device is not None
    assert found.from_device is not None
    assert found.memory > max(found.to_device, found.from_device) > 1e8
    model, pixels = toys.small(), toys.landscape(512, 512)
    engine = Engine(device="cuda:0")
    predictor = TorchPredictor(model.network, model.card, model.footprint.stride, engine)
    assert 0 < predictor.busy_seconds(pixels, pixels[0] > 0) < 60


# Real runs, each a process of its own


def test_maps_are_the_same_in_tiles_of_each_side(
    segpipe: Command, tiny_model: Path, tmp_path: Path
) -> None:
    scene = write_scene(tmp_path / "scene.tif", noise(300, 280))
    done = segpipe(
        *("bench", "sweep", scene, "-m", tiny_model, "--bands", "3,2,1", "--size", "300x600"),
        *("--over", "tile=256,512", "--json", "--precision", "fp32"),
        *("--markdown", tmp_path / "a.md", "--plot", tmp_path / "a.png"),
    )
    assert done.code == 0, done.err
    told = json.loads(done.out)
    first, second = told["rows"]
    assert [row["tiles"] for row in told["rows"]] == [2 * 3, 2]
    assert first["sha256"] == second["sha256"]
    assert first["labels_differing"] == second["labels_differing"] == 0
    assert first["extra_work"] > second["extra_work"] > 0.99
    page = (tmp_path / "a.md").read_text()
    for row in told["rows"]:
        seconds = row["seconds"]
        assert row["pixels"] == 180_000
        assert 0 < seconds["device_busy"] <= seconds["total"] < seconds["process"]
        assert 0 < seconds["start"] < seconds["process"]
        assert seconds["cpu"] > 0
        # Neither more than any process has, nor that of this one, which has Torch's modules too.
        assert 50e6 < row["peak_rss_bytes"] < 3e9
        assert f"| {row['value']} | {row['tiles']} | {seconds['total']:.2f} |" in page
        speed = row["megapixels_per_second"]
        assert speed == pytest.approx(0.18 / seconds["total"])
        assert row["ratios"]["speed"] == pytest.approx(speed / first["megapixels_per_second"])
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 400


def test_a_run_stands_beside_its_limits(segpipe: Command, tiny_model: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", noise(300, 280))
    done = segpipe("bench", scene, "-m", tiny_model, "--bands", "1,2,3", "--tile", "256", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    limits, run = told["limits"], told["run"]
    assert set(limits) == {"forward", "decoding", "encoding", "memory"}
    assert all(limit["seconds"] > 0 for limit in limits.values())
    total = run["seconds"]["total"]
    assert told["ratios"]["over_forward"] == pytest.approx(total / limits["forward"]["seconds"])
    assert (run["pixels"], run["tiles"], told["shape"]) == (84_000, 4, [300, 280])
    assert told["bandwidth"]["memory"] > 0
    assert list(tmp_path.glob("*classes*")) == []


@pytest.mark.slow
def test_what_a_machine_cant_do_is_told_in_its_row(
    segpipe: Command, tiny_model: Path, tmp_path: Path
) -> None:
    scene = write_scene(tmp_path / "scene.tif", noise(64, 64))
    words = ("-m", tiny_model, "--bands", "1,2,3")
    swept = ("bench", "sweep", scene, *words, "--json")
    told = json.loads(segpipe(*swept, "--over", "engine=torch,onnxruntime").out)
    assert "sha256" in told["rows"][0]
    assert "onnx" in told["rows"][1]["left_out"].lower()
    # Where it's all there is, the error is the command's.
    done = segpipe("bench", scene, *words, "--engine", "onnxruntime")
    assert done.code == 2
    assert "onnx" in done.lines[-1].lower()


def test_what_takes_too_long_is_left_out(
    segpipe: Command, tiny_model: Path, tmp_path: Path
) -> None:
    scene = write_scene(tmp_path / "scene.tif", noise(64, 64))
    told = json.loads(
        segpipe(
            *("bench", "sweep", scene, "-m", tiny_model, "--bands", "1,2,3", "--json"),
            *("--over", "size=4e3,1e5,60x7", "--seconds", "1s"),
        ).out
    )
    first, *others = told["rows"]
    assert first["pixels"] == 63 * 63
    assert first["labels_differing"] is None
    assert all("raise --seconds" in row["left_out"] for row in others)


@pytest.mark.slow
def test_an_interrupt_ends_the_run_and_leaves_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    scene = write_scene(tmp_path / "scene.tif", noise(300, 280))
    command = start(
        *("bench", scene, "-m", tiny_model, "--bands", "1,2,3", "--size", "6000x6000"), cwd=tmp_path
    )
    process = psutil.Process(command.pid)
    while not process.children():
        assert command.poll() is None
        time.sleep(0.05)
    (child,) = process.children()
    os.kill(command.pid, signal.SIGTERM)
    _, err = command.communicate(timeout=60)
    assert command.returncode == 128 + signal.SIGTERM
    assert "interrupted" in err
    assert not psutil.pid_exists(child.pid)
    assert not list(tmp_path.glob("segpipe-bench-*"))


def test_options_are_those_of_axes() -> None:
    with pytest.raises(OptionError, match="a sweep goes over tile, precision, engine, threads"):
        settings_for("colour", None)
    assert replace(Row("1"), left_out="why").to_dict() == {"value": "1", "left_out": "why"}
