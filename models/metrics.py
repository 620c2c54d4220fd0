"""How well a map agrees with a reference, from a confusion matrix."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def confusion_matrix(
    reference: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], classes: int
) -> Counts:
    """Pixels of every pair (reference class, predicted class), for class indices below `classes`.

    Matrices of parts add up to the matrix of the whole.

    Raises:
        ValueError: the arrays differ in shape, or hold something else than class indices.
    """
    if reference.shape != predicted.shape:
        raise ValueError(
            f"reference and prediction have one shape, got {reference.shape} and {predicted.shape}"
        )
    for title, labels in (("reference", reference), ("prediction", predicted)):
        if labels.size and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f"a {title} of {classes} classes holds 0 to {classes - 1}, "
                f"got {labels.min()} to {labels.max()}"
            )
    pairs = reference.ravel().astype(np.int64) * classes + predicted.ravel()
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The usual figures of a confusion matrix (reference in rows, prediction in columns).

    `iou` is NaN for a class that neither side has; `mean_iou` leaves such a class out. A matrix
    without a pixel gives NaN throughout.
    """

    confusion: Counts

    def __post_init__(self) -> None:
        shape = self.confusion.shape
        if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
            raise ValueError(f"a confusion matrix is square, got the shape {shape}")

    @property
    def pixels(self) -> int:
        """How many pixels were compared."""
        return int(self.confusion.sum())

    @property
    def overall_accuracy(self) -> float:
        """Share of the pixels on which both agree."""
        return float(np.trace(self.confusion) / self.pixels) if self.pixels else float("nan")

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union (Jaccard index) of every class."""
        both = np.diagonal(self.confusion)
        either = self.confusion.sum(axis=0) + self.confusion.sum(axis=1) - both
        iou = np.full(len(both), np.nan)
        iou[either > 0] = both[either > 0] / either[either > 0]
        return iou

    @property
    def mean_iou(self) -> float:
        """Mean of the classes' intersection over union."""
        iou = self.iou[~np.isnan(self.iou)]
        return float(iou.mean()) if iou.size else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON takes them; None stands for NaN."""
        return {
            "pixels": self.pixels,
            "overall_accuracy": _finite(self.overall_accuracy),
            "mean_iou": _finite(self.mean_iou),
            "iou": [_finite(iou) for iou in self.iou.tolist()],
            "confusion_matrix": self.confusion.tolist(),
        }


def _finite(figure: float) -> float | None:
    return None if np.isnan(figure) else round(figure, 4)
