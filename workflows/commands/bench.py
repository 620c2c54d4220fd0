"""The command `bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segpipe.pipeline.budget import readable
from segpipe.workflows.commands.one_pass import one_pass
from segpipe.workflows.commands.upper_bound import upper_bound
from segpipe.workflows.commands.upsampling import upsampling
from segpipe.workflows.terminal import options, texts
from segpipe.workflows.terminal.console import print_json

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.workflows.bench import Benchmark


class _Bench(click.Group):
    """Without the name of a benchmark, a scene is timed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The rest of the command line, with the benchmark's name in front."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["scene", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Bench, short_help="Measure what this machine gives, as ratios in one run.")
def bench() -> None:
    """Measure what this machine gives, as ratios in one run.

    \b
    segpipe bench scene.tif -m unet-resnet18     the same as `segpipe bench scene`
    """  # noqa: D301


@bench.command("scene", short_help="Time a run beside what its parts take alone.")
@click.argument("scene")
@options.model
@options.trust
@options.bands
@options.tile
@options.device
@options.precision
@options.memory
@options.as_json
def bench_scene(scene: str, as_json: bool, **arguments: Any) -> None:
    """Time a run of SCENE beside what its parts take alone, on this machine.

    The map is thrown away. MODEL may be an architecture, which then has random weights.

    \b
    segpipe bench scene.tif -m unet-resnet18 --precision fp32
    """  # noqa: D301
    from segpipe.workflows.bench import bench as measure

    found = measure(scene, **arguments)
    print_json(found.to_dict()) if as_json else click.echo(_text(found))


bench.add_command(one_pass)
bench.add_command(upper_bound)
bench.add_command(upsampling)


def _text(found: Benchmark) -> str:
    """One run beside what its parts take alone."""
    rows: list[texts.Row] = [
        ("scene", f"{found.pixels:,} pixels, {found.tiles} tiles of {found.tile}"),
        ("network", f"{found.model} on {found.device} in {found.precision}"),
        ("end to end", f"{found.end_to_end:.2f} s, {found.megapixels_per_second:.2f} Mpx/s"),
        ("network alone", f"{found.forward:.2f} s on the same pixels, margins included"),
        ("over network", f"{found.over_forward:.3f}"),
        ("extra work", f"{found.extra_work:.2f} pixels computed for each pixel of the scene"),
        ("reading", f"{found.read:.2f} s, beside the network"),
        ("predicting", f"{found.predict:.2f} s, waiting for the device included"),
        ("writing", f"{found.write:.2f} s, beside the network"),
        ("publishing", f"{found.publish:.2f} s"),
        ("scheduling", f"{found.scheduling_share:.2%} of the whole"),
        ("memory", readable(found.peak_rss_bytes)),
    ]
    return texts.table(rows)
