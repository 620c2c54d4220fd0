"""Scenes with labels, rasters or polygons, as ground that a network learns from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segpipe.models.learning.examples import IGNORED, Block, Labels
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.maps.label_store import LabelStore, create
from segpipe.pipeline.maps.layer import class_layer
from segpipe.pipeline.maps.legend import Legend, LegendEntry
from segpipe.pipeline.plan import Margin, Plan
from segpipe.pipeline.scenes.scene import Scene, open_scene
from segpipe.pipeline.scenes.source import file_identity
from segpipe.pipeline.vectors.polygons import (
    Polygons,
    burn,
    check_overlap,
    is_polygons,
    open_polygons,
)
from segpipe.pipeline.window import Window
from segpipe.workflows.errors import OptionError
from segpipe.workflows.labels.holdout import Part, Partition
from segpipe.workflows.labels.label_scheme import LabelScheme

Mask = NDArray[np.bool_]

_SIDE = 1024
"""Side in pixels of the windows in which polygons are burnt."""


class LabelSource(Protocol):
    """Labels on a scene's pixels."""

    def read(self, window: Window) -> Labels:
        """Class indices, or `IGNORED`, (row, column).

        Raises:
            InputRefusedError: a label is in no class.
            CorruptInputError: the labels can't be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class RasterLabels:
    """A raster of one band on the scene's pixels."""

    raster: Scene
    scheme: LabelScheme

    def read(self, window: Window) -> Labels:
        """See `LabelSource.read`."""
        values, known = self.raster.read(window)
        return self.scheme.indices(values[0], known)

    def identity(self) -> dict[str, Any]:
        """What tells these labels from any others, as JSON takes it."""
        return self.raster.identity()


@dataclass(frozen=True, slots=True)
class PolygonLabels:
    """Polygons, burnt onto the scene's grid whenever they're read, which takes its time."""

    polygons: Polygons
    grid: Grid
    scheme: LabelScheme

    def read(self, window: Window) -> Labels:
        """See `LabelSource.read`."""
        return self.scheme.indices(*burn(self.polygons, self.grid, window))

    def identity(self) -> dict[str, Any]:
        """What tells these labels from any others, as JSON takes it."""
        path = Path(self.polygons.path)
        # A shapefile keeps the column and the crs beside the corners.
        beside = [path.with_suffix(suffix) for suffix in (".dbf", ".prj")]
        files = [path, *(file for file in beside if file.is_file())]
        return {
            "files": [file_identity(file, full=False) for file in files],
            "attribute": self.polygons.attribute,
        }


@dataclass(frozen=True, slots=True)
class BurntLabels:
    """Class indices that were burnt before."""

    store: LabelStore

    def read(self, window: Window) -> Labels:
        """See `LabelSource.read`."""
        return self.store.read(window)


@dataclass(frozen=True, slots=True)
class LabelledScene:
    """A scene, its labels, and how it is parted."""

    scene: Scene
    labels: RasterLabels | PolygonLabels | BurntLabels
    partition: Partition

    def part(self, part: Part) -> "ScenePart":
        """The ground that belongs to this part."""
        return ScenePart(self, part)


