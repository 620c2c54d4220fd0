"""Vector files are whole, the same on every run, and read by programs that nobody here wrote."""

import json
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from pyproj import CRS

from segpipe.pipeline import storage
from segpipe.pipeline.errors import FingerprintMismatchError, StorageError
from segpipe.pipeline.maps.qml import polygon_style
from segpipe.pipeline.vectors.features import Features
from segpipe.pipeline.vectors.vector_file import check_destination, write_features
from tests.pipeline.maps import LEGEND

WKT = CRS.from_epsg(32119).to_wkt()
NAMES = np.array(["water", "forêt & <bois>"], object)


def table(count: int, start: int = 0) -> Features:
    """Squares in a row."""
    places = np.arange(start, start + count)
    columns = {
        "value": (places % 2).astype(np.int32),
        "class": NAMES[places % 2],
        "area_m2": np.where(places == 3, np.nan, places * 1.5),
    }
    return Features(shapely.box(places, 0, places + 1, 1), columns)


def write(path: Path, *batches: Features, crs: str | None = WKT) -> Path:
    write_features(path, crs, table(0), batches)
    return path


def read(path: Path) -> list[tuple[Any, ...]]:
    """Rows by rising place."""
    if path.suffix == ".parquet":
        found = pytest.importorskip("geopandas").read_parquet(path)
        shapes, columns = (
            found.geometry.to_wkb().to_numpy(),
            [found[name] for name in found.columns[:3]],
        )
    else:
        _, _, shapes, columns = pyogrio.raw.read(path)
    rows = zip(shapely.from_wkb(shapes), *(column.tolist() for column in columns), strict=True)
    return sorted(((shape.bounds, *values) for shape, *values in rows), key=lambda row: row[0])


