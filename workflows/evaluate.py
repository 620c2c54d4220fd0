"""How well a map agrees with a reference: labels in a raster, or polygons."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.models.learning.metrics import Counts, Scores, boundary_matrix, confusion_matrix
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.scenes.scene import Scene
from segpipe.pipeline.window import Window
from segpipe.workflows.errors import OptionError
from segpipe.workflows.labels.label_scheme import LabelScheme
from segpipe.workflows.labels.reference import (
    UNKNOWN,
    Class,
    Classes,
    Reference,
    open_labels,
    open_reference,
)

SIDE = 1024
"""Side in pixels of the windows that are compared; as many as threads are in memory."""

_THREADS = 4


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was compared and how well it agrees.

    Attributes:
        map, reference: the two files.
        classes: those that were compared, in the order of the matrices.
        scores: over all pixels whose class both know.
        boundary: over the same pixels near contours, with one class more for those that aren't;
            None where it wasn't asked for.
        distance: how near, in pixels.
        unmapped: pixels whose class only the reference knows.
        unreferenced: pixels whose class only the map knows.
        resampled: whether the reference was brought onto the map's grid by nearest neighbour.
    """

    map: Path
    reference: Path
    classes: tuple[Class, ...]
    scores: Scores
    boundary: Scores | None
    distance: int | None
    unmapped: int
    unreferenced: int
    resampled: bool

    @property
    def boundary_iou(self) -> NDArray[np.float64] | None:
        """Boundary IoU of every class (Cheng et al. 2021)."""
        return None if self.boundary is None else self.boundary.iou[:-1]

    def to_dict(self) -> dict[str, Any]:
        """The result as `segpipe evaluate --json` prints it."""
        figures = self.scores.to_dict()
        columns = {
            "reference_pixels": self.scores.reference_pixels.tolist(),
            "map_pixels": self.scores.predicted_pixels.tolist(),
            **{name: figures.pop(name) for name in ("iou", "precision", "recall", "f1")},
        }
        if self.boundary is not None:
            columns["boundary_iou"] = self.boundary.to_dict()["iou"][:-1]
        return {
            "map": str(self.map),
            "reference": str(self.reference),
            "resampled": self.resampled,
            "unmapped_pixels": self.unmapped,
            "unreferenced_pixels": self.unreferenced,
            "boundary_distance": self.distance,
            "classes": {
                entry.name: {
                    "value": entry.value,
                    **{name: column[index] for name, column in columns.items()},
                }
                for index, entry in enumerate(self.classes)
            },
            "confusion_matrix_axes": ["reference", "map"],
            **figures,
        }


def evaluate(
    map: str | Path,  # noqa: A002 - as on the command line
    reference: str | Path,
    *,
    classes: LabelScheme | None = None,
    attribute: str | None = None,
    layer: str | None = None,
    boundary: int | None = None,
) -> Evaluation:
    """The figures over all pixels whose class both a map and a reference know.

    The map is read in windows, so memory doesn't grow with it. A reference on other pixels is
    brought onto the map's by nearest neighbour.

    Args:
        map: a GeoTIFF or Zarr of class values, of segpipe or anybody.
        reference: a raster of class values, or a vector file of polygons.
        classes: which values of the reference make up which class of the map. Without it a value
            means the same in both; the classes are those that the map names, or where it names
            none those that are found.
        attribute: the polygons' column with the class: values, or names of classes.
        layer: which layer of polygons, where there are several.
        boundary: distance in pixels for boundary IoU, see `models.metrics.boundary_iou`; without
            it there is none.

    Raises:
        InputRefusedError: one of them can't be read, they have no pixel in common, or they hold
            values that are no classes.
        OptionError: polygons need a column, or the distance isn't positive.
        CorruptInputError: pixels can't be read.
    """
    if boundary is not None and boundary < 1:
        raise OptionError(f"contours are a pixel thick or more, got {boundary}")
    labels = open_labels(Path(map))
    known = Classes.of(Path(map), classes)
    truth = open_reference(Path(reference), labels.grid, known, attribute, layer)
    compare = partial(_compare, labels, truth, known, boundary)
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        total = reduce(_Tally.plus, pool.map(compare, labels.grid.window.squares(SIDE)))
    if not total.matrix.any():
        raise InputRefusedError(
            f"{reference}: has no pixel in common with {map}: the one knows the class of "
            f"{total.unmapped:,} pixels, the other of {total.unreferenced:,}; name a reference of "
            "the same place"
        )
    kept = np.flatnonzero(total.present | known.told)
    near = np.append(kept, len(known.entries))
    return Evaluation(
        map=Path(map),
        reference=Path(reference),
        classes=tuple(known.entries[index] for index in kept),
        scores=Scores(total.matrix[np.ix_(kept, kept)]),
        boundary=Scores(total.near[np.ix_(near, near)]) if boundary else None,
        distance=boundary,
        unmapped=total.unmapped,
        unreferenced=total.unreferenced,
        resampled=truth.resampled,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Tally:
    """Counts of pixels that add up."""

    matrix: Counts
    near: Counts
    unmapped: int
    unreferenced: int

    def plus(self, other: _Tally) -> _Tally:
        return _Tally(
            self.matrix + other.matrix,
            self.near + other.near,
            self.unmapped + other.unmapped,
            self.unreferenced + other.unreferenced,
        )

    @property
    def present(self) -> NDArray[np.bool_]:
        """The classes that either side has."""
        return np.asarray((self.matrix.sum(axis=0) + self.matrix.sum(axis=1)) > 0)


def _compare(
    labels: Scene, truth: Reference, classes: Classes, distance: int | None, window: Window
) -> _Tally:
    area = window.grown(distance or 0, labels.grid.window)
    values, valid = labels.read(area)
    mapped = classes.of_map(values[0], valid, Path(labels.path))
    true = truth.read(area)
    count, core = len(classes.entries), window.relative_to(area).slices
    near = np.zeros((count + 1, count + 1), np.int64)
    if distance:
        near = boundary_matrix(true, mapped, count, distance, core)
    mapped, true = mapped[core], true[core]
    both = (mapped != UNKNOWN) & (true != UNKNOWN)
    return _Tally(
        confusion_matrix(true[both], mapped[both], count),
        near,
        int(np.count_nonzero(true != UNKNOWN)) - int(np.count_nonzero(both)),
        int(np.count_nonzero(mapped != UNKNOWN)) - int(np.count_nonzero(both)),
    )
