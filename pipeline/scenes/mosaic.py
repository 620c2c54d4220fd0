"""Several scenes as one: on the first one's grid, with a rule where they overlap."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.scenes.resampled import Line, between, same_crs
from segpipe.pipeline.scenes.scene import Scene
from segpipe.pipeline.scenes.source import common_dtype
from segpipe.pipeline.window import Window

Rule = Literal["first", "last", "confident"]
"""Whose pixel counts where several scenes have a valid one; `confident` leaves that to what a
network says of each scene by itself."""

PLACED = 1e-3
"""Parts of a pixel by which a scene may miss the grid and still be on it."""


@dataclass(frozen=True, slots=True)
class Part:
    """A scene on a mosaic's grid, the window of the mosaic that it fills, and how it came there."""

    scene: Scene
    window: Window
    resampled: bool


def arrange(scenes: Sequence[Scene]) -> tuple[Grid, tuple[Part, ...]]:
    """The grid of the first scene, extended over all of them, and the scenes on it.

    A scene whose pixels lie on that grid stays as it is; any other one is resampled onto it.

    Raises:
        InputRefusedError: there are several crs, or rows of one scene don't follow another's, or
            bands are scaled in several ways.
    """
    first = scenes[0]
    for other in scenes[1:]:
        _check(first, other)
    extents = [_extent(first.grid, scene) for scene in scenes]
    top, left = min(one.top for one in extents), min(one.left for one in extents)
    height, width = max(one.bottom for one in extents), max(one.right for one in extents)
    whole = Window(top, left, height - top, width - left)
    grid = _seen(first.grid, whole)
    places = (extent.relative_to(whole) for extent in extents)
    return grid, tuple(_part(grid, *pair) for pair in zip(scenes, places, strict=True))


def mosaic(scenes: Sequence[Scene], rule: Rule) -> Scene:
    """One scene out of several: pixel by pixel that of the first, or last, whose bands are valid.

    It has the first one's name. By the rule `confident` its pixels are the first's, for pictures
    and samples, and its `rivals` are to be mapped.

    Raises:
        InputRefusedError: see `arrange`.
    """
    grid, parts = arrange(scenes)
    first = scenes[0]
    return replace(
        first,
        grid=grid,
        dtype=common_dtype(scene.dtype for scene in scenes),
        band_indexes=tuple(range(1, len(first.band_indexes) + 1)),
        nodata=(None,) * len(first.band_indexes),
        bands=tuple(replace(band, nodata=None) for band in first.bands),
        warnings=remarks(parts),
        source=MosaicSource(parts[::-1] if rule == "last" else parts, rule),
        files=tuple(file for scene in scenes for file in scene.files or (scene.path,)),
    )


def rivals(scene: Scene) -> tuple[Part, ...]:
    """The scenes of a mosaic that are mapped each by itself; none for all other scenes."""
    source = scene.source
    return source.parts if isinstance(source, MosaicSource) and source.rule == "confident" else ()


def remarks(parts: Sequence[Part]) -> tuple[str, ...]:
    """What is to be said of all scenes, each thing once."""
    lines = dict.fromkeys(line for part in parts for line in part.scene.warnings)
    moved = [Path(part.scene.path).name for part in parts if part.resampled]
    if not moved:
        return tuple(lines)
    names = f"{', '.join(moved[:3])}{f' and {len(moved) - 3} more' if len(moved) > 3 else ''}"
    there = f"the grid of {parts[0].scene.path}"
    return *lines, f"not on {there}, so resampled onto it: {names}"


