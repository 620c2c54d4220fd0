"""The command line: parses, makes one call, prints; and turns every error into one line."""

import json
import logging
import os
import shlex
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import click

from segpipe.models.errors import DeviceError, ModelError
from segpipe.pipeline.errors import PipelineError, StorageError
from segpipe.workflows import options, texts
from segpipe.workflows.errors import OptionError

_RESUMABLE = {6, 7, 8, 9, 10}

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=_HELP)
@click.version_option(version("segpipe"), prog_name="segpipe")
def cli() -> None:
    """Maps rasters of any size with fully convolutional networks, exactly.

    The network is run on overlapping tiles. The overlap is read from the network itself, so that
    the map equals the one that a single pass over the whole image would give, label for label.

    \b
    segpipe run scene.tif                       map a Landsat 7 scene with the bundled model
    segpipe plan scene.tif -m my-model          see tiles, memory and time first
    segpipe train scene.tif labels.tif -o my-model --classes classes.json
    """  # noqa: D301 - \b is click's mark for lines that stay as they are


@cli.command()
@click.argument("scenes", metavar="SCENE...", nargs=-1, required=True)
@options.mapping
@click.option(
    "--engine",
    type=click.Choice(["auto", "torch"]),
    default="auto",
    show_default=True,
    help="What computes the network.",
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
    arguments["zarr_format"] = int(arguments["zarr_format"])
    if not (quiet or as_json):
        arguments["watch"] = ProgressPrinter()
    reports = []
    for scene in scenes:
        try:
            report = run_scene(scene, **arguments)
        except PipelineError as error:
            if error.exit_code in _RESUMABLE and is_begun(scene, arguments["output"]):
                error.add_note(f"resume with: {_command()}")
            raise
        reports.append(report.to_dict())
        _warn(report.warnings)
        if not as_json:
            click.echo(texts.report(report))
    if as_json:
        _print_json(reports[0] if len(reports) == 1 else {"runs": reports})


@cli.command(short_help="Show what a run would take: tiles, memory, disk and time.")
@click.argument("scene")
@options.mapping
@options.as_json
def plan(scene: str, as_json: bool, **arguments: Any) -> None:
    """Show what `run` would do with SCENE: tiles, margin, extra work, memory, disk and time.

    Nothing is written, and no cluster is asked.
    """
    from segpipe.workflows.plan import plan as plan_scene

    found = plan_scene(scene, **arguments)
    _warn(found.warnings)
    _print_json(found.to_dict()) if as_json else click.echo(texts.plan(found))


@cli.command(short_help="Show a MODEL's bands, classes and footprint, and whether it is exact.")
@click.argument("model", required=False)
@click.option(
    "--prove",
    is_flag=True,
    help="Compare tiles with the whole image in float64, on its own weights and on random ones.",
)
@options.as_json
def inspect(model: str | None, prove: bool, as_json: bool) -> None:
    """Show a MODEL's parameters, bands, classes and footprint, and whether tiles can be exact.

    MODEL is a package's folder, a bundled model or an architecture (see `segpipe models`); the
    default is the bundled land-cover model.
    """
    from segpipe.workflows.inspect import inspect as inspect_model

    found = inspect_model(model, prove=prove)
    _print_json(found.to_dict()) if as_json else click.echo(texts.inspection(found))


@cli.command(short_help="List the bundled models and the architectures.")
@options.as_json
def models(as_json: bool) -> None:
    """List the bundled models, and the architectures that `train` and `inspect` take."""
    from segpipe.workflows.catalogue import catalogue

    found = catalogue()
    _print_json(found.to_dict()) if as_json else click.echo(texts.catalogue(found))


@cli.command(short_help="Compute windows of SCENE again and compare them with its map.")
@click.argument("scene")
@click.argument("output", type=click.Path(path_type=Path))
@options.model
@options.bands
@options.device
@options.precision
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
    scene: str, output: Path, windows: int, everything: bool, as_json: bool, **arguments: Any
) -> None:
    """Compute windows of SCENE again and compare them with the map OUTPUT.

    Each window is computed whole, with twice the margin. Exits with 10 if a label differs.
    """
    from segpipe.workflows.verify import verify as verify_map

    found = verify_map(scene, output, windows=None if everything else windows, **arguments)
    _print_json(found.to_dict()) if as_json else click.echo(texts.verification(found))
    found.require()


@cli.command(short_help="Learn a model from a scene and its labels.")
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
    r"""Learn a model from SCENE and LABELS, a raster of class values on the same pixels.

    The model is scored on a part of the scene that it never saw, beside a per-pixel random forest.

    \b
    segpipe train scene.tif labels.tif --classes classes.json -o my-model
    """
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
    _print_json(found.to_dict()) if as_json else click.echo(texts.training(found))


@cli.command(short_help="Time a run beside what its parts take alone.")
@click.argument("scene")
@options.model
@options.bands
@options.tile
@options.device
@options.precision
@options.memory
@options.as_json
def bench(scene: str, as_json: bool, **arguments: Any) -> None:
    r"""Time a run of SCENE beside what its parts take alone, on this machine.

    The map is thrown away. MODEL may be an architecture, which then has random weights.

    \b
    segpipe bench scene.tif -m unet-resnet18 --precision fp32
    """
    from segpipe.workflows.bench import bench as bench_scene

    found = bench_scene(scene, **arguments)
    _print_json(found.to_dict()) if as_json else click.echo(texts.benchmark(found))


def main() -> None:
    """Runs the command line; exits with the codes that the documents list."""
    # Python prints what libraries log where nobody handles it; what matters comes as an error.
    logging.getLogger().addHandler(logging.NullHandler())
    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)
    try:
        # Without a command, help is what was wanted.
        sys.exit(cli(sys.argv[1:] or ["--help"], prog_name="segpipe", standalone_mode=False))
    except click.ClickException as error:
        click.echo(f"segpipe: {_usage(error)}", err=True)
        sys.exit(error.exit_code)
    except (PipelineError, ModelError, DeviceError, OptionError) as error:
        for line in (str(error), *getattr(error, "__notes__", ())):
            click.echo(f"segpipe: {line}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        # Such as standard output into a full disk.
        click.echo(f"segpipe: {error}; check the disk and type the same command again", err=True)
        os._exit(StorageError.exit_code)


def _usage(error: click.ClickException) -> str:
    """What click says of a command line, on one line that ends with where to read on."""
    text = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{text}; see {context.command_path} --help" if context else text


def _leave(number: int, frame: FrameType | None) -> None:
    """Ends the process at once: a run survives a SIGKILL, so nothing has to be tidied up."""
    click.echo("\nsegpipe: interrupted; what is finished is safe", err=True)
    if "run" in sys.argv[1:2]:
        click.echo(f"segpipe: resume with: {_command()}", err=True)
    sys.stderr.flush()
    os._exit(128 + number)


def _command() -> str:
    # What threw an older run away must not throw this one away too.
    return shlex.join(["segpipe", *(word for word in sys.argv[1:] if word != "--new-run")])


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        click.echo(f"segpipe: warning: {warning}", err=True)


def _print_json(data: dict[str, Any]) -> None:
    click.echo(json.dumps(data, indent=2, allow_nan=False))


if __name__ == "__main__":
    main()
