"""The command `status`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segpipe.workflows.terminal import options, texts
from segpipe.workflows.terminal.console import print_json

if TYPE_CHECKING:  # --help needn't wait for rasters
    from segpipe.pipeline.driver import Driver
    from segpipe.workflows.status import Status


@click.command(short_help="Tell how far the run for OUTPUT is.")
@click.argument("outputs", metavar="[OUTPUT]...", nargs=-1, type=options.DESTINATION)
@options.staging
@options.as_json
def status(outputs: tuple[str | Path, ...], staging: Path | None, as_json: bool) -> None:
    """Tell how far the run for each OUTPUT is: a map that is being made, was begun, or is done.

    Of a folder, all runs and maps in it; without a name, those of the current folder. Only looks:
    a run that is going on isn't disturbed, from whichever terminal or machine.

    \b
    segpipe status map.tif
    segpipe status maps/ --json
    segpipe status s3://bucket/map.tif --staging /shared
    """  # noqa: D301
    from segpipe.workflows.status import status as look

    found = [entry for output in outputs or (Path(),) for entry in look(output, staging)]
    alone = len(found) == 1 and len(outputs) == 1
    if as_json:
        runs = [entry.to_dict() for entry in found]
        print_json(runs[0] if alone else {"runs": runs})
    else:
        click.echo(_details(found[0]) if alone else _overview(found))


def _overview(found: list[Status]) -> str:
    """A line for each."""
    rows: list[texts.Row] = [("output", "state", "tiles", "failed", "expected end")]
    for entry in found:
        failed = f"{entry.failed:,}" if entry.failed else ""
        name = texts.place(entry.output)
        rows.append((name, entry.state, _stored(entry), failed, _moment(entry.ends)))
    return texts.table(rows)


def _details(entry: Status) -> str:
    """All that is known of one."""
    driver, left = entry.driver, entry.seconds_left
    lines: list[texts.Row] = [("run", entry.run or "")]
    if driver:
        lines.append(("process", f"{driver.pid} on {driver.host}, {_span(entry, driver)}"))
    lines.append(("tiles", _tiles(entry)))
    if entry.tiles_per_second:
        lines.append(("speed", texts.rate(entry.tiles_per_second)))
    if left is not None:
        lines.append(("ends", f"about {_moment(entry.ends)}, in {texts.duration(left)}"))
    lines.append(("first failure", entry.failure or ""))
    if entry.silent:
        lines.append(("silent", f"for {texts.duration(entry.silent)}, though its lock is held"))
    if driver and entry.state in ("mapping", "publishing"):
        lines.append(("dashboard", driver.dashboard or ""))
    text = f"{texts.place(entry.output)}: {entry.state}"
    if any(value for _, value in lines):
        text += f"\n\n{texts.facts(lines)}"
    if driver and entry.state == "stopped":
        # Unbroken, so that it can be copied.
        elsewhere = Path(driver.folder) != Path.cwd()
        text += f"\n\nresume with{f', in {driver.folder}' if elsewhere else ''}:\n{driver.command}"
    return text


def _tiles(entry: Status) -> str:
    if entry.stored is None:
        return ""
    parts = [f"{_stored(entry)} stored"]
    if entry.tiles:
        parts[0] += f" ({entry.stored / entry.tiles:.0%})"
    if entry.in_flight is not None:
        parts.append(f"{entry.in_flight:,} in flight")
    if entry.failed:
        parts.append(f"{entry.failed:,} failed")
    return ", ".join(parts)


def _span(entry: Status, driver: Driver) -> str:
    """From when to when a process drives or drove the run."""
    since = _moment(datetime.fromtimestamp(driver.started, UTC))
    if entry.state != "stopped":
        return f"since {since}"
    seen = driver.started if entry.seen is None else entry.seen
    return f"from {since} to {_moment(datetime.fromtimestamp(seen, UTC))}"


def _stored(entry: Status) -> str:
    if entry.stored is None:
        return ""
    return f"{entry.stored:,}" + (f" of {entry.tiles:,}" if entry.tiles is not None else "")


def _moment(moment: datetime | None) -> str:
    """A time of this machine's clock; its day too, where that isn't today."""
    if moment is None:
        return ""
    here = moment.astimezone()
    today = here.date() == datetime.now().astimezone().date()
    return f"{here:%H:%M}" if today else f"{here:%Y-%m-%d %H:%M}"
