"""Polygons burnt window by window are those that GDAL burns whole; their files do no harm."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
import rasterio.features
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.pipeline.vectors import polygons as polygons_module
from segpipe.pipeline.vectors.polygons import Polygons, burn, check_overlap, open_polygons
from segpipe.pipeline.window import Window

CRS = "EPSG:32119"
# A pixel's side that no binary number holds: corners on centres come out a little beside them.
GRID = Grid(40, 30, (28.3, 0.0, 630534.1, 0.0, -28.3, 228114.7), pyproj.CRS(CRS).to_wkt())
HERE = "EPSG:4326"
Shape = Any
Corners = Sequence[tuple[float, float]]


def write(
    path: Path,
    shapes: Sequence[Shape],
    crs: str | None = CRS,
    **columns: Sequence[object],
) -> Path:
    """A vector file whose columns are named by the keywords."""
    pyogrio.raw.write(
        path,
        geometry=shapely.to_wkb(np.array(shapes, object)),
        field_data=[np.array(values) for values in columns.values()],
        fields=list(columns),
        geometry_type=shapes[0].geom_type,
        crs=crs,
        driver="LIBKML" if path.suffix == ".kml" else None,
    )
    return path


def in_crs(corners: Corners) -> Shape:
    """A polygon whose corners are given as (column, row) of the grid."""
    a, _, c, _, e, f = GRID.transform
    return shapely.Polygon([(c + a * column, f + e * row) for column, row in corners])


def square(left: float, top: float, side: float) -> Shape:
    return in_crs([(left, top), (left + side, top), (left + side, top + side), (left, top + side)])


def whole(polygons: Polygons, grid: Grid = GRID) -> NDArray[np.int64]:
    """The classes of the whole grid, -1 where there are none."""
    values, known = burn(polygons, grid, grid.window)
    return np.where(known, values, -1)


def reference(layer: Sequence[tuple[Corners, int]]) -> NDArray[np.int64]:
    """The same by one call of rasterio, in pixels, where no rounding moves a corner."""
    burnt = rasterio.features.rasterize(
        [(shapely.Polygon(corners), value) for corners, value in layer],
        out_shape=GRID.shape,
        fill=-1,
        dtype="int32",
    )
    return np.asarray(burnt, np.int64)


# Eighths of a pixel: corners at centres and on edges come up all the time.
coordinate = st.integers(-60, 380).map(lambda eighths: eighths / 8)
corners = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=6)
layers = st.lists(st.tuples(corners, st.integers(0, 300)), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(layers)
def test_they_are_burnt_as_gdal_burns_them(
    tmp_path_factory: pytest.TempPathFactory, layer: list[tuple[Corners, int]]
) -> None:
    shapes, values = zip(*((in_crs(corners), value) for corners, value in layer), strict=True)
    path = write(tmp_path_factory.mktemp("p") / "a.gpkg", shapes, value=values)
    np.testing.assert_array_equal(whole(open_polygons(path, "value")), reference(layer))


@settings(max_examples=30, deadline=None)
@given(layers, st.sampled_from([CRS, HERE, "EPSG:3857"]), st.integers(1, 40), st.integers(1, 30))
def test_windows_give_what_the_whole_gives(
    tmp_path_factory: pytest.TempPathFactory,
    layer: list[tuple[Corners, int]],
    crs: str,
    down: int,
    across: int,
) -> None:
    shapes = [moved(in_crs(corners), crs) for corners, _ in layer]
    values = [value for _, value in layer]
    path = tmp_path_factory.mktemp("p") / "a.gpkg"
    polygons = open_polygons(write(path, shapes, crs, value=values), "value")
    pieced = np.zeros(GRID.shape, np.int64)
    for window in partition(down, across):
        burnt, known = burn(polygons, GRID, window)
        pieced[window.slices] = np.where(known, burnt, -1)
    np.testing.assert_array_equal(pieced, whole(polygons))


def moved(shape: Shape, crs: str, source: str = CRS) -> Shape:
    return shapely.geometry.shape(rasterio.warp.transform_geom(source, crs, shape))


def partition(down: int, across: int) -> Iterator[Window]:
    """Four windows or fewer that share the grid between them."""
    height, width = GRID.shape
    for top, bottom in ((0, down), (down, height)):
        for left, right in ((0, across), (across, width)):
            if top < bottom and left < right:
                yield Window(top, left, bottom - top, right - left)


def test_real_polygons_of_another_datum(examples: Path, tmp_path: Path) -> None:
    """Against GDAL's own tools: ogr2ogr's reprojection, rasterio's burning."""
    scene = open_scene(examples / "landsat7-nc-2000.tif")
    polygons = open_polygons(examples / "landsat96_polygons.shp", "id")
    check_overlap(polygons, scene.grid)
    _, _, shapes, columns = pyogrio.raw.read(polygons.path, columns=["id"])
    assert scene.grid.crs is not None
    with rasterio.open(examples / "landsat7-nc-2000.tif") as raster:
        expected = rasterio.features.rasterize(
            [
                (rasterio.warp.transform_geom("EPSG:3358", raster.crs, shape), value)
                for shape, value in zip(shapely.from_wkb(shapes), columns[0], strict=True)
            ],
            out_shape=raster.shape,
            transform=raster.transform,
            fill=0,
            dtype="int32",
        )
    values, known = burn(polygons, scene.grid, scene.grid.window)
    assert (np.where(known, values, 0) != expected).sum() <= 2  # of 2258: corners are snapped
    assert np.bincount(values[known]).tolist() == [0, 344, 46, 473, 203, 785, 350, 57]


