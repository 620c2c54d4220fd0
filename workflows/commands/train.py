"""The command `train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segpipe.workflows import options, texts
from segpipe.workflows.console import print_json
from segpipe.workflows.errors import OptionError

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.workflows.train import TrainingReport


@click.command(short_help="Learn a model from a scene and its labels.")
@click.argument("scene")
@click.argument("labels")
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
    "--architecture",
    metavar="NAME",
    default="fcn-compact",
    show_default=True,
    help="A name that `segpipe models` lists.",
)
@click.option(
    "--holdout",
    metavar="SIDE:SHARE",
    default="east:0.3333",
    show_default=True,
    help="The part of the scene that training never sees, and on which the model is scored.",
)
@click.option("--gap", default=32, show_default=True, help="Pixels between both parts.")
@click.option(
    "--steps", type=click.IntRange(1), default=200, show_default=True, help="Batches to learn from."
)
@click.option(
    "--crop", type=click.IntRange(16), default=64, show_default=True, help="Side of an example."
)
@click.option("--seed", default=0, show_default=True, help="The same one gives the same weights.")
@click.option(
    "--forest/--no-forest",
    default=True,
    help="Compare with a per-pixel random forest, or not.",
)
@click.option("--overwrite", is_flag=True, help="Replace a package that is there.")
@options.as_json
@click.option("--quiet", is_flag=True, help="Show no progress.")
def train(
    scene: str,
    labels: str,
    classes: str,
    holdout: str,
    as_json: bool,
    quiet: bool,
    **arguments: Any,
) -> None:
    """Learn a model from SCENE and LABELS, a raster of class values on the same pixels.

    The model is scored on a part of the scene that it never saw, beside a per-pixel random forest.

    \b
    segpipe train scene.tif labels.tif --classes classes.json -o my-model
    """  # noqa: D301
    from segpipe.workflows.holdout import Holdout
    from segpipe.workflows.label_scheme import LabelScheme
    from segpipe.workflows.progress import StepPrinter
    from segpipe.workflows.train import train as train_model

    try:
        part = Holdout.parse(holdout)
    except ValueError as error:
        raise OptionError(str(error)) from error
    if not (quiet or as_json):
        arguments["progress"] = StepPrinter(arguments["steps"])
    found = train_model(scene, labels, classes=LabelScheme.read(classes), holdout=part, **arguments)
    print_json(found.to_dict()) if as_json else click.echo(_text(found))


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
    return f"{found.package}, made in {texts.duration(found.seconds)}\n\n{texts.table(rows)}"
