"""A Zarr folder is a scene like any other, and runs nothing that it asks for."""

import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segpipe.pipeline.errors import CorruptInputError, InputRefusedError, PipelineError
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.pipeline.window import Window

# Strings in format 3 have no specification yet, and zarr says so.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The data type", "ignore::zarr.errors.ZarrUserWarning"
)

WKT = pyproj.CRS.from_epsg(32621).to_wkt("WKT2_2019")
NOISE = np.random.default_rng(3).integers(1, 900, (3, 100, 120)).astype(np.uint16)
PLACE: dict[str, Any] = {"_CRS": {"wkt": WKT}, "spatial:transform": [30, 0, 5, 0, -30, 7]}
BOTH = pytest.mark.parametrize("version", [2, 3])


def build(path: Path, version: int, pixels: Any = NOISE, **attributes: Any) -> zarr.Group:
    """A group with the array `img`."""
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == 2 else 3)
    dims = ["band", "y", "x"][3 - pixels.ndim :]
    options: dict[str, Any] = {"shape": pixels.shape, "dtype": pixels.dtype, "fill_value": 0}
    if version == 3:
        options["dimension_names"] = dims
    chunks = (1, 32, 48)[3 - pixels.ndim :]
    array = group.create_array("img", chunks=chunks, **options)
    array[:] = pixels
    names = {"_ARRAY_DIMENSIONS": dims} if version == 2 else {}
    array.attrs.update({**names, **attributes})
    return group


def add(group: zarr.Group, name: str, values: Any) -> None:
    data = np.asarray(values)
    array = group.create_array(
        name, shape=data.shape, dtype=str if data.dtype.kind == "U" else "f8"
    )
    array[...] = data


@BOTH
@given(data=st.data())
@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_window_holds_what_zarr_holds(tmp_path: Path, version: int, data: st.DataObject) -> None:
    path = tmp_path / f"{version}.zarr"
    if not path.exists():
        build(path, version, **PLACE)
    bands = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    top, left = data.draw(st.integers(0, 99)), data.draw(st.integers(0, 119))
    height = data.draw(st.integers(1, 100 - top))
    width = data.draw(st.integers(1, 120 - left))
    window = Window(top, left, height, width)
    pixels, valid = open_scene(path, list(map(str, bands))).read(window)
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, NOISE[[band - 1 for band in bands]][:, *window.slices])
    assert valid.all()


@BOTH
def test_a_plane_is_a_scene_of_one_band(tmp_path: Path, version: int) -> None:
    build(tmp_path / "a", version, NOISE[0].astype(">i4"), **PLACE)
    scene = open_scene(tmp_path / "a")
    pixels, _ = scene.read(Window(3, 4, 9, 8))
    np.testing.assert_array_equal(pixels, NOISE[:1, 3:12, 4:12])
    assert (scene.dtype, pixels.dtype.str, scene.block_shape) == ("int32", "<i4", (32, 48))


