"""Polygons in vector files (OGR sources), burnt onto a grid one window at a time."""

import itertools
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.enums import TransformDirection
from pyproj.exceptions import ProjError
from rasterio.features import rasterize

from segpipe.pipeline.errors import CorruptInputError, InputRefusedError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.vectors import ogr
from segpipe.pipeline.window import Window

Bounds = tuple[float, float, float, float]
"""Least x, least y, greatest x, greatest y."""

_SNAP = 256
"""Corners lie on this fraction of a pixel: sums of such numbers are exact, so that an edge through
a pixel's centre falls to the same side in every window."""

_EDGE = 64
"""Pixels; longer edges get more corners before they're reprojected, as a line bends then."""

_MOST_EDGES = 4096

_MANY = 1000
"""Shapes with more corners are trimmed to a window: GDAL tries every edge on every row."""

_HEAD = 1 << 16
# By these words GDAL takes a file for a program or a web service, or asks an address for its crs.
_CALLS = re.compile(rb'<OGRVRT|<OGRWFS|gdal_streamed_alg|"crs"\s*:\s*\{[^{}]*"link"')

# Second line of defence, of the same kind as the one in `raster`; but pyogrio may bring a GDAL of
# its own.
_SETTINGS = {
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
    "GDAL_HTTP_PROXY": "127.0.0.1:9",
    "GDAL_HTTP_MAX_RETRY": "0",
    "OGR_SQLITE_LIST_VIRTUAL_OGR": "NO",
}

_THIN = ("Point", "LineString", "Curve", "geometry")
"""Kinds of geometry without an area, by how their names end."""

