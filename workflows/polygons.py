"""The classes of a map as polygons in a vector file, with names and areas."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.pipeline.area import row_areas
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.maps.qml import polygon_style
from segpipe.pipeline.vectors import geoparquet
from segpipe.pipeline.vectors.features import Features
from segpipe.pipeline.vectors.polygonise import Outlines, polygonise
from segpipe.pipeline.vectors.simplify import simplified
from segpipe.pipeline.vectors.vector_file import (
    PARQUET,
    SUFFIXES,
    check_destination,
    write_features,
)
from segpipe.workflows.errors import OptionError
from segpipe.workflows.labels.reference import open_labels
from segpipe.workflows.results.edit import Edit, Watcher, unwatched, watched

Areas = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PolygonForm:
    """Which polygons of a map are written, and with how many corners; by default all of them.

    Attributes:
        min_area: in square metres; smaller polygons are left out, which leaves gaps.
        simplify: in units of the map's crs; see `pipeline/vectors/simplify`. None for pixels'
            edges.

    Raises:
        OptionError: a number makes no sense.
    """

    min_area: float | None = None
    simplify: float | None = None

    def __post_init__(self) -> None:
        least, tolerance = self.min_area, self.simplify
        if least is not None and not (math.isfinite(least) and least >= 0):
            raise OptionError(f"the least area is a number of square metres, got {least:g}")
        if tolerance is not None and not (math.isfinite(tolerance) and tolerance > 0):
            raise OptionError(
                f"--simplify takes a positive number in units of the map's crs, got {tolerance:g}"
            )

    def check(self, grid: Grid) -> None:
        """Passes if polygons of a map on this grid can have this form.

        Raises:
            OptionError: there are no areas, or the tolerance is larger than the map.
        """
        if self.min_area and row_areas(grid, 0, 1) is None:
            raise OptionError("the map has no crs that gives areas; leave out --min-area")
        extent = max(grid.shape) * grid.pixel_area**0.5
        if self.simplify and self.simplify > extent:
            raise OptionError(
                f"--simplify {self.simplify:g} is more than the map's {extent:g} units of its crs; "
                f"a pixel has {grid.pixel_area**0.5:g}, choose one to three times as much"
            )


PLAIN = PolygonForm()
"""All polygons, along the pixels' edges."""


@dataclass(frozen=True, slots=True)
class PolygonTotal:
    """Polygons of a class, and their area where the map's crs gives one.

    Attributes:
        value: of the class in the map.
        polygons, area_m2: what was written.
        small, small_area_m2: what was left out because each was smaller than asked for.
    """

    value: int
    polygons: int
    area_m2: float | None
    small: int
    small_area_m2: float | None


@dataclass(frozen=True, slots=True)
class PolygonFile:
    """A file of polygons, and what it holds of each class by name."""

    output: Path
    map: Path
    classes: Mapping[str, PolygonTotal]
    form: PolygonForm
    edit: Edit

    @property
    def polygons(self) -> int:
        """How many there are."""
        return sum(total.polygons for total in self.classes.values())

    def to_dict(self) -> dict[str, Any]:
        """The result as `segpipe export --json` prints it."""
        return {
            "output": str(self.output),
            "map": str(self.map),
            "polygons": self.polygons,
            "min_area": self.form.min_area,
            "simplify": self.form.simplify,
            "edits": self.edit.steps,
            "classes": {
                name: {
                    "value": total.value,
                    "polygons": total.polygons,
                    "area_m2": total.area_m2,
                    "left_out": {"polygons": total.small, "area_m2": total.small_area_m2},
                }
                for name, total in self.classes.items()
            },
        }


