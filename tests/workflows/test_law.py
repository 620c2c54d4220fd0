"""Tiles are invisible: every map equals the one that a single pass over the image gives."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from segpipe.models.architectures.registry import names, parse
from segpipe.models.engine import Engine, default_threads
from segpipe.models.package import SegmentationModel
from segpipe.models.predictor import TorchPredictor
from segpipe.pipeline.mapping import label
from segpipe.pipeline.plan import Margin, Plan
from segpipe.workflows.run import run
from tests import toys

LIGHT: dict[str, Callable[[], SegmentationModel]] = {
    "unet of depth 4": lambda: toys.model("unet", depth=4, width=4),
    "unet of depth 2": toys.small,
    "compact": lambda: toys.model("fcn-compact"),
    "stride 1": lambda: SegmentationModel(toys.alive(Plain()), toys.card()),
    "dilated": lambda: SegmentationModel(toys.alive(Dilated()), toys.card()),
    "unpooling": lambda: SegmentationModel(toys.alive(Unpooling()), toys.card()),
    "odd stride": lambda: SegmentationModel(toys.alive(Thirds()), toys.card()),
}
SIDES = {
    "unet-resnet18": (256, 512, 768, 1024),
    # Minutes a side on two cores.
    "fcn8s-vgg16": (512, 1024),
}
"""Encoders as in the papers, on a whole scene."""

OTHERS = (
    "fcn32s-vgg16:width=16",
    "fcn16s-vgg16:width=16",
    "fcn8s-vgg16:width=16,upsampling=fixed",
    "fcn32s-alexnet",
    "fcn16s-alexnet",
    "fcn8s-alexnet",
    "fcn32s-googlenet",
    "segnet-vgg16",
    "segnet-vgg16:width=16,upsampling=transposed",
    "unet-resnet34",
    "fcn-resnet50",
    "deeplabv3-resnet50:pooling_window=256",
)
"""Every other registered network, and other ways to build those above."""


class Plain(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 5, padding=2))


class Dilated(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=8, dilation=8),
            nn.ReLU(),
            nn.Conv2d(8, 5, 1),
            nn.Upsample(scale_factor=2, mode="bilinear"),
        )


class Thirds(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=3),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            # Overlapping kernels are summed in an order that depends on the image's size.
            nn.ConvTranspose2d(8, 5, 3, stride=3),
        )


class Unpooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.outer = nn.Conv2d(8, 5, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.inner(image)
        x, where = nn.functional.max_pool2d(x, 2, return_indices=True)
        x = nn.functional.max_unpool2d(self.middle(x).relu(), where, [2, 2])
        scores: Tensor = self.outer(x)
        return scores


@pytest.fixture(scope="module")
def landsat8(examples: Path) -> tuple[Path, NDArray[np.uint16]]:
    path = examples / "landsat8-224077-rgb.tif"
    with rasterio.open(path) as file:
        return path, file.read()


def is_plain_pass(
    model: SegmentationModel,
    pixels: NDArray[np.uint16],
    valid: NDArray[np.bool_],
    labels: NDArray[np.uint8],
) -> bool:
    """Whether the labels are those of a plain forward pass of torch, wherever that can tell."""
    arguments = model.network, model.card, model.footprint.stride, pixels, valid
    moved = labels != toys.whole_image(*arguments)
    return not moved.any() or toys.is_tie(toys.whole_scores(*arguments), moved)


def in_one_pass(model: SegmentationModel, pixels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """The whole scene through segpipe's own predictor, without a tile."""
    valid = (pixels != 0).all(axis=0)
    stride, engine = model.footprint.stride, Engine(threads=default_threads())
    predictor = TorchPredictor(model.network, model.card, stride, engine)
    everything = (slice(0, valid.shape[0]), slice(0, valid.shape[1]))
    return np.where(valid, predictor(pixels, valid, everything), np.uint8(255))


