"""Plots in one plain style; matplotlib is an extra, imported when something is drawn."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from segpipe.pipeline import storage
from segpipe.workflows.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, PALE, PAPER = "#1f2428", "#6a737d", "#ffffff"
"""Colours of text, of lines that help to read, and of the page."""

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of series, in their order; Okabe and Ito's, which the colour-blind tell apart too."""

_DPI = 200
_MM_PER_INCH = 25.4


@contextmanager
def figure(path: str | Path, width_mm: float = 160, height_mm: float = 100) -> Iterator[Axes]:
    """Axes to draw on; what was drawn stands in the PNG `path` when the block ends.

    The same drawing gives the same bytes with the same matplotlib, and nothing is written where the
    block fails. pyplot and its global state stay untouched.

    Raises:
        OptionError: `path` doesn't end in .png, or matplotlib isn't installed.
        StorageError: the disk refuses.
    """
    place = Path(path)
    require_drawable(place)
    from matplotlib.figure import Figure

    page = Figure(
        figsize=(width_mm / _MM_PER_INCH, height_mm / _MM_PER_INCH),
        dpi=_DPI,
        facecolor=PAPER,
        layout="constrained",
    )
    axes = page.add_subplot()
    _plain(axes)
    yield axes
    _finish(axes)
    drawn = io.BytesIO()
    # Left to itself matplotlib signs with its version.
    page.savefig(drawn, format="png", metadata={"Software": None})
    storage.write(place, drawn.getvalue())


def require_drawable(path: Path) -> None:
    """Passes if a picture can be drawn to `path`, apart from its folder.

    Raises:
        OptionError: `path` doesn't end in .png, or matplotlib isn't installed.
    """
    if path.suffix.lower() != ".png":
        raise OptionError(f"{path}: a picture is written as PNG; name a file that ends in .png")
    try:
        import matplotlib.figure  # noqa: F401  # whether it is there
    except ImportError as error:
        raise OptionError(
            "pictures take matplotlib, which isn't installed: pip install 'segpipe[plot]'"
        ) from error


def _plain(axes: Axes) -> None:
    axes.set_prop_cycle(color=COLORS)
    axes.set_axisbelow(True)
    axes.grid(True, color=PALE, alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(PALE)
    axes.tick_params(colors=INK, labelsize=8, color=PALE, width=0.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=INK, fontsize=9)


def _finish(axes: Axes) -> None:
    # Titles and legends take matplotlib's own style when they are made.
    axes.title.set(color=INK, fontsize=10)
    legend = axes.get_legend()
    if legend is not None:
        legend.set_frame_on(False)
        for text in legend.get_texts():
            text.set(color=INK, fontsize=8)
