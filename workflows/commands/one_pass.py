"""The command `bench one-pass`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segpipe.workflows.terminal import options, texts
from segpipe.workflows.terminal.console import print_json

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.workflows.one_pass import OnePass


@click.command("one-pass", short_help="Time a converted classifier beside itself on crops.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="OUT.png", help="Draw the times.")
@options.as_json
def one_pass(plot: Path | None, as_json: bool) -> None:
    """Time what the fully convolutional form of a classifier saves over sliding it.

    AlexNet on a grid of 10 x 10 crops out of 500 x 500 pixels, as in the paper of Long, Shelhamer
    and Darrell (2015), and VGG16 on 6 x 6 crops out of 384 x 384; a minute on two cores.
    """
    from segpipe.workflows.one_pass import compare_one_pass, draw

    found = compare_one_pass()
    if plot:
        draw(found, plot)
    if as_json:
        print_json({"cases": [result.to_dict() for result in found]})
    else:
        click.echo(_text(found))


def _text(found: Sequence[OnePass]) -> str:
    rows: list[texts.Row] = [("classifier", "way", "seconds", "ratio", "a crop")]
    for result in found:
        case = result.case
        name = f"{case.classifier}, {case.cells} x {case.cells} of {case.image}"
        half = () if result.half is None else (("one pass in bf16", result.half),)
        for title, seconds in (
            ("one pass", result.one_pass),
            *half,
            (f"crops, {case.batch} at a time", result.batched),
            ("crops, one by one", result.single),
        ):
            ratio = seconds / result.one_pass
            each = 1000 * seconds / case.cells**2
            rows.append((name, title, f"{seconds:.3f}", f"{ratio:.2f}", f"{each:.1f} ms"))
            name = ""
    notes = [
        f"  {result.case.classifier}: best class alike in {result.agreement:.0%} of the cells; the "
        "padded crops see zeros where the image goes on"
        for result in found
        if result.agreement < 1
    ]
    return "\n".join([texts.table(rows), *notes])
