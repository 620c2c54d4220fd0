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

from segpipe.pipeline import resampled
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.grid import Affine, Grid
from segpipe.pipeline.raster import open_raster
from segpipe.pipeline.resampled import Resampling, on_grid, rescaled
from segpipe.pipeline.source import Band, Contents
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
    path = write_scene(
        tmp_path / "a.tif", pixels, nodata=nodata, transform=rasterio.Affine(*HERE)
    )
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
