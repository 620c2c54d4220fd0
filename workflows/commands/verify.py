"""The command `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segpipe.pipeline.scenes.location import place_of
from segpipe.workflows.terminal import options
from segpipe.workflows.terminal.console import print_json

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.workflows.integrity import Integrity
    from segpipe.workflows.verify import Verification


@click.command(short_help="Compute windows of SCENE again and compare them with its map.")
@click.argument("scenes", metavar="[SCENE]...", nargs=-1)
@click.argument("output", type=options.DESTINATION)
@options.model
@options.trust
@options.band_files
@options.scale
@options.offset
@options.variable
@options.time
@options.resolution
@options.mosaic
@options.aoi
@options.device
@options.precision
@options.engine
@options.method
@click.option(
    "--windows",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="How many windows of 256 x 256 pixels to compare.",
)
@click.option("--all", "everything", is_flag=True, help="Compare the whole map.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1),
    help="Share of labels that may differ; by default 0 on a CPU, 0.001 on a GPU.",
)
@click.option("--seed", default=0, show_default=True, help="Decides which windows are drawn.")
@options.as_json
def verify(
    scenes: tuple[str, ...],
    output: str | Path,
    windows: int,
    everything: bool,
    as_json: bool,
    **arguments: Any,
) -> None:
    """Compute windows of SCENE again and compare them with the map OUTPUT.

    Each window is computed whole, with twice the margin. Before that, all bytes of the map are
    compared with what it says of itself; without a SCENE that is all. Of a run that isn't published
    yet, every stored tile is compared with its receipt. Exits with 10 if anything differs.

    \b
    segpipe verify map.tif
    segpipe verify scene.tif map.tif -m my-model --all
    """  # noqa: D301
    from segpipe.workflows.integrity import check

    written = check(place_of(output))
    if not scenes or not written.holds:
        if written.checked:
            print_json(written.to_dict()) if as_json else click.echo(_written_text(written))
        written.require()
        return
    from segpipe.workflows.verify import verify as verify_map

    found = verify_map(scenes, output, windows=None if everything else windows, **arguments)
    print_json(found.to_dict()) if as_json else click.echo(_text(found))
    found.require()


def _written_text(found: Integrity) -> str:
    """What was compared with what it was, and whether it is still so."""
    what = {"file": "the bytes", "store": "the files"}.get(found.checked or "", "the stored tiles")
    many = "" if found.tiles is None else f"{found.tiles:,} compared, "
    return f"{many}{what} of {found.output} are {'' if found.holds else 'not '}as they were written"


def _text(found: Verification) -> str:
    """What was compared and what differed."""
    verdict = "the map holds" if found.holds else "the map does not hold"
    return (
        f"{found.windows} windows, {found.pixels:,} labels compared, "
        f"{found.differing:,} differ: {verdict}"
    )
