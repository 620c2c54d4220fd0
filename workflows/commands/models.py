"""The command `models`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from segpipe.workflows.terminal import options, texts
from segpipe.workflows.terminal.console import print_json

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.workflows.catalogue import Catalogue


@click.command(short_help="List the bundled models and the architectures.")
@options.as_json
def models(as_json: bool) -> None:
    """List the bundled models, and the architectures that `train` and `inspect` take."""
    from segpipe.workflows.catalogue import catalogue

    found = catalogue()
    print_json(found.to_dict()) if as_json else click.echo(_text(found))


def _text(found: Catalogue) -> str:
    """What is bundled and what can be built."""
    lines = ["Bundled, ready to run:", *(f"  {name}" for name in found.bundled), ""]
    lines += ["Architectures, for `segpipe train --architecture` and `segpipe inspect`:"]
    rows = [(name, summary) for name, summary in found.architectures.items()]
    return "\n".join(lines) + "\n" + texts.table(rows)
