"""Which files are taken as rasters, and what is said of those that aren't."""

import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.env import get_gdal_config
from rasterio.rpc import RPC

from segpipe.pipeline.errors import CorruptInputError, InputRefusedError
from segpipe.pipeline.scenes.raster import CACHE_BYTES, OPTIONS, sniff
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.pipeline.scenes.source import BLOCK_BYTES, check_block
from segpipe.pipeline.window import Window

EXAMPLES = Path(__file__).parents[2] / "examples"
LANDSAT7 = EXAMPLES / "landsat7-nc-2000.tif"
# The tests write what users have: files without a transform among them.
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
NOISE = np.random.default_rng(5).integers(1, 60000, (3, 300, 290)).astype(np.uint16)


def write(path: Path, pixels: NDArray[np.generic] = NOISE, **options: Any) -> Path:
    count, height, width = pixels.shape
    profile = {
        **{"driver": "GTiff", "dtype": pixels.dtype.name, "crs": "EPSG:32621"},
        **{"transform": rasterio.Affine(30, 0, 5, 0, -30, 7), **options},
    }
    with rasterio.open(path, "w", count=count, height=height, width=width, **profile) as dataset:
        dataset.write(pixels)
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tiled": True, "blockxsize": 64, "blockysize": 128, "compress": "zstd", "predictor": 2},
        {"interleave": "band", "compress": "deflate"},
        {"BIGTIFF": "YES"},
        {"ENDIANNESS": "BIG"},
        {"driver": "COG", "compress": "lzw"},
        {"driver": "JP2OpenJPEG", "QUALITY": 100, "REVERSIBLE": "YES"},
    ],
)
def test_every_container_gives_the_same_pixels(tmp_path: Path, options: dict[str, Any]) -> None:
    scene = open_scene(write(tmp_path / "any-name", **options))
    window = Window(31, 17, 200, 260)
    pixels, valid = scene.read(window)
    np.testing.assert_array_equal(pixels, NOISE[:, 31:231, 17:277])
    assert valid.all()
    assert scene.dtype == "uint16"


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint32", "int32", "float64"])
def test_dtypes_are_kept(tmp_path: Path, dtype: str) -> None:
    pixels = np.array([[[0, 1], [100, 127]]], dtype)
    scene = open_scene(write(tmp_path / "a.tif", pixels))
    read, _ = scene.read(scene.grid.window)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, pixels)


# What is refused, and how


def refusal(path: Path) -> str:
    with pytest.raises(InputRefusedError) as caught:
        open_scene(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "doesn't exist; name a GeoTIFF" in refusal(tmp_path / "none.tif")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "a folder that isn't Zarr" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"II", b"hello", b"\x89PNG\r\n\x1a\n", b"%PDF-1.4"])
def test_what_is_no_raster_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    assert "not a raster that is read here" in refusal(path)


