"""Polygons in vector files (GeoPackage, FlatGeobuf, GeoParquet): in batches, and whole or not."""

import errno
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely

from segpipe.pipeline import storage
from segpipe.pipeline.errors import FingerprintMismatchError, StorageError
from segpipe.pipeline.vectors import geoparquet, ogr
from segpipe.pipeline.vectors.features import Features

LAYER = "classes"
"""Name of the one layer."""

_GEOMETRY = "geom"
"""Name of the column of shapes in a GeoPackage that GDAL makes."""

_DRIVERS = {".gpkg": "GPKG", ".fgb": "FlatGeobuf"}

PARQUET = ".parquet"
"""Ending of the format that takes pyarrow."""

SUFFIXES = (*_DRIVERS, PARQUET)
"""Endings of files that can be written."""

# GDAL 3.6 warns of anything newer.
_OPTIONS = {"GPKG": {"VERSION": "1.2"}}

_SETTINGS = {
    # A GeoPackage says when it was changed: the same polygons are to be the same bytes.
    "OGR_CURRENT_DATE": "1970-01-01T00:00:00.000Z",
    # What is written here counts only once it is complete, and is synchronised then.
    "OGR_SQLITE_SYNCHRONOUS": "OFF",
}

_FAILURES = (
    *ogr.ERRORS,
    # What GDAL says in its own words; OSError passes by, it has its own.
    RuntimeError,
)
# With less space than this, in bytes, a disk counts as full.
_FULL = 2**20


def check_destination(path: Path, *, overwrite: bool) -> None:
    """Nothing, where a file can be put under this name.

    Raises:
        FingerprintMismatchError: there is a file, and it mustn't be replaced.
        StorageError: there is something else, or the folder can't be written to.
    """
    if path.exists() and not path.is_file():
        raise StorageError(f"{path} isn't a file and can't be replaced; choose another name")
    if path.exists() and not overwrite:
        raise FingerprintMismatchError(
            f"{path} exists; choose another name, or replace it with --overwrite"
        )
    with storage.reported("write into", path.parent):
        if not path.parent.is_dir():
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def write_features(
    path: Path,
    crs: str | None,
    empty: Features,
    batches: Iterable[Features],
    style: bytes | None = None,
) -> None:
    """Puts polygons into the file `path`, whole or not at all; a file that is there is replaced.

    The bytes depend on the arguments alone. One batch is in memory at a time.

    Args:
        path: ends in one of `SUFFIXES`; `.parquet` takes pyarrow.
        crs: WKT 2, or None.
        empty: the columns of a table without rows.
        batches: tables with these columns.
        style: QML that QGIS shall show them with; formats that can't hold it leave it out.

    Raises:
        StorageError: the disk refuses.
    """
    folder = path.with_name(f".{path.name}.part")
    storage.remove(folder)
    counted = _Counted(batches)
    try:
        storage.make_folder(folder)
        finished = folder / path.name
        if path.suffix.lower() == PARQUET:
            with storage.reported("write", path):
                storage.step("write", finished)
                stored = geoparquet.write_geoparquet(finished, crs, empty, counted)
        else:
            stored = _write_with_gdal(path, finished, crs, empty, counted, style)
        if stored != counted.polygons:
            raise StorageError(
                f"{path} would hold {stored:,} of {counted.polygons:,} polygons; check the disk "
                "and type the same command again"
            )
        storage.sync(finished)
        storage.rename(finished, path)
    finally:
        storage.remove(folder)


class _Counted:
    """Batches, and how many polygons those have that were taken."""

    def __init__(self, batches: Iterable[Features]) -> None:
        self._batches = batches
        self.polygons = 0

    def __iter__(self) -> Iterator[Features]:
        for batch in self._batches:
            self.polygons += len(batch.shapes)
            yield batch


def _write_with_gdal(
    path: Path,
    finished: Path,
    crs: str | None,
    empty: Features,
    batches: Iterable[Features],
    style: bytes | None,
) -> int:
    """Writes the file `finished`, which is to stand at `path`; gives how many polygons it has."""
    # A batch can be added to a GeoPackage alone, and without an index in half the time.
    plain = finished.with_name("plain.gpkg")
    with _writing(path):
        storage.step("write", plain)
        _write(plain, crs, empty, append=False)
    for batch in batches:
        with _writing(path):
            storage.step("write", plain)
            _write(plain, crs, batch, append=True)
    with _writing(path):
        storage.step("write", finished)
        _copy(plain, finished, crs)
        if style is not None and finished.suffix.lower() == ".gpkg":
            _add_style(finished, style)
        return int(pyogrio.read_info(finished, LAYER, force_feature_count=True)["features"])


def _write(path: Path, crs: str | None, features: Features, *, append: bool) -> None:
    pyogrio.raw.write(
        path,
        shapely.to_wkb(features.shapes),
        list(features.columns.values()),
        list(features.columns),
        layer=LAYER,
        driver="GPKG",
        geometry_type="Polygon",
        crs=crs,
        append=append,
        layer_options={"SPATIAL_INDEX": "NO"},
    )


def _copy(plain: Path, finished: Path, crs: str | None) -> None:
    driver = _DRIVERS[finished.suffix.lower()]
    with pyogrio.raw.open_arrow(plain, layer=LAYER) as (_, stream):
        pyogrio.raw.write_arrow(
            stream,
            finished,
            layer=LAYER,
            driver=driver,
            geometry_name=_GEOMETRY,
            geometry_type="Polygon",
            crs=crs,
            dataset_options=_OPTIONS.get(driver),
        )


def _add_style(path: Path, style: bytes) -> None:
    """Adds the table in which QGIS looks for the style of a GeoPackage's layer."""
    row: dict[str, tuple[Any, str]] = {
        "f_table_catalog": ("", "object"),
        "f_table_schema": ("", "object"),
        "f_table_name": (LAYER, "object"),
        "f_geometry_column": (_GEOMETRY, "object"),
        "styleName": (LAYER, "object"),
        "styleQML": (style.decode(), "object"),
        "styleSLD": ("", "object"),
        "useAsDefault": (True, "bool"),
        "description": ("", "object"),
        "owner": ("", "object"),
        "ui": ("", "object"),
        "update_time": (np.datetime64(0, "ms"), "datetime64[ms]"),
    }
    pyogrio.raw.write(
        path,
        None,
        [np.array([value], dtype) for value, dtype in row.values()],
        list(row),
        layer="layer_styles",
        driver="GPKG",
        append=True,
        layer_options={"FID": "id"},
    )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """GDAL's settings, and its errors as one line."""
    with (
        ogr.settings(_SETTINGS),
        storage.reported("write", path),
        warnings.catch_warnings(),
    ):
        # A map without a crs gives polygons without one, and whoever made it was told.
        warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            yield
        except _FAILURES as error:
            if storage.free_bytes(path.parent) < _FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            reason = " ".join(str(error).split())[:200]
            raise StorageError(
                f"can't write {path}: {reason}; check the disk and type the same command again"
            ) from error
