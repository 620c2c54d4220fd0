"""A confusion matrix as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segpipe.workflows.results.plots import INK, PAPER, figure

if TYPE_CHECKING:
    from segpipe.workflows.evaluate import Evaluation

_CELL, _MARGIN = 22, 46
"""Lengths in millimetres."""

_MOST = 32
"""Classes whose numbers are still legible."""


def draw_matrix(found: Evaluation, path: str | Path) -> None:
    """A PNG of the matrix: rows are the reference, columns the map, shade the share of the row.

    Raises:
        OptionError: `path` doesn't end in .png, or matplotlib isn't installed.
        StorageError: the disk refuses.
    """
    matrix = found.scores.confusion
    rows = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, rows, out=np.zeros(matrix.shape), where=rows > 0)
    count = len(matrix)
    side = _CELL * count if count <= _MOST else _CELL * _MOST
    names = [entry.name for entry in found.classes]
    with figure(path, side + _MARGIN, side * 0.8 + _MARGIN) as axes:
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xticks(range(count), names, rotation=0 if count < 7 else 90)
        axes.set_yticks(range(count), names)
        axes.set_xlabel("map")
        axes.set_ylabel("reference")
        scores = found.scores
        axes.set_title(
            f"overall accuracy {scores.overall_accuracy:.3f}   kappa {scores.kappa:.3f}   "
            f"mean IoU {scores.mean_iou:.3f}",
            pad=10,
        )
        for row, column in np.ndindex(matrix.shape) if count <= _MOST else ():
            axes.text(
                column,
                row,
                f"{shares[row, column]:.1%}\n{matrix[row, column]:,}",
                ha="center",
                va="center",
                fontsize=7,
                linespacing=1.4,
                color=PAPER if shares[row, column] > 0.55 else INK,
            )
