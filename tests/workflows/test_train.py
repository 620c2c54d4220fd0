"""From real rasters to a package; what doesn't fit is refused before any training."""

import json
import random
import signal
import subprocess
import time
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
from segpipe.models.learning.examples import ExamplesRefusedError
from segpipe.models.learning.training import Schedule, Step
from segpipe.models.package import PackageExistsError, load
from segpipe.pipeline.errors import FingerprintMismatchError, InputRefusedError
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.pipeline.vectors.polygons import burn, open_polygons
from segpipe.pipeline.window import Window
from segpipe.workflows.errors import OptionError
from segpipe.workflows.labels.holdout import BlockHoldout, Holdout, Part, Partition, SideHoldout
from segpipe.workflows.labels.label_scheme import LabelScheme
from segpipe.workflows.train import TrainingReport, train
from tests.toys import whole_image
from tests.workflows.conftest import Command, finish, start

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


QUICK = Schedule(steps=2, crop=32, seed=0, batch=2)
SMALL = "unet:depth=1,width=4"


def quick(
    scene: Path, labels: Path, output: Path, scheme: LabelScheme, **options: Any
) -> TrainingReport:
    settings: dict[str, Any] = {"schedule": QUICK, "architecture": SMALL, "forest": False}
    return train([(scene, labels)], output=output, classes=scheme, **settings | options)


def same(one: Path, two: Path) -> bool:
    """Whether two packages have the same weights, byte for byte."""
    first, second = (load(folder).network.state_dict() for folder in (one, two))
    return all(torch.equal(first[name], second[name]) for name in first)


def polygons(path: Path, boxes: list[tuple[int, tuple[float, float, float, float]]]) -> Path:
    """A GeoJSON of rectangles (west, south, east, north) in longitude and latitude."""
    features = [
        {
            "type": "Feature",
            "properties": {"code": code},
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[w, s], [e, s], [e, n], [w, n], [w, s]]],
            },
        }
        for code, (w, s, e, n) in boxes
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_a_package_and_a_report_come_out(
    scene: Path, labels: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    steps: list[Step] = []
    output = tmp_path / "first"
    report = quick(scene, labels, output, scheme, forest=True, watch=steps.append)
    card = load(output).card
    assert card == report.card
    assert card.name == "first"
    assert card.bands == ("blue", "green", "red", "nir", "swir16", "swir22")
    assert card.classes == scheme.infos
    assert [step.number for step in steps] == [1, 2]
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    metrics = told["metrics"]
    assert metrics["holdout"] == "east:0.3333"
    # Labelled valid pixels from column 326 on, counted by hand with numpy.
    assert metrics["pixels"] == metrics["random_forest"]["pixels"] == 39_292
    assert np.sum(metrics["confusion_matrix"]) == 39_292
    assert metrics["random_forest"]["overall_accuracy"] > 0.6
    assert len(told["losses"]) == 2
    assert told["checks"] == []
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("test", "validation"),
    [(SideHoldout(), None), (BlockHoldout(4, 90), None), (SideHoldout(), BlockHoldout(3, 70))],
)
def test_pixels_held_out_have_no_say(
    scene: Path,
    labels: Path,
    scheme: LabelScheme,
    tmp_path: Path,
    test: Holdout,
    validation: Holdout | None,
) -> None:
    partition = Partition(test, validation, gap=24)
    shape = 443, 489
    whole = Window(0, 0, *shape)
    told = (Part.LEARN, Part.VALIDATE)
    used = np.logical_or.reduce([partition.mask(part, shape, whole) for part in told])

    def noise(pixels: Any) -> Array:
        # Everything but what is learnt from and validated on: the held-out part, and the gaps.
        random = np.random.default_rng(0).integers(1, 7, pixels.shape)
        return np.asarray(np.where(used, pixels, random), np.uint8)

    options = {"partition": partition, "schedule": replace(QUICK, check=1)}
    quick(scene, labels, tmp_path / "one", scheme, **options)
    quick(
        changed(scene, tmp_path / "scene.tif", noise),
        changed(labels, tmp_path / "labels.tif", noise),
        tmp_path / "two",
        scheme,
        **options,
    )
    one, two = load(tmp_path / "one").card, load(tmp_path / "two").card
    assert (one.mean, one.std) == (two.mean, two.std)
    assert one.metrics["confusion_matrix"] != two.metrics["confusion_matrix"]
    assert same(tmp_path / "one", tmp_path / "two")