_FAILURES = (
    *ogr.ERRORS,
    shapely.errors.ShapelyError,
    ProjError,
    OSError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Polygons:
    """A layer of polygons and the column that tells what they stand for; no features, no handle.

    Attributes:
        path: the file, absolute.
        layer: its name in the file.
        crs: in which the corners are given, WKT 2.
        bounds: of all features, in that crs.
        columns: names of all columns.
        attribute: the column with the value, or None where every polygon stands for 1.
        names: the value of every name that the column may hold, where it holds text.
    """

    path: str
    layer: str
    crs: str
    bounds: Bounds
    columns: tuple[str, ...]
    attribute: str | None = None
    names: tuple[tuple[str, int], ...] = ()


class _Kind(NamedTuple):
    """How files with a suffix begin, and the drivers of GDAL that may read them."""

    signatures: tuple[bytes, ...]
    drivers: tuple[str, ...]
    options: Mapping[str, str] = {}


# Other drivers may fetch addresses, run programs or open other files.
_KINDS = {
    ".gpkg": _Kind((b"SQLite format 3\0",), ("GPKG",)),
    ".shp": _Kind((b"\0\0\x27\x0a",), ("ESRI Shapefile",)),
    ".fgb": _Kind((b"fgb",), ("FlatGeobuf",)),
    ".geojson": _Kind((b"{",), ("GeoJSON", "GeoJSONSeq")),
    ".json": _Kind((b"{",), ("GeoJSON", "GeoJSONSeq")),
    ".geojsonl": _Kind((b"{",), ("GeoJSON", "GeoJSONSeq")),
    ".kml": _Kind((b"<",), ("LIBKML", "KML")),
    ".gml": _Kind((b"<",), ("GML",), {"DOWNLOAD_SCHEMA": "NO", "WRITE_GFS": "NO"}),
}


def is_polygons(path: str | Path) -> bool:
    """Whether this name is one of a vector file; nothing is opened."""
    return Path(path).suffix.lower() in _KINDS


def open_polygons(
    path: str | Path,
    attribute: str | None = None,
    *,
    layer: str | None = None,
    names: Mapping[str, int] | None = None,
) -> Polygons:
    """The polygons in a vector file; its features are read when they're burnt.

    Args:
        path: a GeoPackage, Shapefile, FlatGeobuf, GeoJSON, KML or GML file.
        attribute: the column with the class value: whole numbers, or text.
        layer: which of several layers; the only one with polygons by default.
        names: the value of every text that the column may hold; digits need none.

    Raises:
        InputRefusedError: the file isn't there, isn't of these kinds, or has no such layer, no
            polygons, no crs or no such column.
    """
    place = Path(path).absolute()
    kind = _sniff(place)
    with _reading(place, InputRefusedError):
        chosen = layer or _only_layer(place)
        facts = pyogrio.read_info(
            place, chosen, force_feature_count=True, force_total_bounds=True, **kind.options
        )
    if facts["driver"] not in kind.drivers:
        raise InputRefusedError(
            f"{place}: GDAL takes it for {facts['driver']}, expected {kind.drivers[0]}; "
            f"{_convert(place)}"
        )
    shapes = facts["geometry_type"] or "no geometry"
    if not facts["features"] or shapes.removesuffix(" Z").endswith(_THIN):
        raise InputRefusedError(
            f"{place}: no polygons in the layer {chosen}: it has {facts['features']} features "
            f"({shapes}); name another file"
        )
    _check_column(place, facts, attribute, names)
    west, south, east, north = map(float, facts["total_bounds"])
    return Polygons(
        str(place),
        chosen,
        _crs(place, facts["crs"]),
        (west, south, east, north),
        tuple(map(str, facts["fields"])),
        attribute,
        tuple((names or {}).items()),
    )


def check_overlap(polygons: Polygons, grid: Grid) -> None:
    """Nothing, where the polygons' bounds and the grid have ground in common.

    Raises:
        InputRefusedError: they haven't, or the grid has no crs or one that can't be reached.
    """
    reach = _reach(polygons, grid, grid.window)
    here = polygons.bounds
    if reach[0] > here[2] or here[0] > reach[2] or reach[1] > here[3] or here[1] > reach[3]:
        raise InputRefusedError(
            f"{polygons.path}: doesn't touch the raster: the polygons lie within "
            f"{_shown(here)}, the raster within {_shown(reach)} of the same crs; "
            "name polygons of this place, or give them their right crs"
        )


def burn(
    polygons: Polygons, grid: Grid, window: Window
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Class values (row, column) of a window of the grid, and where a polygon gives one.

    A pixel belongs to the polygon that holds its centre; where several do, to the one with the
    highest feature id: the last one of the file, whose order FlatGeobuf's writers change. Polygons
    whose column is empty are left out. Corners are reprojected and snapped to 1/256 of a pixel, so
    that windows agree with the whole. Only features near the window are in memory; formats with a
    spatial index (GeoPackage, FlatGeobuf) find them without reading the others.

    Raises:
        InputRefusedError: the grid has no crs or one that can't be reached, or the column holds
            something else than classes.
        CorruptInputError: the features can't be read.
    """
    shapes, values = _features(polygons, _reach(polygons, grid, _enlarged(window)))
    # Places in the list are burnt, not values: GDAL can't burn every 64-bit number.
    places = _burnt(_in_pixels(shapes, polygons, grid), range(1, len(shapes) + 1), window, np.int32)
    return np.concatenate([[0], values])[places], places > 0


def shapes_in_pixels(polygons: Polygons, grid: Grid) -> NDArray[np.object_]:
    """All polygons near the grid, with columns for x and rows for y, from the grid's origin.

    Corners are reprojected and snapped as by `burn`. All of them are in memory.

    Raises:
        InputRefusedError: the grid has no crs or one that can't be reached.
        CorruptInputError: the features can't be read.
    """
    shapes, _ = _features(polygons, _reach(polygons, grid, _enlarged(grid.window)))
    return _in_pixels(shapes, polygons, grid)


def burn_shapes(shapes: NDArray[np.object_], window: Window) -> NDArray[np.bool_]:
    """Where one of these shapes (see `shapes_in_pixels`) holds a pixel's centre, (row, column)."""
    return _burnt(shapes, itertools.repeat(1), window, np.uint8) > 0


def _burnt(
    shapes: NDArray[np.object_],
    values: Iterable[int],
    window: Window,
    dtype: type[np.uint8] | type[np.int32],
) -> NDArray[np.integer[Any]]:
    """The values of the shapes in a window, (row, column); the last one's where several lie."""
    corners = shapely.get_num_coordinates(shapes)
    light = np.array(
        [
            _trimmed(shape, window) if count > _MANY else shape
            for shape, count in zip(shapes, corners, strict=True)
        ],
        object,
    )
    shifted = shapely.transform(light, lambda corners: corners - (window.left, window.top))
    burnt = np.zeros(window.shape, dtype)
    pairs = [pair for pair in zip(shifted, values, strict=False) if not pair[0].is_empty]
    if pairs:
        rasterize(pairs, out=burnt)
    return burnt


def _trimmed(shape: shapely.Geometry, window: Window) -> shapely.MultiPolygon:
    """A shape with few corners outside of a window that is burnt into it the same.

    Of corners in a row that lie beyond one side of the window only the first and the last are kept.
    What joins these lies beyond that side too, and crosses a line of pixels as often as what it
    stands for, or an even number of times less: GDAL fills even against odd.
    """
    parts = []
    for part in shapely.get_parts(shape):
        rings = []
        for ring in shapely.get_rings(part):
            corners = shapely.get_coordinates(ring)[:-1]
            x, y = corners.T
            beyond = [x < window.left - 1, x > window.right + 1, y < window.top - 1]
            side = np.select([*beyond, y > window.bottom + 1], [1, 2, 3, 4], 0)
            idle = (side > 0) & (side == np.roll(side, 1)) & (side == np.roll(side, -1))
            if not idle.all():
                rings.append(corners[~idle])
        if rings:
            parts.append(shapely.Polygon(rings[0], rings[1:]))
    return shapely.MultiPolygon(parts)


def _sniff(path: Path) -> _Kind:
    """How this file may be read, by its suffix and its first bytes."""
    if not path.is_file():
        found = "isn't a file" if path.exists() else "doesn't exist"
        raise InputRefusedError(f"{path}: {found}; name a file of polygons")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise InputRefusedError(f"{path}: can't be read: {error.strerror}") from error
    kind = _KINDS.get(path.suffix.lower())
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if kind is None or _CALLS.search(head) or not start.startswith(kind.signatures):
        raise InputRefusedError(
            f"{path}: not a file of polygons that is read here (GeoPackage, Shapefile, "
            f"FlatGeobuf, GeoJSON, KML, GML); {_convert(path)}"
        )
    return kind


def _only_layer(path: Path) -> str:
    layers = [str(name) for name, geometry in pyogrio.list_layers(path) if geometry is not None]
    if len(layers) != 1:
        found = ", ".join(layers) or "none"
        raise InputRefusedError(
            f"{path}: one layer of polygons is taken, found {found}; "
            f"write the one that is meant: ogr2ogr OUT.gpkg {path.name} LAYER"
        )
    return layers[0]


def _crs(path: Path, found: str | None) -> str:
    if found is None:
        raise InputRefusedError(
            f"{path}: has no crs, so nobody knows where its polygons lie; give it the right one: "
            f"ogr2ogr -a_srs EPSG:CODE OUT.gpkg {path.name}"
        )
    with _reading(path, InputRefusedError):
        return str(CRS.from_user_input(found).to_wkt())


def _check_column(
    path: Path, facts: Mapping[str, Any], attribute: str | None, names: Mapping[str, int] | None
) -> None:
    """Refuses a column that isn't there or can't hold classes."""
    if attribute is None:
        return
    columns = dict(zip(facts["fields"].tolist(), facts["dtypes"].tolist(), strict=True))
    if attribute not in columns:
        raise InputRefusedError(
            f"{path}: no column is called {attribute!r}; it has {', '.join(columns) or 'none'}"
        )
    if np.dtype(columns[attribute]).kind not in "iufO":
        raise InputRefusedError(
            f"{path}: the column {attribute} holds {columns[attribute]}, expected whole numbers "
            f"or names; it has {', '.join(columns)}"
        )


def _features(polygons: Polygons, reach: Bounds) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """The shapes near a rectangle of the polygons' crs and their values, by rising id."""
    path = Path(polygons.path)
    with _reading(path, CorruptInputError):
        _, ids, encoded, columns = pyogrio.raw.read(
            path,
            polygons.layer,
            columns=[polygons.attribute] if polygons.attribute else [],
            force_2d=True,
            bbox=reach,
            return_fids=True,
            **_sniff(path).options,
        )
        shapes = shapely.from_wkb(encoded)
    kinds = shapely.get_type_id(shapes)
    taken = np.isin(kinds, (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON))
    values = np.ones(len(shapes), np.int64)
    if polygons.attribute:
        values, named = _values(polygons, columns[0])
        taken &= named
    order = np.argsort(ids[taken], kind="stable")
    return shapes[taken][order], values[taken][order]


def _values(
    polygons: Polygons, column: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The class value of every feature, and whether it has one."""
    if column.dtype.kind == "O":
        return _named_values(polygons, column)
    known = np.isfinite(column)
    values = np.where(known, column, 0).astype(np.int64)
    if fractions := column[known & (values != column)].tolist():
        raise InputRefusedError(
            f"{polygons.path}: the column {polygons.attribute} holds {fractions[0]:g}, expected "
            "whole numbers; name the column with the class"
        )
    return values, known


def _named_values(
    polygons: Polygons, column: NDArray[np.object_]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    table = {name.strip().casefold(): value for name, value in polygons.names}
    values, known = np.zeros(len(column), np.int64), np.zeros(len(column), np.bool_)
    for place, text in enumerate(column):
        word = str(text).strip().casefold() if text is not None else ""
        if not word:
            continue
        if word not in table and not (word.isascii() and word.isdigit()):
            expected = ", ".join(name for name, _ in polygons.names) or "whole numbers"
            raise InputRefusedError(
                f"{polygons.path}: the column {polygons.attribute} holds {text!r:.80}, "
                f"expected {expected}; name the column with the class, or correct it"
            )
        values[place] = table[word] if word in table else int(word)
        known[place] = True
    return values, known


def _reach(polygons: Polygons, grid: Grid, window: Window) -> Bounds:
    """Bounds of a window in the polygons' crs."""
    rows = np.array([window.top, window.top, window.bottom, window.bottom])
    columns = np.array([window.left, window.right] * 2)
    a, b, c, d, e, f = grid.transform
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    bounds = float(x.min()), float(y.min()), float(x.max()), float(y.max())
    transformer = _transformer(polygons, grid)
    if transformer is None:
        return bounds
    west, south, east, north = transformer.transform_bounds(
        *bounds, direction=TransformDirection.INVERSE
    )
    if not np.isfinite((west, south, east, north)).all():
        return polygons.bounds
    # Across the antimeridian west is greater than east.
    return (west, south, east, north) if west <= east else (-180.0, south, 180.0, north)


def _enlarged(window: Window) -> Window:
    """A window with a margin, as the bounds of a bent edge are found by samples."""
    rows, columns = window.height // 64 + 2, window.width // 64 + 2
    return Window(
        window.top - rows,
        window.left - columns,
        window.height + 2 * rows,
        window.width + 2 * columns,
    )


def _in_pixels(shapes: NDArray[np.object_], polygons: Polygons, grid: Grid) -> NDArray[np.object_]:
    """The shapes with columns for x and rows for y, counted from the grid's origin."""
    transformer = _transformer(polygons, grid)
    if transformer is not None:
        with _reading(Path(polygons.path), InputRefusedError):
            shapes = _reprojected(shapes, polygons, grid, transformer)
    a, b, c, d, e, f = grid.transform
    inverse = np.linalg.inv([[a, b], [d, e]])

    def to_pixels(corners: NDArray[np.float64]) -> NDArray[np.float64]:
        pixels = (corners - (c, f)) @ inverse.T
        return np.round(pixels * _SNAP) / _SNAP

    snapped: NDArray[np.object_] = shapely.transform(shapes, to_pixels)
    return snapped


def _reprojected(
    shapes: NDArray[np.object_], polygons: Polygons, grid: Grid, transformer: Transformer
) -> NDArray[np.object_]:
    """The shapes in the grid's crs. What is done to a shape doesn't depend on any window."""
    west, south, east, north = _reach(polygons, grid, grid.window)
    width, height = east - west, north - south
    # Far away a projection may have no numbers; nothing there reaches the grid.
    near = west - width, south - height, east + width, north + height
    bounds = shapely.bounds(shapes)
    far = (bounds[:, :2] < near[:2]).any(axis=1) | (bounds[:, 2:] > near[2:]).any(axis=1)
    shapes = shapes.copy()
    shapes[far] = shapely.clip_by_rect(shapes[far], *near)
    pixel = max(width / grid.width, height / grid.height)
    extent = np.ptp(shapely.bounds(shapes).reshape(-1, 2, 2), axis=1).max(axis=1, initial=0)
    shapes = shapely.segmentize(shapes, np.maximum(_EDGE * pixel, extent / _MOST_EDGES))

    def to_grid(corners: NDArray[np.float64]) -> NDArray[np.float64]:
        moved = np.column_stack(transformer.transform(*corners.T))
        if not np.isfinite(moved).all():
            raise _unplaced(polygons)
        return moved

    moved: NDArray[np.object_] = shapely.transform(shapes, to_grid)
    return moved


def _transformer(polygons: Polygons, grid: Grid) -> Transformer | None:
    """From the polygons' crs to the grid's, x before y; None where they're one."""
    if grid.crs is None:
        raise InputRefusedError(
            f"{polygons.path}: the raster has no crs, so polygons can't be laid over it; "
            "give it one: gdal_edit.py -a_srs EPSG:CODE"
        )
    source, target = CRS.from_wkt(polygons.crs), CRS.from_wkt(grid.crs)
    if source.equals(target, ignore_axis_order=True):
        return None
    try:
        return Transformer.from_crs(source, target, always_xy=True)
    except ProjError as error:
        raise _unplaced(polygons) from error


def _unplaced(polygons: Polygons) -> InputRefusedError:
    return InputRefusedError(
        f"{polygons.path}: its crs can't be brought to the raster's; bring the polygons there "
        "first: ogr2ogr -t_srs"
    )


@contextmanager
def _reading(path: Path, kind: type[InputRefusedError | CorruptInputError]) -> Iterator[None]:
    """GDAL's errors as one line; GDAL's network is shut meanwhile, and then as it was."""
    # What GDAL warns of either matters not or comes as an error.
    with ogr.settings(_SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            yield
        except _FAILURES as error:
            reason = " ".join(str(error).split())[:200]
            raise kind(
                f"{path}: the polygons can't be read ({reason}); it may be damaged: get it again"
            ) from error


def _convert(path: Path) -> str:
    return f"convert it first: ogr2ogr OUT.gpkg {path.name}"


def _shown(bounds: Bounds) -> str:
    return "({:.6g}, {:.6g}, {:.6g}, {:.6g})".format(*bounds)
