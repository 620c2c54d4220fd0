"""The command `plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segpipe.pipeline.budget import readable
from segpipe.workflows.terminal import options, texts
from segpipe.workflows.terminal.console import print_json, warn

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.workflows.plan import PlanReport


@click.command(short_help="Show what a run would take: tiles, memory, disk and time.")
@click.argument("scenes", metavar="SCENE...", nargs=-1, required=True)
@options.mapping
@options.certainty
@options.as_json
def plan(scenes: tuple[str, ...], as_json: bool, **arguments: Any) -> None:
    """Show what `run` would do with SCENE: tiles, margin, extra work, memory, disk and time.

    Nothing is written, and no cluster is asked. The memory is that of each process that computes,
    the one that is started among them.
    """
    from segpipe.workflows.plan import plan as plan_scene

    found = plan_scene(scenes, **arguments)
    warn(found.warnings)
    print_json(found.to_dict()) if as_json else click.echo(_text(found))


def _text(found: PlanReport) -> str:
    """What a run would do."""
    margin = found.margin
    return texts.facts(
        [
            ("output", str(found.output)),
            ("tiles", texts.tiles(found.tiles, found.tile)),
            ("each reads", f"at most {found.read[0]} x {found.read[1]} pixels"),
            (
                "margin",
                f"top {margin.top}, left {margin.left}, bottom {margin.bottom}, "
                f"right {margin.right}",
            ),
            ("extra work", f"{found.extra_work:.2f} pixels computed for each one that is mapped"),
            (
                "memory",
                f"{readable(found.memory_bytes)} a worker at most, computing in {found.precision}",
            ),
            ("disk", f"{readable(found.disk_bytes)} at most"),
            ("time", f"about {texts.duration(found.seconds)} on this machine"),
            ("network", texts.exactness(found.footprint)),
        ]
    )