def test_statistics_are_those_of_the_part_that_is_learnt_from(
    scene: Path, labels: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    west = Partition(SideHoldout("west", 0.5), None, gap=10)
    card = quick(scene, labels, tmp_path / "p", scheme, partition=west).card
    with rasterio.open(scene) as raster:
        east = raster.read()[:, :, 244 + 10 :].astype(np.float64)
    pixels = east[:, (east != 0).all(axis=0)]
    np.testing.assert_allclose(card.mean, pixels.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(card.std, pixels.std(axis=1), rtol=1e-12)


def test_the_figures_are_those_of_one_pass_over_the_scene(
    scene: Path, labels: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    # Blocks of which many tiles are cut; the oracle knows nothing of tiles.
    partition = Partition(BlockHoldout(5, 60), None, gap=8)
    report = quick(scene, labels, tmp_path / "p", scheme, partition=partition)
    model = load(tmp_path / "p")
    with rasterio.open(scene) as raster, rasterio.open(labels) as reference:
        pixels, values = raster.read(), reference.read(1)
    valid = (pixels != 0).all(axis=0)
    mapped = whole_image(model.network, model.card, model.footprint.stride, pixels, valid)
    here = partition.mask(Part.TEST, valid.shape, Window(0, 0, *valid.shape)) & valid & (values > 0)
    indices = scheme.indices(values[here], values[here] > 0)
    agree = mapped[here] == np.array([info.value for info in scheme.infos])[indices]
    assert report.network.pixels == here.sum()
    assert report.network.overall_accuracy == pytest.approx(agree.mean(), abs=1e-9)


def test_polygons_are_learnt_from_like_the_raster_that_they_are_burnt_into(
    scene: Path, examples: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    shapes = examples / "landsat96_polygons.shp"
    quick(scene, shapes, tmp_path / "shapes", scheme, attribute="id")
    with rasterio.open(scene) as raster:
        grid, profile = open_scene(scene).grid, raster.profile
    values, known = burn(open_polygons(shapes, "id"), grid, grid.window)
    burnt = tmp_path / "burnt.tif"
    with rasterio.open(burnt, "w", **(profile | {"count": 1})) as raster:
        raster.write(np.where(known, values, 0).astype(np.uint8), 1)
    quick(scene, burnt, tmp_path / "raster", scheme)
    assert same(tmp_path / "shapes", tmp_path / "raster")
    first, second = (load(tmp_path / name).card.metrics for name in ("shapes", "raster"))
    assert first == second


def test_several_scenes_are_learnt_from_by_the_names_of_their_bands(
    scene: Path, labels: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    swapped = changed(scene, tmp_path / "swapped.tif", lambda pixels: pixels[::-1])
    with rasterio.open(swapped, "r+") as raster:
        raster.descriptions = raster.descriptions[::-1]
    found = [
        train(
            [(scene, labels), (other, labels)],
            output=tmp_path / name,
            classes=scheme,
            architecture=SMALL,
            schedule=QUICK,
            forest=False,
        )
        for name, other in (("one", scene), ("two", swapped))
    ]
    assert same(tmp_path / "one", tmp_path / "two")
    assert found[0].network.pixels == 2 * 39_292
    alone = quick(scene, labels, tmp_path / "alone", scheme)
    np.testing.assert_allclose(found[0].card.mean, alone.card.mean, rtol=1e-12)
    np.testing.assert_allclose(found[0].card.std, alone.card.std, rtol=1e-12)


def test_training_goes_on_from_a_package(
    scene: Path, labels: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    options = ["depth=1", "width=4"]
    quick(scene, labels, first, scheme, architecture="unet", options=options)
    still = replace(QUICK, learning_rate=1e-12)
    quick(scene, labels, second, scheme, architecture=None, start=first, schedule=still)
    before, after = load(first), load(second)
    assert before.architecture == after.architecture
    pairs = zip(before.network.parameters(), after.network.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in pairs)
    with pytest.raises(ModelError, match="can't go on from first"):
        quick(scene, labels, tmp_path / "p", scheme, start=first, architecture="fcn-compact")


def test_a_training_that_was_stopped_ends_with_the_same_package(
    scene: Path, labels: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    class StoppedError(Exception):
        pass

    options: dict[str, Any] = {
        "schedule": replace(QUICK, steps=4, check=2),
        "partition": Partition(SideHoldout(), BlockHoldout(3, 64), 16),
        "checkpoint": 0,
    }
    output = tmp_path / "cut" / "model"
    for stop in (1, 3, 3, 4):

        def watch(step: Step, last: int = stop) -> None:
            # Told after the step and before its checkpoint.
            if step.number >= last:
                raise StoppedError

        with pytest.raises(StoppedError):
            quick(scene, labels, output, scheme, watch=watch, **options)
    report = quick(scene, labels, output, scheme, **options)
    assert report.steps_resumed == 3
    quick(scene, labels, tmp_path / "whole" / "model", scheme, **options)
    for name in ("weights.safetensors", "model.json"):
        assert (output / name).read_bytes() == (tmp_path / "whole" / "model" / name).read_bytes(), (
            name
        )
    assert not list(output.parent.glob(".*"))


def test_a_training_that_was_begun_differently_is_not_gone_on_with(
    scene: Path, labels: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    class StoppedError(Exception):
        pass

    def stop(step: Step) -> None:
        if step.number == 2:
            raise StoppedError

    output = tmp_path / "model"
    with pytest.raises(StoppedError):
        quick(scene, labels, output, scheme, watch=stop, checkpoint=0)
    changed_rate = replace(QUICK, learning_rate=1e-3)
    with pytest.raises(FingerprintMismatchError) as caught:
        quick(scene, labels, output, scheme, schedule=changed_rate)
    assert caught.value.exit_code == 5
    assert "schedule.learning_rate was 0.003, is 0.001" in str(caught.value)
    assert "--new-run" in str(caught.value)
    (checkpoint,) = tmp_path.glob(".model.segpipe-*/checkpoint.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    with pytest.raises(ModelError, match=r"can't be read as a checkpoint .* --new-run"):
        quick(scene, labels, output, scheme)
    quick(scene, labels, output, scheme, schedule=changed_rate, new_run=True)
    assert not list(tmp_path.glob(".*"))


def test_what_training_says_can_be_read_by_tensorboard(
    scene: Path, labels: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    partition = Partition(SideHoldout(), BlockHoldout(3, 64), 16)
    log = tmp_path / "log"
    report = quick(scene, labels, tmp_path / "p", scheme, partition=partition, log=log)
    events = accumulator.EventAccumulator(str(log)).Reload()
    logged = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in ("loss", "rate")}
    assert [step for step, _ in logged["rate"]] == [1, 2]
    assert [value for _, value in logged["loss"]] == pytest.approx(report.losses, rel=1e-6)
    (check,) = events.Scalars("validation/mean_iou")
    assert (check.step, check.value) == (2, pytest.approx(report.checks[0][1], rel=1e-6))


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


def test_polygons_that_cannot_be_learnt_from_are_refused(
    scene: Path, examples: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    shapes = examples / "landsat96_polygons.shp"
    with pytest.raises(OptionError, match="polygons need --attribute"):
        quick(scene, shapes, tmp_path / "p", scheme)
    with pytest.raises(InputRefusedError, match="klasse"):
        quick(scene, shapes, tmp_path / "p", scheme, attribute="klasse")
    elsewhere = polygons(tmp_path / "elsewhere.geojson", [(1, (10, 50, 11, 51))])
    with pytest.raises(InputRefusedError, match="doesn't touch the raster"):
        quick(scene, elsewhere, tmp_path / "p", scheme, attribute="code")
    strange = polygons(tmp_path / "strange.geojson", [(77, (-78.7, 35.7, -78.6, 35.8))])
    with pytest.raises(InputRefusedError, match="hold 77, which no class names"):
        quick(scene, strange, tmp_path / "p", scheme, attribute="code")
    assert not list(tmp_path.glob(".*"))


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
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("partition", "part"),
    [
        # The easternmost tenth of the scene is nodata.
        (Partition(SideHoldout("east", 0.1), None, 32), "held out"),
        (Partition(SideHoldout("east", 0.99), None, 32), "learnt from"),
        (Partition(SideHoldout("east", 0.5), SideHoldout("east", 0.3), 32), "validated on"),
    ],
)
def test_a_part_without_labels_is_refused(
    scene: Path,
    labels: Path,
    scheme: LabelScheme,
    tmp_path: Path,
    partition: Partition,
    part: str,
) -> None:
    with pytest.raises(InputRefusedError, match=f"no labelled pixel in the part that is {part}"):
        quick(scene, labels, tmp_path / "p", scheme, partition=partition)


def test_what_the_network_cannot_take_is_refused(
    scene: Path, labels: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="multiples of 8, crops have 60; 64 would do"):
        quick(
            scene,
            labels,
            tmp_path / "p",
            scheme,
            architecture="fcn-compact",
            schedule=replace(QUICK, crop=60),
        )
    with pytest.raises(ModelError, match="no architecture is called 'net'"):
        quick(scene, labels, tmp_path / "p", scheme, architecture="net")
    with pytest.raises(ExamplesRefusedError, match="a scene has 443 x 489 pixels, a crop 512"):
        quick(scene, labels, tmp_path / "p", scheme, schedule=replace(QUICK, crop=512))
    assert not list(tmp_path.glob(".*"))


def test_an_older_package_stays(
    scene: Path, labels: Path, scheme: LabelScheme, tmp_path: Path
) -> None:
    with pytest.raises(PackageExistsError, match="already there"):
        quick(scene, labels, tmp_path, scheme)


@pytest.mark.slow
def test_a_training_that_is_killed_at_any_moment_ends_with_the_same_bytes(
    scene: Path, labels: Path, examples: Path, tmp_path: Path
) -> None:
    chance = random.Random(20261122)
    more = "--steps 40 --crop 32 --batch 4 --check 5 --validation blocks:3/64 --gap 16 --no-forest"

    def begin(folder: str) -> subprocess.Popen[str]:
        return start(
            "train",
            scene,
            labels,
            "--classes",
            examples / "landcover-classes.json",
            "-o",
            tmp_path / folder / "model",
            *f"{more} --architecture unet:depth=2,width=4 --checkpoint 0 --json".split(),
        )

    def checkpoint() -> int:
        found = (tmp_path / "cut").glob(".model.segpipe-*/checkpoint.safetensors")
        return max((path.stat().st_mtime_ns for path in found), default=0)

    whole = finish(begin("whole"))
    assert whole.code == 0, whole.err
    killed = 0
    for _ in range(5):
        before, process = checkpoint(), begin("cut")
        while checkpoint() == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
        killed += finish(process).code == -signal.SIGKILL
    outcome = finish(begin("cut"))
    assert outcome.code == 0, outcome.err
    assert killed == 5
    assert 5 <= json.loads(outcome.out)["steps_resumed"] < 40
    for name in ("weights.safetensors", "model.json"):
        one, two = (tmp_path / folder / "model" / name for folder in ("whole", "cut"))
        assert one.read_bytes() == two.read_bytes(), name
    assert not list((tmp_path / "cut").glob(".*"))


def test_the_command_line_takes_pairs_and_says_what_it_did(
    segpipe: Command, scene: Path, labels: Path, examples: Path, tmp_path: Path
) -> None:
    classes = ["--classes", examples / "landcover-classes.json"]
    few = ["--steps", "2", "--crop", "32", "--batch", "2", "--no-forest", "--architecture", SMALL]
    pairs = [scene, labels, scene, labels]
    done = segpipe(
        "train", *pairs, *classes, "-o", "two", *few, "--validation", "south:0.3", "--loss", "focal"
    )
    assert done.code == 0, done.err
    assert "validated best after step 2 of 2" in done.out
    assert "step 2/2, loss" in done.err
    assert load(tmp_path / "two").card.metrics["schedule"]["loss"] == "focal"
    odd = segpipe("train", *pairs[:3], *classes, "-o", "three", *few)
    assert (odd.code, len(odd.lines)) == (2, 1)
    assert "each scene is followed by its labels" in odd.err
    for words, code in (
        (("--holdout", "up:1"), 2),
        (("--balance", "7"), 2),
        (("--contrast", "2"), 2),
        (("--device", "cuda:9"), 2),
        (("--option", "dept=3"), 4),
        (("--from", "nowhere"), 4),
    ):
        found = segpipe("train", scene, labels, *classes, "-o", "other", *few, *words)
        assert (found.code, len(found.lines)) == (code, 1), found.err
