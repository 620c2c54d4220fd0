"""What every command says in the same way: results as JSON, warnings, and itself."""

import json
import shlex
import sys
from typing import Any

import click

from segpipe.pipeline.scenes.location import without_secrets


def print_json(data: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    click.echo(json.dumps(data, indent=2, allow_nan=False))


def warn(warnings: tuple[str, ...]) -> None:
    """A line each on standard error."""
    for warning in warnings:
        click.echo(f"segpipe: warning: {warning}", err=True)


def command_line() -> str:
    """What was typed, as it is typed to resume: `--new-run` would throw this run away too."""
    return shlex.join(
        ["segpipe", *(without_secrets(word) for word in sys.argv[1:] if word != "--new-run")]
    )
