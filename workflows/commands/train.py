"""The command `train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segpipe.workflows.errors import OptionError
from segpipe.workflows.terminal import options, texts
from segpipe.workflows.terminal.console import command_line, print_json, warn

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.models.learning.training import Schedule
    from segpipe.workflows.labels.holdout import Partition
    from segpipe.workflows.train import TrainingReport

_LEARNING = options.together(
    click.option(
        "--steps",
        type=click.IntRange(1),
        default=200,
        show_default=True,
        help="Batches to learn from, at most.",
    ),
    click.option(
        "--batch", type=click.IntRange(1), default=16, show_default=True, help="Examples a batch."
    ),
    click.option(
        "--crop",
        type=click.IntRange(16),
        default=64,
        show_default=True,
        help="Side of an example in pixels.",
    ),
    click.option("--rate", default=3e-3, show_default=True, help="The highest learning rate."),
    click.option(
        "--loss",
        type=click.Choice(["cross-entropy", "focal"]),
        default="cross-entropy",
        show_default=True,
        help="What is made small.",
    ),
    click.option(
        "--balance",
        default=0.25,
        show_default=True,
        help="Weight of rare classes: 0 counts all pixels alike, 1 all classes.",
    ),
    click.option("--brightness", default=0.0, help="Jitter of each band, in standard deviations."),
    click.option("--contrast", default=0.0, help="Jitter of each band's contrast, such as 0.2."),
    click.option("--zoom", default=1.0, help="Examples are shown up to this many times larger."),
    click.option("--turn/--no-turn", default=True, help="Turn and mirror examples, or not."),
    click.option(
        "--check",
        metavar="STEPS",
        type=click.IntRange(1),
        default=20,
        show_default=True,
        help="Steps from one validation to the next.",
    ),
    click.option(
        "--patience",
        metavar="N",
        type=click.IntRange(0),
        default=0,
        help="Stop early after N validations without a gain.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="The same one gives the same weights.",
    ),
)
"""All that makes a `Schedule`."""

_PARTS = options.together(
    click.option(
        "--holdout",
        metavar="SIDE:SHARE|blocks:N/SIDE",
        default="east:0.3333",
        show_default=True,
        help="What training never sees, and on which the model is scored: a share along a side, "
        "or one in N square blocks of SIDE pixels.",
    ),
    click.option(
        "--validation",
        metavar="SIDE:SHARE|blocks:N/SIDE",
        help="What isn't learnt from but chooses among the weights of all validations; likewise. "
        "Without it the last weights are kept.",
    ),
    click.option(
        "--gap", default=32, show_default=True, help="Pixels between the parts, used by none."
    ),
)
"""All that makes a `Partition`."""


@click.command(short_help="Learn a model from scenes and their labels.")
@click.argument("files", metavar="SCENE LABELS [SCENE LABELS]...", nargs=-1, required=True)
@click.option(
    "-o", "--output", metavar="PACKAGE", required=True, help="Folder of the model that is made."
)
@click.option(
    "--classes",
    metavar="FILE",
    required=True,
    help="JSON that tells which values of LABELS make up which class, with names and colours; "
    "examples/landcover-classes.json is one.",
)
@click.option(
    "--attribute", metavar="COLUMN", help="Where LABELS are polygons: their column with the label."
)
@options.bands
@click.option(
    "--architecture",
    metavar="NAME",
    help="A name that `segpipe models` lists; by default fcn-compact, or that of --from.",
)
@click.option(
    "--option",
    "options",
    metavar="KEY=VALUE",
    multiple=True,
    help="An option of the architecture, such as depth=3; may be repeated.",
)
@click.option(
    "--from",
    "start",
    metavar="MODEL",
    help="A model to go on from: of the same architecture, or for fcn16s and fcn8s of the stage "
    "before.",
)
@_PARTS
@_LEARNING
@options.device
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="bf16 is mixed precision; quicker where the hardware has it.",
)
@click.option(
    "--forest/--no-forest",
    default=True,
    help="Compare with a per-pixel random forest, or not.",
)
@click.option("--log", metavar="FOLDER", help="Write what TensorBoard shows.")
@click.option(
    "--checkpoint",
    metavar="SECONDS",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="From one checkpoint to the next.",
)
@click.option("--overwrite", is_flag=True, help="Replace a package that is there.")
@click.option("--new-run", is_flag=True, help="Throw away an unfinished training of PACKAGE.")
@options.as_json
@click.option("--quiet", is_flag=True, help="Show no progress.")
def train(
    files: tuple[str, ...], classes: str, as_json: bool, quiet: bool, **arguments: Any
) -> None:
    """Learn a model from each SCENE and its LABELS.

    LABELS are a raster of class values on the scene's pixels, or polygons in any place and crs. The
    model is scored on a part of the scenes that it never saw, beside a per-pixel random forest. A
    training that was stopped, however it was stopped, goes on when the same command is typed again.

    \b
    segpipe train scene.tif labels.tif --classes classes.json -o my-model
    segpipe train a.tif a.gpkg b.tif b.gpkg --attribute class --classes classes.json -o my-model
    segpipe train scene.tif labels.tif --classes classes.json --architecture unet:depth=3 \\
        --validation blocks:5/96 --patience 5 -o my-unet
    """  # noqa: D301
    from segpipe.models.errors import ModelError
    from segpipe.pipeline.errors import PipelineError
    from segpipe.workflows.labels.label_scheme import LabelScheme
    from segpipe.workflows.terminal.progress import StepPrinter
    from segpipe.workflows.train import is_begun
    from segpipe.workflows.train import train as train_model

    if len(files) % 2:
        raise click.UsageError(f"each scene is followed by its labels, got {len(files)} files")
    arguments["partition"] = _partition(arguments)
    arguments["schedule"] = schedule = _schedule(arguments)
    if not (quiet or as_json):
        arguments["watch"] = StepPrinter(schedule.steps)
    pairs = list(zip(files[::2], files[1::2], strict=True))
    try:
        found = train_model(pairs, classes=LabelScheme.read(classes), **arguments)
    except (PipelineError, ModelError) as error:
        if error.exit_code in (6, 7) and is_begun(arguments["output"]):
            error.add_note(f"resume with: {command_line()}")
        raise
    warn(found.warnings)
    print_json(found.to_dict()) if as_json else click.echo(_text(found))


def _partition(arguments: dict[str, Any]) -> Partition:
    from segpipe.workflows.labels.holdout import Partition, parse_holdout

    holdout, validation = arguments.pop("holdout"), arguments.pop("validation")
    return Partition(
        parse_holdout(holdout), validation and parse_holdout(validation), arguments.pop("gap")
    )


def _schedule(arguments: dict[str, Any]) -> Schedule:
    from segpipe.models.learning.augmentation import Augmentation
    from segpipe.models.learning.training import Schedule

    taken = {key: arguments.pop(key) for key in ("brightness", "contrast", "zoom")}
    own = ("steps", "batch", "crop", "loss", "balance", "check", "patience", "seed")
    turn, rate = arguments.pop("turn"), arguments.pop("rate")
    try:
        augmentation = Augmentation(turns=turn, **taken)
        return Schedule(
            augmentation=augmentation,
            learning_rate=rate,
            **{key: arguments.pop(key) for key in own},
        )
    except ValueError as error:
        raise OptionError(str(error)) from error


def _text(found: TrainingReport) -> str:
    """A trained model and its figures beside those of the forest."""
    forest = found.forest
    names = [info.name for info in found.card.classes]
    rows: list[texts.Row] = [
        ("held out", "network", "forest" if forest else ""),
        *(
            (title, f"{network:.3f}", f"{other:.3f}" if other is not None else "")
            for title, network, other in (
                (
                    "overall accuracy",
                    found.network.overall_accuracy,
                    forest and forest.overall_accuracy,
                ),
                ("mean IoU", found.network.mean_iou, forest and forest.mean_iou),
            )
        ),
        *(
            (
                f"IoU of {name}",
                f"{found.network.iou[index]:.3f}",
                f"{forest.iou[index]:.3f}" if forest else "",
            )
            for index, name in enumerate(names)
        ),
    ]
    lines = [f"{found.package}, made in {texts.duration(found.seconds)}"]
    if found.steps_resumed:
        lines.append(f"{found.steps_resumed} of {len(found.losses)} steps were done before")
    if found.checks:
        step, best = max(found.checks, key=lambda check: check[1])
        lines.append(
            f"validated best after step {step} of {len(found.losses)}: mean IoU {best:.3f}"
        )
    return "\n".join([*lines, "", texts.table(rows)])
