"""GeoParquet is what its standard asks for, in row groups of one size, whatever the batches."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from pyproj import CRS

from segpipe.pipeline.vectors import geoparquet
from segpipe.pipeline.vectors.features import Features
from segpipe.pipeline.vectors.geoparquet import write_geoparquet

parquet = pytest.importorskip("pyarrow.parquet")
geopandas = pytest.importorskip("geopandas")

WKT = CRS.from_epsg(32119).to_wkt()


def table(count: int, start: int = 0) -> Features:
    """Squares in a row."""
    places = np.arange(start, start + count)
    columns = {
        "value": places.astype(np.int32),
        "class": np.array([f"n\u00b0 {place}" for place in places], object),
        "area_m2": np.where(places == 3, np.nan, places * 1.5),
    }
    return Features(shapely.box(places, 0, places + 1, 1), columns)


def metadata(path: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(parquet.read_metadata(path).metadata[b"geo"])
    return told


def test_the_metadata_are_those_of_the_standard(tmp_path: Path) -> None:
    """https://geoparquet.org/releases/v1.1.0/schema.json, the parts that hold for polygons."""
    path = tmp_path / "a.parquet"
    assert write_geoparquet(path, WKT, table(0), [table(4), table(5, start=4)]) == 9
    told = metadata(path)
    assert told["version"] == "1.1.0"
    assert told.keys() == {"version", "primary_column", "columns"}
    assert told["columns"].keys() == {told["primary_column"]} == {"geometry"}
    column = told["columns"]["geometry"]
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["Polygon"]
    assert column["orientation"] == "counterclockwise"
    assert column["bbox"] == [0, 0, 9, 1]
    assert CRS.from_json_dict(column["crs"]).to_epsg() == 32119
    schema = parquet.read_schema(path)
    assert str(schema.field("geometry").type) == "binary"
    for corner, place in column["covering"]["bbox"].items():
        assert place == ["bbox", corner]
        assert str(schema.field("bbox").type.field(corner).type) == "double"
    assert column["covering"]["bbox"].keys() == {"xmin", "ymin", "xmax", "ymax"}


def test_the_boxes_are_those_of_the_polygons(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_geoparquet(path, WKT, table(0), [table(9)])
    for row in parquet.read_table(path).to_pylist():
        shape = shapely.from_wkb(row["geometry"])
        assert shape.exterior.is_ccw
        assert shape.bounds == tuple(row["bbox"].values())
        assert row["area_m2"] == (None if row["value"] == 3 else row["value"] * 1.5)
    near = geopandas.read_parquet(path, bbox=(2.2, 0, 3.5, 1))
    assert near["value"].tolist() == [2, 3]
    assert near.crs.to_epsg() == 32119


def test_row_groups_have_one_size_whatever_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geoparquet, "ROWS", 4)
    written = []
    for sizes in ((13,), (1,) * 13, (3, 0, 9, 1)):
        path = tmp_path / f"{len(sizes)}.parquet"
        starts = np.cumsum([0, *sizes]).tolist()
        batches = [table(size, start) for size, start in zip(sizes, starts, strict=False)]
        assert write_geoparquet(path, WKT, table(0), batches) == 13
        found = parquet.read_metadata(path)
        groups = [found.row_group(index).num_rows for index in range(found.num_row_groups)]
        assert groups == [4, 4, 4, 1]
        written.append(path.read_bytes())
    assert len(set(written)) == 1


def test_without_a_crs_and_without_polygons(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    assert write_geoparquet(path, None, table(0), []) == 0
    column = metadata(path)["columns"]["geometry"]
    # Left out, it would be longitude and latitude.
    assert column["crs"] is None
    assert "bbox" not in column
    found = geopandas.read_parquet(path)
    assert (len(found), found.crs) == (0, None)