@pytest.fixture(params=[".gpkg", ".fgb", ".parquet"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == ".parquet":
        pytest.importorskip("pyarrow")
    return tmp_path / f"areas{request.param}"


@pytest.fixture(params=[".gpkg", ".fgb"])
def gdal_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of a format that every GDAL reads."""
    return tmp_path / f"areas{request.param}"


def test_what_is_written_is_read(path: Path) -> None:
    write(path, table(5), table(0), table(4, start=5))
    rows = read(path)
    assert [row[0] for row in rows] == [(n, 0, n + 1, 1) for n in range(9)]
    assert [row[1] for row in rows] == [n % 2 for n in range(9)]
    assert [row[2] for row in rows] == [NAMES[n % 2] for n in range(9)]
    assert np.isnan(rows.pop(3)[3])
    assert [row[3] for row in rows] == [n * 1.5 for n in range(9) if n != 3]
    assert list(path.parent.iterdir()) == [path]


def test_a_layer_has_a_crs_and_an_index(gdal_path: Path) -> None:
    facts = pyogrio.read_info(write(gdal_path, table(5)), layer="classes")
    assert CRS.from_user_input(facts["crs"]).to_epsg() == 32119
    assert facts["geometry_type"] == "Polygon"
    assert facts["capabilities"]["fast_spatial_filter"]


def test_the_bytes_depend_on_nothing_else(path: Path) -> None:
    first = write(path, table(9)).read_bytes()
    path.unlink()
    assert write(path, table(2), table(7, start=2)).read_bytes() == first


def test_a_style_is_the_same_bytes_too(tmp_path: Path) -> None:
    written = []
    for name in ("a.gpkg", "b.gpkg"):
        style = polygon_style(LEGEND, "value")
        write_features(tmp_path / name, WKT, table(0), [table(3)], style)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    layers = pyogrio.list_layers(tmp_path / "a.gpkg").tolist()
    assert layers == [["classes", "Polygon"], ["layer_styles", None]]


def test_nothing_to_write_is_a_file_without_rows(gdal_path: Path) -> None:
    path = write(gdal_path)
    facts = pyogrio.read_info(path, force_feature_count=True)
    assert (facts["features"], facts["fields"].tolist()) == (0, ["value", "class", "area_m2"])


@pytest.mark.filterwarnings("error")
def test_a_map_without_a_crs_gives_polygons_without_one(gdal_path: Path) -> None:
    path = write(gdal_path, table(2), crs=None)
    crs = pyogrio.read_info(path)["crs"]
    # A GeoPackage calls it undefined.
    assert crs is None or CRS.from_user_input(crs).to_authority() is None
    assert len(read(path)) == 2


def test_a_geopackage_says_no_time(tmp_path: Path) -> None:
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    path = write(tmp_path / "a.gpkg", table(2))
    assert b"1970-01-01T00:00:00" in path.read_bytes()
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") == before


# Other programs

_QGIS = """
import json, os, sys
from qgis.core import QgsApplication, QgsVectorLayer
application = QgsApplication([], False)
application.initQgis()
layer = QgsVectorLayer(sys.argv[1], "areas")
renderer = layer.renderer()
categories = renderer.categories() if renderer.type() == "categorizedSymbol" else []
names = sorted({feature["class"] for feature in layer.getFeatures()})
print(json.dumps({
    "valid": layer.isValid(),
    "epsg": layer.crs().authid(),
    "features": layer.featureCount(),
    "fields": [field.name() for field in layer.fields() if field.name() != "fid"],
    "names": names,
    "style": [[int(c.value()), c.label(), c.symbol().color().name()] for c in categories],
}), flush=True)
os._exit(0)
"""


STYLE = [[entry.value, entry.name, entry.color] for entry in LEGEND.entries]


def test_the_systems_ogrinfo_reads_it(gdal_path: Path) -> None:
    if not shutil.which("ogrinfo"):
        pytest.skip("GDAL's programs aren't here")
    write(gdal_path, table(5))
    command = ["ogrinfo", "-so", str(gdal_path), "classes"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Warning" not in done.stderr
    for line in ("Feature Count: 5", "Geometry: Polygon", "class: String", "area_m2: Real"):
        assert line in done.stdout


def test_qgis_opens_it(gdal_path: Path) -> None:
    python = shutil.which("python3", path="/usr/bin")
    probe = [python or "", "-c", "import qgis.core"]
    if python is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("there is no QGIS")
    write_features(gdal_path, WKT, table(0), [table(5)], polygon_style(LEGEND, "value"))
    done = subprocess.run(
        [python, "-c", _QGIS, str(gdal_path)],
        env={"QT_QPA_PLATFORM": "offscreen", "HOME": str(gdal_path.parent), "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "valid": True,
        "epsg": "EPSG:32119",
        "features": 5,
        "fields": ["value", "class", "area_m2"],
        "names": sorted(NAMES),
        "style": STYLE if gdal_path.suffix == ".gpkg" else [],
    }


# What goes wrong


class StoppedError(Exception):
    """A process that is killed."""


def test_killed_at_any_step_the_file_is_the_old_one_or_the_new(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = write(path, table(1)).read_bytes(), write(path, table(9)).read_bytes()
    steps: list[str] = []
    monkeypatch.setattr(storage, "step", lambda action, place: steps.append(action))
    write(path, table(9))
    for last in range(len(steps)):
        path.write_bytes(old)
        left = iter(range(last))

        def stop(action: str, place: Path, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise StoppedError

        monkeypatch.setattr(storage, "step", stop)
        with pytest.raises(StoppedError):
            write(path, table(9))
        assert path.read_bytes() in (old, new)
        monkeypatch.setattr(storage, "step", lambda action, place: None)
        assert write(path, table(9)).read_bytes() == new
        assert list(path.parent.iterdir()) == [path]


def test_an_error_on_the_way_leaves_what_was_there(path: Path) -> None:
    old = write(path, table(1)).read_bytes()

    def batches() -> Iterator[Features]:
        yield table(3)
        raise KeyError("a damaged map")

    with pytest.raises(KeyError):
        write_features(path, WKT, table(0), batches())
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_one_line(path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, limits[1]))
    try:
        with pytest.raises(StorageError) as caught:
            write(path, *(table(5000, start) for start in range(0, 50_000, 5000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not list(path.parent.iterdir())


def test_what_stands_there_is_kept(path: Path) -> None:
    check_destination(path, overwrite=False)
    write(path, table(1))
    check_destination(path, overwrite=True)
    with pytest.raises(FingerprintMismatchError, match="exists; choose another name, or replace"):
        check_destination(path, overwrite=False)
    with pytest.raises(StorageError, match="make the folder"):
        check_destination(path.parent / "nowhere" / path.name, overwrite=False)
    with pytest.raises(StorageError, match="isn't a file"):
        check_destination(path.parent, overwrite=True)
