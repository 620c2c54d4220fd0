"""From scenes and their labels to a model package, with honest figures on a part held out."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segpipe.models.architectures.network import Architecture, Network
from segpipe.models.architectures.registry import create, options_of, parse
from segpipe.models.card import ModelCard
from segpipe.models.engine import Engine, Precision, default_threads, find_device
from segpipe.models.errors import ModelError
from segpipe.models.footprint import Footprint, measure
from segpipe.models.heap import keep_freed_memory
from segpipe.models.learning.forest import LEAF, TREES, forest_scores
from segpipe.models.learning.losses import class_weights
from segpipe.models.learning.metrics import Scores
from segpipe.models.learning.normalisation import Normalisation
from segpipe.models.learning.sampler import Sampler
from segpipe.models.learning.stages import start_from
from segpipe.models.learning.survey import Survey, survey
from segpipe.models.learning.training import Learner, Schedule, Step, fit
from segpipe.models.learning.training_state import TrainingState
from segpipe.models.package import PackageExistsError, SegmentationModel, load, save
from segpipe.pipeline import storage
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.fingerprint import Fields
from segpipe.pipeline.staging import Staging, discard, staged_beside, staging
from segpipe.workflows.catalogue import Model, find
from segpipe.workflows.labels.holdout import Part, Partition, SideHoldout
from segpipe.workflows.labels.label_scheme import LabelScheme
from segpipe.workflows.labels.labelled import (
    BurntLabels,
    LabelledScene,
    ScenePart,
    burn_polygons,
    burnt,
    open_labelled,
)
from segpipe.workflows.labels.scoring import score
from segpipe.workflows.training_log import TrainingLog, require

ARCHITECTURE = "fcn-compact"
"""What is trained unless it's said."""

PARTITION = Partition(SideHoldout("east", 1 / 3), validation=None, gap=32)
"""What is held out unless it's said."""

SCHEDULE = Schedule(steps=200, crop=64, seed=0)
"""How a network is trained unless it's said."""

CHECKPOINT = 30.0
"""Seconds from one checkpoint to the next."""

