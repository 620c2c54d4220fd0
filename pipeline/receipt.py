"""The proof that a tile is safely stored."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.pipeline.maps.layer import STEPS

BINS = 25
"""Bins of confidence."""


@dataclass(frozen=True, slots=True)
class ClassCount:
    """How often a class stands in a tile: pixels, and square metres where the crs has them."""

    value: int
    pixels: int
    area: float | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a worker writes after a tile's chunks are on the disk.

    Attributes:
        row, column: the tile's place in the plan.
        stored: bytes of the tile's chunks.
        sha256: hash over these bytes.
        counts: the classes that occur, by value; pixels without a label are not among them.
        read, predict, write: seconds.
        worker: which worker did it.
        peak_rss: the most memory that its process has ever held, in bytes.
        confidence: pixels with a label by their greatest probability, in `BINS` bins of one width
            from 0 to 1; None where nobody asked.
    """

    row: int
    column: int
    stored: int
    sha256: str
    counts: tuple[ClassCount, ...]
    read: float
    predict: float
    write: float
    worker: str
    peak_rss: int
    confidence: tuple[int, ...] | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Row and column."""
        return self.row, self.column

    def to_json(self) -> bytes:
        """The receipt as it is stored."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "Receipt":
        """The receipt that `to_json` wrote.

        Raises:
            ValueError: the text is no receipt.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            counts = tuple(ClassCount(**count) for count in data.pop("counts"))
            confidence = data.pop("confidence", None)
            bins = None if confidence is None else tuple(confidence)
            return cls(counts=counts, confidence=bins, **data)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no receipt: {error}") from error


def count_classes(
    labels: NDArray[np.uint8], nodata: int, row_areas: NDArray[np.float64] | None
) -> tuple[ClassCount, ...]:
    """The classes in `labels` (row, column); `row_areas` holds a pixel's area in each row."""
    histogram = np.bincount(labels.ravel(), minlength=nodata + 1)
    present = [int(value) for value in np.flatnonzero(histogram) if value != nodata]
    return tuple(
        ClassCount(value, int(histogram[value]), _area(labels, value, row_areas))
        for value in present
    )


def count_confidence(
    confidence: NDArray[np.uint8], labels: NDArray[np.uint8], nodata: int
) -> tuple[int, ...]:
    """Pixels that have a label by their greatest probability, stored in steps of 1/250."""
    histogram = np.bincount(confidence[labels != nodata], minlength=256)[: STEPS + 1]
    # A probability of 1 is in the last bin.
    histogram[STEPS - 1] += histogram[STEPS]
    bins = histogram[:STEPS].reshape(BINS, -1).sum(axis=1)
    return tuple(int(pixels) for pixels in bins)


def total_confidence(receipts: Iterable[Receipt]) -> tuple[int, ...] | None:
    """The sum over receipts; None where one of them doesn't tell."""
    bins = np.zeros(BINS, np.int64)
    for receipt in receipts:
        if receipt.confidence is None:
            return None
        bins += receipt.confidence
    return tuple(int(pixels) for pixels in bins)


def total(receipts: Iterable[Receipt], values: Iterable[int]) -> dict[int, ClassCount]:
    """The sum over receipts for each class value; their order decides an area's last bits."""
    pixels: Counter[int] = Counter()
    areas: dict[int, float] = {}
    for receipt in receipts:
        for count in receipt.counts:
            pixels[count.value] += count.pixels
            if count.area is not None:
                areas[count.value] = areas.get(count.value, 0.0) + count.area
    known = bool(areas) or not pixels
    return {
        value: ClassCount(value, pixels[value], areas.get(value, 0.0) if known else None)
        for value in values
    }


def _area(
    labels: NDArray[np.uint8], value: int, row_areas: NDArray[np.float64] | None
) -> float | None:
    if row_areas is None:
        return None
    return float((labels == value).sum(axis=1) @ row_areas)
