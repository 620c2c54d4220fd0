"""The command `bench upsampling`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segpipe.workflows.terminal import options, texts
from segpipe.workflows.terminal.console import print_json

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.workflows.upsampling import Way


@click.command("upsampling", short_help="Train the ways back to full resolution side by side.")
@click.argument("scene")
@click.argument("labels")
@click.option(
    "--classes",
    metavar="FILE",
    required=True,
    help="JSON that tells which values of LABELS make up which class, as `segpipe train` takes it.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=60,
    show_default=True,
    help="Training time of each network.",
)
@click.option("--seed", default=0, show_default=True, help="Of weights and examples.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="OUT.png", help="Draw the scores.")
@options.as_json
def upsampling(
    scene: str,
    labels: str,
    classes: str,
    seconds: float,
    seed: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Train FCN-32s, 16s and 8s, SegNet by unpooling and by learned kernels, and a U-Net.

    Each learns from SCENE and LABELS for the same time, at a quarter of the papers' width and from
    random weights, and is scored on the eastern third, which none of them sees: mean IoU, mean IoU
    near contours, and how fast the network is.

    \b
    segpipe bench upsampling examples/landsat7-nc-2000.tif examples/landcover-nc-1996.tif \\
        --classes examples/landcover-classes.json --plot upsampling.png
    """  # noqa: D301
    from segpipe.workflows.labels.label_scheme import LabelScheme
    from segpipe.workflows.upsampling import compare_upsampling, draw

    def say(name: str) -> None:
        click.echo(f"training {name} for {seconds:g} s", err=True)

    found = compare_upsampling(
        scene,
        labels,
        classes=LabelScheme.read(classes),
        seconds=seconds,
        seed=seed,
        watch=None if as_json else say,
    )
    if plot:
        draw(found, plot)
    if as_json:
        print_json({"ways": [way.to_dict() for way in found]})
    else:
        click.echo(_text(found))


def _text(found: Sequence[Way]) -> str:
    rows: list[texts.Row] = [
        ("network", "parameters", "steps", "mean IoU", "boundary IoU", "Mpx/s"),
        *(
            (
                way.name,
                f"{way.parameters:,}",
                f"{way.steps:,}",
                f"{way.mean_iou:.3f}",
                f"{way.boundary_iou:.3f}",
                f"{way.megapixels_per_second:.2f}",
            )
            for way in found
        ),
    ]
    return texts.table(rows)
