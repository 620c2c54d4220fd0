"""What a run leaves and says, from the Python face and from the command line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import xarray
from torch import Tensor, nn

from segpipe.models.package import SegmentationModel
from segpipe.pipeline import budget
from segpipe.pipeline.plan import CHUNK
from segpipe.workflows.inspect import inspect
from segpipe.workflows.plan import plan
from segpipe.workflows.run import run
from segpipe.workflows.stages import Progress
from segpipe.workflows.verify import verify
from tests import toys
from tests.workflows.conftest import Command

RUN_KEYS = {
    "output", "scene", "model", "tiles", "tiles_resumed", "pixels", "valid_pixels", "classes",
    "footprint", "tile", "device", "engine", "precision", "seconds", "megapixels_per_second",
    "peak_rss_bytes",
}  # fmt: skip
PLAN_KEYS = {"tiles", "tile", "extra_work", "memory_bytes", "disk_bytes", "footprint", "output"}
INSPECT_KEYS = {"name", "parameters", "bands", "classes", "footprint"}
FOOTPRINT_KEYS = {"stride", "top", "left", "bottom", "right", "exact", "reasons"}


class Squeezed(nn.Module):
    """Squeeze and excitation: what a pixel gives depends on the mean over the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 8, 3, padding=1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.outer = nn.Conv2d(8, 5, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.inner(image).relu()
        scores: Tensor = self.outer(x * self.gate(x))
        return scores


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return toys.write_scene(tmp_path / "scene.tif", toys.landscape(700, 900))


def labels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with rasterio.open(path) as file:
        found: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = file.read(1)
    return found


def test_the_report_is_what_the_map_holds(scene: Path, tmp_path: Path) -> None:
    model = toys.small()
    report = run(scene, model=model, output=tmp_path / "map.tif", tile=256)
    made = labels(report.output)
    data = json.loads(json.dumps(report.to_dict()))
    assert data.keys() >= RUN_KEYS
    assert data["footprint"].keys() == FOOTPRINT_KEYS
    assert data["seconds"].keys() == {"total", "read", "predict", "write", "publish"}
    assert data["pixels"] == made.size
    assert data["valid_pixels"] == np.count_nonzero(made != 255)
    for name, count in data["classes"].items():
        assert count["pixels"] == np.count_nonzero(made == count["value"]), name
        assert count["area_m2"] == pytest.approx(count["pixels"] * 28.5**2)
    assert data["tiles"] == 12
    assert data["tiles_resumed"] == 0
    assert report.seam is not None
    assert report.seam.differing == 0


def test_the_output_lies_in_the_current_folder_by_default(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    report = run(scene, model=toys.small())
    assert report.output == elsewhere / "scene.classes.tif"
    assert {path.name for path in elsewhere.iterdir()} == {
        "scene.classes.tif",
        "scene.classes.tif.aux.xml",
        "scene.classes.qml",
    }


def test_every_container_holds_the_same_labels(scene: Path, tmp_path: Path) -> None:
    model = toys.small()
    cog = run(scene, model=model, output=tmp_path / "map.tif", tile=512, precision="fp32")
    expected = labels(cog.output)
    for number in (2, 3):
        store = tmp_path / f"map{number}.zarr"
        run(
            scene,
            model=model,
            output=store,
            tile=512,
            precision="fp32",
            zarr_format=number,
            style=False,
        )
        with xarray.open_zarr(store, mask_and_scale=False) as found:
            assert np.array_equal(found["classes"].to_numpy(), expected)
        assert not store.with_suffix(".qml").exists()
    assert np.array_equal(labels(tmp_path / "map2.zarr"), expected)


def test_the_bytes_of_a_geotiff_do_not_tell_how_it_was_tiled(scene: Path, tmp_path: Path) -> None:
    model = toys.small()
    found = set()
    for side in (256, 512, 1024):
        output = tmp_path / str(side) / "map.tif"
        output.parent.mkdir()
        run(scene, model=model, output=output, tile=side, precision="fp32")
        found.add(output.read_bytes() + output.with_name("map.tif.aux.xml").read_bytes())
    assert len(found) == 1


def test_the_map_tells_where_it_came_from(scene: Path, tmp_path: Path) -> None:
    model = toys.small()
    report = run(scene, model=model, output=tmp_path / "map.tif")
    with rasterio.open(report.output) as file:
        tags = file.tags()
    assert tags["SEGPIPE_MODEL"] == "toy"
    assert tags["SEGPIPE_MODEL_SHA256"] == model.digest
    assert tags["SEGPIPE_EXACT"] == "exact"
    assert tags["SEGPIPE_PRECISION"] == report.engine.precision
    assert "stride 4" in tags["SEGPIPE_FOOTPRINT"]


def test_a_network_that_sees_everything_is_never_passed_off_as_exact(
    scene: Path, tmp_path: Path
) -> None:
    card = replace(toys.card("squeezed"), window=128)
    model = SegmentationModel(toys.alive(Squeezed()), card)
    maps = {}
    for side in (256, 512):
        report = run(
            scene, model=model, output=tmp_path / f"{side}.tif", tile=side, precision="fp32"
        )
        maps[side] = labels(report.output)
        with rasterio.open(report.output) as file:
            assert file.tags()["SEGPIPE_EXACT"].startswith(
                "approximate: adaptive_avg_pool2d in gate"
            )
        assert not report.footprint.exact
        assert "gate.0" in report.footprint.reasons[0]
    # The blend over its windows is tiled exactly, though it is no single pass.
    assert np.array_equal(maps[256], maps[512])
    assert len(np.unique(maps[256])) > 2


def test_the_plan_is_what_the_run_does(scene: Path, tmp_path: Path) -> None:
    model = toys.small()
    output = tmp_path / "map.tif"
    planned = plan(scene, model=model, output=output, tile=256, precision="fp32")
    data = json.loads(json.dumps(planned.to_dict()))
    assert data.keys() >= PLAN_KEYS
    assert not output.exists()
    report = run(scene, model=model, output=output, tile=256, precision="fp32")
    assert (data["tiles"], data["tile"]) == (report.tiles, report.tile)
    assert data["footprint"] == report.footprint.to_dict()
    assert data["extra_work"] > 1
    assert data["disk_bytes"] > output.stat().st_size


class StoppedError(Exception):
    """Somebody pulled the plug."""


def test_a_resumed_run_keeps_its_tiles_whatever_memory_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = toys.write_scene(tmp_path / "scene.tif", toys.landscape(1500, 1500))
    model, output = toys.small(), tmp_path / "map.tif"

    def stop(progress: Progress) -> None:
        if progress.done == 2:
            raise StoppedError

    monkeypatch.setattr(budget, "memory_limit", lambda *asked: 1_100_000_000)
    with pytest.raises(StoppedError):
        run(scene, model=model, output=output, watch=stop)
    monkeypatch.setattr(budget, "memory_limit", lambda *asked: 8_000_000_000)
    fresh = plan(scene, model=model, output=tmp_path / "other.tif").tile
    report = run(scene, model=model, output=output)
    assert report.tile < fresh
    assert report.tiles_resumed >= 2


def test_less_memory_means_smaller_tiles(tmp_path: Path) -> None:
    scene = toys.write_scene(tmp_path / "scene.tif", np.ones((3, 3000, 3000), np.uint8))
    model = toys.small()
    sides = [plan(scene, model=model, memory=size).tile for size in ("8GB", "1300MB", "1100MB")]
    assert sides == sorted(sides, reverse=True)
    assert sides[0] > sides[-1] >= CHUNK


def test_inspection_counts_what_torch_counts() -> None:
    model = toys.small()
    data = json.loads(json.dumps(inspect(model).to_dict()))
    assert data.keys() >= INSPECT_KEYS
    assert data["parameters"] == sum(part.numel() for part in model.network.parameters())
    assert data["bands"] == ["red", "green", "blue"]
    assert data["footprint"]["stride"] == 4


def test_inspection_can_prove_what_it_says() -> None:
    proof = inspect(toys.small(), prove=True).proof
    assert proof is not None
    assert proof.holds
    assert inspect(toys.small()).proof is None


def test_a_map_that_was_changed_does_not_verify(scene: Path, tmp_path: Path) -> None:
    model = toys.small()
    report = run(scene, model=model, output=tmp_path / "map.tif", precision="fp32", style=False)
    asked = {"model": model, "precision": "fp32", "windows": None}
    found = verify(scene, report.output, **asked)  # type: ignore[arg-type]
    assert (found.holds, found.pixels, found.differing) == (True, 700 * 900, 0)
    changed = labels(report.output)
    changed[300, 400] = changed[300, 400] % 5 + 1
    with rasterio.open(report.output) as file:
        profile = {**file.profile, "driver": "GTiff"}
    forged = tmp_path / "forged.tif"
    with rasterio.open(forged, "w", **profile) as file:
        file.write(changed, 1)
    found = verify(scene, forged, **asked)  # type: ignore[arg-type]
    assert (found.holds, found.differing) == (False, 1)
    assert found.first == "row 256, column 256"


def test_the_commands_speak_json(
    segpipe: Command, tiny_model: Path, scene: Path, tmp_path: Path
) -> None:
    model, output = str(tiny_model), str(tmp_path / "map.zarr")
    words = ("run", str(scene), "-m", model, "-o", output, "--json", "--precision", "fp32")
    assert json.loads(segpipe(*words).out).keys() >= RUN_KEYS
    assert json.loads(segpipe("plan", str(scene), "-m", model, "--json").out).keys() >= PLAN_KEYS
    assert json.loads(segpipe("inspect", model, "--json").out).keys() >= INSPECT_KEYS
    assert "unet-resnet18" in json.loads(segpipe("models", "--json").out)["architectures"]
    checked = ("verify", str(scene), output, "-m", model, "--json", "--precision", "fp32")
    assert json.loads(segpipe(*checked).out)["differing"] == 0


def test_bf16_is_taken_only_where_labels_agree(scene: Path, tmp_path: Path) -> None:
    if not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("this processor computes no bf16")
    report = run(scene, model=toys.small(), output=tmp_path / "map.tif")
    engine = report.engine
    assert engine.agreement is not None
    assert (engine.precision == "bf16") == (engine.agreement >= 0.999)