def write_polygons(
    map: str | Path,  # noqa: A002 - as on the command line
    output: str | Path,
    *,
    min_area: float | None = None,
    simplify: float | None = None,
    reclass: str | Path | None = None,
    sieve: int | None = None,
    overwrite: bool = False,
    watch: Watcher = unwatched,
) -> PolygonFile:
    """Writes the regions of a map's classes as polygons: columns `value`, `class` and `area_m2`.

    They are those that polygonising the whole raster gives, exactly along its pixels, neighbours
    with all vertices in common; or with fewer corners, and then too. Areas are always those of the
    pixels. A GeoPackage gets the map's colours too, for QGIS. The map is read in strips or blocks,
    and memory holds the polygons that go on below.

    Args:
        map: a GeoTIFF or Zarr of class values, of segpipe or anybody.
        output: ends in `.gpkg` for GeoPackage, `.fgb` for FlatGeobuf, or `.parquet` for GeoParquet,
            which takes pyarrow.
        min_area: in square metres; smaller polygons are left out, which leaves gaps.
        simplify: how far corners may go, in units of the map's crs: corners are left out whose
            triangle is smaller than its square.
        reclass: a file of classes, such as `examples/landcover-classes.json`, that says which of
            the map's values make up which class.
        sieve: areas of fewer pixels take the class of a neighbour before polygons are made.
        overwrite: replace an output that is there.
        watch: is told which share of the map has been read.

    Raises:
        InputRefusedError: the map can't be read, or holds a value that `reclass` doesn't name.
        FingerprintMismatchError: there is such an output.
        OptionError: the output is of no format that is written, or a number makes no sense.
        CorruptInputError: pixels can't be read.
        StorageError: the disk refuses.
    """
    place = polygon_target(output, overwrite=overwrite)
    form, edit = PolygonForm(min_area, simplify), Edit.of(reclass, sieve)
    labels = open_labels(Path(map))
    form.check(labels.grid)
    labels = watched(edit.apply(labels), watch)
    found = polygonise(labels) if simplify is None else simplified(labels, simplify)
    tally = _Tally(edit.names(Path(map)), min_area or 0)
    nothing = Outlines(np.zeros(0, np.int32), np.zeros(0, object), np.zeros(0))
    legend = edit.legend(Path(map))
    style = None if legend is None else polygon_style(legend, "value")
    write_features(
        place, labels.grid.crs, tally.count(nothing), (tally.count(each) for each in found), style
    )
    return PolygonFile(place, Path(map), tally.totals(), form, edit)


def polygon_target(path: str | Path, *, overwrite: bool) -> Path:
    """Where polygons are written, absolute.

    Raises:
        OptionError: its ending is of no format that is written.
        FingerprintMismatchError: there is such a file, and it mustn't be replaced.
        StorageError: the folder can't be written to.
    """
    place = Path(path).absolute()
    suffix = place.suffix.lower()
    if suffix not in SUFFIXES:
        raise OptionError(f"polygons are written as {', '.join(SUFFIXES)}, got {place.name}")
    if suffix == PARQUET and not geoparquet.is_available():
        raise OptionError(
            f"{place.name} takes pyarrow, which isn't installed: pip install 'segpipe[parquet]', "
            "or name a .gpkg or .fgb"
        )
    check_destination(place, overwrite=overwrite)
    return place


class _Tally:
    """Makes tables of polygons and adds up what they hold."""

    def __init__(self, names: Mapping[int, str], min_area: float) -> None:
        self._names = names
        self._min_area = min_area
        self._totals: dict[int, PolygonTotal] = {}

    def count(self, found: Outlines) -> Features:
        """The table of those that are large enough."""
        areas = found.areas
        kept = ~(areas < self._min_area)
        for value in np.unique(found.values).tolist():
            here = found.values == value
            self._add(value, areas[here & kept], areas[here & ~kept])
        names = [self._name(value) for value in found.values[kept].tolist()]
        columns = {
            "value": found.values[kept],
            "class": np.array(names, object),
            "area_m2": areas[kept],
        }
        return Features(found.shapes[kept], columns)

    def totals(self) -> dict[str, PolygonTotal]:
        """What every class has, by name and rising value."""
        often = Counter(self._name(value) for value in self._totals)
        return {
            self._name(value) + f" {value}" * (often[self._name(value)] > 1): total
            for value, total in sorted(self._totals.items())
        }

    def _name(self, value: int) -> str:
        return self._names.get(value, str(value))

    def _add(self, value: int, kept: Areas, small: Areas) -> None:
        before = self._totals.get(value, PolygonTotal(value, 0, 0.0, 0, 0.0))
        self._totals[value] = PolygonTotal(
            value,
            before.polygons + len(kept),
            _plus(before.area_m2, kept),
            before.small + len(small),
            _plus(before.small_area_m2, small),
        )


def _plus(area: float | None, more: Areas) -> float | None:
    total = np.nan if area is None else area + float(more.sum())
    return None if np.isnan(total) else total
