"""A scene reads what rasterio reads, and says which pixels are measurements."""

import json
import multiprocessing
import os
import pickle
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.windows import Window as RasterioWindow

from segpipe.pipeline.errors import CorruptInputError, InputRefusedError
from segpipe.pipeline.scenes.scene import Scene, open_scene
from segpipe.pipeline.window import Window

EXAMPLES = Path(__file__).parents[2] / "examples"
LANDSAT8 = EXAMPLES / "landsat8-224077-rgb.tif"
LANDSAT7 = EXAMPLES / "landsat7-nc-2000.tif"
HERE = rasterio.Affine(30, 0, 694005, 0, -30, -2766615)

same_folder = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(path: Path, pixels: NDArray[np.generic], **options: Any) -> Path:
    path.unlink(missing_ok=True)
    count, height, width = pixels.shape
    names = options.pop("names", None)
    profile = {"crs": "EPSG:32621", "transform": HERE, "dtype": pixels.dtype.name, **options}
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, **profile
    ) as dataset:
        dataset.write(pixels)
        if names:
            dataset.descriptions = names
    return path


def ramp(count: int = 3, height: int = 60, width: int = 80) -> NDArray[np.uint16]:
    numbers = np.arange(1, count * height * width + 1, dtype=np.uint16)
    return numbers.reshape(count, height, width)


@st.composite
def windows(draw: st.DrawFn, height: int, width: int) -> Window:
    top = draw(st.integers(0, height - 1))
    left = draw(st.integers(0, width - 1))
    return Window(top, left, draw(st.integers(1, height - top)), draw(st.integers(1, width - left)))


@given(
    window=windows(1515, 2006).filter(lambda window: window.pixels < 10**6),
    bands=st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=4),
)
@same_folder
def test_a_window_holds_what_rasterio_reads(window: Window, bands: list[int]) -> None:
    pixels, valid = open_scene(LANDSAT8, list(map(str, bands))).read(window)
    with rasterio.open(LANDSAT8) as dataset:
        area = RasterioWindow(window.left, window.top, window.width, window.height)
        expected = dataset.read(bands, window=area)
        masks = dataset.read_masks(bands, window=area)
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(valid, (masks != 0).all(axis=0))


def test_a_window_outside_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="leaves a grid of 443 x 489"):
        open_scene(LANDSAT7, ["1"]).read(Window(440, 0, 4, 1))


def test_grid_names_and_blocks_are_the_file_s() -> None:
    scene = open_scene(LANDSAT7, wanted=("red", "NIR"))
    assert scene.grid.shape == (443, 489)
    assert scene.grid.transform == (28.5, 0.0, 630534.0, 0.0, -28.5, 228114.0)
    assert rasterio.crs.CRS.from_wkt(scene.grid.crs) == rasterio.crs.CRS.from_epsg(32119)
    assert (scene.band_indexes, scene.band_names) == ((3, 4), ("red", "nir"))
    assert (scene.block_shape, scene.dtype, scene.warnings) == ((256, 256), "uint8", ())
    assert scene.bytes_per_pixel == 3


@pytest.mark.parametrize(
    "transform",
    [
        rasterio.Affine(30, 0, 5, 0, 30, 7),
        rasterio.Affine(-30, 0, 5, 0, -30, 7),
        rasterio.Affine.rotation(30) @ rasterio.Affine.scale(3.1, -2.7),
        rasterio.Affine(1 / 3, 0.1, 1e6 / 7, 0.2, -1 / 3, -1e6 / 7),
    ],
)
def test_a_rotated_or_south_up_transform_is_carried_exactly(
    tmp_path: Path, transform: rasterio.Affine
) -> None:
    scene = open_scene(write(tmp_path / "a.tif", ramp(), transform=transform))
    assert scene.grid.transform == tuple(transform[:6])


# Which bands


