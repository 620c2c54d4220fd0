"""What a viewer shows, in square tiles of every zoom: a map in its classes, a scene beneath it.

Level 0 has the map's own pixels, each level from there on half as many rows and columns. Nothing is
warped: a tile holds the pixels of the map's grid, and so the class under a pointer is that of the
pixel itself.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError

from segpipe.pipeline.area import row_areas
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.maps.label_store import ARRAY
from segpipe.pipeline.maps.legend import Legend
from segpipe.pipeline.maps.map_facts import read_counts, read_facts
from segpipe.pipeline.maps.picture import Limits, limits, stretched
from segpipe.pipeline.maps.pyramid import OVERVIEWS
from segpipe.pipeline.maps.thinned import thinned
from segpipe.pipeline.scenes.nearest import Nearest
from segpipe.pipeline.scenes.scene import Scene, open_scene
from segpipe.pipeline.window import Window
from segpipe.workflows.labels.reference import open_labels
from segpipe.workflows.pages.page_sections import shown_bands

SIDE = 512
"""Rows and columns of a tile: a block of a GeoTIFF of segpipe."""

_MOST_COUNTED = 1 << 27
_STRIP = 1 << 22

Labels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ClassTotal:
    """Pixels of a class, and their area where the crs gives one."""

    pixels: int
    area_m2: float | None


@dataclass(frozen=True, slots=True)
class MapLayer:
    """A map at every zoom.

    Attributes:
        labels: its pixels.
        coarser: copies that lie in its store, by how many of its rows a row stands for.
        legend: what its values mean.
        tags: what it says of model and method.
        totals: by value; None where it doesn't tell them and is too large to be counted.
    """

    labels: Scene
    coarser: Mapping[int, Scene]
    legend: Legend
    tags: Mapping[str, str]
    totals: Mapping[int, ClassTotal] | None

    @property
    def grid(self) -> Grid:
        """Of level 0."""
        return self.labels.grid

    @property
    def top(self) -> int:
        """The level at which all of the map is one tile."""
        return max(0, math.ceil(math.log2(max(self.grid.shape) / SIDE)))

    def at(self, level: int) -> Scene:
        """The labels at a level."""
        factor = 2**level
        near = max((step for step in self.coarser if factor % step == 0), default=1)
        return thinned(self.coarser.get(near, self.labels), factor // near)

    def tile(self, level: int, row: int, column: int) -> Labels | None:
        """Class values (row, column), smaller than `SIDE` at the edges; None for no such tile.

        Raises:
            CorruptInputError: the pixels can't be read.
        """
        window = tile_window(self, level, row, column)
        if window is None:
            return None
        values, valid = self.at(level).read(window)
        return np.where(valid, values[0], self.legend.nodata).astype(np.uint8)

    def value(self, row: int, column: int) -> int | None:
        """The class of a pixel; None where it has none.

        Raises:
            ValueError: there is no such pixel.
            CorruptInputError: it can't be read.
        """
        values, valid = self.labels.read(Window(row, column, 1, 1))
        value = int(values[0, 0, 0])
        return value if valid[0, 0] and value != self.legend.nodata else None


@dataclass(frozen=True, slots=True)
class SceneLayer:
    """A scene at every zoom of a map, on whatever grid it has itself.

    Attributes:
        scene: one band, or three for red, green and blue.
        map: whose tiles it fills.
        limits: of each band.
    """

    scene: Scene
    map: MapLayer
    limits: tuple[Limits, ...]

    def tile(
        self, level: int, row: int, column: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | None:
        """Red, green and blue (3, row, column), and where it's valid; None for no such tile.

        Raises:
            CorruptInputError: the pixels can't be read.
        """
        window = tile_window(self.map, level, row, column)
        if window is None:
            return None
        pixels, valid = _beneath(self.scene, self.map, level).read(window)
        bands = [
            stretched(band, valid, ends) for band, ends in zip(pixels, self.limits, strict=True)
        ]
        return np.stack((bands * 3)[:3]), valid


def open_map(path: Path) -> MapLayer:
    """The map at `path`.

    Raises:
        InputRefusedError: it can't be read, isn't of bytes, or has no legend.
        CorruptInputError: it has to be counted, and pixels can't be read.
    """
    labels = open_labels(path)
    if labels.dtype != "uint8":
        raise InputRefusedError(f"{path}: holds {labels.dtype}, expected the bytes of a map")
    facts = read_facts(path)
    totals = _totals(labels, facts.legend, read_counts(path))
    return MapLayer(labels, _coarser(path, labels.grid), facts.legend, facts.tags, totals)


def lay_beneath(name: str | Path, bands: tuple[str, ...] | None, shown: MapLayer) -> SceneLayer:
    """The scene of this name under a map.

    Args:
        name: whatever `open_scene` takes.
        bands: one, or three for red, green and blue; None for those that are named so, or the
            first.
        shown: the map.

    Raises:
        InputRefusedError: it can't be read, hasn't these bands, or lies elsewhere.
    """
    scene = open_scene(name, bands)
    if bands is None:
        scene = _with_bands(scene, shown_bands(scene.band_names, ()))
    if len(scene.band_indexes) not in (1, 3):
        raise InputRefusedError(
            f"{scene.path}: {len(scene.band_indexes)} bands were named; one is shown in grey, "
            "three in red, green and blue"
        )
    small = _beneath(scene, shown, shown.top)
    pixels, valid = small.read(small.grid.window)
    if not valid.any():
        raise InputRefusedError(
            f"{scene.path}: nothing of it lies under the map {shown.labels.path}; name the scene "
            "that was mapped"
        )
    return SceneLayer(scene, shown, tuple(limits(band, valid) for band in pixels))


def tile_window(shown: MapLayer, level: int, row: int, column: int) -> Window | None:
    """The pixels of a tile, in rows and columns of its level; None where there are none."""
    if not 0 <= level <= shown.top or row < 0 or column < 0:
        return None
    height, width = (-(-side // 2**level) for side in shown.grid.shape)
    if row * SIDE >= height or column * SIDE >= width:
        return None
    return Window(row * SIDE, column * SIDE, SIDE, SIDE).intersection(Window(0, 0, height, width))


def place(grid: Grid, row: float, column: float) -> tuple[float, float]:
    """Where a row and a column meet, in the crs: x and y."""
    a, b, c, d, e, f = grid.transform
    return a * column + b * row + c, d * column + e * row + f


def degrees(grid: Grid, row: float, column: float) -> tuple[float, float] | None:
    """Longitude and latitude (WGS 84) where a row and a column meet; None where it isn't known."""
    transformer = None if grid.crs is None else _to_degrees(grid.crs)
    if transformer is None:
        return None
    longitude, latitude = transformer.transform(*place(grid, row, column))
    return (longitude, latitude) if math.isfinite(longitude + latitude) else None


