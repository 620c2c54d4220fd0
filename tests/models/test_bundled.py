"""The bundled model is what its card says."""

from pathlib import Path

import numpy as np
import pytest

from segpipe.models.learning.examples import IGNORED
from segpipe.models.learning.metrics import Scores, confusion_matrix
from segpipe.models.package import SegmentationModel
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.workflows.catalogue import DEFAULT, find
from segpipe.workflows.labels.label_scheme import LabelScheme
from tests.toys import whole_image

LARGEST = 5_000_000
"""Bytes of weights."""


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    return find(DEFAULT)


def test_it_is_small_and_can_be_tiled_exactly(model: SegmentationModel) -> None:
    assert 4 * model.parameters < LARGEST
    assert model.footprint.exact


def test_its_classes_are_those_of_the_example(model: SegmentationModel, examples: Path) -> None:
    scheme = LabelScheme.read(examples / "landcover-classes.json")
    assert model.card.classes == scheme.infos
    assert [info.name for info in model.card.classes] == model.card.metrics["classes"]
    assert "demonstration" in model.card.description


def test_it_beats_the_forest_on_the_part_held_out(model: SegmentationModel) -> None:
    metrics = model.card.metrics
    for figure in ("overall_accuracy", "mean_iou"):
        assert metrics[figure] > metrics["random_forest"][figure]
    assert metrics["pixels"] == metrics["random_forest"]["pixels"]


def test_one_pass_gives_the_figures_of_the_card(model: SegmentationModel, examples: Path) -> None:
    card = model.card
    scene = open_scene(examples / "landsat7-nc-2000.tif", wanted=card.bands)
    pixels, valid = scene.read(scene.grid.window)
    mapped = whole_image(model.network, card, model.footprint.stride, pixels, valid)
    reference = open_scene(examples / "landcover-nc-1996.tif")
    labels, known = reference.read(scene.grid.window)
    indices = LabelScheme.read(examples / "landcover-classes.json").indices(labels[0], known)
    assert card.metrics["holdout"] == "east:0.3333"
    here = valid & (indices != IGNORED)
    # A third of 489 columns.
    here[:, : 489 - 163] = False
    predicted = np.searchsorted([info.value for info in card.classes], mapped[here])
    scores = Scores(confusion_matrix(indices[here], predicted, len(card.classes)))
    assert scores.pixels == card.metrics["pixels"]
    assert scores.overall_accuracy == pytest.approx(card.metrics["overall_accuracy"], abs=1e-3)
    assert scores.mean_iou == pytest.approx(card.metrics["mean_iou"], abs=1e-3)
