"""The area of interest: which tiles of a plan are mapped, and which of their pixels."""

import hashlib
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.plan import Extent, Plan, Tile, window_pixels
from segpipe.pipeline.vectors.polygons import (
    burn_shapes,
    check_overlap,
    open_polygons,
    shapes_in_pixels,
)
from segpipe.pipeline.window import Window

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class AreaOfInterest:
    """Polygons over a grid; a pixel is inside if one of them holds its centre.

    It stays in the process that opened it: workers get masks, so that they need neither the file
    nor the same tables of datums, which could move a border by a pixel.

    Attributes:
        path: the file, absolute.
        sha256: over the polygons' corners in pixels of the grid, whatever the order and the format.
        tree: the polygons, with columns for x and rows for y from the grid's origin.
    """

    path: str
    sha256: str
    tree: shapely.STRtree = field(repr=False, compare=False)

    def touches(self, window: Window) -> bool:
        """False where no pixel of the window is inside; True where one may be."""
        return self._near(window).size > 0

    def mask(self, window: Window) -> Mask:
        """True where a pixel of the window is inside, (row, column)."""
        return burn_shapes(self._near(window), window)

    def _near(self, window: Window) -> NDArray[np.object_]:
        box = shapely.box(window.left, window.top, window.right, window.bottom)
        near: NDArray[np.object_] = self.tree.geometries.take(self.tree.query(box))
        return near


@dataclass(frozen=True, slots=True)
class Piece:
    """A tile, and in few bytes which pixels of its core are wanted; `packed` is None for all."""

    tile: Tile
    packed: bytes | None = field(default=None, repr=False)

    @classmethod
    def of(cls, tile: Tile, wanted: Mask | None) -> "Piece":
        """The tile with this mask of its core, or with None for all of it."""
        if wanted is None or wanted.all():
            return cls(tile)
        return cls(tile, zlib.compress(np.packbits(wanted).tobytes(), 1))

    @property
    def name(self) -> str:
        """The tile's."""
        return self.tile.name

    @property
    def wanted(self) -> Mask | None:
        """True where a pixel of the core is wanted, (row, column); None where all are."""
        if self.packed is None:
            return None
        bits = np.frombuffer(zlib.decompress(self.packed), np.uint8)
        core = self.tile.core
        return np.unpackbits(bits, count=core.pixels).astype(np.bool_).reshape(core.shape)


@dataclass(frozen=True, slots=True)
class Selection:
    """What is mapped of a plan: all of it, or what an area of interest leaves of it.

    Attributes:
        plan: the whole scene in tiles, whatever is mapped of it.
        aoi: the area of interest, or None.
        places: rows and columns of the tiles with a pixel inside; None for all tiles.
        pixels: how many pixels are wanted.
    """

    plan: Plan
    aoi: AreaOfInterest | None
    places: tuple[tuple[int, int], ...] | None
    pixels: int

    @classmethod
    def of(cls, plan: Plan, aoi: AreaOfInterest | None) -> "Selection":
        """What this area of interest leaves of a plan.

        Raises:
            InputRefusedError: no pixel's centre lies inside.
        """
        if aoi is None:
            return cls(plan, None, None, plan.grid.pixels)
        touched = (tile for tile in plan.tiles() if aoi.touches(tile.core))
        counts = {(tile.row, tile.column): int(aoi.mask(tile.core).sum()) for tile in touched}
        places = tuple(place for place, count in counts.items() if count)
        if not places:
            raise InputRefusedError(
                f"{aoi.path}: no pixel of the raster has its centre inside of a polygon; "
                "name polygons that lie on the raster, or larger ones"
            )
        return cls(plan, aoi, places, sum(counts.values()))

    def __len__(self) -> int:
        return len(self.plan) if self.places is None else len(self.places)

    @property
    def share(self) -> float:
        """Tiles that are mapped over tiles of the plan."""
        return len(self) / len(self.plan)

    @property
    def extents(self) -> Counter[Extent]:
        """Rows and columns of what the network computes for a tile, and for how many tiles."""
        if self.places is None:
            return self.plan.extents
        rows, columns = self.plan.rows, self.plan.columns
        return Counter((rows.stretch(row), columns.stretch(column)) for row, column in self.places)

    @property
    def extra_work(self) -> float:
        """Pixels of the windows over pixels that are wanted."""
        return window_pixels(self.extents) / self.pixels

    def tiles(self) -> Iterator[Tile]:
        """The tiles that are mapped, row by row."""
        if self.places is None:
            return self.plan.tiles()
        return (self.plan.tile(row, column) for row, column in self.places)

    def wanted(self, window: Window) -> Mask | None:
        """True where a pixel of the window is wanted, (row, column); None where all are."""
        return None if self.aoi is None else self.aoi.mask(window)

    def piece(self, tile: Tile) -> Piece:
        """The tile as it travels to a worker."""
        return Piece.of(tile, self.wanted(tile.core))


def open_aoi(path: str | Path, grid: Grid) -> AreaOfInterest:
    """The area of interest that a vector file tells: every polygon of its only layer counts.

    Raises:
        InputRefusedError: the file can't be read, has no polygons or no crs, or doesn't touch the
            grid.
    """
    polygons = open_polygons(path)
    check_overlap(polygons, grid)
    shapes = shapes_in_pixels(polygons, grid)
    corners = sorted(shapely.to_wkb(shapely.normalize(shapes), byte_order=1).tolist())
    return AreaOfInterest(
        polygons.path, hashlib.sha256(b"".join(corners)).hexdigest(), shapely.STRtree(shapes)
    )
