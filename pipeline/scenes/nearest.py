"""A raster seen on another raster's grid: every pixel takes the one that holds its centre."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.scenes.scene import Scene
from segpipe.pipeline.window import Window

MOST_PIXELS = 1 << 24
"""How many pixels of the raster are read at once, if there are more under a window."""

Positions = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Nearest:
    """A scene that is read in windows of another grid.

    Values are taken by nearest neighbour, which alone keeps class values what they are. Grids with
    one shape and one transform are one grid, whatever crs they name: labels often name another
    realisation of one datum.
    """

    scene: Scene
    grid: Grid

    @property
    def resampled(self) -> bool:
        """Whether pixels are looked up, because the scene has another grid."""
        here, there = self.grid, self.scene.grid
        return (here.shape, here.transform) != (there.shape, there.transform)

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """As `Scene.read` for a window of the grid; outside of the scene nothing is valid.

        Raises:
            InputRefusedError: only one of both has a crs, or no way leads from one to the other.
            CorruptInputError: the pixels can't be read.
        """
        if not self.resampled:
            return self.scene.read(window)
        rows, columns = self._positions(window)
        inside = (rows >= 0) & (rows < self.scene.grid.height)
        inside &= (columns >= 0) & (columns < self.scene.grid.width)
        shape = len(self.scene.band_indexes), *window.shape
        values, valid = np.zeros(shape, self.scene.dtype), np.zeros(window.shape, np.bool_)
        if not inside.any():
            return values, valid
        row, column = rows[inside].astype(np.intp), columns[inside].astype(np.intp)
        area = _around(row, column)
        if area.pixels > MOST_PIXELS and window.pixels > 1:
            return self._halved(window)
        pixels, known = self.scene.read(area)
        values[:, inside] = pixels[:, row - area.top, column - area.left]
        valid[inside] = known[row - area.top, column - area.left]
        return values, valid

    def _halved(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        halves = window.halves()
        axis = 0 if halves[0].left == halves[1].left else 1
        values, valid = zip(*(self.read(half) for half in halves), strict=True)
        return np.concatenate(values, axis=axis + 1), np.concatenate(valid, axis=axis)

    def _positions(self, window: Window) -> tuple[Positions, Positions]:
        """Rows and columns of the scene, not rounded, at the centres of the window's pixels."""
        rows, columns = np.mgrid[window.slices] + 0.5
        a, b, c, d, e, f = self.grid.transform
        x, y = a * columns + b * rows + c, d * columns + e * rows + f
        transformer = _transformer(self.grid, self.scene)
        if transformer is not None:
            x, y = transformer.transform(x, y)
        a, b, c, d, e, f = self.scene.grid.transform
        area, x, y = a * e - b * d, x - c, y - f
        return (a * y - d * x) / area, (e * x - b * y) / area


def _around(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Window:
    top, left = int(rows.min()), int(columns.min())
    return Window(top, left, int(rows.max()) + 1 - top, int(columns.max()) + 1 - left)


def _transformer(grid: Grid, scene: Scene) -> Transformer | None:
    """From the grid's crs to the scene's, x before y; None where they're one."""
    if grid.crs == scene.grid.crs:
        return None
    if grid.crs is None or scene.grid.crs is None:
        raise InputRefusedError(
            f"{scene.path}: it or the raster that it is laid over has no crs, and they have other "
            "pixels; give both one: gdal_edit.py -a_srs EPSG:CODE"
        )
    source, target = CRS.from_wkt(grid.crs), CRS.from_wkt(scene.grid.crs)
    if source.equals(target, ignore_axis_order=True):
        return None
    try:
        return Transformer.from_crs(source, target, always_xy=True)
    except ProjError as error:
        raise InputRefusedError(
            f"{scene.path}: its crs can't be brought to that of the raster over which it is laid; "
            "warp it there first: gdalwarp -r near"
        ) from error
