"""The command `bench scene`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from segpipe.workflows.terminal import benches


@click.command("scene", short_help="Time a run beside what its parts take alone.")
@click.argument("scene")
@benches.measured
def bench_scene(
    scene: str, markdown: Path | None, plot: Path | None, as_json: bool, **arguments: Any
) -> None:
    """Time a run of SCENE beside what its parts take alone, on this machine.

    The run is a process of its own, whose map is thrown away. Then the network, the decoder, the
    encoder and memory are timed alone. MODEL may be an architecture, with random weights.

    \b
    segpipe bench scene.tif -m unet-resnet18 --precision fp32 --size 4096x4096
    """  # noqa: D301
    with benches.bench(markdown, plot):
        from segpipe.workflows.bench import bench
        from segpipe.workflows.results.bench_plot import draw_benchmark
        from segpipe.workflows.results.bench_text import benchmark_text

        found = bench(scene, **arguments, watch=benches.telling)
    benches.tell(
        found.to_dict(),
        benchmark_text(found),
        partial(draw_benchmark, found),
        markdown=markdown,
        plot=plot,
        as_json=as_json,
    )
