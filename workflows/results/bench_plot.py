"""Benchmarks as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segpipe.workflows.results.plots import COLORS, INK, PALE, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from segpipe.workflows.bench import Benchmark
    from segpipe.workflows.sweep import Sweep

_ROW, _MARGIN = 9, 34
"""Lengths in millimetres."""


def draw_benchmark(found: Benchmark, path: str | Path) -> None:
    """A PNG with a bar for the run, each part alone, and each stage, in seconds.

    Raises:
        OptionError: `path` doesn't end in .png, or matplotlib isn't installed.
        StorageError: the disk refuses.
    """
    total, seconds = found.run.seconds, found.run.report["seconds"]
    alone = [(f"{limit.name} alone", limit.seconds, COLORS[0]) for limit in found.limits]
    stages = [(f"{name} in the run", seconds[name], COLORS[4]) for name in found.shares]
    bars = [*alone, ("run", total, COLORS[1]), *stages]
    with figure(path, 160, _ROW * len(bars) + _MARGIN) as axes:
        for row, (_, value, color) in enumerate(bars):
            axes.barh(row, value, 0.7, color=color)
            _label(axes, value, row, f"{value:.2f} s, {value / total:.2f}")
        _names(axes, [name for name, _, _ in bars])
        axes.axvline(total, color=PALE, linewidth=0.8, linestyle=":")
        axes.set_xlabel("seconds, and as a share of the run")
        axes.set_title(f"{found.model}, {found.shape[0]} x {found.shape[1]} pixels", pad=8)


def draw_sweep(found: Sweep, path: str | Path) -> None:
    """A PNG of speed and memory over those of the first row; of growth where the size is varied.

    Raises:
        OptionError: `path` doesn't end in .png, or matplotlib isn't installed.
        StorageError: the disk refuses.
    """
    if found.axis == "size":
        _draw_growth(found, path)
    else:
        _draw_rows(found, path)


def _draw_rows(found: Sweep, path: str | Path) -> None:
    rows = found.measured
    with figure(path, 160, 2 * _ROW * len(rows) + _MARGIN) as axes:
        for row, (_, run, ratios) in enumerate(rows):
            values = (
                ("speed", ratios.speed, f"{run.megapixels_per_second:.2f} Mpx/s"),
                ("memory", ratios.memory, f"{run.peak_rss_bytes / 1e9:.2f} GB"),
            )
            for number, (title, value, text) in enumerate(values):
                place = row + (number - 0.5) * 0.38
                label = title if row == 0 else None
                axes.barh(place, value, 0.34, color=COLORS[number], label=label)
                _label(axes, value, place, f"{value:.2f} x, {text}")
        _names(axes, [row.value for row, _, _ in rows])
        axes.set_ylabel(found.axis)
        axes.set_xlabel("over the first row")
        axes.axvline(1, color=PALE, linewidth=0.8, linestyle=":")
        axes.set_title(f"{found.model} over {found.axis}", pad=8)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)


def _draw_growth(found: Sweep, path: str | Path) -> None:
    pixels = [run.pixels for _, run, _ in found.measured]
    first = found.measured[0][1]
    series = (
        ("seconds", [run.seconds / first.seconds for _, run, _ in found.measured]),
        ("memory", [ratios.memory for _, _, ratios in found.measured]),
    )
    with figure(path, 140, 95) as axes:
        straight = [count / pixels[0] for count in pixels]
        axes.plot(pixels, straight, "--", color=PALE, label="as the pixels", linewidth=1)
        for color, (title, values) in zip(COLORS, series, strict=False):
            axes.plot(pixels, values, "o-", color=color, label=title, markersize=4)
            for x, y in zip(pixels, values, strict=True):
                axes.annotate(
                    f"{y:.3g}",
                    (x, y),
                    textcoords="offset points",
                    xytext=(0, 6),
                    ha="center",
                    fontsize=7,
                    color=INK,
                )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("pixels of the scene")
        axes.set_ylabel("over the smallest scene")
        axes.set_title(f"{found.model}: growth with the scene", pad=8)
        axes.legend(loc="upper left")


def _names(axes: Axes, names: Sequence[str]) -> None:
    """One a row, from the top."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.margins(x=0.24)


def _label(axes: Axes, value: float, place: float, text: str) -> None:
    axes.text(value, place, f" {text}", va="center", fontsize=8, color=INK)
