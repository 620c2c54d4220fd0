"""How well a map agrees with a reference, from a confusion matrix."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Labels = NDArray[np.integer[Any]]

_FAR = np.iinfo(np.int64).max


def confusion_matrix(reference: Labels, predicted: Labels, classes: int) -> Counts:
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


def boundary_matrix(
    reference: Labels,
    predicted: Labels,
    classes: int,
    distance: int,
    core: tuple[slice, slice] = (slice(None), slice(None)),
) -> Counts:
    """Pixels of every pair of classes near contours, (classes + 1, classes + 1); the last is "not".

    Args:
        reference, predicted: class indices (row, column); whatever isn't one is unknown.
        classes: how many there are.
        distance: how many pixels a contour is thick, see `contours`.
        core: the rows and columns that are counted; those around are looked at. Matrices of cores
            that share an image add up to that of the image where `distance` pixels lie around.

    Raises:
        ValueError: the arrays differ in shape.
    """
    known = (reference >= 0) & (reference < classes) & (predicted >= 0) & (predicted < classes)
    first, second = (
        np.where(contours(labels, known, distance), labels, classes)[core]
        for labels in (reference, predicted)
    )
    return confusion_matrix(first, second, classes + 1)


def contours(labels: Labels, known: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """True for known pixels with a known pixel of another class near, (row, column).

    Near is `distance` rows or columns away or less, diagonals too. Neither the image's edge nor a
    pixel that isn't known is a contour.

    Raises:
        ValueError: the distance isn't positive.
    """
    if distance < 1:
        raise ValueError(f"a contour is a pixel thick or more, got {distance}")
    numbers = labels.astype(np.int64)
    highest = _largest_near(np.where(known, numbers, -_FAR), distance)
    lowest = -_largest_near(np.where(known, -numbers, -_FAR), distance)
    on: NDArray[np.bool_] = known & ((highest != numbers) | (lowest != numbers))
    return on


def boundary_iou(
    reference: Labels, predicted: Labels, classes: int, distance: int
) -> NDArray[np.float64]:
    """Boundary IoU of every class: intersection over union of what lies near contours, (classes,).

    Of each side only pixels within `distance` of a contour count (Cheng et al. 2021, "Boundary
    IoU", equation 3; near as in `contours`, where the image's edge is none). NaN for a class that
    has contours on neither side.

    Raises:
        ValueError: the arrays differ in shape, or the distance isn't positive.
    """
    return Scores(boundary_matrix(reference, predicted, classes, distance)).iou[:classes]


def _largest_near(numbers: NDArray[np.int64], distance: int) -> NDArray[np.int64]:
    """The largest number of the square of 2 * `distance` + 1 around each, (row, column)."""
    for axis in (0, 1):
        margin = [(0, 0), (0, 0)]
        margin[axis] = (distance, distance)
        padded = np.pad(numbers, margin, constant_values=-_FAR)
        numbers = sliding_window_view(padded, 2 * distance + 1, axis).max(axis=-1)
    return numbers


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The usual figures of a confusion matrix (reference in rows, prediction in columns).

    Figures of a class are NaN where they would divide by nothing, such as the recall of a class
    that the reference doesn't have; means leave such classes out. A matrix without a pixel gives
    NaN throughout.
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
    def kappa(self) -> float:
        """Cohen's kappa: agreement beyond what chance gives (Cohen 1960); NaN where chance does."""
        reference, predicted = self.reference_pixels, self.predicted_pixels
        chance = float(reference @ predicted.astype(np.float64)) / max(self.pixels, 1) ** 2
        return (self.overall_accuracy - chance) / (1 - chance) if chance < 1 else float("nan")

    @property
    def reference_pixels(self) -> Counts:
        """Pixels of every class in the reference."""
        return np.asarray(self.confusion.sum(axis=1))

    @property
    def predicted_pixels(self) -> Counts:
        """Pixels of every class in the map."""
        return np.asarray(self.confusion.sum(axis=0))

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union (Jaccard index) of every class."""
        both = np.diagonal(self.confusion)
        return _ratio(both, self.reference_pixels + self.predicted_pixels - both)

    @property
    def precision(self) -> NDArray[np.float64]:
        """Of a class in the map, the share that the reference has as well: user's accuracy."""
        return _ratio(np.diagonal(self.confusion), self.predicted_pixels)

    @property
    def recall(self) -> NDArray[np.float64]:
        """Of a class in the reference, the share that the map has as well: producer's accuracy."""
        return _ratio(np.diagonal(self.confusion), self.reference_pixels)

    @property
    def f1(self) -> NDArray[np.float64]:
        """Harmonic mean of precision and recall (Dice coefficient) of every class."""
        both = np.diagonal(self.confusion)
        return _ratio(2 * both, self.reference_pixels + self.predicted_pixels)

    @property
    def mean_iou(self) -> float:
        """Mean of the classes' intersection over union."""
        iou = self.iou[~np.isnan(self.iou)]
        return float(iou.mean()) if iou.size else float("nan")

    @property
    def frequency_weighted_iou(self) -> float:
        """The classes' IoU, each weighted by its share of the reference (Long et al. 2015, 5)."""
        if not self.pixels:
            return float("nan")
        return float(np.nan_to_num(self.iou) @ (self.reference_pixels / self.pixels))

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON takes them; None stands for NaN."""
        return {
            "pixels": self.pixels,
            **{name: _finite(getattr(self, name)) for name in _OVERALL},
            **{name: [_finite(v) for v in getattr(self, name).tolist()] for name in _BY_CLASS},
            "confusion_matrix": self.confusion.tolist(),
        }


_OVERALL = ("overall_accuracy", "kappa", "mean_iou", "frequency_weighted_iou")
_BY_CLASS = ("iou", "precision", "recall", "f1")


def _ratio(part: Counts, whole: Counts) -> NDArray[np.float64]:
    ratio = np.full(len(whole), np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _finite(figure: float) -> float | None:
    return None if np.isnan(figure) else round(figure, 4)
