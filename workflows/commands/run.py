"""The command `run`."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segpipe.pipeline.budget import readable
from segpipe.pipeline.errors import TilesFailedError
from segpipe.pipeline.failure import summary
from segpipe.pipeline.journal import Journal
from segpipe.workflows.terminal import options, texts
from segpipe.workflows.terminal.console import command_line, print_json, warn
from segpipe.workflows.terminal.sections import command_with

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.workflows.reading.scenes import Assignment, Outcome
    from segpipe.workflows.reading.series import Series
    from segpipe.workflows.results.report import Report
    from segpipe.workflows.stages import Progress


_RESUMABLE = {6, 7, 8, 9, 10, 75}
"""Exit codes after which the same command goes on."""

_SECTIONS = {
    "The scene": (
        *("bands", "scale", "offset", "variable", "time"),
        *("resolution", "mosaic", "aoi"),
    ),
    "The model": ("model", "trust_model", "method"),
    "The map": ("output", "staging", "zarr_format", "style", "overwrite", "new_run"),
    "Beside the map": (
        *("probabilities", "confidence", "polygons", "min_area", "simplify"),
        *("report", "stac", "datetime"),
    ),
    "The machine": (
        *("device", "precision", "engine", "tile", "memory"),
        *("scheduler", "scheduler_file", "workers"),
    ),
    "What it puts up with": ("allow_failed", "tile_timeout", "stop_after"),
}
"""The help's headings, and the options under each."""

_AT_ONCE = 1e-3
"""Seconds that are too few for anything."""

_WHO = ("device", "scheduler", "scheduler_file", "workers")
"""Options that say who computes."""

_ONE_FILE = ("probabilities", "confidence", "report", "polygons")
"""Options that name one file, which several scenes can't share."""


