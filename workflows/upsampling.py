"""Ways back to full resolution, each learnt for the same time and scored on the same pixels."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.models.engine import Engine, default_threads
from segpipe.models.learning.examples import IGNORED
from segpipe.models.learning.metrics import boundary_iou
from segpipe.models.learning.training import Schedule, Step
from segpipe.models.package import SegmentationModel, load
from segpipe.models.predictor import TorchPredictor
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.workflows.labels.holdout import Part
from segpipe.workflows.labels.label_scheme import LabelScheme
from segpipe.workflows.labels.labelled import open_labelled
from segpipe.workflows.results.plots import COLORS, figure
from segpipe.workflows.run import run
from segpipe.workflows.train import PARTITION, train

WIDTH = 16
"""Channels of the first stage: a quarter of the papers', which suits two cores and one scene."""

WAYS = {
    "FCN-32s": f"fcn32s-vgg16:width={WIDTH}",
    "FCN-16s": f"fcn16s-vgg16:width={WIDTH}",
    "FCN-8s": f"fcn8s-vgg16:width={WIDTH}",
    "unpooling": f"segnet-vgg16:width={WIDTH}",
    "transposed": f"segnet-vgg16:width={WIDTH},upsampling=transposed",
    "U-Net": f"unet:width={WIDTH}",
}
"""Architectures by the names that the table shows."""

DISTANCE = 2
"""Pixels around a contour that count for the boundary IoU."""

TRIAL = 6
"""Steps from which the time of one is taken."""

SIDE = 512
"""Side in pixels of the image on which speed is measured."""


@dataclass(frozen=True, slots=True)
class Way:
    """One network after its training; figures are of the part that was held out.

    Attributes:
        name: as in `WAYS`.
        architecture: as `segpipe train` takes it.
        steps: how many batches it learnt from in its time.
        mean_iou: mean of the classes' intersection over union.
        boundary_iou: the same near contours, within `DISTANCE` pixels (Cheng et al. 2021).
        megapixels_per_second: of the bare network in fp32.
    """

    name: str
    architecture: str
    parameters: int
    steps: int
    mean_iou: float
    boundary_iou: float
    megapixels_per_second: float

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON takes them."""
        return asdict(self)


def compare_upsampling(
    scene: str | Path,
    labels: str | Path,
    *,
    classes: LabelScheme,
    seconds: float = 60,
    seed: int = 0,
    watch: Callable[[str], None] | None = None,
) -> tuple[Way, ...]:
    """Every way of `WAYS`, trained for `seconds` on what isn't held out.

    The number of steps is what the time allows, so that each one's rate runs through its whole
    cycle. Weights start at random: what an encoder pretrained on millions of images would gain,
    this doesn't show.

    Args:
        scene: a raster.
        labels: a raster of one band on the same pixels, or polygons.
        classes: which labels make up which class.
        seconds: of training for each way.
        seed: of weights and crops.
        watch: told of every way before it is trained.

    Raises:
        PipelineError, ModelError: as `segpipe.workflows.train.train`.
    """
    truth = _truth(scene, labels, classes)
    ways = []
    for name, architecture in WAYS.items():
        if watch:
            watch(name)
        with tempfile.TemporaryDirectory(prefix="segpipe-bench-") as folder:
            trained = _Trained(Path(folder), architecture, seed)
            trained.learn(scene, labels, classes, seconds)
            ways.append(_scored(name, trained, scene, truth, len(classes.classes)))
    return tuple(ways)


def draw(found: Sequence[Way], path: str | Path) -> None:
    """A PNG with two bars a way: the mean IoU, and that near contours."""
    with figure(path, 160, 90) as axes:
        for row, way in enumerate(found):
            for side, (value, title) in enumerate(
                (
                    (way.mean_iou, "all pixels"),
                    (way.boundary_iou, f"within {DISTANCE} of a contour"),
                )
            ):
                place = row + (side - 0.5) * 0.36
                label = title if row == 0 else None
                axes.barh(place, value, 0.34, color=COLORS[side], label=label)
                axes.text(value, place, f" {value:.3f}", va="center", fontsize=8)
        names = [f"{way.name}\n{way.megapixels_per_second:.2f} Mpx/s" for way in found]
        axes.set_yticks(range(len(found)), names)
        axes.invert_yaxis()
        axes.set_xlabel("mean IoU on the part that is held out")
        axes.margins(x=0.15)
        axes.figure.legend(loc="outside upper right", ncols=2)


class _Trained:
    """A network in a folder, and how many steps it learnt."""

    def __init__(self, folder: Path, architecture: str, seed: int) -> None:
        self.folder = folder
        self.architecture = architecture
        self.schedule = Schedule(steps=TRIAL, crop=64, seed=seed)

    def learn(
        self, scene: str | Path, labels: str | Path, classes: LabelScheme, seconds: float
    ) -> None:
        """Trains for about so many seconds."""
        ticks: list[float] = []

        def tick(step: Step) -> None:
            ticks.append(time.perf_counter())

        for _ in range(2):
            train(
                [(scene, labels)],
                output=self.folder / "model",
                classes=classes,
                architecture=self.architecture,
                schedule=self.schedule,
                forest=False,
                overwrite=True,
                watch=tick,
            )
            each = median(np.diff(ticks[:TRIAL]))
            self.schedule = replace(self.schedule, steps=max(round(seconds / each), 1))

    @property
    def model(self) -> SegmentationModel:
        """What came of it."""
        return load(self.folder / "model")


def _truth(scene: str | Path, labels: str | Path, classes: LabelScheme) -> NDArray[np.uint8]:
    """Class indices of the held-out part, `IGNORED` elsewhere, (row, column) of the scene."""
    (whole,) = open_labelled([(scene, labels)], classes, PARTITION)
    part = whole.part(Part.TEST)
    height, width = part.shape
    return part.read(slice(0, height), slice(0, width)).labels


def _scored(
    name: str, trained: _Trained, scene: str | Path, truth: NDArray[np.uint8], classes: int
) -> Way:
    model = trained.model
    report = run(scene, model=model, output=trained.folder / "map.tif", precision="fp32")
    predicted = _indices(report.output, [info.value for info in model.card.classes])
    boundary = boundary_iou(truth, predicted, classes, DISTANCE)
    engine = Engine(threads=default_threads())
    predictor = TorchPredictor(model.network, model.card, model.footprint.stride, engine)
    return Way(
        name,
        trained.architecture,
        model.parameters,
        trained.schedule.steps,
        float(model.card.metrics["mean_iou"]),
        float(np.nanmean(boundary)),
        SIDE**2 / 1e6 / predictor.forward_seconds(SIDE, SIDE),
    )


def _indices(path: Path, values: Sequence[int]) -> NDArray[np.uint8]:
    """Class indices of a map, `IGNORED` where it has none, (row, column)."""
    mapped = open_scene(path)
    pixels, valid = mapped.read(mapped.grid.window)
    indices = np.full(256, IGNORED, np.uint8)
    indices[list(values)] = range(len(values))
    return np.where(valid, indices[pixels[0]], np.uint8(IGNORED))
