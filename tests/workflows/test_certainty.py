"""Probabilities and confidence beside a map are those of the whole image, whatever happens.

They are those of a softmax in float64 to half a step of 1/250, and a hundredth for rounding.
"""

import hashlib
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import xarray
from torch import nn
from torch.export import ExportedProgram

from segpipe.models import certainty as certainties
from segpipe.models.footprints.exported import export
from segpipe.models.package import SegmentationModel
from segpipe.pipeline import storage
from segpipe.pipeline.errors import FingerprintMismatchError
from segpipe.workflows.errors import OptionError
from segpipe.workflows.run import run
from tests import toys
from tests.workflows.conftest import Command

MODEL = toys.small()
SHARED = SegmentationModel(nn.Sequential(MODEL.network, nn.Softmax(dim=1)), MODEL.card)
PIXELS = toys.landscape(400, 520)
VALID = (PIXELS != 0).all(axis=0)
HALF = 0.51


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return toys.write_scene(tmp_path / "scene.tif", PIXELS)


def mapped(
    scene: Path,
    folder: Path,
    *,
    model: SegmentationModel = MODEL,
    tile: int = 256,
    suffix: str = ".tif",
    **more: Any,
) -> Any:
    """The report of a run with both layers."""
    folder.mkdir(exist_ok=True)
    return run(
        scene,
        model=model,
        output=folder / "map.tif",
        tile=tile,
        precision="fp32",
        probabilities=folder / f"shares{suffix}",
        confidence=folder / f"sure{suffix}",
        **more,
    )