def test_drivers_off_the_list_are_refused_whatever_the_name(tmp_path: Path) -> None:
    for driver in ("PNG", "ENVI", "HFA"):
        path = write(tmp_path / f"{driver}.tif", NOISE[:1], driver=driver)
        assert "not a raster that is read here" in refusal(path)


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "complex_int16", "int64", "uint64"])
def test_dtypes_that_no_network_takes_are_refused(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", count=1, height=4, width=4, dtype=dtype):
        pass
    assert f"band 1 is {dtype}; a network takes one of uint8" in refusal(path)


def test_ground_control_points_alone_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", crs=None, transform=None)
    corners = [(0, 0, 1, 2), (0, 290, 3, 2), (300, 0, 1, 4)]
    with rasterio.open(path, "r+") as dataset:
        points = [GroundControlPoint(*corner) for corner in corners]
        dataset.gcps = (points, rasterio.crs.CRS.from_epsg(4326))
    assert "3 ground control points and no transform" in refusal(path)
    assert "gdalwarp a.tif" in refusal(path)


def test_no_crs_is_a_remark(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = write(tmp_path / "a.tif", crs=None, transform=None)
    warnings.simplefilter("always")
    recwarn.clear()
    scene = open_scene(path)
    assert scene.grid.crs is None
    assert scene.grid.transform == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    assert scene.warnings == ("a.tif has no crs: its map won't have one either",)
    scene.read(Window(0, 0, 1, 1))
    assert not recwarn.list


def test_rational_polynomials_are_a_remark(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", crs=None, transform=None)
    ones = [1.0] + [0.0] * 19
    with rasterio.open(path, "r+") as dataset:
        dataset.rpcs = RPC(0, 1, 0, 1, ones, ones, 0, 1, 0, 1, ones, ones, 0, 1)
    assert "only RPCs" in open_scene(path).warnings[0]


def test_a_block_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(
        path,
        "w",
        **{"driver": "GTiff", "count": 5, "height": 20000, "width": 20000, "dtype": "uint8"},
        **{"tiled": True, "blockxsize": 19984, "blockysize": 19984, "SPARSE_OK": True},
        **{"compress": "deflate", "interleave": "pixel"},
    ):
        pass
    assert "one block holds 5 x 19984 x 19984 values, 1.9 GiB at once" in refusal(path)
    assert "gdal_translate -co TILED=YES" in refusal(path)


def test_the_limit_of_a_block_is_exact() -> None:
    check_block("a", (BLOCK_BYTES // 2,), 2)
    with pytest.raises(InputRefusedError):
        check_block("a", (BLOCK_BYTES // 2 + 1,), 2)


def test_a_small_file_that_claims_terabytes_opens_and_is_read_in_windows(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(
        path,
        "w",
        **{"driver": "GTiff", "count": 1, "height": 2**22, "width": 2**22, "dtype": "uint16"},
        **{"tiled": True, "blockxsize": 2048, "blockysize": 2048, "SPARSE_OK": True},
    ):
        pass
    scene = open_scene(path)
    assert scene.grid.pixels == 2**44
    assert not scene.read(Window(2**22 - 10, 2**21, 10, 10))[0].any()


@pytest.mark.parametrize("interleave", ["band", "pixel"])
@pytest.mark.parametrize("compress", [None, "deflate", "zstd"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_a_truncated_file_is_refused(
    tmp_path: Path, compress: str | None, share: float, interleave: str
) -> None:
    path = write(tmp_path / "a.tif", compress=compress, interleave=interleave)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert "cut off" in refusal(path)


def test_a_file_that_breaks_under_way_names_window_and_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", compress="deflate", tiled=True, blockxsize=64, blockysize=64)
    data = bytearray(path.read_bytes())
    with rasterio.open(path) as dataset:
        start = int(dataset.get_tag_item("BLOCK_OFFSET_2_3", "TIFF", bidx=1))
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    scene = open_scene(path)
    with pytest.raises(CorruptInputError) as caught:
        scene.read(Window(192, 100, 64, 64))
    assert caught.value.exit_code == 6
    text = str(caught.value)
    assert str(path) in text
    assert "rows 192 to 256, columns 100 to 164" in text
    assert "\n" not in text
    np.testing.assert_array_equal(scene.read(Window(0, 0, 64, 64))[0], NOISE[:, :64, :64])


def test_the_cache_is_bounded_and_the_user_s_settings_return(tmp_path: Path) -> None:
    with rasterio.Env(GDAL_HTTP_PROXY="mine"):
        open_scene(write(tmp_path / "a.tif")).read(Window(0, 0, 9, 9))
        assert get_gdal_config("GDAL_HTTP_PROXY") == "mine"
        assert get_gdal_config("GDAL_CACHEMAX") == CACHE_BYTES
    with rasterio.Env():
        assert not any(get_gdal_config(key) for key in OPTIONS)


@given(st.binary(max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_sniffing_never_fails_otherwise(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(head)
    try:
        assert sniff(path) in ("GTiff", "JP2OpenJPEG", "VRT")
    except InputRefusedError as error:
        assert error.exit_code == 3  # noqa: PT017


# Damage of every kind, in a process of its own

FUZZ = textwrap.dedent(
    """
    import resource, sys
    from pathlib import Path
    import numpy as np
    from segpipe.pipeline.errors import PipelineError
    from segpipe.pipeline.scenes.scene import open_scene
    from segpipe.pipeline.window import Window

    limit = 3 << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    folder, count, *seeds = Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    generator = np.random.default_rng(1)
    codes = {0: 0}
    for index in range(count):
        seed = Path(seeds[index % len(seeds)])
        data = bytearray(seed.read_bytes())
        for _ in range(generator.integers(1, 9)):
            # Every other mutation hits the header and the directory.
            place = int(generator.integers(1024 if generator.random() < 0.5 else len(data)))
            data[place % len(data)] = int(generator.integers(256))
        if generator.random() < 0.1:
            del data[int(generator.integers(len(data))) :]
        path = folder / f"{index}{seed.suffix}"
        path.write_bytes(data)
        try:
            scene = open_scene(path, ["1"])
            height, width = (min(side, 300) for side in scene.grid.shape)
            scene.read(Window(0, 0, height, width))
            scene.identity()
            codes[0] += 1
        except PipelineError as error:
            assert "\\n" not in str(error), error
            codes[error.exit_code] = codes.get(error.exit_code, 0) + 1
        path.unlink()
    print(codes)
    assert set(codes) <= {0, 3, 6}, codes
    assert codes.get(3, 0) and codes.get(6, 0), codes
    """
)


def fuzz(folder: Path, count: int, seeds: list[Path]) -> None:
    command = [sys.executable, "-c", FUZZ, str(folder), str(count), *map(str, seeds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def test_damaged_tiffs_are_refused_or_corrupt_never_a_traceback(tmp_path: Path) -> None:
    tiled: dict[str, Any] = {"tiled": True, "blockxsize": 128, "blockysize": 128}
    small = NOISE[:, :100, :90].copy()
    seeds = [
        write(tmp_path / "plain.tif", small),
        write(tmp_path / "deflate.tif", compress="deflate", **tiled),
        write(tmp_path / "lzw.tif", small, compress="lzw", predictor=2),
        write(tmp_path / "zstd.tif", compress="zstd", interleave="band", nodata=7),
    ]
    fuzz(tmp_path, 200, seeds)


@pytest.mark.slow
def test_more_damaged_tiffs(tmp_path: Path) -> None:
    seeds = [
        write(
            tmp_path / f"{compress}{interleave}{tiled}.tif", NOISE[:, :90, :100].copy(), **options
        )
        for compress in (None, "deflate", "lzw", "zstd", "packbits")
        for interleave in ("pixel", "band")
        for tiled in (False, True)
        for options in [
            {"compress": compress, "interleave": interleave, "tiled": tiled, "nodata": 9}
            | ({"blockxsize": 32, "blockysize": 32} if tiled else {})
        ]
    ]
    fuzz(tmp_path, 3000, seeds)


ORACLE = """
import sys
from osgeo import gdal
dataset = gdal.Open(sys.argv[1])
print(dataset.GetGeoTransform())
print([dataset.GetRasterBand(1 + band).GetNoDataValue() for band in range(dataset.RasterCount)])
sys.stdout.flush()
sys.stdout.buffer.write(dataset.ReadAsArray(*map(int, sys.argv[2:])).tobytes())
"""


@pytest.mark.parametrize("name", ["landsat7-nc-2000.tif", "landsat8-224077-rgb.tif"])
def test_the_system_s_gdal_reads_the_same(name: str) -> None:
    python = Path("/usr/bin/python3")
    probe = [str(python), "-c", "import osgeo.gdal_array"]
    if not python.exists() or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("the system's Python has no GDAL")
    scene = open_scene(EXAMPLES / name)
    command = [str(python), "-c", ORACLE, scene.path, *map(str, (31, 17, 300, 200))]
    transform, nodata, pixels = subprocess.run(
        command, capture_output=True, check=True
    ).stdout.split(b"\n", 2)
    read, _ = scene.read(Window(17, 31, 200, 300))
    assert read.tobytes() == pixels
    assert repr(list(scene.nodata)) == nodata.decode()
    a, b, c, d, e, f = scene.grid.transform
    assert repr((c, a, b, f, d, e)) == transform.decode()
