"""The command `bench peers`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segpipe.pipeline.budget import readable
from segpipe.workflows.terminal import options, texts
from segpipe.workflows.terminal.console import print_json

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.workflows.peers.comparison import Comparison, Row

_NAMES = ("loop", "window", "monai", "geoai", "omnicloudmask", "rastervision")


@click.command("peers", short_help="Time segpipe beside other tools, and count labels that differ.")
@click.argument("scene")
@options.model
@options.trust
@click.option(
    "--peer",
    "peers",
    type=click.Choice(_NAMES),
    multiple=True,
    help="A tool to compare with; may be given again. By default all of them.",
)
@click.option(
    "--environment",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="The virtual environment in which the tools are installed; made if it isn't there, and "
    "kept. By default one that is thrown away.",
)
@options.tile
@options.engine
@options.as_json
def bench_peers(scene: str, as_json: bool, **arguments: Any) -> None:
    """Map SCENE by segpipe and by other tools, with the same network on this machine.

    Tools are installed by their package names into an environment of their own, and run at their
    defaults and with patches as large as segpipe's tiles. Every label is compared with one pass
    over the whole scene. A tool that can't be installed becomes a line that says why.

    \b
    segpipe bench peers scene.tif -m unet-resnet18 --environment peers
    """  # noqa: D301
    from segpipe.workflows.peers.comparison import compare

    found = compare(scene, watch=_tell, **arguments)
    print_json(found.to_dict()) if as_json else click.echo(_text(found))


def _tell(row: Row) -> None:
    told = f"{row.figures.seconds:.1f} s" if row.figures else row.reason
    click.echo(f"{row.tool}, {row.setting}: {told}", err=True)


def _text(found: Comparison) -> str:
    from segpipe.workflows.peers.comparison import DEFAULT, FP32

    rows: list[texts.Row] = [
        (
            "tool",
            "setting",
            "Mpx/s",
            "CPU s",
            "memory",
            "labels differ",
            "over fp32",
            "over default",
        )
    ]
    rows += [
        (
            row.tool,
            row.setting,
            _number(found.speed(row), ".2f"),
            _number(row.figures.cpu_seconds, ".1f"),
            readable(row.figures.peak_rss_bytes),
            _number(found.share(row), ".4%"),
            _number(found.times(row, FP32), ".2f"),
            _number(found.times(row, DEFAULT), ".2f"),
        )
        for row in found.rows
        if row.figures
    ]
    missing = [
        f"  {row.tool}, {row.setting}: {row.reason}" for row in found.rows if row.figures is None
    ]
    heading = f"{found.scene}: {found.pixels:,} pixels, {found.model}"
    note = (
        "  over fp32, over default: seconds over those of segpipe in fp32, and over those at its "
        "default"
    )
    return "\n".join([heading, "", texts.table(rows), "", note, *missing])


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