@pytest.mark.skipif(not shutil.which("gdal_rasterize"), reason="GDAL's programs aren't here")
def test_gdal_rasterize_agrees(tmp_path: Path) -> None:
    shapes = [square(2.3, 3.7, 9.4), in_crs([(0, 0), (25.1, 7.2), (8.4, 33.3)])]
    polygons = open_polygons(write(tmp_path / "a.gpkg", shapes, value=[5, 9]), "value")
    west, south, east, north = (GRID.transform[2], 0.0, 0.0, GRID.transform[5])
    east, south = west + 28.3 * 30, north - 28.3 * 40
    extent = [str(number) for number in (west, south, east, north)]
    command = ["gdal_rasterize", "-q", "-a", "value", "-ts", "30", "40", "-te", *extent]
    subprocess.run(
        [*command, "-init", "-1", "-ot", "Int32", polygons.path, str(tmp_path / "a.tif")],
        check=True,
    )
    with rasterio.open(tmp_path / "a.tif") as raster:
        np.testing.assert_array_equal(whole(polygons), raster.read(1))


def test_the_last_one_wins_and_empty_columns_are_left_out(tmp_path: Path) -> None:
    shapes = [square(0, 0, 10), square(5, 0, 10), square(8, 0, 10)]
    path = write(tmp_path / "a.geojson", shapes, value=[3.0, 4.0, np.nan], crs=CRS)
    labels = whole(open_polygons(path, "value"))
    assert labels[0, :17].tolist() == [3] * 5 + [4] * 10 + [-1] * 2


def test_without_a_column_everything_is_one(tmp_path: Path) -> None:
    labels = whole(open_polygons(write(tmp_path / "a.gpkg", [square(1, 1, 2)])))
    assert labels[0:4, 0:4].tolist() == [
        [-1, -1, -1, -1],
        [-1, 1, 1, -1],
        [-1, 1, 1, -1],
        [-1, -1, -1, -1],
    ]


