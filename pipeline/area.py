"""How much ground a pixel covers."""

import math

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Geod

from segpipe.pipeline.grid import Grid


def row_areas(grid: Grid, top: int, height: int) -> NDArray[np.float64] | None:
    """Area in square metres of one pixel of each row from `top` on, (height,).

    In a geographic crs it is the area on the ellipsoid between the pixel's meridians and parallels
    (of the row's middle pixel, where rows don't follow parallels). In a projected or local crs it
    is the area in the plane, the same for all, with linear units taken to metres. None where there
    is no crs, or one without such units.
    """
    if grid.crs is None:
        return None
    crs = _horizontal(CRS.from_wkt(grid.crs))
    if not crs.axis_info:
        return None
    # Radians for angles, metres for lengths.
    unit = crs.axis_info[0].unit_conversion_factor
    geod = crs.get_geod()
    if not crs.is_geographic or geod is None:
        return None if crs.is_geocentric else np.full(height, grid.pixel_area * unit**2)
    _, b, _, d, _, _ = grid.transform
    rows = np.arange(top, top + height + 1)
    if b == 0 and d == 0:
        return _between_parallels(grid, rows, unit, geod)
    return _middle_pixels(grid, rows[:-1], unit, geod)


def pixel_size(grid: Grid) -> tuple[float, float] | None:
    """Width and height in metres of the grid's middle pixel.

    In a geographic crs on the ellipsoid, else in the plane. None where there is no crs, or one
    without such units.
    """
    if grid.crs is None:
        return None
    crs = _horizontal(CRS.from_wkt(grid.crs))
    if not crs.axis_info or crs.is_geocentric:
        return None
    unit = crs.axis_info[0].unit_conversion_factor
    geod = crs.get_geod()
    a, b, c, d, e, f = grid.transform
    if not crs.is_geographic or geod is None:
        return math.hypot(a, d) * unit, math.hypot(b, e) * unit
    row, column = grid.height / 2, grid.width / 2
    x, y = (a * column + b * row + c) * unit, (d * column + e * row + f) * unit
    return (
        _length(geod, x, y, a * unit / 2, d * unit / 2),
        _length(geod, x, y, b * unit / 2, e * unit / 2),
    )


def _length(geod: Geod, x: float, y: float, east: float, north: float) -> float:
    """Metres from as far on one side of a point to as far on the other, all in radians."""
    ends = geod.inv(x - east, y - north, x + east, y + north, radians=True)
    return float(ends[2])


def grid_area(grid: Grid) -> float | None:
    """Area in square metres of all pixels, as `row_areas` has them; None where it has none."""
    areas = row_areas(grid, 0, grid.height)
    return None if areas is None else grid.width * float(areas.sum())


def _between_parallels(
    grid: Grid, rows: NDArray[np.int64], unit: float, geod: Geod
) -> NDArray[np.float64]:
    """Area between the edges `rows` (n + 1), (n,): Snyder 1987, USGS PP 1395, equation 3-12."""
    a, _, _, _, e, f = grid.transform
    sine = np.sin(np.clip((f + e * rows) * unit, -np.pi / 2, np.pi / 2))
    eccentricity = np.sqrt(geod.es)
    # Twice the area from the equator, over the radian of longitude and the squared minor axis.
    zone = sine / (1 - geod.es * sine**2)
    zone += np.arctanh(eccentricity * sine) / eccentricity if eccentricity else sine
    areas: NDArray[np.float64] = np.abs(np.diff(zone)) * abs(a) * unit * geod.b**2 / 2
    return areas


def _middle_pixels(
    grid: Grid, rows: NDArray[np.int64], unit: float, geod: Geod
) -> NDArray[np.float64]:
    """Geodesic area of the middle pixel of each row, (n,)."""
    a, b, c, d, e, f = grid.transform
    columns = grid.width // 2 + np.array([0, 1, 1, 0])
    corners = rows[:, None] + np.array([0, 0, 1, 1])
    longitudes = (a * columns + b * corners + c) * unit
    latitudes = (d * columns + e * corners + f) * unit
    return np.array(
        [
            abs(geod.polygon_area_perimeter(x, y, radians=True)[0])
            for x, y in zip(longitudes, latitudes, strict=True)
        ]
    )


def _horizontal(crs: CRS) -> CRS:
    """The crs without its height, and without the transformation that some carry along."""
    if crs.is_bound and crs.source_crs is not None:
        return _horizontal(crs.source_crs)
    if crs.is_compound:
        return _horizontal(crs.sub_crs_list[0])
    return crs