def labels_of(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as file:
        labels: NDArray[np.uint8] = file.read(1)
    return labels


@pytest.mark.parametrize("name", LIGHT)
def test_a_real_scene_in_tiles_is_the_scene_in_one_pass(
    name: str, landsat8: tuple[Path, NDArray[np.uint16]], tmp_path: Path
) -> None:
    scene, pixels = landsat8
    model = LIGHT[name]()
    expected = in_one_pass(model, pixels)
    assert len(np.unique(expected)) > 3, "a map of one class would prove nothing"
    assert is_plain_pass(model, pixels, (pixels != 0).all(axis=0), expected)
    for side in (256, 512, 768, 1024):
        report = run(
            scene, model=model, output=tmp_path / f"{side}.tif", tile=side, precision="fp32"
        )
        assert report.footprint.exact
        assert np.count_nonzero(labels_of(report.output) != expected) == 0, (name, side)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("architecture", SIDES)
def test_the_great_networks_on_a_real_scene(
    architecture: str, landsat8: tuple[Path, NDArray[np.uint16]], tmp_path: Path
) -> None:
    scene, pixels = landsat8
    model = toys.balanced(architecture)
    expected = in_one_pass(model, pixels)
    assert len(np.unique(expected)) > 2, "a map of one class would prove nothing"
    assert is_plain_pass(model, pixels, (pixels != 0).all(axis=0), expected)
    for side in SIDES[architecture]:
        report = run(
            scene, model=model, output=tmp_path / f"{side}.tif", tile=side, precision="fp32"
        )
        assert np.count_nonzero(labels_of(report.output) != expected) == 0, side


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("architecture", OTHERS)
def test_every_other_network_on_a_part_of_a_real_scene(
    architecture: str, landsat8: tuple[Path, NDArray[np.uint16]], tmp_path: Path
) -> None:
    name, options = parse(architecture)
    pixels = landsat8[1][:, 300:1000, 500:1250]
    model = toys.balanced(name, pixels[:, :512, :512], **options)
    assert model.footprint.exact
    scene = toys.write_scene(tmp_path / "scene.tif", pixels)
    expected = in_one_pass(model, pixels)
    assert len(np.unique(expected)) > 1, "a map of one class would prove nothing"
    for side in (256, 512):
        report = run(
            scene, model=model, output=tmp_path / f"{side}.tif", tile=side, precision="fp32"
        )
        assert np.count_nonzero(labels_of(report.output) != expected) == 0, side


def test_no_network_is_left_out() -> None:
    # LIGHT has the U-Net and the compact FCN.
    tested = {*SIDES, *(parse(text)[0] for text in OTHERS), "unet", "fcn-compact"}
    assert tested == set(names())


@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.parametrize("name", LIGHT)
def test_scenes_of_any_size_in_any_tiles(name: str, data: st.DataObject) -> None:
    model = LIGHT[name]()
    height = data.draw(st.one_of(st.just(1), st.integers(1, 700)), "height")
    width = data.draw(st.one_of(st.just(1), st.integers(1, 700)), "width")
    pixels = toys.landscape(height, width, data.draw(st.integers(0, 99), "seed"))
    valid = (pixels != 0).all(axis=0)
    footprint = model.footprint
    plan = Plan(
        toys.grid(height, width),
        data.draw(st.sampled_from([256, 512]), "side"),
        footprint.stride,
        Margin(footprint.top, footprint.left, footprint.bottom, footprint.right),
    )
    predictor = TorchPredictor(
        model.network, model.card, footprint.stride, Engine(threads=default_threads())
    )
    made = np.zeros((height, width), np.uint8)
    for tile in plan.tiles():
        rows, columns = tile.read.slices
        made[tile.core.slices] = label(
            plan,
            pixels[:, rows, columns],
            valid[rows, columns],
            tile.read,
            tile.core,
            predictor,
            255,
        )
    assert is_plain_pass(model, pixels, valid, made)
