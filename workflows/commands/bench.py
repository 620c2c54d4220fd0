"""The command `bench`."""

from __future__ import annotations

import click

from segpipe.workflows.commands.bench_scene import bench_scene
from segpipe.workflows.commands.bench_sweep import bench_sweep
from segpipe.workflows.commands.one_pass import one_pass
from segpipe.workflows.commands.peers import bench_peers
from segpipe.workflows.commands.upper_bound import upper_bound
from segpipe.workflows.commands.upsampling import upsampling


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
    segpipe bench sweep scene.tif --over tile    the same run in tiles of several sides
    """  # noqa: D301


for command in (bench_scene, bench_sweep, bench_peers, one_pass, upper_bound, upsampling):
    bench.add_command(command)
