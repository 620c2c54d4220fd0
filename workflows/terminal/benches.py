"""What the benchmarks of runs share on the command line: options, files, and how they end."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from segpipe.pipeline import storage
from segpipe.pipeline.errors import StorageError
from segpipe.workflows.results.plots import require_drawable
from segpipe.workflows.terminal import options
from segpipe.workflows.terminal.console import command_line, print_json

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.workflows.results.bench_text import Text


class Size(click.ParamType["tuple[int, int]"]):
    """How large a scene is: its pixels, or its rows and columns."""

    name = "PIXELS|ROWSxCOLUMNS"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Rows and columns."""
        from segpipe.workflows.sweep import as_shape

        try:
            return as_shape(str(value))
        except ValueError as error:
            self.fail(f"{error}, as 4096x4096", param, ctx)


measured = options.together(
    options.model,
    options.trust,
    options.bands,
    click.option(
        "--size",
        type=Size(),
        help="Repeat SCENE to a square of so many pixels, such as 1e8, or to 4096x4096. It is a "
        "VRT, whose blocks are decoded once, so that reading costs less than from such a file.",
    ),
    *(options.tile, options.device, options.precision, options.engine, options.memory),
    click.option("--workers", type=click.IntRange(1), help="Processes, as `segpipe run` has them."),
    click.option(
        "--markdown",
        metavar="OUT.md",
        type=click.Path(path_type=Path),
        help="Write the tables as Markdown too.",
    ),
    click.option(
        "--plot", metavar="OUT.png", type=click.Path(path_type=Path), help="Draw them too."
    ),
    options.as_json,
)
"""What decides a run that is measured, and how it is told."""


def telling(line: str) -> None:
    """Says on standard error what is measured next."""
    click.echo(f"segpipe: measuring {line}", err=True)


@contextlib.contextmanager
def bench(markdown: Path | None, plot: Path | None) -> Iterator[None]:
    """A block that ends tidily, whatever ends it: runs that were begun end, their folders go.

    Raises:
        OptionError, StorageError: the files couldn't be written, which is better told before.
    """
    if plot is not None:
        require_drawable(plot)
    for file in (markdown, plot):
        if file is not None and not file.absolute().parent.is_dir():
            raise StorageError(f"there is no folder {file.absolute().parent}; make it first")

    def leave(number: int, frame: FrameType | None) -> None:
        click.echo("\nsegpipe: interrupted; nothing is kept", err=True)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tell(
    figures: dict[str, Any],
    text: Text,
    draw: Callable[[Path], None],
    *,
    markdown: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Prints what was measured, then writes the files that were asked for.

    Raises:
        StorageError: the disk refuses.
    """
    print_json(figures) if as_json else click.echo(text.for_terminal())
    if markdown:
        storage.write(markdown, text.as_markdown(command_line()).encode())
    if plot:
        draw(plot)