def test_names_decide_without_case(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", ramp(), names=("Blue", "GREEN", "red"))
    assert open_scene(path, wanted=("red", "green", "blue")).band_indexes == (3, 2, 1)
    assert open_scene(path, ["2", "RED"], ("red", "green")).band_indexes == (2, 3)


def test_unnamed_bands_are_taken_in_order(tmp_path: Path) -> None:
    scene = open_scene(write(tmp_path / "a.tif", ramp()), wanted=("red", "green", "blue"))
    assert (scene.band_indexes, scene.warnings) == ((1, 2, 3), ())
    assert scene.band_names == ("band 1", "band 2", "band 3")


def test_bands_of_other_names_are_taken_in_order_with_a_remark(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", ramp(), names=("B4", "B3", "B2"))
    scene = open_scene(path, wanted=("red", "green", "blue"))
    assert scene.band_indexes == (1, 2, 3)
    assert "aren't named red, green, blue: taken in their order, B4, B3, B2" in scene.warnings[0]


def test_an_alpha_band_is_no_band_of_the_model(tmp_path: Path) -> None:
    pixels = np.full((4, 20, 20), 9, np.uint8)
    pixels[3, 5, 7] = 0
    path = write(tmp_path / "a.tif", pixels, photometric="RGB", alpha="yes")
    scene = open_scene(path, wanted=("red", "green", "blue"))
    read, valid = scene.read(scene.grid.window)
    assert read.shape == (3, 20, 20)
    assert np.argwhere(~valid).tolist() == [[5, 7]]


@pytest.mark.parametrize(
    ("bands", "wanted", "message"),
    [
        (
            None,
            ("red", "nir"),
            "3 bands: 1 red, 2 green, 3 red.* wants 2 .red, nir.*--bands",
        ),
        (None, ("a", "b"), "wants 2 .a, b.; say which are which with --bands, such as --bands 1,2"),
        (["0"], (), "there's no band 0: it has 3 bands.*counted from 1"),
        (["4"], (), "there's no band 4"),
        (["swir"], (), "no band is named 'swir'"),
        (["red"], (), "several bands are named 'red'.*choose by number"),
        (["1", "2"], ("x",), "2 bands were named, the model wants 1 .x."),
        ([], (), "0 bands were named"),
    ],
)
def test_bands_that_do_not_fit_are_refused(
    tmp_path: Path, bands: list[str] | None, wanted: tuple[str, ...], message: str
) -> None:
    path = write(tmp_path / "a.tif", ramp(), names=("red", "green", "red"))
    with pytest.raises(InputRefusedError, match=message):
        open_scene(path, bands, wanted)


# Which pixels


@given(data=st.data())
@same_folder
def test_only_measurements_are_valid(tmp_path: Path, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["uint8", "int8", "int16", "uint32", "float32", "float64"]))
    floating = dtype.startswith("float")
    odd = [float("nan"), float("inf"), float("-inf")] if floating else []
    values = data.draw(
        st.lists(st.sampled_from([0.0, 1.0, 7.0, 100.0, *odd]), min_size=24, max_size=24)
    )
    nodata = data.draw(st.sampled_from([None, 0.0, 7.0, *odd]))
    mask = data.draw(st.none() | st.lists(st.booleans(), min_size=12, max_size=12))
    pixels = np.array(values, dtype).reshape(2, 3, 4)
    path = tmp_path / "a.tif"
    write(path, pixels, nodata=nodata)
    expected = ~((pixels == nodata).any(axis=0) | ~np.isfinite(pixels).all(axis=0))
    if mask is not None:
        shown = np.array(mask).reshape(3, 4)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(shown)
        expected &= shown
    scene = open_scene(path)
    read, valid = scene.read(scene.grid.window)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, pixels)
    np.testing.assert_array_equal(valid, expected)


def test_a_mask_side_car_hides_pixels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", ramp())
    shown = np.ones((60, 80), bool)
    shown[3, 4:9] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(shown)
    assert (tmp_path / "a.tif.msk").is_file()
    scene = open_scene(path)
    np.testing.assert_array_equal(scene.read(scene.grid.window)[1], shown)


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("uint8", -9999), ("uint8", 0.5), ("uint16", 65536), ("float32", -1.7976931348623157e308)],
)
def test_nodata_that_no_pixel_can_have_is_ignored_with_a_remark(
    tmp_path: Path, dtype: str, nodata: float
) -> None:
    path = write(tmp_path / "a.tif", np.zeros((1, 8, 8), dtype))
    gdal = {"uint8": "Byte", "uint16": "UInt16", "float32": "Float32"}[dtype]
    vrt = path.with_suffix(".vrt")
    vrt.write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand band="1" '
        f'dataType="{gdal}">'
        f"<NoDataValue>{nodata!r}</NoDataValue><SimpleSource>"
        '<SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    scene = open_scene(vrt)
    _, valid = scene.read(scene.grid.window)
    assert valid.all()
    assert scene.nodata == (None,)
    # rasterio hides values outside the dtype's range, and GDAL ignores them as we do.
    if nodata == 0.5:
        assert scene.warnings[-1].endswith("says nodata is 0.5, which uint8 can't hold: ignored")