def pixel_width(grid: Grid) -> float | None:
    """Metres on the ground that the middle pixel is wide; None where it isn't known."""
    row, column = grid.height / 2, grid.width / 2
    ends = degrees(grid, row, column - 0.5), degrees(grid, row, column + 0.5)
    if ends[0] is None or ends[1] is None:
        return None
    metres = float(Geod(ellps="WGS84").inv(*ends[0], *ends[1])[2])
    return metres if metres > 0 else None


@functools.lru_cache(maxsize=8)
def _to_degrees(crs: str) -> Transformer | None:
    try:
        return Transformer.from_crs(CRS.from_wkt(crs), CRS.from_epsg(4326), always_xy=True)
    except ProjError:
        return None


def _with_bands(scene: Scene, places: Iterable[int]) -> Scene:
    """The scene with some of its bands, by their places from 0."""
    chosen = tuple(places)
    return replace(
        scene,
        band_indexes=tuple(scene.band_indexes[place] for place in chosen),
        band_names=tuple(scene.band_names[place] for place in chosen),
        nodata=tuple(scene.nodata[place] for place in chosen),
        bands=tuple(scene.bands[place] for place in chosen),
    )


def _beneath(scene: Scene, shown: MapLayer, level: int) -> Nearest:
    """A scene on the grid of a map's level, from about as far away."""
    grid = thinned(shown.labels, 2**level).grid
    factor = max(1, round(_pixel_side(grid) / _pixel_side(scene.grid)))
    return Nearest(thinned(scene, factor), grid)


def _pixel_side(grid: Grid) -> float:
    """Of the middle pixel, in metres where that's known."""
    areas = row_areas(grid, grid.height // 2, 1)
    return math.sqrt(grid.pixel_area if areas is None else float(areas[0]))


def _coarser(path: Path, grid: Grid) -> dict[int, Scene]:
    """Copies of a map that lie in its store, where they have the shape that is expected."""
    # A store of format 2 has one file of them all, one of format 3 a group each.
    places = {2: path / ARRAY / OVERVIEWS}
    if not places[2].exists():
        places[2] = path / "ovr_2x"
    factor = 4
    while (path / f"ovr_{factor}x").is_dir():
        places[factor] = path / f"ovr_{factor}x"
        factor *= 2
    found = {factor: open_scene(copy) for factor, copy in places.items() if copy.exists()}
    return {
        factor: copy
        for factor, copy in found.items()
        if copy.grid.shape == tuple(-(-side // factor) for side in grid.shape)
    }


def _totals(
    labels: Scene, legend: Legend, told: Mapping[int, int] | None
) -> dict[int, ClassTotal] | None:
    """Pixels and areas by class, from the side-car where that's enough."""
    grid = labels.grid
    geographic = grid.crs is not None and CRS.from_wkt(grid.crs).is_geographic
    if told is not None and not geographic:
        areas = row_areas(grid, 0, 1)
        side = None if areas is None else float(areas[0])
        return {
            value: ClassTotal(told.get(value, 0), side and told.get(value, 0) * side)
            for value in legend.values
        }
    if grid.pixels <= _MOST_COUNTED:
        return _counted(labels, legend)
    if told is None:
        return None
    return {value: ClassTotal(told.get(value, 0), None) for value in legend.values}


def _counted(labels: Scene, legend: Legend) -> dict[int, ClassTotal]:
    """Pixels and areas by class, from all pixels."""
    grid = labels.grid
    pixels, squares, known = np.zeros(256, np.int64), np.zeros(256), True
    height = max(1, _STRIP // grid.width)
    for top in range(0, grid.height, height):
        window = Window(top, 0, min(height, grid.height - top), grid.width)
        values, valid = labels.read(window)
        classes = np.where(valid, values[0], legend.nodata).astype(np.intp)
        keys = classes + 256 * np.arange(window.height)[:, None]
        rows = np.bincount(keys.ravel(), minlength=256 * window.height).reshape(-1, 256)
        areas = row_areas(grid, top, window.height)
        pixels += rows.sum(0)
        if areas is None:
            known = False
        else:
            squares += areas @ rows
    return {
        value: ClassTotal(int(pixels[value]), float(squares[value]) if known else None)
        for value in legend.values
    }
