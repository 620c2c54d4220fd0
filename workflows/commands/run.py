"""The command `run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segpipe.pipeline.budget import readable
from segpipe.pipeline.errors import PipelineError
from segpipe.workflows import options, texts
from segpipe.workflows.console import command_line, print_json, warn

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.workflows.report import Report


_RESUMABLE = {6, 7, 8, 9, 10}
"""Exit codes after which the same command goes on."""


@click.command()
@click.argument("scenes", metavar="SCENE...", nargs=-1, required=True)
@options.mapping
@click.option(
    "--method",
    type=click.Choice(["one-pass", "sliding-window"]),
    default="one-pass",
    show_default=True,
    help="sliding-window runs a converted classifier on a crop for every score: the slow reference "
    "for the one pass.",
)
@click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler, as tcp://HOST:8786.")
@click.option("--scheduler-file", metavar="FILE", help="The file that a Dask scheduler wrote.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes on this machine; one already uses all its cores.",
)
@click.option("--style/--no-style", default=True, help="Write a QGIS style beside the map, or not.")
@click.option(
    "--zarr-format",
    type=click.Choice(["2", "3"]),
    default="2",
    show_default=True,
    help="2 is read by every GDAL from 3.6 on; 3 has shards and GeoZarr.",
)
@click.option(
    "--report",
    metavar="OUT.html",
    type=click.Path(path_type=Path),
    help="Write a page about the run: scene and map side by side, areas, model, provenance.",
)
@click.option("--overwrite", is_flag=True, help="Replace an output that is there.")
@click.option("--new-run", is_flag=True, help="Throw away an unfinished run for this output.")
@options.as_json
@click.option("--quiet", is_flag=True, help="Show no progress.")
def run(scenes: tuple[str, ...], as_json: bool, quiet: bool, **arguments: Any) -> None:
    """Map each SCENE and publish the map.

    A run that was stopped, however it was stopped, goes on where it was when the same command is
    typed again, and ends with the same bytes.

    \b
    segpipe run scene.tif -o map.tif
    segpipe run scene.tif -m my-model --bands 4,3,2 -o map.zarr
    segpipe run scene.tif --scheduler tcp://10.0.0.1:8786 -o /shared/map.tif
    """  # noqa: D301
    from segpipe.workflows.progress import ProgressPrinter
    from segpipe.workflows.run import is_begun
    from segpipe.workflows.run import run as run_scene

    if len(scenes) > 1 and arguments["output"]:
        raise click.UsageError("-o names one output and there are several scenes; leave it out")
    if len(scenes) > 1 and arguments["report"]:
        raise click.UsageError("--report names one page and there are several scenes; leave it out")
    arguments["zarr_format"] = int(arguments["zarr_format"])
    if not (quiet or as_json):
        arguments["watch"] = ProgressPrinter()
    reports = []
    for scene in scenes:
        try:
            report = run_scene(scene, **arguments)
        except PipelineError as error:
            if error.exit_code in _RESUMABLE and is_begun(scene, arguments["output"]):
                error.add_note(f"resume with: {command_line()}")
            raise
        reports.append(report.to_dict())
        warn(report.warnings)
        if not as_json:
            click.echo(_text(report))
    if as_json:
        print_json(reports[0] if len(reports) == 1 else {"runs": reports})


def _text(found: Report) -> str:
    """A published map."""
    resumed = f", {found.tiles_resumed} of them from before" if found.tiles_resumed else ""
    engine = found.engine
    lines = [
        f"{found.output}",
        "",
        f"  {texts.tiles(found.tiles, found.tile)}{resumed}; {found.seconds.total:.1f} s, "
        f"{found.megapixels_per_second:.2f} Mpx/s, {readable(found.peak_rss_bytes)} of memory",
        f"  {found.model} on {engine.device} in {texts.precision(engine)}, by {engine.name}",
        f"  {texts.exactness(found.footprint)}",
        "",
    ]
    rows: list[texts.Row] = [("value", "class", "pixels", "share", "area")]
    for name, count in found.classes.items():
        share = count.pixels / max(found.valid_pixels, 1)
        area = texts.area(count.area_m2)
        rows.append((str(count.value), name, f"{count.pixels:,}", f"{share:.1%}", area))
    missing = found.pixels - found.valid_pixels
    rows.append(("255", "(no data)", f"{missing:,}", "", ""))
    return "\n".join([*lines, texts.table(rows)])
