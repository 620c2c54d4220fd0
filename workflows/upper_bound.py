"""How good a map could be at best if its network told classes once in so many pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.models.learning.coarsening import coarsened
from segpipe.models.learning.metrics import Scores, confusion_matrix
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.scenes.scene import Scene
from segpipe.pipeline.window import Window
from segpipe.workflows.errors import OptionError
from segpipe.workflows.labels.reference import open_labels
from segpipe.workflows.results.plots import COLORS, PALE, figure

PAPER = {128: 0.509, 64: 0.733, 32: 0.861, 16: 0.928, 8: 0.964, 4: 0.985}
"""Mean IoU by factor on the labels of PASCAL VOC 2011 (Long, Shelhamer, Darrell 2015, A)."""

FACTORS = tuple(PAPER)

_SIDE = 1024
_MOST_CLASSES = 255


@dataclass(frozen=True, slots=True)
class UpperBound:
    """What is left of a label raster when it was downsampled and upsampled again.

    Attributes:
        labels: the raster.
        values: of its classes, in the order of the scores.
        scores: by factor; the labels themselves are the reference.
    """

    labels: Path
    values: tuple[int, ...]
    scores: dict[int, Scores]

    @property
    def mean_iou(self) -> dict[int, float]:
        """By factor."""
        return {factor: scores.mean_iou for factor, scores in self.scores.items()}

    def to_dict(self) -> dict[str, Any]:
        """The bounds as `segpipe bench upper-bound --json` prints them."""
        return {
            "labels": str(self.labels),
            "values": list(self.values),
            "factors": {str(factor): scores.to_dict() for factor, scores in self.scores.items()},
            "paper_mean_iou": {str(factor): bound for factor, bound in PAPER.items()},
        }


def upper_bound(labels: str | Path, factors: Sequence[int] = FACTORS) -> UpperBound:
    """The scores of a label raster against itself, downsampled by each factor and upsampled again.

    A network with this stride and without skips can hardly do better (Long, Shelhamer and Darrell
    2015, appendix A); see `models.coarsening` for how it's done here. The raster is read in
    windows; blocks are counted from its origin.

    Raises:
        InputRefusedError: it isn't a raster of labels.
        OptionError: a factor isn't positive.
        CorruptInputError: its pixels can't be read.
    """
    if not factors or min(factors) < 1:
        raise OptionError(f"labels are downsampled by 1 or more, got {list(factors)}")
    scene = open_labels(Path(labels))
    values = _values(scene)
    scores = {factor: Scores(_matrix(scene, values, factor)) for factor in factors}
    return UpperBound(Path(labels), tuple(values.tolist()), scores)


def draw(found: UpperBound, path: str | Path) -> None:
    """A PNG of mean IoU over the factor, beside the paper's.

    Raises:
        OptionError: `path` doesn't end in .png, or matplotlib isn't installed.
        StorageError: the disk refuses.
    """
    with figure(path, 130, 85) as axes:
        ours = found.mean_iou
        axes.plot(list(ours), list(ours.values()), "o-", color=COLORS[0], label=found.labels.name)
        axes.plot(
            list(PAPER), list(PAPER.values()), "o--", color=PALE, label="PASCAL VOC 2011, the paper"
        )
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({*ours, *PAPER}), [str(f) for f in sorted({*ours, *PAPER})])
        axes.minorticks_off()
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("factor by which labels were downsampled")
        axes.set_ylabel("mean IoU at best")
        axes.legend(loc="lower left")


def _matrix(scene: Scene, values: NDArray[np.int64], factor: int) -> NDArray[np.int64]:
    count = len(values)
    total = np.zeros((count, count), np.int64)
    for core in scene.grid.window.squares(factor * max(_SIDE // factor, 1)):
        # Scores are interpolated between a block's own and those of its neighbours.
        area = core.grown(factor, scene.grid.window)
        indices = _indices(scene, values, area)
        best = coarsened(indices, count, factor)
        inside = core.relative_to(area).slices
        known = indices[inside] < count
        total += confusion_matrix(indices[inside][known], best[inside][known], count)
    return total


def _values(scene: Scene) -> NDArray[np.int64]:
    """The distinct labels, rising."""
    found: NDArray[np.int64] = np.zeros(0, np.int64)
    for window in scene.grid.window.squares(_SIDE):
        pixels, known = scene.read(window)
        found = np.union1d(found, pixels[0][known].astype(np.int64))
        if len(found) > _MOST_CLASSES or not np.all(np.isin(pixels[0][known], found)):
            raise InputRefusedError(
                f"{scene.path}: has fractions or more than {_MOST_CLASSES} values, expected whole "
                "numbers that stand for classes; name a raster of labels"
            )
    if not found.size:
        raise InputRefusedError(f"{scene.path}: no pixel has a label; name a raster of labels")
    return found


def _indices(scene: Scene, values: NDArray[np.int64], window: Window) -> NDArray[np.int64]:
    """Class indices, and the number of classes where there is no label."""
    pixels, known = scene.read(window)
    return np.where(known, np.searchsorted(values, pixels[0]), len(values))
