"""A resampled raster is what GDAL's warper makes of it, and the same in every window."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.enums import Resampling as GdalResampling
from rasterio.vrt import WarpedVRT

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.grid import Affine, Grid
from segpipe.pipeline.scenes import resampled
from segpipe.pipeline.scenes.raster import open_raster
from segpipe.pipeline.scenes.resampled import Resampling, on_grid, rescaled
from segpipe.pipeline.scenes.source import Band, Contents
from segpipe.pipeline.window import Window
from tests.pipeline.test_scene import windows
from tests.toys import write_scene

HERE: Affine = (30.0, 0.0, 600000.0, 0.0, -30.0, 200000.0)
UTM = rasterio.crs.CRS.from_epsg(32617).to_wkt(version="WKT2_2019")


class Array:
    """A source in memory; counts the pixels that are read at once."""

    def __init__(self, pixels: NDArray[np.generic], shown: NDArray[np.bool_]) -> None:
        self.pixels, self.shown = pixels, shown
        self.most = 0

    def read(
        self, window: Window, indexes: tuple[int, ...], dtype: str
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """A copy of what lies there."""
        self.most = max(self.most, window.pixels)
        bands = [self.pixels[index - 1][window.slices] for index in indexes]
        return np.array(bands, dtype), self.shown[window.slices].copy()

    def identity(self, full: bool) -> dict[str, Any]:
        """No two are told apart."""
        return {}


def contents(
    height: int = 40,
    width: int = 50,
    dtype: str = "uint16",
    seed: int = 0,
    holes: float = 0.2,
    transform: Affine = HERE,
) -> Contents:
    """Two bands, each with nodata of its own, under a mask."""
    random = np.random.default_rng(seed)
    pixels = random.uniform(1, 200, (2, height, width)).astype(dtype)
    pixels[random.random(pixels.shape) < holes] = 0
    if dtype.startswith("float"):
        pixels[random.random(pixels.shape) < holes / 4] = np.nan
    shown = random.random((height, width)) >= holes / 2
    grid = Grid(height, width, transform, UTM)
    bands = (Band("a", dtype, 0.0), Band("b", dtype, 0.0))
    return Contents(grid, bands, (16, 16), (), Array(pixels, shown))


factors = st.sampled_from([1 / 3, 0.5, 0.7, 0.95, 1.0, 1.3, 2.0, 2.5, 10 / 3, 7.0])


@given(
    data=st.data(),
    across=factors,
    down=factors,
    dtype=st.sampled_from(["uint8", "int16", "float32", "float64"]),
    resampling=st.sampled_from(["auto", "average", "bilinear", "nearest"]),
)
@settings(deadline=None, max_examples=60)
def test_a_pixel_is_the_same_in_every_window(
    data: st.DataObject, across: float, down: float, dtype: str, resampling: Resampling
) -> None:
    found = contents(dtype=dtype, seed=data.draw(st.integers(0, 9)))
    wanted = rescaled(found.grid, across, down)
    shift = data.draw(st.sampled_from([0.0, 3.7, -41.3]))
    a, b, c, d, e, f = wanted.transform
    grid = Grid(wanted.height, wanted.width, (a, b, c + shift, d, e, f + shift), UTM)
    source = on_grid(found, grid, resampling).source
    whole, valid = source.read(grid.window, (2, 1), dtype)
    window = data.draw(windows(*grid.shape))
    part, known = source.read(window, (2, 1), dtype)
    assert part.tobytes() == np.ascontiguousarray(whole[:, *window.slices]).tobytes()
    np.testing.assert_array_equal(known, valid[window.slices])


def warped(
    path: Path, grid: Grid, resampling: GdalResampling
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """What GDAL makes of the raster, computed at once and without approximation."""
    with (
        rasterio.open(path) as file,
        WarpedVRT(
            file,
            crs=file.crs,
            transform=rasterio.Affine(*grid.transform),
            height=grid.height,
            width=grid.width,
            resampling=resampling,
            tolerance=1e-6,  # 0 is refused
        ) as warp,
    ):
        return warp.read(), warp.read_masks() != 0


@pytest.mark.parametrize("factor", [1 / 3, 0.5, 0.7, 0.95, 1.3, 2.0, 2.5, 3.0, 10 / 3, 7.0])
@pytest.mark.parametrize("nodata", [None, 0])
def test_it_is_what_gdal_makes_of_it(tmp_path: Path, factor: float, nodata: float | None) -> None:
    random = np.random.default_rng(1)
    pixels = random.uniform(1, 200, (1, 53, 67)).astype(np.float32)
    if nodata is not None:
        pixels[:, random.random((53, 67)) < 0.2] = nodata
    path = write_scene(tmp_path / "a.tif", pixels, nodata=nodata, transform=rasterio.Affine(*HERE))
    found = open_raster(path)
    grid = rescaled(found.grid, factor, factor)
    kind = GdalResampling.average if factor > 1 else GdalResampling.bilinear
    expected, shown = warped(path, grid, kind)
    got, valid = on_grid(found, grid).source.read(grid.window, (1,), "float32")
    # The last row and column may reach beyond the raster, where GDAL has its own view of weights.
    inner = slice(0, math.floor(53 / factor)), slice(0, math.floor(67 / factor))
    got, valid, expected, shown = got[0][inner], valid[inner], expected[0][inner], shown[0][inner]
    np.testing.assert_array_equal(valid, shown)
    np.testing.assert_allclose(got[valid], expected[valid], rtol=2e-5)
    assert valid.mean() > 0.7


def test_little_is_read_at_once_and_that_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = contents(90, 70)
    grid = rescaled(found.grid, 2.5, 1 / 3)
    pixels, valid = on_grid(found, grid).source.read(grid.window, (1, 2), "uint16")
    monkeypatch.setattr(resampled, "MOST_PIXELS", 200)
    found = contents(90, 70)
    parts, known = on_grid(found, grid).source.read(grid.window, (1, 2), "uint16")
    np.testing.assert_array_equal(parts, pixels)
    np.testing.assert_array_equal(known, valid)
    assert isinstance(found.source, Array)
    assert found.source.most <= 200


def test_a_grid_of_the_same_pixels_changes_nothing() -> None:
    found = contents()
    assert on_grid(found, found.grid) is found
    a, b, c, d, e, f = HERE
    moved = Grid(20, 30, (a, b, c + 7 * a, d, e, f + 5 * e), UTM)
    pixels, valid = on_grid(found, moved).source.read(moved.window, (1, 2), "uint16")
    own, shown = found.source.read(Window(5, 7, 20, 30), (1, 2), "uint16")
    np.testing.assert_array_equal(valid, shown & (own != 0).all(axis=0))
    np.testing.assert_array_equal(pixels[:, valid], own[:, valid])


def test_rows_that_run_the_other_way_are_turned_round() -> None:
    found = contents(30, 40, holes=0.1)
    grid = rescaled(found.grid, 2.5, 2)
    pixels, valid = on_grid(found, grid).source.read(grid.window, (1,), "uint16")
    a, b, c, d, e, f = grid.transform
    upwards = Grid(grid.height, grid.width, (a, b, c, d, -e, f + 15 * e), UTM)
    turned, known = on_grid(found, upwards).source.read(upwards.window, (1,), "uint16")
    np.testing.assert_array_equal(turned[:, ::-1], pixels)
    np.testing.assert_array_equal(known[::-1], valid)


def test_a_turned_raster_is_resampled_along_its_own_rows() -> None:
    transform = tuple(rasterio.Affine.rotation(20) @ rasterio.Affine(*HERE))[:6]
    turned, straight = contents(dtype="float64", transform=transform), contents(dtype="float64")
    ours, plain = rescaled(turned.grid, 1.7, 0.6), rescaled(straight.grid, 1.7, 0.6)
    found, valid = on_grid(turned, ours).source.read(ours.window, (1, 2), "float64")
    expected, known = on_grid(straight, plain).source.read(plain.window, (1, 2), "float64")
    np.testing.assert_allclose(found.astype(float), expected.astype(float))
    np.testing.assert_array_equal(valid, known)
    with pytest.raises(InputRefusedError, match="don't run in the same direction"):
        on_grid(turned, plain)


def test_whole_numbers_stay_whole_and_nodata_is_told_by_the_mask() -> None:
    pixels = np.array([[[1, 2, 3, 0], [2, 1, 0, 0]]], np.uint8)
    grid = Grid(2, 4, HERE, UTM)
    source = Array(pixels, np.ones((2, 4), bool))
    found = Contents(grid, (Band("a", "uint8", 0.0),), (2, 4), (), source)
    wide = on_grid(found, rescaled(grid, 2, 2))
    values, valid = wide.source.read(wide.grid.window, (1,), "float64")
    # (1 + 2 + 2 + 1) / 4 is rounded to the even neighbour; of the others only the 3 is valid.
    assert values.tolist() == [[[2.0, 3.0]]]
    assert valid.all()
    assert (wide.bands[0].nodata, wide.bands[0].dtype) == (None, "uint8")
    fine = on_grid(found, rescaled(grid, 0.5, 0.5))
    _, known = fine.source.read(fine.grid.window, (1,), "uint8")
    np.testing.assert_array_equal(known, (pixels[0] != 0).repeat(2, axis=0).repeat(2, axis=1))


def test_what_cannot_be_resampled_is_refused() -> None:
    found = contents()
    for factor in (300, 1 / 300):
        with pytest.raises(InputRefusedError, match=r"300 times as (large|small); 256 times"):
            on_grid(found, rescaled(found.grid, factor, 1))
    elsewhere = rasterio.crs.CRS.from_epsg(32618).to_wkt(version="WKT2_2019")
    with pytest.raises(InputRefusedError, match="gdalwarp -t_srs"):
        on_grid(found, Grid(40, 50, (*HERE[:5], 1.0), elsewhere))


def test_identities_tell_how_pixels_are_made() -> None:
    found = contents()
    ways: list[tuple[float, float, Resampling]] = [
        (2, 2, "auto"),
        (2, 3, "auto"),
        (2, 2, "nearest"),
    ]
    identities = [
        on_grid(found, rescaled(found.grid, across, down), resampling).source.identity(full=True)
        for across, down, resampling in ways
    ]
    assert len({str(identity) for identity in identities}) == 3
