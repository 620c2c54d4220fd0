"""From real rasters to a package; what doesn't fit is refused before any training."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray

from segpipe.models.errors import ModelError
from segpipe.models.package import PackageExistsError, load
from segpipe.models.training import ExamplesRefusedError
from segpipe.pipeline.errors import InputRefusedError
from segpipe.workflows.holdout import Holdout
from segpipe.workflows.label_scheme import LabelScheme
from segpipe.workflows.train import TrainingReport, train

Array = NDArray[np.generic]


@pytest.fixture
def scene(examples: Path) -> Path:
    return examples / "landsat7-nc-2000.tif"


@pytest.fixture
def labels(examples: Path) -> Path:
    return examples / "landcover-nc-1996.tif"


@pytest.fixture
def scheme(examples: Path) -> LabelScheme:
    return LabelScheme.read(examples / "landcover-classes.json")


def changed(source: Path, target: Path, change: Callable[[Any], Array], **profile: object) -> Path:
    """A copy of a raster whose pixels (band, row, column) went through `change`."""
    with rasterio.open(source) as raster:
        pixels = change(raster.read())
        names = raster.descriptions[: len(pixels)]
        settings = {**raster.profile, "count": len(pixels), "dtype": pixels.dtype, **profile}
    settings["height"], settings["width"] = pixels.shape[1:]
    with rasterio.open(target, "w", **settings) as copy:
        copy.write(pixels)
        copy.descriptions = names
    return target


def quick(
    scene: Path, labels: Path, output: Path, scheme: LabelScheme, **options: Any
) -> TrainingReport:
    settings = {"steps": 2, "crop": 32, "forest": False} | options
    return train(scene, labels, output=output, classes=scheme, **settings)


def test_a_package_and_a_report_come_out(
    scene: Path, labels: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    steps: list[int] = []
    report = quick(
        scene,
        labels,
        tmp_path / "first",
        scheme,
        forest=True,
        progress=lambda step, _: steps.append(step),
    )
    card = load(tmp_path / "first").card
    assert card == report.card
    assert card.name == "first"
    assert card.bands == ("blue", "green", "red", "nir", "swir16", "swir22")
    assert card.classes == scheme.infos
    assert steps == [1, 2]
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    metrics = told["metrics"]
    assert metrics["holdout"] == "east:0.3333"
    # Labelled valid pixels from column 326 on, counted by hand with numpy.
    assert metrics["pixels"] == metrics["random_forest"]["pixels"] == 39_292
    assert np.sum(metrics["confusion_matrix"]) == 39_292
    assert metrics["random_forest"]["overall_accuracy"] > 0.6
    assert len(told["losses"]) == 2


def test_pixels_held_out_have_no_say(
    scene: Path, labels: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    def noise(pixels: Any) -> Array:
        # Everything from the gap on: 489 columns, an eastern third of 163, 32 before it.
        start = 489 - 163 - 32
        rest = pixels[..., start:]
        pixels[..., start:] = np.random.default_rng(0).integers(1, 7, rest.shape)
        return np.asarray(pixels)

    quick(scene, labels, tmp_path / "one", scheme)
    quick(
        changed(scene, tmp_path / "scene.tif", noise),
        changed(labels, tmp_path / "labels.tif", noise),
        tmp_path / "two",
        scheme,
    )
    one, two = load(tmp_path / "one"), load(tmp_path / "two")
    assert (one.card.mean, one.card.std) == (two.card.mean, two.card.std)
    assert one.card.metrics != two.card.metrics
    states = one.network.state_dict(), two.network.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_statistics_are_those_of_the_part_that_is_learnt_from(
    scene: Path, labels: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    card = quick(scene, labels, tmp_path / "p", scheme, holdout=Holdout("west", 0.5), gap=10).card
    with rasterio.open(scene) as raster:
        east = raster.read()[:, :, 244 + 10 :].astype(np.float64)
    pixels = east[:, (east != 0).all(axis=0)]
    np.testing.assert_allclose(card.mean, pixels.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(card.std, pixels.std(axis=1), rtol=1e-12)


def test_labels_on_another_grid_are_refused(
    scene: Path, labels: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    smaller = changed(labels, tmp_path / "smaller.tif", lambda pixels: pixels[:, :-1])
    with pytest.raises(InputRefusedError, match=r"442 x 489 .* the scene 443 x 489"):
        quick(scene, smaller, tmp_path / "p", scheme)
    shift = rasterio.Affine(28.5, 0, 630534 + 28.5, 0, -28.5, 228114)
    shifted = changed(labels, tmp_path / "shifted.tif", np.asarray, transform=shift)
    with pytest.raises(InputRefusedError, match="warp them onto the scene's grid"):
        quick(scene, shifted, tmp_path / "p", scheme)
    assert not (tmp_path / "p").exists()


def test_labels_that_mean_nothing_are_refused(
    scene: Path, labels: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    with pytest.raises(InputRefusedError, match="hold 1, which no class names"):
        quick(scene, labels, tmp_path / "p", replace(scheme, classes=scheme.classes[1:]))
    with pytest.raises(InputRefusedError, match="labels are one band, got 6"):
        quick(scene, scene, tmp_path / "p", scheme)

    def dry(pixels: Any) -> Array:
        return np.where(pixels == 6, np.uint8(5), pixels)

    with pytest.raises(ExamplesRefusedError, match="each of the 4 classes needs labelled pixels"):
        quick(scene, changed(labels, tmp_path / "dry.tif", dry), tmp_path / "p", scheme)


def test_a_part_without_labels_is_refused(
    scene: Path, labels: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    # The easternmost tenth of the scene is nodata.
    with pytest.raises(InputRefusedError, match=r"no labelled pixel in the part held out"):
        quick(scene, labels, tmp_path / "p", scheme, holdout=Holdout("east", 0.1))


def test_what_the_network_cannot_take_is_refused(
    scene: Path, labels: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="multiples of 8, crops have 60; 64 would do"):
        quick(scene, labels, tmp_path / "p", scheme, crop=60)
    with pytest.raises(ModelError, match="no architecture is called 'net'"):
        quick(scene, labels, tmp_path / "p", scheme, architecture="net")


def test_an_older_package_stays(
    scene: Path, labels: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    with pytest.raises(PackageExistsError, match="already there"):
        quick(scene, labels, tmp_path, scheme)