@dataclass(frozen=True, slots=True)
class MosaicSource:
    """Scenes that lie over each other: of those with a valid pixel, the one named first shows.

    A scene is opened where its window is read, and nothing above it covers that already.
    """

    parts: tuple[Part, ...]
    rule: Rule

    def read(
        self, window: Window, indexes: tuple[int, ...], dtype: str
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """See `Source.read`; outside of all scenes nothing is valid."""
        pixels: NDArray[np.generic] = np.zeros((len(indexes), *window.shape), dtype)
        valid = np.zeros(window.shape, np.bool_)
        bands = [index - 1 for index in indexes]
        for part in self.parts:
            shared = part.window.intersection(window)
            if shared is None:
                continue
            place = shared.relative_to(window).slices
            if valid[place].all():
                continue
            values, known = part.scene.read(shared.relative_to(part.window))
            shown = known & ~valid[place]
            np.copyto(pixels[:, *place], values[bands], casting="unsafe", where=shown)
            valid[place] |= shown
        return pixels, valid

    def identity(self, full: bool) -> dict[str, Any]:
        """See `Source.identity`: every scene's, in the order in which they show, and its place."""
        return {
            "rule": self.rule,
            "mosaic": {
                str(number): {
                    "top": part.window.top,
                    "left": part.window.left,
                    **part.scene.identity(full),
                }
                for number, part in enumerate(self.parts)
            },
        }


def _check(first: Scene, other: Scene) -> None:
    if not same_crs(first.grid, other.grid):
        here, there = _title(first.grid.crs), _title(other.grid.crs)
        remedy = f"warp it first, gdalwarp -t_srs {here} {Path(other.path).name} warped.tif"
        if None in (first.grid.crs, other.grid.crs):
            remedy = "if it has one, say so with gdal_edit.py -a_srs"
        raise InputRefusedError(
            f"{other.path} lies in {there} and {first.path} in {here}; a mosaic has one crs: "
            f"{remedy}"
        )
    if len(first.band_indexes) != len(other.band_indexes):
        raise InputRefusedError(
            f"{other.path} has {len(other.band_indexes)} bands and {first.path} has "
            f"{len(first.band_indexes)}; choose as many of each with --bands"
        )
    if _scales(first) != _scales(other):
        raise InputRefusedError(
            f"the bands of {other.path} have the scales and offsets {_scales(other)}, those of "
            f"{first.path} {_scales(first)}; bring them to one first: gdal_translate -unscale"
        )


def _scales(scene: Scene) -> list[tuple[float, float]]:
    return [(band.scale, band.offset) for band in scene.bands]


def _lines(grid: Grid, scene: Scene) -> tuple[Line, Line]:
    """Where the columns and the rows of the scene lie on the grid."""
    try:
        return between(scene.grid, grid)
    except InputRefusedError as error:
        raise InputRefusedError(f"{scene.path}: {error}") from error


def _extent(grid: Grid, scene: Scene) -> Window:
    """The pixels of the grid that hold the scene, counted from the grid's corner."""
    columns, rows = _lines(grid, scene)
    left, right = _ends(columns, scene.grid.width)
    top, bottom = _ends(rows, scene.grid.height)
    return Window(top, left, bottom - top, right - left)


def _ends(line: Line, length: int) -> tuple[int, int]:
    low, high = sorted((line.offset, line.scale * length + line.offset))
    return math.floor(low + PLACED), max(math.ceil(high - PLACED), math.floor(low + PLACED) + 1)


def _part(grid: Grid, scene: Scene, window: Window) -> Part:
    """The scene on the grid's pixels in this window, which holds it."""
    there = _seen(grid, window)
    columns, rows = _lines(there, scene)
    placed = scene.grid.shape == there.shape and all(
        abs(line.offset) <= PLACED and abs(line.scale - 1) * length <= PLACED
        for line, length in ((columns, there.width), (rows, there.height))
    )
    return Part(scene if placed else scene.on_grid(there), window, not placed)


def _seen(grid: Grid, window: Window) -> Grid:
    """The part of a grid, or of its continuation, that a window shows."""
    a, b, c, d, e, f = grid.transform
    x, y = c + a * window.left + b * window.top, f + d * window.left + e * window.top
    return Grid(window.height, window.width, (a, b, x, d, e, y), grid.crs)


def _title(crs: str | None) -> str:
    """A crs as GDAL's tools take it, where it has such a name."""
    if crs is None:
        return "no crs"
    found = CRS.from_wkt(crs)
    authority = found.to_authority()
    return ":".join(authority) if authority else f"{found.name!r}"
