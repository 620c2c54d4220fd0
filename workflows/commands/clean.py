"""The command `clean`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segpipe.pipeline.budget import readable
from segpipe.workflows.terminal import options, texts
from segpipe.workflows.terminal.console import print_json

if TYPE_CHECKING:  # --help needn't wait for rasters
    from segpipe.workflows.clean import Cleaning


@click.command(short_help="Remove what unfinished runs left beside OUTPUT.")
@click.argument("places", metavar="[OUTPUT|FOLDER]...", nargs=-1, type=options.DESTINATION)
@options.staging
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@options.as_json
def clean(
    places: tuple[str | Path, ...], staging: Path | None, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Remove what runs that nobody will resume left beside each OUTPUT, or in each FOLDER.

    That is their hidden folders with the tiles that they had finished, and files that a killed
    process left half-written. Maps stay, a map that an unfinished --overwrite had set aside comes
    back, and a run that is going on isn't touched. Without a name, the current folder is meant.

    \b
    segpipe clean map.tif
    segpipe clean maps/ --dry-run
    segpipe clean s3://bucket/map.tif --staging /shared
    """  # noqa: D301
    from segpipe.workflows.clean import Cleaning, found
    from segpipe.workflows.clean import clean as remove

    planned = found(places or (Path(),), staging)
    if not as_json:
        click.echo(_text(planned))
    if planned.removed and not dry_run and (yes or _agreed(len(planned.removed))):
        planned = remove(planned)
        if not as_json:
            click.echo(f"\n{readable(planned.freed)} are free again")
    elif as_json and not dry_run:
        planned = Cleaning((), (*planned.removed, *planned.kept))
    if as_json:
        print_json(planned.to_dict())


def _agreed(many: int) -> bool:
    """Whether whoever sits at the terminal lets all this go.

    Raises:
        UsageError: nobody does.
    """
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here; add --yes to remove it, or --dry-run")
    what = "it" if many == 1 else f"these {many}"
    return click.confirm(f"\nRemove {what}? It can't be undone", err=True)


def _text(planned: Cleaning) -> str:
    """What goes, and what stays and why."""
    parts = []
    if planned.removed:
        rows: list[texts.Row] = [("left behind", "of", "size")]
        rows += [
            (left.kind, texts.place(left.output), readable(left.size)) for left in planned.removed
        ]
        parts.append(texts.table(rows))
    parts += [
        f"kept: {left.kind} of {texts.place(left.output)}, as {left.reason}"
        for left in planned.kept
    ]
    return "\n".join(parts) or "nothing is left behind here"