def digests(folder: Path) -> dict[str, str]:
    """A hash of every file that isn't hidden."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if ".segpipe-" not in str(path.relative_to(folder))
    }


@pytest.mark.parametrize("model", [MODEL, SHARED], ids=["scores", "shares"])
def test_they_are_those_of_the_whole_image(
    model: SegmentationModel, scene: Path, tmp_path: Path
) -> None:
    report = mapped(scene, tmp_path / "a", model=model)
    with (
        rasterio.open(report.output) as labels,
        rasterio.open(report.probabilities) as shares,
        rasterio.open(report.confidence) as sure,
    ):
        made, found, certain = labels.read(1), shares.read(), sure.read()
        assert shares.descriptions == tuple(info.name for info in MODEL.card.classes)
        assert sure.descriptions == ("confidence", "margin")
    stride = MODEL.footprint.stride
    scores = toys.whole_scores(MODEL.network, MODEL.card, stride, PIXELS, VALID)
    expected = scores.double().softmax(dim=0)
    first, second = expected.topk(2, dim=0).values
    wanted = torch.cat([expected, first[None], (first - second)[None]]).numpy()
    told = np.concatenate([found, certain])
    assert np.abs(told - 250 * wanted)[:, VALID].max() <= HALF
    assert (told[:, ~VALID] == 255).all()
    assert (made[~VALID] == 255).all()
    assert np.array_equal(found.max(axis=0), certain[0])
    # The histogram counts every pixel that has a class.
    assert sum(report.sureness) == report.valid_pixels
    bins = np.histogram(certain[0][VALID], np.append(np.arange(0, 250, 10), 251))[0]
    assert report.sureness == tuple(bins)
    told_json = report.to_dict()
    assert told_json["probabilities"] == str(report.probabilities)
    assert told_json["confidence"] == str(report.confidence)


def test_what_scores_are_is_found_before_there_are_threads(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def trace(*arguments: Any) -> ExportedProgram:
        asked.append(threading.current_thread())
        return export(*arguments)

    monkeypatch.setattr(certainties, "export", trace)
    run(scene, model=MODEL, output=tmp_path / "plain.tif", tile=256, precision="fp32")
    assert not asked
    mapped(scene, tmp_path / "a")
    assert asked == [threading.main_thread()]


def test_tiles_and_layers_change_no_byte(scene: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    run(scene, model=MODEL, output=plain / "map.tif", tile=256, precision="fp32")
    small, large = tmp_path / "small", tmp_path / "large"
    mapped(scene, small)
    mapped(scene, large, tile=768)
    assert digests(small) == digests(large)
    assert digests(plain).items() <= digests(small).items()
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_stores_hold_what_geotiffs_hold(scene: Path, tmp_path: Path, zarr_format: int) -> None:
    cog = mapped(scene, tmp_path / "cog")
    store = mapped(scene, tmp_path / "zarr", suffix=".zarr", zarr_format=zarr_format)
    for name in ("probabilities", "confidence"):
        with (
            rasterio.open(getattr(cog, name)) as file,
            xarray.open_zarr(getattr(store, name), mask_and_scale=False) as found,
        ):
            assert np.array_equal(found[name], file.read())


def test_a_run_killed_while_it_publishes_ends_with_the_same_bytes(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped(scene, tmp_path / "whole")
    expected = digests(tmp_path / "whole")
    # The driver's own steps on what is published; it has no other word on when to die.
    for number, dying in enumerate(("shares.tif", "shares.qml", "sure.tif", "map.tif.aux.xml")):
        folder = tmp_path / str(number)

        def kill(action: str, path: Path, dying: str = dying) -> None:
            if path.name == dying and threading.current_thread() is threading.main_thread():
                raise Killed(action)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "step", kill)
            with pytest.raises(Killed):
                mapped(scene, folder)
        assert not (folder / "map.tif").exists()
        report = mapped(scene, folder)
        assert report.tiles_resumed == report.tiles
        assert digests(folder) == expected
        assert not list(folder.glob(".*"))


def test_a_run_is_not_resumed_with_other_layers(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(action: str, path: Path) -> None:
        if path.name == "verified":
            raise Killed(action)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "step", lambda action, path: kill(action, path))
        with pytest.raises(Killed):
            run(scene, model=MODEL, output=tmp_path / "map.tif", tile=256, precision="fp32")
    with pytest.raises(FingerprintMismatchError, match="layers") as caught:
        mapped(scene, tmp_path)
    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)


def test_layers_are_replaced_only_if_asked(scene: Path, tmp_path: Path) -> None:
    (tmp_path / "shares.tif").write_bytes(b"someone's")
    with pytest.raises(FingerprintMismatchError, match=re.escape("shares.tif exists")):
        mapped(scene, tmp_path)
    assert (tmp_path / "shares.tif").read_bytes() == b"someone's"
    assert not (tmp_path / "map.tif").exists()
    mapped(scene, tmp_path, overwrite=True)
    with rasterio.open(tmp_path / "shares.tif") as file:
        assert file.count == 5


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ({"probabilities": "shares.png"}, "ends in .tif"),
        ({"confidence": "map.tif"}, "map.tif"),
        ({"confidence": "map.zarr"}, "share a style"),
        ({"probabilities": "a.tif", "confidence": "a.tif"}, "a.tif"),
        ({"probabilities": "scene.tif", "overwrite": True}, "the scene itself"),
        ({"probabilities": "."}, "ends in .tif"),
    ],
)
def test_names_that_make_no_sense_are_refused(
    scene: Path, tmp_path: Path, names: dict[str, Any], found: str
) -> None:
    before = digests(tmp_path)
    given: dict[str, Any] = {
        name: value if isinstance(value, bool) else tmp_path / value
        for name, value in names.items()
    }
    with pytest.raises(OptionError, match=re.escape(found)) as caught:
        run(scene, model=MODEL, output=tmp_path / "map.tif", **given)
    assert "\n" not in str(caught.value)
    assert digests(tmp_path) == before


def test_several_scenes_cannot_share_one(scene: Path, segpipe: Command, tmp_path: Path) -> None:
    other = toys.write_scene(tmp_path / "other.tif", PIXELS)
    done = segpipe("run", scene, other, "--probabilities", "shares.tif")
    assert done.code == 2
    assert "--probabilities names one file" in done.err
