"""The command line: its commands, and every error as one line."""

import contextlib
import logging
import os
import signal
import sys
from importlib.metadata import version
from types import FrameType

import click

from segpipe.models.errors import DeviceError, ModelError
from segpipe.pipeline.errors import PipelineError, StorageError
from segpipe.pipeline.journal import Journal
from segpipe.workflows.commands.bench import bench
from segpipe.workflows.commands.clean import clean
from segpipe.workflows.commands.convert import convert
from segpipe.workflows.commands.evaluate import evaluate
from segpipe.workflows.commands.export import export
from segpipe.workflows.commands.inspect import inspect
from segpipe.workflows.commands.model import model
from segpipe.workflows.commands.models import models
from segpipe.workflows.commands.plan import plan
from segpipe.workflows.commands.run import run
from segpipe.workflows.commands.status import status
from segpipe.workflows.commands.train import train
from segpipe.workflows.commands.verify import verify
from segpipe.workflows.commands.view import view
from segpipe.workflows.errors import OptionError
from segpipe.workflows.terminal.console import command_line

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


for command in (
    *(
        run,
        status,
        clean,
        plan,
        inspect,
        model,
        models,
        verify,
        train,
        evaluate,
        convert,
        export,
        view,
        bench,
    ),
):
    cli.add_command(command)


def main() -> None:
    """Runs the command line; exits with the codes that the documents list."""
    # Python prints what libraries log where nobody handles it; what matters comes as an error.
    logging.getLogger().addHandler(logging.NullHandler())
    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)
    try:
        # Without a command, help is what was wanted.
        sys.exit(cli(sys.argv[1:] or ["--help"], prog_name="segpipe", standalone_mode=False))
    except click.Abort:
        sys.exit(2)  # standard input ended where an answer was asked
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
    context = click.get_current_context(silent=True)
    if context is not None and isinstance(context.obj, Journal):
        with contextlib.suppress(StorageError):
            context.obj.note("interrupted", "warning", signal=number)
    if sys.argv[1:2] in (["run"], ["train"]):
        click.echo(f"segpipe: resume with: {command_line()}", err=True)
    sys.stderr.flush()
    os._exit(128 + number)


if __name__ == "__main__":
    main()