@click.command(cls=command_with(_SECTIONS))
@click.argument("scenes", metavar="SCENE...", nargs=-1, required=True)
@options.mapping
@options.staging
@options.method
@click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler, as tcp://HOST:8786.")
@click.option("--scheduler-file", metavar="FILE", help="The file that a Dask scheduler wrote.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes on this machine; one already uses all its cores. By default one, or the "
    "cluster whose scheduler Dask's own configuration names (DASK_SCHEDULER_ADDRESS).",
)
@options.limits
@options.style
@options.zarr_format
@options.certainty
@click.option(
    "--report",
    metavar="OUT.html",
    type=options.DESTINATION,
    help="Write a page about the run: scene and map side by side, areas, model, provenance.",
)
@click.option(
    "--polygons",
    metavar="OUT.gpkg|.fgb|.parquet",
    type=options.DESTINATION,
    help="Write the map as polygons too, as `segpipe export` does.",
)
@options.polygon_form
@click.option(
    "--stac",
    metavar="OUT.json",
    type=options.DESTINATION,
    help="Write a STAC item of the map; for several scenes a collection, with an item beside each "
    "map.",
)
@click.option(
    "--datetime",
    metavar="TIME",
    help="When the scene was taken, for --stac: 2000-07-20T15:31:00Z, a day, or two of them with / "
    "between. By default what the scene says.",
)
@click.option("--overwrite", is_flag=True, help="Replace an output that is there.")
@click.option("--new-run", is_flag=True, help="Throw away an unfinished run for this output.")
@options.as_json
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option(
    "--log",
    metavar="FILE",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Add what happens to a file, one JSON object a line; - is standard error.",
)
def run(
    scenes: tuple[str, ...], as_json: bool, quiet: bool, log: str | None, **arguments: Any
) -> None:
    """Map each SCENE and publish the map.

    A SCENE is a raster, a folder of rasters, or a glob in quotes. Several scenes give a map each;
    one that fails doesn't stop the others, and one that this command has mapped before isn't mapped
    again. With --mosaic they give one map.

    A run that was stopped, however it was stopped, goes on where it was when the same command is
    typed again, and ends with the same bytes.

    \b
    segpipe run scene.tif -o map.tif
    segpipe run scene.tif -m my-model --bands 4,3,2 -o map.zarr
    segpipe run scene.tif --aoi county.gpkg
    segpipe run scene.tif --polygons areas.gpkg --simplify 30
    segpipe run scene.tif --probabilities shares.tif --confidence sure.tif
    segpipe run scene.tif --stac map.json --datetime 2000-07-20
    segpipe run 'scenes/*.tif' -o maps --stac maps/collection.json
    segpipe run west.tif east.tif --mosaic first -o map.tif
    segpipe run scene.tif --scheduler tcp://10.0.0.1:8786 -o /shared/map.tif
    segpipe run scene.tif -o s3://bucket/map.tif --staging /shared
    """  # noqa: D301
    with _uncollected():
        from segpipe.workflows.plan import target
        from segpipe.workflows.reading.scenes import (
            attempt,
            attempts,
            batch,
            outputs,
            to_dict,
            together,
        )
        from segpipe.workflows.reading.series import ALONE
        from segpipe.workflows.run import run as run_scene
        from segpipe.workflows.terminal.progress import ProgressPrinter
        from segpipe.workflows.workers import unnamed_scheduler

    start, stop_after = time.monotonic(), arguments["stop_after"]
    of_files = isinstance(arguments["bands"], dict)
    gather = together if arguments["mosaic"] else batch
    chosen = gather(scenes, arguments.pop("output"), of_files=of_files)
    warn(chosen.warnings)
    if address := unnamed_scheduler(
        *(arguments[name] for name in ("scheduler", "scheduler_file", "workers"))
    ):
        warn(
            (
                f"the run goes to the Dask scheduler at {address}, which Dask's configuration "
                "names; --workers 1 keeps it on this machine",
            )
        )
    arguments["zarr_format"] = int(arguments["zarr_format"])
    context = click.get_current_context()
    series = ALONE if chosen.single else _series(arguments)
    staging = arguments["staging"]
    outcomes: list[Outcome] = []

    def watch_for(rank: int) -> Callable[[Progress], None]:
        printer = ProgressPrinter()
        # Of the scenes that are on their way the first one is shown.
        return lambda progress: printer(progress) if rank == len(outcomes) else None

    def map_scene(rank: int, scene: str, output: str | Path | None) -> Report:
        # A bar would break the lines of a journal on standard error.
        silent = quiet or as_json or log == "-"
        watch: dict[str, Any] = {} if silent else {"watch": watch_for(rank)}
        # Where an interrupt looks for it.
        context.obj = journal = Journal(log)
        own: dict[str, Any] = {"series": replace(series, rank=rank), "log": journal}
        if stop_after is not None:
            # The time is that of the command, however many scenes it has.
            own["stop_after"] = max(stop_after - (time.monotonic() - start), _AT_ONCE)
        if not chosen.single:
            own["stac"] = series.item_of(target(scene, output))
        named = (scene, *chosen.others) if chosen.others else scene
        return run_scene(named, output=output, **{**arguments, **own, **watch})

    if chosen.single:
        (task,) = chosen.assignments
        outcomes.append(attempt(task, partial(map_scene, 0)))
        _tell(task, outcomes[0], staging, alone=True, in_words=not as_json)
    else:
        with series.workers or nullcontext():
            told = attempts(chosen.assignments, map_scene)
            for task, outcome in zip(chosen.assignments, told, strict=True):
                _tell(task, outcome, staging, alone=False, in_words=not as_json)
                outcomes.append(outcome)
    series.gather(outputs(outcomes))
    if as_json:
        print_json(outcomes[0].to_dict() if chosen.single else to_dict(outcomes))
    if not chosen.single:
        _conclude(outcomes, in_words=not as_json)
    _require_whole(outcomes)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Leaves garbage for the length of the block.

    Libraries that are imported make hundreds of thousands of objects, and nearly all of them stay:
    looking for those that don't takes a quarter of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _series(arguments: dict[str, Any]) -> Series:
    """What several scenes share; the model is loaded once for all of them."""
    from segpipe.workflows.catalogue import find
    from segpipe.workflows.reading.series import Series
    from segpipe.workflows.workers import SharedWorkers, workers_for

    _refuse_one_file(arguments)
    arguments["model"] = model = find(arguments["model"], arguments["trust_model"])
    # Measured before there are threads: torch traces one network at a time.
    _ = model.footprint
    asked: dict[str, Any] = {name: arguments[name] for name in _WHO}
    series = Series.of(arguments["stac"], overwrite=arguments["overwrite"])
    return replace(series, workers=SharedWorkers(partial(workers_for, model, **asked)))