@dataclass(frozen=True, slots=True)
class ScenePart:
    """One part of a labelled scene as `segpipe.models.learning.examples.Ground`.

    All pixels of the other parts are hidden: neither valid nor labelled.
    """

    whole: LabelledScene
    part: Part

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the scene."""
        return self.whole.scene.grid.shape

    def covers(self, rows: slice, columns: slice) -> bool:
        """Whether the window has a pixel of this part."""
        return bool(self._mask(_window(rows, columns)).any())

    def read(self, rows: slice, columns: slice) -> Block:
        """The window; nothing of another part is in it, neither as label nor as number.

        Raises:
            InputRefusedError: a label is in no class.
            CorruptInputError: the pixels or the labels can't be read.
        """
        window = _window(rows, columns)
        mask = self._mask(window)
        pixels, valid = self.whole.scene.read(window)
        labels = self.whole.labels.read(window)
        return Block(
            np.where(mask, pixels, pixels.dtype.type(0)),
            valid & mask,
            np.where(mask, labels, np.uint8(IGNORED)),
        )

    def _mask(self, window: Window) -> Mask:
        return self.whole.partition.mask(self.part, self.shape, window)


def open_labelled(
    pairs: Sequence[tuple[str | Path, str | Path]],
    scheme: LabelScheme,
    partition: Partition,
    *,
    attribute: str | None = None,
    bands: Sequence[str] | None = None,
    wanted: Sequence[str] = (),
) -> tuple[LabelledScene, ...]:
    """Every scene with its labels; all of them have the bands of the first one.

    Args:
        pairs: scenes, each with a raster of labels on its pixels or with polygons.
        scheme: what the labels mean.
        partition: which pixels are learnt from.
        attribute: the polygons' column with the label.
        bands: numbers or names of the scenes' bands; all of them by default.
        wanted: names of the bands that a model takes, where it's known already.

    Raises:
        InputRefusedError: a scene or its labels are refused, or don't fit each other.
        OptionError: polygons are given without the column.
    """
    found: list[LabelledScene] = []
    for scene, labels in pairs:
        names = found[0].scene.band_names if found else wanted
        opened = open_scene(scene, bands, names)
        source = _open_labels(labels, opened.grid, scheme, attribute)
        found.append(LabelledScene(opened, source, partition))
    return tuple(found)


def burn_polygons(scenes: Sequence[LabelledScene], folder: Path) -> None:
    """Burns all polygons once, into a store of class indices for each scene that has some."""
    for number, scene in enumerate(scenes):
        if not isinstance(scene.labels, PolygonLabels):
            continue
        infos = enumerate(scene.labels.scheme.infos)
        legend = Legend("labels", tuple(LegendEntry(n, info.name, info.color) for n, info in infos))
        plan = Plan(scene.scene.grid, _SIDE, 1, Margin(0, 0, 0, 0))
        store = create(
            folder / str(number), plan.grid, class_layer(legend), side=_SIDE, attributes={}
        )
        for tile in plan.tiles():
            store.write(tile.core, scene.labels.read(tile.core))


def burnt(scenes: Sequence[LabelledScene], folder: Path) -> tuple[LabelledScene, ...]:
    """The same scenes with the labels that `burn_polygons` put into the folder."""
    return tuple(
        replace(scene, labels=BurntLabels(LabelStore(folder / str(number))))
        if isinstance(scene.labels, PolygonLabels)
        else scene
        for number, scene in enumerate(scenes)
    )


def _open_labels(
    path: str | Path, grid: Grid, scheme: LabelScheme, attribute: str | None
) -> RasterLabels | PolygonLabels:
    if not is_polygons(path):
        return RasterLabels(_on_grid(open_scene(path), grid), scheme)
    if attribute is None:
        raise OptionError(f"{path}: polygons need --attribute, the column with the label")
    names = {entry.info.name: entry.labels[0] for entry in scheme.classes if entry.labels}
    polygons = open_polygons(path, attribute, names=names)
    check_overlap(polygons, grid)
    return PolygonLabels(polygons, grid, scheme)


def _on_grid(labels: Scene, here: Grid) -> Scene:
    there = labels.grid
    # The crs isn't compared: labels often name another realisation of one datum.
    if (here.shape, here.transform) != (there.shape, there.transform):
        raise InputRefusedError(
            f"{labels.path}: the labels have {there.height} x {there.width} pixels and the "
            f"transform {there.transform}, the scene {here.height} x {here.width} and "
            f"{here.transform}; warp them onto the scene's grid, by nearest neighbour"
        )
    if len(labels.band_indexes) != 1:
        raise InputRefusedError(
            f"{labels.path}: labels are one band, got {len(labels.band_indexes)}"
        )
    return labels


def _window(rows: slice, columns: slice) -> Window:
    return Window(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
