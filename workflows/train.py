"""From a scene and its labels to a model package, with honest figures on a part held out."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from segpipe.models.card import ModelCard
from segpipe.models.errors import ModelError
from segpipe.models.footprint import measure
from segpipe.models.forest import LEAF, TREES, forest_labels
from segpipe.models.metrics import Scores, confusion_matrix
from segpipe.models.network import Network
from segpipe.models.package import PackageExistsError, SegmentationModel, save
from segpipe.models.registry import build
from segpipe.models.training import (
    Block,
    Labels,
    Normalisation,
    Progress,
    Schedule,
    fit,
    predict_whole,
)
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.scene import Scene, open_scene
from segpipe.pipeline.storage import reported
from segpipe.pipeline.window import Window
from segpipe.workflows.holdout import Holdout
from segpipe.workflows.label_scheme import LabelScheme

GAP = 32
"""Pixels between what is learnt from and what is held out; neither side uses them."""


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What training did and how good the map is where training never looked.

    Attributes:
        package: the folder of the model.
        card: as it stands in the package.
        network: figures of the network on the held-out part.
        forest: figures of a per-pixel random forest on the same split, or None.
        losses: of every step.
        seconds: from start to end.
    """

    package: Path
    card: ModelCard
    network: Scores
    forest: Scores | None
    losses: tuple[float, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        return {
            "package": str(self.package),
            "name": self.card.name,
            "bands": list(self.card.bands),
            "classes": [info.name for info in self.card.classes],
            "mean": list(self.card.mean),
            "std": list(self.card.std),
            "metrics": self.card.metrics,
            "losses": list(self.losses),
            "seconds": round(self.seconds, 1),
        }


def train(
    scene: str | Path,
    labels: str | Path,
    *,
    output: str | Path,
    classes: LabelScheme,
    architecture: str = "fcn-compact",
    holdout: Holdout | None = None,
    gap: int = GAP,
    steps: int = 200,
    crop: int = 64,
    seed: int = 0,
    forest: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TrainingReport:
    """A report, and the package in the folder `output`, whose name becomes the model's.

    The network learns from the part that isn't held out, for a fixed number of steps, and its last
    weights are kept: the held-out part chooses nothing. It's scored on a map of the whole scene,
    made in one pass, so scene and map must fit into memory.

    Args:
        scene: the raster whose bands the network is to take.
        labels: a raster of one band on the same pixels. The crs isn't compared: labels often name
            another realisation of one datum.
        output: a folder that isn't there yet.
        classes: which labels make up which class.
        architecture: a registered name.
        holdout: what training never sees; the eastern third unless it's said.
        gap: pixels between both parts that neither uses.
        steps: how many batches are learnt from.
        crop: side of a crop in pixels.
        seed: the same one gives the same weights on the same machine with as many threads.
        forest: whether a random forest is grown to compare with; it takes scikit-learn.
        overwrite: whether an older package of that name may go.
        progress: called after every step with the steps done and the loss.

    Raises:
        InputRefusedError: scene and labels don't fit each other, the classes, or the hold-out.
        ExamplesRefusedError: there is too little to learn from.
        PackageExistsError: `output` is there already.
        ModelError: there's no such architecture, crops don't suit it, or a forest was asked for
            without scikit-learn.
    """
    began = time.monotonic()
    schedule = Schedule(steps, crop, seed)
    folder = Path(output)
    if folder.exists() and not overwrite:
        raise PackageExistsError(f"{folder} is already there; choose another name or remove it")
    opened = open_scene(scene)
    whole = _read(opened, open_scene(labels), classes)
    holdout = holdout or Holdout()
    split = holdout.split(*opened.grid.shape, gap)
    training, held_out = (_part(whole, window) for window in (split.training, split.held_out))
    if not held_out.known.any():
        raise InputRefusedError(f"{labels}: no labelled pixel in the part held out ({holdout})")
    # Grown first: a missing scikit-learn shows before the long part.
    compared = _forest(training, held_out, len(classes.classes), seed) if forest else None
    normalisation = Normalisation.of(training)
    network = _untrained(architecture, len(opened.band_names), len(classes.classes), seed)
    stride = _stride(network, len(opened.band_names), schedule)
    losses = fit(network, training, normalisation, len(classes.classes), schedule, progress)
    predicted = predict_whole(network, normalisation, whole, stride)
    scores = _score(held_out, predicted[split.held_out.slices], len(classes.classes))
    card = ModelCard(
        name=folder.name,
        bands=opened.band_names,
        classes=classes.infos,
        mean=normalisation.mean,
        std=normalisation.std,
        window=crop,
        description=classes.description,
        licence=classes.licence,
        training_data=classes.training_data,
        metrics=_metrics(classes, holdout, gap, training, scores, compared)
        | {"schedule": asdict(schedule)},
    )
    with reported("write", folder):
        save(SegmentationModel(network, card), folder, overwrite=overwrite)
    return TrainingReport(folder, card, scores, compared, losses, time.monotonic() - began)


def _read(scene: Scene, labels: Scene, classes: LabelScheme) -> Block:
    here, there = scene.grid, labels.grid
    if (here.shape, here.transform) != (there.shape, there.transform):
        raise InputRefusedError(
            f"{labels.path}: the labels have {there.height} x {there.width} pixels and the "
            f"transform {there.transform}, the scene {here.height} x {here.width} and "
            f"{here.transform}; warp them onto the scene's grid, by nearest neighbour"
        )
    if len(labels.band_indexes) != 1:
        raise InputRefusedError(
            f"{labels.path}: labels are one band, got {len(labels.band_indexes)}"
        )
    pixels, valid = scene.read(here.window)
    values, known = labels.read(there.window)
    return Block(pixels, valid, classes.indices(values[0], known))


def _part(block: Block, window: Window) -> Block:
    rows, columns = window.slices
    return Block(
        block.pixels[:, rows, columns], block.valid[rows, columns], block.labels[rows, columns]
    )


def _untrained(architecture: str, bands: int, classes: int, seed: int) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(architecture, bands, classes)


def _stride(network: Network, bands: int, schedule: Schedule) -> int:
    stride = measure(network.eval(), bands).stride
    if schedule.crop % stride:
        raise ModelError(
            f"the network takes sides that are multiples of {stride}, crops have {schedule.crop}; "
            f"{-(-schedule.crop // stride) * stride} would do"
        )
    return stride


def _forest(training: Block, held_out: Block, classes: int, seed: int) -> Scores:
    try:
        return _score(held_out, forest_labels(training, held_out, seed), classes)
    except ImportError as error:
        raise ModelError(
            "the random forest to compare with takes scikit-learn, which isn't installed: "
            "pip install 'segpipe[train]', or train without the forest"
        ) from error


def _score(block: Block, predicted: Labels, classes: int) -> Scores:
    known = block.known
    return Scores(confusion_matrix(block.labels[known], predicted[known], classes))


def _metrics(
    classes: LabelScheme,
    holdout: Holdout,
    gap: int,
    training: Block,
    network: Scores,
    forest: Scores | None,
) -> dict[str, Any]:
    return {
        "holdout": str(holdout),
        "gap": gap,
        "training_pixels": int(training.known.sum()),
        "classes": [info.name for info in classes.infos],
        "confusion_matrix_axes": ["reference", "map"],
        **network.to_dict(),
        "random_forest": forest
        and {"trees": TREES, "min_samples_leaf": LEAF, "sees": "one pixel", **forest.to_dict()},
    }
