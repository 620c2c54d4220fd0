"""`segpipe convert --pooling-window`: a trained DeepLabV3 whose tiles become exact."""

import json
from pathlib import Path

import pytest
import torch

from segpipe.models.architectures.registry import build
from segpipe.models.card import ClassInfo, ModelCard
from segpipe.models.package import SegmentationModel, load, save
from tests.workflows.conftest import Command

CARD = ModelCard(
    "trained",
    ("red",),
    (ClassInfo(1, "water", "#4060c8"), ClassInfo(2, "land", "#206020")),
    (100.0,),
    (10.0,),
    window=512,
    metrics={"mean_iou": 0.5},
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "trained"
    save(SegmentationModel(build("deeplabv3-resnet50", 1, 2), CARD), folder)
    return folder


def test_a_trained_deeplab_becomes_exact(trained: Path, tmp_path: Path, segpipe: Command) -> None:
    outcome = segpipe(
        "convert", trained, "-o", tmp_path / "local", "--pooling-window", "512", "--json"
    )
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["footprint"]["exact"]
    assert found["footprint"]["top"] == 516
    assert found["warnings"] == [
        "the figures of trained aren't those of the new model; evaluate it again"
    ]
    before, after = load(trained), load(tmp_path / "local")
    assert not before.footprint.exact
    assert after.footprint.exact
    assert (after.card.name, after.card.metrics) == ("local", {})
    pairs = zip(before.network.parameters(), after.network.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_another_window_than_that_of_training_is_told(
    trained: Path, tmp_path: Path, segpipe: Command
) -> None:
    outcome = segpipe("convert", trained, "-o", tmp_path / "local", "--pooling-window", "256")
    assert "trained was trained on 512 pixels, its mean is over 256" in outcome.err
    assert "over 256 x 256 pixels" in outcome.out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--pooling-window", "100"), 4, "pooling_window is a multiple of 8, got 100"),
        (("--pooling-window", "512", "--side", "64"), 2, "leave out all other options but"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    words: tuple[str, ...],
    code: int,
    message: str,
    trained: Path,
    tmp_path: Path,
    segpipe: Command,
) -> None:
    outcome = segpipe("convert", trained, "-o", tmp_path / "local", *words)
    assert outcome.code == code
    assert len(outcome.lines) == 1
    assert message in outcome.err
    assert not (tmp_path / "local").exists()


def test_other_networks_are_refused(tiny_model: Path, tmp_path: Path, segpipe: Command) -> None:
    outcome = segpipe("convert", tiny_model, "-o", tmp_path / "local", "--pooling-window", "64")
    assert outcome.code == 4
    assert "tiny is a unet, which has no pooling over the image" in outcome.err