def test_nodata_of_float32_is_compared_as_float32(tmp_path: Path) -> None:
    pixels = np.full((1, 4, 4), 0.1, np.float32)
    pixels[0, 0, 0] = 0.2
    scene = open_scene(write(tmp_path / "a.tif", pixels, nodata=0.1))
    assert np.argwhere(scene.read(scene.grid.window)[1]).tolist() == [[0, 0]]


# A value that travels


def _digest(scene: Scene, window: Window) -> bytes:
    pixels, valid = scene.read(window)
    return pixels.tobytes() + valid.tobytes()


def test_a_pickled_scene_reads_in_another_process() -> None:
    scene = open_scene(LANDSAT8, wanted=("blue", "green", "red"))
    scene.read(Window(0, 0, 5, 5))
    text = pickle.dumps(scene)
    assert pickle.loads(text) == scene
    assert len(text) < 5000
    window = Window(700, 900, 64, 70)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(_digest, scene, window).result() == _digest(scene, window)


def test_eight_threads_read_what_one_reads() -> None:
    scene = open_scene(LANDSAT8)
    tiles = [
        Window(row, column, 215, 306)
        for row in range(0, 1300, 150)
        for column in range(0, 1700, 243)
    ]
    alone = [_digest(scene, tile) for tile in tiles]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(_digest, [scene] * 3 * len(tiles), tiles * 3)) == alone * 3


def test_a_thread_keeps_few_files_open(tmp_path: Path) -> None:
    scenes = [open_scene(write(tmp_path / f"{index}.tif", ramp() + index)) for index in range(20)]

    def read_all() -> int:
        for index, scene in enumerate(scenes):
            assert scene.read(Window(0, 0, 1, 1))[0][0, 0, 0] == 1 + index
        links = Path("/proc/self/fd")
        names = [str(link.readlink()) for link in links.iterdir() if link.is_symlink()]
        return sum(str(tmp_path) in name for name in names)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(read_all).result() <= 16


def test_a_file_that_changes_under_way_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", ramp())
    scene = open_scene(path)
    time.sleep(0.01)
    write(path, ramp() + 1)
    with pytest.raises(CorruptInputError, match="changed after the run began"):
        scene.read(Window(0, 0, 1, 1))
    assert open_scene(path).read(Window(0, 0, 1, 1))[0][0, 0, 0] == 2


# Identity


def test_identity_is_json_without_the_path(tmp_path: Path) -> None:
    scene = open_scene(write(tmp_path / "secret-name.tif", ramp()))
    text = json.dumps(scene.identity())
    assert "secret-name" not in text
    assert scene.identity() == scene.identity()


def test_a_copy_is_the_same_scene_when_all_bytes_are_hashed(tmp_path: Path) -> None:
    one = write(tmp_path / "one.tif", ramp())
    two = tmp_path / "two.tif"
    two.write_bytes(one.read_bytes())
    assert open_scene(one).identity(full=True) == open_scene(two).identity(full=True)
    os.utime(two, ns=(1, 1))
    assert open_scene(one).identity() != open_scene(two).identity()


@given(place=st.floats(0, 1, exclude_max=True))
@same_folder
def test_no_byte_of_a_scene_can_change_unseen_when_all_are_hashed(
    tmp_path: Path, place: float
) -> None:
    path = write(tmp_path / "a.tif", ramp())
    scene = open_scene(path)
    before = scene.identity(full=True)
    data = bytearray(path.read_bytes())
    # Behind the signature, which must stay for the file to be one at all.
    data[4 + int(place * (len(data) - 4))] ^= 1
    path.write_bytes(data)
    assert scene.identity(full=True) != before


def test_side_cars_and_the_choice_of_bands_are_part_of_the_identity(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", ramp())
    plain = open_scene(path).identity(full=True)
    assert open_scene(path, ["3", "2", "1"]).identity(full=True) != plain
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset></PAMDataset>")
    assert open_scene(path).identity(full=True) != plain