def test_a_store_that_is_one_array(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a", data=NOISE, chunks=(3, 50, 50), shards=(3, 100, 100))
    array.attrs.update(PLACE)
    scene = open_scene(tmp_path / "a", ["3"])
    np.testing.assert_array_equal(scene.read(scene.grid.window)[0], NOISE[2:])
    assert scene.block_shape == (50, 50)
    assert pickle.loads(pickle.dumps(scene)) == scene
    with ThreadPoolExecutor(8) as pool:
        reads = pool.map(lambda _: scene.read(scene.grid.window)[0], range(32))
        assert all((read == NOISE[2:]).all() for read in reads)


# Where it lies


@BOTH
@pytest.mark.parametrize("kind", ["_CRS", "proj", "code", "url", "cf", "coordinates"])
def test_every_way_to_say_where_it_lies(tmp_path: Path, version: int, kind: str) -> None:
    spatial = {"spatial:transform": [30.0, 0, 5, 0, -30, 7]}
    ways: dict[str, dict[str, Any]] = {
        "_CRS": {"_CRS": {"wkt": WKT}, **spatial},
        "proj": {"proj:wkt2": WKT, **spatial},
        "code": {"proj:code": "EPSG:32621", **spatial},
        "url": {"_CRS": {"url": "http://www.opengis.net/def/crs/EPSG/0/32621"}, **spatial},
        "cf": {"grid_mapping": "where"},
        "coordinates": {"proj:code": "EPSG:32621"},
    }
    group = build(tmp_path / "a", version, **ways[kind])
    if kind == "cf":
        where = group.create_array("where", shape=(), dtype="i4")
        where.attrs.update({"crs_wkt": WKT, "GeoTransform": "5.0 30.0 0.0 7.0 0.0 -30.0"})
    if kind == "coordinates":
        add(group, "x", 5 + 30 * (np.arange(120) + 0.5))
        add(group, "y", 7 - 30 * (np.arange(100) + 0.5))
    scene = open_scene(tmp_path / "a")
    assert scene.grid.transform == pytest.approx((30, 0, 5, 0, -30, 7))
    assert scene.grid.crs is not None
    assert pyproj.CRS.from_wkt(scene.grid.crs) == pyproj.CRS.from_epsg(32621)
    assert scene.warnings == ()


@BOTH
def test_no_place_is_a_remark(tmp_path: Path, version: int) -> None:
    build(tmp_path / "a", version)
    assert [line.split(":")[0] for line in open_scene(tmp_path / "a").warnings] == [
        "a has no crs",
        "a has no transform",
    ]


def test_uneven_coordinates_are_refused(tmp_path: Path) -> None:
    group = build(tmp_path / "a", 2)
    add(group, "x", np.arange(120) ** 1.1)
    add(group, "y", np.arange(100))
    with pytest.raises(InputRefusedError, match="coordinate x isn't evenly spaced"):
        open_scene(tmp_path / "a")


# Names and nodata


@BOTH
def test_bands_are_named_by_their_coordinate_or_long_name(tmp_path: Path, version: int) -> None:
    group = build(tmp_path / "a", version, **PLACE)
    add(group, "band", ["blue", "green", "red"])
    assert open_scene(tmp_path / "a", wanted=("red", "BLUE")).band_indexes == (3, 1)
    build(tmp_path / "b", version, long_name=["b", "g", "r"], **PLACE)
    assert open_scene(tmp_path / "b", ["r"]).band_names == ("r",)


@pytest.mark.parametrize(
    ("version", "attributes", "nodata"),
    [
        (2, {}, 0.0),
        (3, {}, None),
        (2, {"_FillValue": 7}, 7.0),
        (3, {"_FillValue": 7}, 7.0),
        (3, {"_FillValue": "AAAAAAAAHEA="}, 7.0),
        (3, {"_FillValue": "NaN"}, None),
        (3, {"nodata": 7}, 7.0),
    ],
)
def test_nodata_is_what_xarray_says(
    tmp_path: Path, version: int, attributes: dict[str, Any], nodata: float | None
) -> None:
    pixels = np.tile(np.arange(10, dtype=np.float32), (2, 10, 1))
    pixels[1, 4, 4] = np.nan
    build(tmp_path / "a", version, pixels, **PLACE, **attributes)
    scene = open_scene(tmp_path / "a")
    expected = ~((pixels == nodata).any(axis=0) | np.isnan(pixels).any(axis=0))
    assert scene.nodata == (nodata, nodata)
    np.testing.assert_array_equal(scene.read(scene.grid.window)[1], expected)


# Identity


@BOTH
def test_identity_follows_the_bytes_not_the_place(tmp_path: Path, version: int) -> None:
    build(tmp_path / "a", version, **PLACE)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    one, two = open_scene(tmp_path / "a"), open_scene(tmp_path / "b")
    assert one.identity() == two.identity()
    assert one.identity(full=True) == two.identity(full=True)
    assert "tmp" not in json.dumps(one.identity())
    chunk = next(chunk for chunk in chunks(tmp_path / "b"))
    data = bytearray(chunk.read_bytes())
    data[-1] ^= 1
    chunk.write_bytes(data)
    assert one.identity() != two.identity()
    assert one.identity(full=True) != two.identity(full=True)


def chunks(path: Path) -> list[Path]:
    files = (path / "img").rglob("*")
    return sorted(
        file
        for file in files
        if file.is_file() and not file.name.startswith(".") and file.name != "zarr.json"
    )


# What is refused


@BOTH
@pytest.mark.parametrize("keep", [0, 5, 100])
def test_a_damaged_chunk_names_window_and_store(tmp_path: Path, version: int, keep: int) -> None:
    build(tmp_path / "a", version, **PLACE)
    scene = open_scene(tmp_path / "a")
    chunk = chunks(tmp_path / "a")[0]
    chunk.write_bytes(chunk.read_bytes()[:keep])
    with pytest.raises(CorruptInputError, match=r"a: rows 0 to 100, columns 0 to 120 can't be"):
        scene.read(scene.grid.window)


def test_stores_that_are_no_scene(tmp_path: Path) -> None:
    group = build(tmp_path / "two", 2)
    group.create_array("other", shape=(5, 5), dtype="u1")
    with pytest.raises(InputRefusedError, match="found img, other of 2 arrays"):
        open_scene(tmp_path / "two")
    zarr.open_group(tmp_path / "empty", mode="w")
    with pytest.raises(InputRefusedError, match="found none of 0 arrays"):
        open_scene(tmp_path / "empty")
    build(tmp_path / "time", 2).get("img").attrs["_ARRAY_DIMENSIONS"] = ["time", "y", "x"]  # type: ignore[union-attr]
    with pytest.raises(InputRefusedError, match="holds 3 time steps"):
        open_scene(tmp_path / "time")
    build(tmp_path / "last", 2).get("img").attrs["_ARRAY_DIMENSIONS"] = ["y", "x", "band"]  # type: ignore[union-attr]
    with pytest.raises(InputRefusedError, match=r"a scene has \(band, y, x\): transpose it"):
        open_scene(tmp_path / "last")
    build(tmp_path / "complex", 3, NOISE.astype(np.complex64))
    with pytest.raises(InputRefusedError, match="band 1 is complex64"):
        open_scene(tmp_path / "complex")
    zarr.create_array(
        tmp_path / "large", shape=(1, 40000, 40000), dtype="u1", chunks=(1, 40000, 40000)
    )
    with pytest.raises(InputRefusedError, match=r"one block holds 1 x 40000 x 40000 .* 1\.5 GiB"):
        open_scene(tmp_path / "large")


class Touch:
    """Leaves a file where it's unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("place", ["filter", "compressor", "coordinate", "consolidated"])
def test_a_codec_that_runs_code_is_refused(tmp_path: Path, place: str) -> None:
    group = build(tmp_path / "a", 2, **PLACE)
    add(group, "x", np.arange(120))
    array = "x" if place == "coordinate" else "img"
    file = tmp_path / "a" / array / ".zarray"
    document = json.loads(file.read_text())
    codec = {"id": "pickle", "protocol": 5}
    if place == "compressor":
        document.update({"compressor": codec, "filters": None})
    else:
        document.update({"compressor": None, "filters": [codec]})
    if place == "consolidated":
        file = tmp_path / "a" / ".zmetadata"
        document = {"zarr_consolidated_format": 1, "metadata": {"img/.zarray": document}}
    file.write_text(json.dumps(document))
    bait = tmp_path / "touched"
    for chunk in (tmp_path / "a" / array).glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(Touch(bait)))
    with pytest.raises(InputRefusedError, match="asks for the codec 'pickle'"):
        open_scene(tmp_path / "a")
    assert not bait.exists()


def test_a_name_that_leaves_the_store_is_not_followed(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "outside", data=NOISE, zarr_format=2)
    document = json.loads((tmp_path / "outside" / ".zarray").read_text())
    store = tmp_path / "a"
    build(store, 2, **PLACE, grid_mapping="../outside")
    (store / ".zmetadata").write_text(
        json.dumps(
            {
                "zarr_consolidated_format": 1,
                "metadata": {".zgroup": {"zarr_format": 2}, "../outside/.zarray": document},
            }
        )
    )
    scene = open_scene(store)
    np.testing.assert_array_equal(scene.read(Window(0, 0, 2, 2))[0], NOISE[:, :2, :2])


@BOTH
def test_damaged_metadata_are_refused_never_a_traceback(tmp_path: Path, version: int) -> None:
    store = tmp_path / "a"
    group = build(store, version, long_name=["b", "g", "r"], **PLACE)
    add(group, "x", np.arange(120))
    files = [file for file in store.rglob("*") if file.name.startswith((".z", "zarr.json"))]
    generator = np.random.default_rng(7)
    outcomes = set()
    for file in files:
        original = file.read_bytes()
        for _ in range(60):
            data = bytearray(original)
            place = int(generator.integers(len(data)))
            junk = bytes(generator.integers(32, 126, int(generator.integers(3)), dtype=np.uint8))
            data[place : place + int(generator.integers(1, 4))] = junk
            file.write_bytes(data)
            try:
                scene = open_scene(store)
                scene.read(Window(0, 0, 1, 1))
                outcomes.add(0)
            except PipelineError as error:
                assert "\n" not in str(error)  # noqa: PT017
                outcomes.add(error.exit_code)
        file.write_bytes(original)
    assert outcomes <= {0, 3, 6}
    assert 3 in outcomes


@BOTH
@pytest.mark.parametrize(
    "attributes",
    [
        {"_CRS": "x"},
        {"_CRS": {"wkt": 5}},
        {"_CRS": {"wkt": "no wkt"}},
        {"proj:code": "EPSG:0"},
        {"proj:projjson": {"type": "x"}},
        {"spatial:transform": [1, 2]},
        {"spatial:transform": [0, 0, 0, 0, 0, 0]},
        {"spatial:transform": "nan"},
        {"_FillValue": "zzz"},
        {"_FillValue": [1]},
    ],
)
def test_senseless_attributes_are_refused(
    tmp_path: Path, version: int, attributes: dict[str, Any]
) -> None:
    build(tmp_path / "a", version, **attributes)
    with pytest.raises(InputRefusedError, match="can't be read as a Zarr scene"):
        open_scene(tmp_path / "a")
