"""Polygons as GeoParquet 1.1: batch by batch, with the box of each for readers that skip."""

import json
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from segpipe.pipeline.vectors.features import Features

ROWS = 1 << 16
"""Polygons in a row group: what a reader reads or skips at once."""

_GEOMETRY = "geometry"
_BOX = "bbox"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def is_available() -> bool:
    """Whether pyarrow, which writes it, is installed."""
    try:
        import_module("pyarrow.parquet")
    except ImportError:
        return False
    return True


def write_geoparquet(
    path: Path, crs: str | None, empty: Features, batches: Iterable[Features]
) -> int:
    """Writes polygons, outer rings counter-clockwise, into a new file; gives how many there are.

    The columns are those of the table (NaN becomes null), `geometry` in WKB, and `bbox`, by which
    readers find the row groups of a place (a covering, GeoParquet 1.1.0). Row groups have `ROWS`
    polygons however large batches are; one group and one batch are in memory.

    Args:
        path: the file.
        crs: WKT 2, or None.
        empty: the columns of a table without rows.
        batches: tables with these columns.

    Raises:
        OSError: the disk refuses.
    """
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    waiting = _table(arrow, empty)
    bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
    with (
        path.open("wb") as file,
        parquet.ParquetWriter(file, waiting.schema, compression="zstd", version="2.6") as writer,
    ):
        for batch in batches:
            if not len(batch.shapes):
                continue
            waiting = arrow.concat_tables([waiting, _table(arrow, batch)])
            whole = len(waiting) // ROWS * ROWS
            if whole:
                writer.write_table(waiting[:whole], row_group_size=ROWS)
                waiting = waiting[whole:].combine_chunks()
            here = shapely.total_bounds(batch.shapes)
            bounds[:2] = np.minimum(bounds[:2], here[:2])
            bounds[2:] = np.maximum(bounds[2:], here[2:])
        writer.write_table(waiting, row_group_size=ROWS)
        writer.add_key_value_metadata({"geo": json.dumps(_metadata(crs, bounds))})
    return int(parquet.read_metadata(path).num_rows)


def _table(arrow: Any, features: Features) -> Any:
    boxes = shapely.bounds(features.shapes)
    columns = {
        name: arrow.array(column, from_pandas=True)
        if column.dtype != object
        else arrow.array(column, arrow.string())
        for name, column in features.columns.items()
    }
    columns[_GEOMETRY] = arrow.array(shapely.to_wkb(features.shapes), arrow.binary())
    columns[_BOX] = arrow.StructArray.from_arrays(
        [arrow.array(np.ascontiguousarray(side)) for side in boxes.T], names=_CORNERS
    )
    return arrow.table(columns)


def _metadata(crs: str | None, bounds: NDArray[np.float64]) -> dict[str, Any]:
    """What https://geoparquet.org/releases/v1.1.0/ asks for under the key `geo`."""
    column = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        # A crs that isn't mentioned would be longitude and latitude.
        "crs": None if crs is None else CRS.from_wkt(crs).to_json_dict(),
        "orientation": "counterclockwise",
        "covering": {_BOX: {corner: [_BOX, corner] for corner in _CORNERS}},
    }
    if np.isfinite(bounds).all():
        column["bbox"] = bounds.tolist()
    return {"version": "1.1.0", "primary_column": _GEOMETRY, "columns": {_GEOMETRY: column}}
