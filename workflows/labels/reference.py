"""What is held to be true of a map's pixels: class values in a raster, or in polygons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.maps.class_names import class_names
from segpipe.pipeline.scenes.nearest import Nearest
from segpipe.pipeline.scenes.scene import Scene, open_scene
from segpipe.pipeline.vectors.polygons import (
    Polygons,
    burn,
    check_overlap,
    is_polygons,
    open_polygons,
)
from segpipe.pipeline.window import Window
from segpipe.workflows.errors import OptionError
from segpipe.workflows.labels.label_scheme import LabelScheme

UNKNOWN = 255
"""Index of a pixel whose class isn't known."""

Known = NDArray[np.bool_]
Indices = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Class:
    """A class: its value in the map, its name, and the reference's values that stand for it."""

    value: int
    name: str
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes that are compared, in the order of their indices.

    Attributes:
        entries: the classes.
        ignored: values of the reference that stand for none.
        told: whether somebody named them; else they're all values that a map may have.
    """

    entries: tuple[Class, ...]
    ignored: tuple[int, ...] = ()
    told: bool = True

    @classmethod
    def of(cls, path: Path, scheme: LabelScheme | None) -> Classes:
        """Those of a scheme, or else those that the map at `path` names, or else any."""
        if scheme is not None:
            entries = tuple(
                Class(entry.info.value, entry.info.name, entry.labels) for entry in scheme.classes
            )
            return cls(entries, scheme.ignored)
        names = {value: name for value, name in class_names(path).items() if value < UNKNOWN}
        told = bool(names)
        names = names or {value: str(value) for value in range(UNKNOWN)}
        return cls(tuple(Class(value, name, (value,)) for value, name in names.items()), told=told)

    @property
    def labels_by_name(self) -> dict[str, int]:
        """A label for every class's name, by which polygons may call it."""
        return {entry.name: entry.labels[0] for entry in self.entries if entry.labels}

    def of_map(self, values: NDArray[Any], known: Known, path: Path) -> Indices:
        """Indices of a map's values (row, column), `UNKNOWN` where they aren't known.

        Raises:
            InputRefusedError: a known value is no class.
        """
        codes = {entry.value: index for index, entry in enumerate(self.entries)}
        return self._indices(values, known, codes, path)

    def of_reference(self, values: NDArray[Any], known: Known, path: Path) -> Indices:
        """Likewise of a reference's values."""
        codes = dict.fromkeys(self.ignored, UNKNOWN)
        for index, entry in enumerate(self.entries):
            codes |= dict.fromkeys(entry.labels, index)
        return self._indices(values, known, codes, path)

    def _indices(
        self, values: NDArray[Any], known: Known, codes: Mapping[int, int], path: Path
    ) -> Indices:
        keys = np.array(sorted(codes))
        indices = np.array([codes[key] for key in sorted(codes)], np.uint8)
        places = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
        strange = known & (keys[places] != values)
        if strange.any():
            found = np.unique(values[strange])
            shown = ", ".join(f"{value:g}" for value in found[:8].tolist())
            classes = ", ".join(f"{key}" for key in keys[:16].tolist())
            raise InputRefusedError(
                f"{path}: holds {shown}{', ...' if len(found) > 8 else ''}, expected "
                f"{classes}{', ...' if len(keys) > 16 else ''}; say with --classes FILE which "
                "values make up which class, and which to ignore"
            )
        return np.where(known, indices[places], np.uint8(UNKNOWN))


class Reference(Protocol):
    """Gives the classes of windows of a map's grid."""

    @property
    def resampled(self) -> bool:
        """Whether it had other pixels, which were looked up by nearest neighbour."""
        ...

    def read(self, window: Window) -> Indices:
        """Class indices (row, column), `UNKNOWN` where it says nothing.

        Raises:
            InputRefusedError: it holds a value that is no class.
            CorruptInputError: it can't be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class RasterReference:
    """A raster of labels, on the map's grid or on another."""

    labels: Nearest
    classes: Classes

    @property
    def resampled(self) -> bool:
        """See `Reference.resampled`."""
        return self.labels.resampled

    def read(self, window: Window) -> Indices:
        """See `Reference.read`."""
        values, known = self.labels.read(window)
        return self.classes.of_reference(values[0], known, Path(self.labels.scene.path))


@dataclass(frozen=True, slots=True)
class PolygonReference:
    """Polygons, burnt onto the map's grid."""

    polygons: Polygons
    grid: Grid
    classes: Classes

    @property
    def resampled(self) -> bool:
        """Polygons have no pixels."""
        return False

    def read(self, window: Window) -> Indices:
        """See `Reference.read`."""
        values, known = burn(self.polygons, self.grid, window)
        return self.classes.of_reference(values, known, Path(self.polygons.path))


def open_labels(path: Path) -> Scene:
    """A raster of class values.

    Raises:
        InputRefusedError: it can't be read, or has several bands.
    """
    scene = open_scene(path)
    if len(scene.band_indexes) != 1:
        raise InputRefusedError(
            f"{path}: has {len(scene.band_indexes)} bands, expected one of class values; name a map"
        )
    return scene


def open_reference(
    path: Path, grid: Grid, classes: Classes, attribute: str | None, layer: str | None
) -> Reference:
    """The reference at `path`, for a map on `grid`.

    Args:
        path: a raster, or a vector file of polygons.
        grid: the map's.
        classes: what values mean.
        attribute: the polygons' column with the values, or the names of classes.
        layer: which layer of polygons, where there are several.

    Raises:
        InputRefusedError: it can't be read, or isn't of the map's place.
        OptionError: polygons need a column, or a raster is given one.
    """
    if not is_polygons(path):
        if attribute or layer:
            raise OptionError(f"{path} is a raster: leave out --attribute and --layer")
        return RasterReference(Nearest(open_labels(path), grid), classes)
    polygons = open_polygons(path, attribute, layer=layer, names=classes.labels_by_name)
    if attribute is None:
        raise OptionError(
            f"{path} holds polygons: name the column with their class with --attribute; "
            f"it has {', '.join(polygons.columns) or 'none'}"
        )
    check_overlap(polygons, grid)
    return PolygonReference(polygons, grid, classes)
