"""Parts of what the commands print for people."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.models.engine import Engine
    from segpipe.models.footprint import Footprint
    from segpipe.pipeline.scenes.location import Place

Row = Sequence[str]


def precision(engine: Engine) -> str:
    """The numbers that were computed with, and why those."""
    if engine.agreement is None:
        return engine.precision
    share = f"{engine.agreement:.2%} of a sample's labels"
    if engine.precision == "fp32":
        return f"fp32, as half precision gave only {share} alike"
    return f"{engine.precision}, where {share} are those of fp32"


def exactness(footprint: Footprint) -> str:
    """The footprint, or why there is none."""
    if not footprint.exact:
        return f"approximate, for {'; '.join(footprint.reasons)}"
    return (
        f"exact; stride {footprint.stride}, a pixel sees {footprint.top} up, {footprint.left} "
        f"left, {footprint.bottom} down, {footprint.right} right"
    )


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def rate(tiles_per_second: float) -> str:
    """A speed as people say it, whichever of tiles a second, a minute or an hour reads well."""
    for seconds, unit in ((1, "second"), (60, "minute")):
        if tiles_per_second * seconds >= 1:
            return f"{tiles_per_second * seconds:,.1f} tiles a {unit}"
    return f"{tiles_per_second * 3600:,.1f} tiles an hour"


def place(place: Place) -> str:
    """A path as it is typed in the current folder, or an address."""
    if isinstance(place, Path) and place.is_relative_to(Path.cwd()):
        return str(place.relative_to(Path.cwd()))
    return str(place)


def area(square_metres: float | None) -> str:
    """An area in square kilometres; nothing where there is none."""
    return "" if square_metres is None else f"{square_metres / 1e6:,.2f} km2"


def tiles(count: int, side: int) -> str:
    """How many tiles of which size."""
    return f"{count:,} tile{'s' * (count != 1)} of {side} x {side} pixels"


def facts(rows: Sequence[Row]) -> str:
    """Names, and beside them texts as wide as the terminal allows."""
    indent = 4 + max(len(name) for name, _ in rows)
    width = max(shutil.get_terminal_size().columns - 1, indent + 40)
    return "\n".join(
        textwrap.fill(
            text,
            width,
            initial_indent=f"  {name}".ljust(indent),
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name, text in rows
        if text
    )


def table(rows: Sequence[Row]) -> str:
    """Columns that line up; numbers to the right, and so are their headings."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    # A heading stands as the cell below it does.
    below = [rows[min(1, len(rows) - 1)], *rows[1:]]
    return "\n".join(
        "  " + "  ".join(map(_cell, row, widths, below_row)).rstrip()
        for row, below_row in zip(rows, below, strict=True)
    )


def _cell(text: str, width: int, like: str) -> str:
    number = like == "-" or (like[:1].isdigit() and like[-1:] in "0123456789%2")
    return text.rjust(width) if number else text.ljust(width)