def test_names_stand_for_values(tmp_path: Path) -> None:
    shapes = [square(0, 0, 2), square(2, 0, 2), square(4, 0, 2), square(6, 0, 2)]
    path = write(tmp_path / "a.gpkg", shapes, kind=["Forest", "water ", "17", ""])
    names = {"forest": 0, "water": 4}
    labels = whole(open_polygons(path, "kind", names=names))
    assert labels[0, :8].tolist() == [0, 0, 4, 4, 17, 17, -1, -1]
    with pytest.raises(InputRefusedError, match="holds 'Forest', expected water; name the column"):
        whole(open_polygons(path, "kind", names={"water": 4}))


def test_they_travel_by_name(tmp_path: Path) -> None:
    polygons = open_polygons(write(tmp_path / "a.gpkg", [square(1, 1, 20)]))
    data = pickle.dumps(polygons)
    assert pickle.loads(data) == polygons
    assert len(data) < 10_000


def test_only_what_lies_near_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [square(column, row, 0.9) for column in range(30) for row in range(40)]
    polygons = open_polygons(write(tmp_path / "a.gpkg", shapes))
    read: list[int] = []
    whole_read = pyogrio.raw.read

    def counted(*arguments: Any, **options: Any) -> Any:
        found = whole_read(*arguments, **options)
        read.append(len(found[2]))
        return found

    monkeypatch.setattr(pyogrio.raw, "read", counted)
    burn(polygons, GRID, Window(10, 10, 4, 4))
    assert 16 <= read[0] <= 9 * 9


def test_a_polygon_around_the_world_does_no_harm(tmp_path: Path) -> None:
    world = shapely.box(-180, -90, 180, 90)
    polygons = open_polygons(write(tmp_path / "a.geojson", [world], HERE))
    assert (whole(polygons) == 1).all()


@pytest.mark.parametrize(
    "suffix", [".gpkg", ".shp", ".fgb", ".geojson", ".geojsonl", ".kml", ".gml"]
)
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    shape = moved(square(5, 5, 20), HERE)
    path = write(tmp_path / f"a{suffix}", [shape], HERE)
    before = sorted(tmp_path.iterdir())
    assert (whole(open_polygons(path)) == 1).sum() == 400
    assert sorted(tmp_path.iterdir()) == before


# What is refused


def refusal(path: Path, attribute: str | None = None) -> str:
    with pytest.raises(InputRefusedError) as caught:
        whole(open_polygons(path, attribute))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_what_cant_be_burnt_is_refused(tmp_path: Path) -> None:
    good = write(tmp_path / "good.gpkg", [square(1, 1, 5)], value=[1], share=[0.5])
    assert "doesn't exist; name a file" in refusal(tmp_path / "missing.gpkg")
    assert "isn't a file" in refusal(tmp_path)
    assert "no column is called 'class'; it has value, share" in refusal(good, "class")
    assert "column share holds 0.5, expected whole numbers" in refusal(good, "share")
    assert "has no crs" in refusal(write(tmp_path / "placeless.shp", [square(1, 1, 5)], None))
    table = tmp_path / "table.shp"
    pyogrio.raw.write(
        table,
        geometry=shapely.to_wkb(np.array([], object)),
        field_data=[np.array([], np.int32)],
        fields=["value"],
        geometry_type="Polygon",
        crs=CRS,
    )
    assert "no polygons in the layer table" in refusal(table)
    (tmp_path / "noise.gpkg").write_bytes(b"SQLite format 3\0" + bytes(range(200)))
    assert "can't be read" in refusal(tmp_path / "noise.gpkg")
    line = shapely.LineString([(0, 0), (1, 1)])
    assert "1 features (LineString)" in refusal(write(tmp_path / "line.fgb", [line]))
    for name in ("a.gpkg", "a.geojson", "a.txt"):
        (tmp_path / name).write_text("words")
        assert "not a file of polygons that is read here" in refusal(tmp_path / name)


def test_one_of_several_layers_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gpkg", [square(1, 1, 5)])
    pyogrio.raw.write(
        path,
        layer="second",
        append=True,
        geometry=shapely.to_wkb(np.array([square(1, 1, 3)], object)),
        field_data=[],
        fields=[],
        geometry_type="Polygon",
        crs=CRS,
    )
    assert "found a, second" in refusal(path)
    assert (whole(open_polygons(path, layer="second")) == 1).sum() == 9