Watcher = Callable[[Step], None]
Pairs = Sequence[tuple[str | Path, str | Path]]


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What training did and how good the map is where training never looked.

    Attributes:
        package: the folder of the model.
        card: as it stands in the package.
        network: figures of the network on the held-out part.
        forest: figures of a per-pixel random forest on the same split, or None.
        losses: of every step.
        checks: step and mean IoU of every validation.
        steps_resumed: how many steps were done by an earlier process.
        seconds: from start to end.
        warnings: lines for the user.
    """

    package: Path
    card: ModelCard
    network: Scores
    forest: Scores | None
    losses: tuple[float, ...]
    checks: tuple[tuple[int, float], ...]
    steps_resumed: int
    seconds: float
    warnings: tuple[str, ...]

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
            "checks": [list(check) for check in self.checks],
            "steps_resumed": self.steps_resumed,
            "seconds": round(self.seconds, 1),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, slots=True)
class Course:
    """All that is known about a training before its first step."""

    scenes: tuple[LabelledScene, ...]
    surveys: Mapping[Part, Survey]
    network: Network
    footprint: Footprint
    weights: Tensor
    card: ModelCard
    schedule: Schedule
    engine: Engine

    def parts(self, part: Part) -> tuple[ScenePart, ...]:
        """The ground of this part in every scene."""
        return tuple(scene.part(part) for scene in self.scenes)

    def sampler(self) -> Sampler:
        """What gives the batches."""
        return Sampler(
            self.parts(Part.LEARN),
            self.surveys[Part.LEARN],
            Normalisation(self.card.mean, self.card.std),
            crop=self.schedule.crop,
            batch=self.schedule.batch,
            seed=self.schedule.seed,
            augmentation=self.schedule.augmentation,
        )

    def pixels(self, part: Part) -> int:
        """How many labelled pixels a part has."""
        return int(self.surveys[part].pixels.sum())

    def score(self, part: Part, network: nn.Module) -> Scores:
        """The figures of a network on a part."""
        return score(network, self.card, self.footprint, self.parts(part), self._scoring)

    @property
    def _scoring(self) -> Engine:
        # What autocast computed is scored as it will be used: in fp32.
        return replace(self.engine, precision="fp32")


def train(
    pairs: Pairs,
    *,
    output: str | Path,
    classes: LabelScheme,
    attribute: str | None = None,
    bands: Sequence[str] | None = None,
    architecture: str | None = None,
    options: Sequence[str] = (),
    start: Model | None = None,
    partition: Partition = PARTITION,
    schedule: Schedule = SCHEDULE,
    device: str = "auto",
    precision: Precision = "fp32",
    forest: bool = True,
    log: str | Path | None = None,
    checkpoint: float = CHECKPOINT,
    overwrite: bool = False,
    new_run: bool = False,
    watch: Watcher | None = None,
) -> TrainingReport:
    """A report, and the package in the folder `output`, whose name becomes the model's.

    A training that was stopped, however it was stopped, goes on at its last checkpoint when the
    same call is made again; on a CPU it ends with the same weights. The part that is held out
    chooses nothing: it's scored when all is done. Pixels are read by windows, so scenes needn't
    fit into memory.

    Args:
        pairs: scenes with their labels: a raster of one band on the scene's pixels, or polygons.
        output: a folder that isn't there yet.
        classes: which labels make up which class.
        attribute: the polygons' column with the label.
        bands: numbers or names of the bands that the network is to take; all by default.
        architecture: a registered name, which may come with options (`unet:depth=3,width=32`); by
            default that of `start`, or else the compact FCN.
        options: more of the architecture's options, as KEY=VALUE.
        start: a model whose weights are the first ones, of this architecture or of the stage
            before it.
        partition: what is held out, and what training is validated on.
        schedule: how long and how the network is trained.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `fp32`, or `bf16` for mixed precision.
        forest: whether a random forest is grown to compare with; it takes scikit-learn.
        log: a folder for TensorBoard.
        checkpoint: seconds from one checkpoint to the next.
        overwrite: whether an older package of that name may go.
        new_run: throw away an unfinished training for this output.
        watch: told of every step.

    Raises:
        InputRefusedError: scenes and labels don't fit each other, the classes, or the partition.
        ExamplesRefusedError: there is too little to learn from.
        PackageExistsError: `output` is there already.
        FingerprintMismatchError: a training for this output was begun differently.
        ModelError: there's no such architecture, crops don't suit it, the checkpoint is damaged,
            or an extra isn't installed.
        DeviceError: there's no such device.
    """
    began = time.monotonic()
    folder = Path(output).absolute()
    if folder.exists() and not (overwrite or staged_beside(folder)):
        raise PackageExistsError(f"{folder} is already there; choose another name or remove it")
    if forest:
        require("sklearn", "the random forest to compare with", "train without the forest")
    keep_freed_memory()
    engine = Engine(device=find_device(device), precision=precision, threads=default_threads())
    before = None if start is None else find(start)
    scenes = open_labelled(
        pairs,
        classes,
        partition,
        attribute=attribute,
        bands=bands,
        wanted=before.card.bands if before else (),
    )
    wanted = _architecture(architecture, options, before, scenes[0], classes)
    course = _plot(scenes, classes, _first(wanted, before, schedule.seed), folder, schedule, engine)
    fields = _fingerprint(course, classes, before)
    burn = partial(burn_polygons, course.scenes)
    with staging(folder, fields, new_run=new_run, create=burn) as staged:
        course = replace(course, scenes=burnt(course.scenes, staged.store))
        learner, resumed = _learn(course, staged, log, checkpoint, watch)
        figures = course.score(Part.TEST, learner.network)
        compared = _forest(course) if forest else None
        card = replace(course.card, metrics=_metrics(course, learner, figures, compared))
        _publish(SegmentationModel(course.network.cpu(), card), folder, overwrite)
        discard(staged)
    return TrainingReport(
        folder,
        card,
        figures,
        compared,
        learner.losses,
        learner.checks,
        resumed,
        time.monotonic() - began,
        tuple(line for scene in scenes for line in scene.scene.warnings),
    )


def is_begun(output: str | Path) -> bool:
    """Whether there is an unfinished training for this output that the same call would resume."""
    return bool(staged_beside(Path(output).absolute()))


def _architecture(
    text: str | None,
    options: Sequence[str],
    before: SegmentationModel | None,
    scene: LabelledScene,
    classes: LabelScheme,
) -> Architecture:
    """The one that is asked for, with as many bands and classes as the examples have."""
    if text is None and before and before.architecture:
        name, own = before.architecture.name, dict(before.architecture.options)
    else:
        name, own = parse(text or ARCHITECTURE)
    own |= options_of(name, options)
    return Architecture(name, len(scene.scene.band_names), len(classes.classes), own)


def _first(wanted: Architecture, before: SegmentationModel | None, seed: int) -> Network:
    """The network as the first step finds it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = create(wanted)
    if before is not None:
        start_from(network, before)
    return network


def _plot(
    scenes: tuple[LabelledScene, ...],
    classes: LabelScheme,
    network: Network,
    folder: Path,
    schedule: Schedule,
    engine: Engine,
) -> Course:
    """The course of a training; refuses what can't be learnt from or scored."""
    bands = scenes[0].scene.band_names
    footprint = measure(network.eval(), len(bands))
    if schedule.crop % footprint.stride:
        raise ModelError(
            f"the network takes sides that are multiples of {footprint.stride}, crops have "
            f"{schedule.crop}; {-(-schedule.crop // footprint.stride) * footprint.stride} would do"
        )
    partition = scenes[0].partition
    parts = [part for part in Part if part is not Part.VALIDATE or partition.validation]
    surveys = {
        part: survey([scene.part(part) for scene in scenes], len(bands), len(classes.classes))
        for part in parts
    }
    for part, found in surveys.items():
        if not found.pixels.any():
            raise InputRefusedError(
                f"{', '.join(scene.scene.path for scene in scenes)}: no labelled pixel in the part "
                f"that is {part.value} ({partition}); part the scene differently, or add labels"
            )
    normalisation = Normalisation.of(surveys[Part.LEARN].moments)
    card = ModelCard(
        name=folder.name,
        bands=bands,
        classes=classes.infos,
        mean=normalisation.mean,
        std=normalisation.std,
        window=schedule.crop,
        description=classes.description,
        licence=classes.licence,
        training_data=classes.training_data,
    )
    weights = class_weights(surveys[Part.LEARN].pixels, schedule.balance)
    course = Course(scenes, surveys, network, footprint, weights, card, schedule, engine)
    course.sampler()  # refuses what it can't draw from, before anything is written
    return course