def _tell(
    task: Assignment, outcome: Outcome, staging: Path | None, *, alone: bool, in_words: bool
) -> None:
    """Says what became of a scene; an error ends the command where there is no other scene."""
    from segpipe.workflows.reading.scenes import Failure, Finished
    from segpipe.workflows.run import is_begun

    if isinstance(outcome, Failure):
        error = outcome.error
        if error.exit_code in _RESUMABLE and is_begun(task.scene, task.output, staging):
            error.add_note(f"resume with: {command_line()}")
        if alone:
            raise error
    elif not isinstance(outcome, Finished):
        warn(outcome.warnings)
        if in_words:
            click.echo(_text(outcome))


def _require_whole(outcomes: Sequence[Outcome]) -> None:
    """Passes if no map was published without tiles that failed.

    Raises:
        TilesFailedError: one was.
    """
    from segpipe.workflows.results.report import Report

    for outcome in outcomes:
        if isinstance(outcome, Report) and outcome.failed:
            raise TilesFailedError(
                f"{summary(outcome.failed, outcome.tiles)}: {outcome.place(outcome.output)} is "
                "nodata there; add --overwrite to map the scene again"
            )


def _refuse_one_file(arguments: dict[str, Any]) -> None:
    for name in _ONE_FILE:
        if arguments.get(name):
            raise click.UsageError(
                f"--{name} names one file and there are several scenes; leave it out"
            )


def _conclude(outcomes: Sequence[Outcome], *, in_words: bool) -> None:
    """Says what became of each scene; ends with the exit code of the first that failed."""
    from segpipe.workflows.reading.scenes import Failure, entry, summary

    if in_words:
        rows: list[texts.Row] = [("scene", "pixels", "seconds", "result")]
        for told in map(entry, outcomes):
            pixels = "" if told.pixels is None else f"{told.pixels:,}"
            seconds = "" if told.seconds is None else f"{told.seconds:.1f}"
            result = f"failed ({told.exit_code})" if told.state == "failed" else told.state
            rows.append((told.scene, pixels, seconds, result))
        click.echo(f"\n{texts.table(rows)}")
    for outcome in outcomes:
        click.echo(f"segpipe: {summary(outcome)}", err=True)
    errors = [outcome.error for outcome in outcomes if isinstance(outcome, Failure)]
    for note in dict.fromkeys(note for error in errors for note in getattr(error, "__notes__", ())):
        click.echo(f"segpipe: {note}", err=True)
    if errors:
        click.get_current_context().exit(errors[0].exit_code)


def _text(found: Report) -> str:
    """A published map."""
    resumed = f", {found.tiles_resumed} of them from before" if found.tiles_resumed else ""
    engine = found.engine
    lines = [
        f"{found.place(found.output)}",
        "",
        f"  {texts.tiles(found.tiles, found.tile)}{resumed}; {found.seconds.total:.1f} s, "
        f"{found.megapixels_per_second:.2f} Mpx/s, {readable(found.peak_rss_bytes)} of memory",
        f"  {found.model} on {engine.device} in {texts.precision(engine)}, by {engine.name}",
        f"  {texts.exactness(found.footprint)}",
        "",
    ]
    if found.failed:
        lines.insert(-1, f"  {len(found.failed):,} tiles failed and are nodata")
    rows: list[texts.Row] = [("value", "class", "pixels", "share", "area")]
    for name, count in found.classes.items():
        share = count.pixels / max(found.valid_pixels, 1)
        area = texts.area(count.area_m2)
        rows.append((str(count.value), name, f"{count.pixels:,}", f"{share:.1%}", area))
    missing = found.pixels - found.valid_pixels
    rows.append(("255", "(no data)", f"{missing:,}", "", texts.area(found.nodata_area_m2)))
    lines.append(texts.table(rows))
    if beside := _beside(found):
        lines += ["", texts.facts(beside)]
    return "\n".join(lines)


def _beside(found: Report) -> list[texts.Row]:
    """What was written beside the map."""
    areas = found.polygons
    written = {
        "probabilities": _place(found, found.probabilities),
        "confidence": _place(found, found.confidence),
        "polygons": areas and f"{found.place(areas.output)} ({areas.polygons:,} polygons)",
        "report": _place(found, found.page),
        "STAC item": _place(found, found.stac),
    }
    return [(name, str(file)) for name, file in written.items() if file is not None]


def _place(found: Report, file: Path | None) -> str | None:
    return None if file is None else str(found.place(file))
