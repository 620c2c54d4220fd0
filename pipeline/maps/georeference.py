"""How a Zarr store says where its pixels lie, in the words of each reader.

GDAL from 3.6 on reads `_CRS` with the coordinates `x` and `y`; xarray, rioxarray and odc-geo read
the CF conventions (1.11, sections 4, 5.6 and appendix F); GDAL from 3.12 on reads GeoZarr's `proj:`
and `spatial:` conventions (v0.1) in stores of format 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS

from segpipe.pipeline.grid import Grid

GRID_MAPPING = "spatial_ref"
"""Name of the variable that holds the crs."""

Attributes = dict[str, Any]
"""What a Zarr node says of itself: JSON values by name."""

_CONVENTIONS = {
    "proj": (
        "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "Coordinate reference system information for geospatial data",
    ),
    "spatial": ("689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"),
    "multiscales": ("d35379db-88df-4056-af3a-620245f8e347", "Multiscale layout of zarr datasets"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Coordinate:
    """Where the pixels' centres lie along one dimension, in units of the crs."""

    values: NDArray[np.float64]
    attributes: Attributes


def dimensions(suffix: str = "") -> tuple[str, str]:
    """The names of rows and columns; those of a pyramid's level have a suffix such as `_2x`.

    xarray's trees hand coordinates down to groups below, so the names must differ between levels.
    """
    return f"y{suffix}", f"x{suffix}"


def coordinates(grid: Grid, suffix: str = "") -> Mapping[str, Coordinate]:
    """The coordinates `y` and `x`; none where rows and columns don't run along the crs's axes."""
    a, b, c, d, e, f = grid.transform
    if b != 0 or d != 0:
        return {}
    axes, (y, x) = _cf_axes(grid), dimensions(suffix)
    return {
        y: Coordinate(f + e * _centres(grid.height), axes["Y"]),
        x: Coordinate(c + a * _centres(grid.width), axes["X"]),
    }


def grid_mapping(grid: Grid) -> Attributes:
    """What the grid mapping says: the crs by CF's names and as WKT, and GDAL's `GeoTransform`."""
    a, b, c, d, e, f = grid.transform
    transform = " ".join(repr(float(number)) for number in (c, a, b, f, d, e))
    if grid.crs is None:
        return {"GeoTransform": transform}
    crs = CRS.from_wkt(grid.crs)
    return {**crs.to_cf(), "spatial_ref": grid.crs, "GeoTransform": transform}


def array_attributes(grid: Grid) -> Attributes:
    """What links an array (y, x) to its grid mapping, and GDAL's own `_CRS`."""
    attributes: Attributes = {"grid_mapping": GRID_MAPPING}
    if grid.crs is not None:
        code = _epsg(grid.crs)
        url = {"url": f"http://www.opengis.net/def/crs/EPSG/0/{code}"} if code else {}
        attributes["_CRS"] = {"wkt": grid.crs, **url}
    return attributes


def geozarr_attributes(grid: Grid, suffix: str = "") -> Attributes:
    """GeoZarr's conventions for an array (y, x) of format 3."""
    rows, columns = np.array([0, 0, grid.height, grid.height]), np.array([0, grid.width] * 2)
    a, b, c, d, e, f = grid.transform
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    attributes: Attributes = {
        "spatial:dimensions": list(dimensions(suffix)),
        "spatial:transform": list(grid.transform),
        "spatial:transform_type": "affine",
        "spatial:shape": [grid.height, grid.width],
        "spatial:bbox": [float(v) for v in (x.min(), y.min(), x.max(), y.max())],
        "spatial:registration": "pixel",
    }
    if grid.crs is not None:
        attributes["proj:wkt2"] = grid.crs
        if code := _epsg(grid.crs):
            attributes["proj:code"] = f"EPSG:{code}"
    named = [name for name in _CONVENTIONS if any(key.startswith(name) for key in attributes)]
    return {**attributes, "zarr_conventions": [entry for name in named for entry in _entries(name)]}


def multiscale_attributes(levels: Mapping[str, Grid], resampling: str) -> Attributes:
    """GeoZarr's conventions (multiscales, spatial, proj; v0.1) for the group over a pyramid.

    Args:
        levels: the grids of its arrays by their paths, the finest first; each was made of the one
            before it.
        resampling: how.
    """
    layout: list[Attributes] = []
    for path, grid in levels.items():
        made: Attributes = {"transform": {"scale": [1.0, 1.0]}}
        if layout:
            # Relative to what it was made of.
            transform = {"scale": [2.0, 2.0], "translation": [0.0, 0.0]}
            made = {"derived_from": layout[-1]["asset"], "transform": transform}
        place = {"spatial:shape": list(grid.shape), "spatial:transform": list(grid.transform)}
        layout.append({"asset": path, **made, **place})
    base = geozarr_attributes(next(iter(levels.values())))
    # Shape and transform belong to arrays; here they would be those of one level among several.
    shared = ("spatial:dimensions", "spatial:bbox", "proj:wkt2", "proj:code")
    return {
        **{name: base[name] for name in shared if name in base},
        "multiscales": {"layout": layout, "resampling_method": resampling},
        "zarr_conventions": [_entry("multiscales"), *base["zarr_conventions"]],
    }


def _centres(length: int) -> NDArray[np.float64]:
    return np.arange(length, dtype=np.float64) + 0.5


def _entry(name: str) -> Attributes:
    uuid, description = _CONVENTIONS[name]
    repository = f"zarr-conventions/{name}"
    return {
        "uuid": uuid,
        "schema_url": f"https://raw.githubusercontent.com/{repository}/refs/tags/v0.1/schema.json",
        "spec_url": f"https://github.com/{repository}/blob/v0.1/README.md",
        "name": name,
        "description": description,
    }


def _entries(name: str) -> list[Attributes]:
    # rioxarray 0.23 knows a convention only by the second name.
    return [_entry(name), {**_entry(name), "name": f"{name}:"}]


def _cf_axes(grid: Grid) -> dict[str, Attributes]:
    known = [] if grid.crs is None else CRS.from_wkt(grid.crs).cs_to_cf()
    return {"X": {"axis": "X"}, "Y": {"axis": "Y"}} | {axis["axis"]: axis for axis in known}


def _epsg(wkt: str) -> str | None:
    authority = CRS.from_wkt(wkt).to_authority(min_confidence=100)
    return authority[1] if authority and authority[0] == "EPSG" else None