def _fingerprint(course: Course, classes: LabelScheme, before: SegmentationModel | None) -> Fields:
    """Everything that decides the weights."""
    architecture, partition = course.network.architecture, course.scenes[0].partition
    return {
        "scenes": {
            scene.scene.path: {"pixels": scene.scene.identity(), "labels": scene.labels.identity()}
            for scene in course.scenes
            if not isinstance(scene.labels, BurntLabels)
        },
        "classes": {entry.info.name: ",".join(map(str, entry.labels)) for entry in classes.classes},
        "architecture": architecture and architecture.to_dict(),
        "start": before and before.network_sha256,
        "partition": str(partition),
        "schedule": asdict(course.schedule),
        "engine": {**course.engine.to_dict(), "torch": torch.__version__},
    }


def _learn(
    course: Course,
    staged: Staging,
    log: str | Path | None,
    seconds: float,
    watch: Watcher | None,
) -> tuple[Learner, int]:
    """A learner that has finished, and the number of steps that an earlier process did."""
    learner = Learner(course.network, course.weights, course.schedule, course.engine)
    keeper = Keeper(staged.folder / "checkpoint.safetensors", seconds)
    if keeper.path.exists():
        learner.restore(TrainingState.read(keeper.path))
    resumed = learner.done

    def validate(network: nn.Module) -> float:
        return course.score(Part.VALIDATE, network).mean_iou

    with _watchers(log, resumed, watch) as tell:
        fit(
            learner,
            course.sampler(),
            validate=validate if Part.VALIDATE in course.surveys else None,
            keep=keeper,
            watch=tell,
        )
    return learner, resumed


class Keeper:
    """Writes a learner's state, whole or not at all, every so many seconds and at the end."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path = path
        self._seconds = seconds
        self._last = time.monotonic()

    def __call__(self, learner: Learner) -> None:
        """Writes the state if it is time to."""
        if time.monotonic() - self._last >= self._seconds or learner.finished:
            storage.write(self.path, learner.state().to_bytes())
            self._last = time.monotonic()


@contextlib.contextmanager
def _watchers(log: str | Path | None, done: int, watch: Watcher | None) -> Iterator[Watcher]:
    """One watcher that tells all who want to know."""
    told: list[Watcher] = [watch] if watch else []
    with contextlib.ExitStack() as stack:
        if log is not None:
            with storage.reported("write", Path(log)):
                told.append(stack.enter_context(contextlib.closing(TrainingLog(Path(log), done))))

        def tell(step: Step) -> None:
            for watcher in told:
                watcher(step)

        yield tell


def _forest(course: Course) -> Scores:
    return forest_scores(
        course.parts(Part.LEARN),
        course.parts(Part.TEST),
        course.pixels(Part.LEARN),
        len(course.card.classes),
        course.schedule.seed,
    )


def _metrics(
    course: Course, learner: Learner, figures: Scores, compared: Scores | None
) -> dict[str, Any]:
    partition = course.scenes[0].partition
    validated = Part.VALIDATE in course.surveys
    return {
        "holdout": str(partition.test),
        "validation": str(partition.validation) if validated else None,
        "gap": partition.gap,
        "training_pixels": course.pixels(Part.LEARN),
        "validation_pixels": course.pixels(Part.VALIDATE) if validated else 0,
        "classes": [info.name for info in course.card.classes],
        "confusion_matrix_axes": ["reference", "map"],
        **figures.to_dict(),
        "random_forest": compared
        and {"trees": TREES, "min_samples_leaf": LEAF, "sees": "one pixel", **compared.to_dict()},
        "schedule": asdict(course.schedule),
        "precision": course.engine.precision,
        "steps": learner.done,
        "best_step": learner.best,
        "best_validation_mean_iou": max((mean for _, mean in learner.checks), default=None),
    }


def _publish(model: SegmentationModel, folder: Path, overwrite: bool) -> None:
    """Saves the model; nothing happens if a process that was killed then had just saved it."""
    with contextlib.suppress(ModelError):
        if load(folder).digest == model.digest:
            return
    with storage.reported("write", folder):
        save(model, folder, overwrite=overwrite)