def test_polygons_of_another_place_are_refused(tmp_path: Path) -> None:
    polygons = open_polygons(write(tmp_path / "a.gpkg", [square(100, 100, 5)]))
    with pytest.raises(InputRefusedError, match="doesn't touch the raster"):
        check_overlap(polygons, GRID)
    local = 'ENGCRS["a",EDATUM["b"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],UNIT["m",1]]'
    with pytest.raises(InputRefusedError, match="its crs can't be brought to the raster's"):
        check_overlap(polygons, replace(GRID, crs=local))
    nowhere = Grid(GRID.height, GRID.width, GRID.transform, None)
    with pytest.raises(InputRefusedError, match="the raster has no crs"):
        check_overlap(polygons, nowhere)


# What a file may not do

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        open(sys.argv[1], "a").write(self.path + "\\n")
        self.send_error(404)
    do_HEAD = do_GET
    def log_message(self, *words): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@dataclass(frozen=True, slots=True)
class Canary:
    """A server that nobody should visit."""

    url: str
    log: Path

    @property
    def sang(self) -> bool:
        return self.log.exists()


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Canary]:
    monkeypatch.setenv("GDAL_HTTP_TIMEOUT", "5")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    log = tmp_path / "visits.txt"
    command = [sys.executable, "-c", SERVER, str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Canary(f"http://127.0.0.1:{int(process.stdout.readline())}", log)
        process.kill()


FEATURE = {
    "type": "Feature",
    "properties": {},
    "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]},
}
VRT = (
    '<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource>{}/a.geojson</SrcDataSource>'
    "</OGRVRTLayer></OGRVRTDataSource>"
)
LINK = json.dumps(
    {
        "type": "FeatureCollection",
        "crs": {"type": "link", "properties": {"href": "URL/crs", "type": "ogcwkt"}},
        "features": [FEATURE],
    }
)
PROGRAM = '{"type": "gdal_streamed_alg", "command_line": "gdal vector pipeline read URL/a.json"}'
WFS = "<OGRWFSDataSource><URL>{}/wfs</URL></OGRWFSDataSource>"
SCHEMA = (
    '<?xml version="1.0"?><g:FeatureCollection xmlns:g="http://ogr.maptools.org/" '
    'xmlns:gml="http://www.opengis.net/gml" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
    'xsi:schemaLocation="http://ogr.maptools.org/ {}/a.xsd"/>'
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.vrt", VRT),
        ("a.kml", VRT),
        ("a.gml", "\n" + VRT),
        ("a.gml", WFS),
        ("a.gml", SCHEMA),
        ("a.geojson", LINK),
        ("a.json", PROGRAM),
        ("a.gdalg.json", PROGRAM),
    ],
)
def test_files_that_call_out_are_refused(
    tmp_path: Path, canary: Canary, name: str, text: str
) -> None:
    path = tmp_path / name
    path.write_text(text.replace("URL", canary.url).replace("{}", canary.url))
    assert refusal(path)
    assert not canary.sang


def test_the_second_line_holds_alone(
    tmp_path: Path, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDAL's settings keep it at home for a file that nobody vetted, and are then as before."""
    monkeypatch.delenv("NO_PROXY")
    path = tmp_path / "a.geojson"
    path.write_text(LINK.replace("URL", canary.url))
    monkeypatch.setattr(polygons_module, "_CALLS", re.compile(b"(?!)"))
    open_polygons(path)
    assert not canary.sang
    pyogrio.read_info(path)
    assert canary.sang


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/a.gpkg", "/vsicurl/http://127.0.0.1:1/a.gpkg"]
)
def test_addresses_are_no_files(address: str) -> None:
    assert "doesn't exist" in refusal(Path(address))
