"""Where on the globe a grid lies, as GeoJSON."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from shapely.geometry import MultiPolygon, Polygon, box, mapping
from shapely.geometry.polygon import orient

from segpipe.pipeline.grid import Grid

_SEGMENTS = 256
"""Straight pieces of each side: lines of a crs are curves in degrees, most of all near a pole."""

_TOLERANCE = 1e-6
"""Degrees by which a straight line may miss such a curve, a tenth of a metre."""

_DIGITS = 6
"""Decimals of a degree that are written: a tenth of a metre (RFC 7946, section 11.2)."""

_INSIDE = 1e-9
"""Share of a side by which the edge is drawn in: at the end of a crs' world, rounding decides on
which side of it a place is."""

Points = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Longitudes and latitudes, or columns and rows."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A grid's outline in WGS 84, longitude first (RFC 7946).

    Attributes:
        geometry: a Polygon; a MultiPolygon where it crosses the antimeridian.
        bbox: west, south, east, north; west is greater than east where it crosses the antimeridian.
    """

    geometry: dict[str, Any]
    bbox: tuple[float, float, float, float]


def outline(grid: Grid) -> Outline | None:
    """Where the pixels of a grid lie; None without a crs that leads to degrees.

    A grid that reaches beyond what its crs can show, as the disk of a geostationary satellite does,
    has the rectangle around what can be shown.
    """
    if grid.crs is None:
        return None
    crs = CRS.from_wkt(grid.crs)
    try:
        to_degrees = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    except ProjError:  # a local crs
        return None
    ring = _degrees(grid, to_degrees, *_edge(grid))
    shape = _unrolled(*ring, crs.is_geographic) if _finite(ring).all() else _shown(grid, to_degrees)
    return None if shape is None else _cut(shape)


def _degrees(
    grid: Grid, to_degrees: Transformer, columns: NDArray[np.float64], rows: NDArray[np.float64]
) -> Points:
    """Longitudes and latitudes of places in a grid, infinite where its crs shows nothing."""
    a, b, c, d, e, f = grid.transform
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    longitudes, latitudes = to_degrees.transform(x, y)
    source = to_degrees.source_crs
    if source is not None and not source.is_geographic:
        # Beyond their edge, some projections begin anew.
        there = to_degrees.transform(longitudes, latitudes, direction="INVERSE")
        strange = np.hypot(there[0] - x, there[1] - y) > math.sqrt(grid.pixel_area)
        longitudes[strange] = np.inf
    return longitudes, latitudes


def _finite(points: Points) -> NDArray[np.bool_]:
    return np.isfinite(points[0]) & np.isfinite(points[1])


def _edge(grid: Grid) -> Points:
    """Columns and rows of the outer edge, counterclockwise in the crs; the last is the first."""
    steps = np.linspace(0, 1, _SEGMENTS, endpoint=False)
    still, full = np.zeros(_SEGMENTS), np.ones(_SEGMENTS)
    columns = _INSIDE + np.concatenate([still, steps, full, 1 - steps, [0]]) * (1 - 2 * _INSIDE)
    rows = _INSIDE + np.concatenate([steps, full, 1 - steps, still, [0]]) * (1 - 2 * _INSIDE)
    a, b, _, d, e, _ = grid.transform
    if a * e - b * d > 0:
        columns, rows = columns[::-1], rows[::-1]
    return columns * grid.width, rows * grid.height


def _unrolled(
    longitudes: NDArray[np.float64], latitudes: NDArray[np.float64], geographic: bool
) -> Polygon:
    """The polygon on a plane where longitudes go on beyond 180 instead of jumping.

    Its inside is to the left of the ring. So along the north pole, which is the plane's upper edge,
    it leads westwards, and along the south pole eastwards.
    """
    # Longitude means nothing at a pole, but where it is the crs that says it.
    polar = np.isclose(np.abs(latitudes), 90, rtol=0, atol=1e-7) & ~np.bool_(geographic)
    start, count = int(np.argmin(polar)), len(polar) - 1
    order = (np.arange(count + 1) + start) % count
    points = [(float(longitudes[start]), float(latitudes[start]))]
    pole = 0.0
    for index in order[1:]:
        if polar[index]:
            pole = math.copysign(90, latitudes[index])
            continue
        before = points[-1][0]
        step = float((longitudes[index] - before + 180) % 360 - 180)
        if pole:
            step = (step % 360) if pole < 0 else -(-step % 360)
            points += [(before, pole), (before + step, pole)]
            pole = 0.0
        points.append((before + step, float(latitudes[index])))
    turn = points[-1][0] - points[0][0]
    if abs(turn) > 180:  # around a pole
        pole = math.copysign(90, turn)
        points += [(points[-1][0], pole), (points[0][0], pole)]
    return Polygon(points)


def _shown(grid: Grid, to_degrees: Transformer) -> Polygon | None:
    """The rectangle around those of a grid's points that have degrees."""
    steps = np.linspace(0, 1, 33)
    columns, rows = map(np.ravel, np.meshgrid(steps * grid.width, steps * grid.height))
    points = _degrees(grid, to_degrees, columns, rows)
    longitudes, latitudes = (values[_finite(points)] for values in points)
    if not len(longitudes):
        return None
    # Degrees from the point in the middle, so that no antimeridian is in between.
    middle = longitudes[len(longitudes) // 2]
    away = (longitudes - middle + 180) % 360 - 180 + middle
    return box(away.min(), latitudes.min(), away.max(), latitudes.max())


def _cut(shape: Polygon) -> Outline | None:
    """The outline of a polygon on the plane, cut where the antimeridian is."""
    sound = shapely.make_valid(shapely.simplify(shape, _TOLERANCE))
    west, _, east, _ = sound.bounds
    moved = [
        shapely.transform(
            sound.intersection(box(360 * turn - 180, -90, 360 * turn + 180, 90)),
            lambda points, turn=turn: points - (360 * turn, 0),
        )
        for turn in range(math.floor((west + 180) / 360), math.ceil((east + 180) / 360))
    ]
    parts = _parts(shapely.union_all(moved))
    if not parts:
        return None
    whole = parts[0] if len(parts) == 1 else MultiPolygon(parts)
    _, south, _, north = whole.bounds
    start, end = _span(west, east)
    return Outline(mapping(whole), (start, south, end, north))


def _parts(shape: shapely.Geometry) -> list[Polygon]:
    """Polygons with rounded coordinates, from west to east; none where it is only a line."""
    sound = shapely.set_precision(shape, 10.0**-_DIGITS)
    found = [
        orient(shapely.transform(piece, lambda points: points.round(_DIGITS) + 0.0))
        for piece in shapely.get_parts(sound)
        if isinstance(piece, Polygon) and not piece.is_empty
    ]
    return sorted(found, key=lambda piece: piece.bounds)


def _span(west: float, east: float) -> tuple[float, float]:
    """Longitudes from -180 to 180; the first is the greater one across the antimeridian."""
    if east - west >= 360 - 10.0**-_DIGITS:
        return -180.0, 180.0
    start, end = (round((value + 180) % 360 - 180, _DIGITS) + 0.0 for value in (west, east))
    return -180.0 if start == 180 else start, 180.0 if end == -180 else end
