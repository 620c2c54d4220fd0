"""The command `bench sweep`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from segpipe.workflows.terminal import benches, options


class Over(click.ParamType["tuple[str, list[str] | None]"]):
    """What is varied, and perhaps the values that it takes."""

    name = "AXIS[=A,B,...]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, list[str] | None]:
        """The axis, and the values as they are typed; None where there are none."""
        name, given, values = str(value).partition("=")
        return name.strip(), values.split(",") if given else None


@click.command("sweep", short_help="Time runs that differ in one thing: tiles, cores, size, ...")
@click.argument("scene")
@click.option(
    "--over",
    type=Over(),
    required=True,
    help="tile, precision, engine, threads, workers or size, with the values to take, as in "
    "tile=512,1024 or size=1e6,1e8; by default those that suit this machine.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Runs for each value, of which the fastest counts.",
)
@click.option(
    "--seconds",
    type=options.Duration(),
    default="10m",
    show_default=True,
    help="Leave out what would take longer than what is left of this time.",
)
@benches.measured
def bench_sweep(
    scene: str,
    over: tuple[str, list[str] | None],
    markdown: Path | None,
    plot: Path | None,
    as_json: bool,
    **arguments: Any,
) -> None:
    """Time runs of SCENE that differ in one thing, one after the other.

    Each is a process of its own. With threads=N it has N cores, and a network of so many threads;
    with size=N the scene is repeated to N pixels. The table has ratios to the first row, and how
    many labels differ from its map.

    \b
    segpipe bench sweep scene.tif -m unet-resnet18 --over tile --size 1e7
    segpipe bench sweep scene.tif --over size=1e6,1e7,1e8,1e9 --seconds 1h
    """  # noqa: D301
    axis, values = over
    with benches.bench(markdown, plot):
        from segpipe.workflows.results.bench_plot import draw_sweep
        from segpipe.workflows.results.bench_text import sweep_text
        from segpipe.workflows.sweep import sweep

        found = sweep(scene, axis, values, **arguments, watch=benches.telling)
    benches.tell(
        found.to_dict(),
        sweep_text(found),
        partial(draw_sweep, found),
        markdown=markdown,
        plot=plot,
        as_json=as_json,
    )
