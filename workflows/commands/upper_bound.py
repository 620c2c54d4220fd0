"""The command `bench upper-bound`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from segpipe.workflows.terminal import options, texts
from segpipe.workflows.terminal.console import print_json

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.workflows.upper_bound import UpperBound


@click.command("upper-bound", short_help="Show how good coarse labels can be at best.")
@click.argument("labels", type=click.Path(path_type=Path))
@click.option("--plot", type=click.Path(path_type=Path), metavar="OUT.png", help="Draw mean IoU.")
@options.as_json
def upper_bound(labels: Path, plot: Path | None, as_json: bool) -> None:
    """Downsample LABELS by 128 to 4, upsample them again, and compare.

    What is lost is lost to every network that tells classes once in so many pixels and upsamples
    them: an upper bound of mean IoU, as in the paper of Long, Shelhamer and Darrell (2015).
    """
    from segpipe.workflows.upper_bound import draw
    from segpipe.workflows.upper_bound import upper_bound as measure

    found = measure(labels)
    if plot:
        draw(found, plot)
    print_json(found.to_dict()) if as_json else click.echo(_text(found))


def _text(found: UpperBound) -> str:
    from segpipe.workflows.upper_bound import PAPER

    rows: list[texts.Row] = [("factor", "mean IoU", "pixels alike", "mean IoU in the paper (VOC)")]
    rows += [
        (
            str(factor),
            f"{scores.mean_iou:.3f}",
            f"{scores.overall_accuracy:.3f}",
            f"{PAPER[factor]:.3f}" if factor in PAPER else "-",
        )
        for factor, scores in found.scores.items()
    ]
    pixels = next(iter(found.scores.values())).pixels
    heading = f"{found.labels}: {pixels:,} pixels of {len(found.values)} classes"
    return f"{heading}\n\n{texts.table(rows)}"
