"""A raster on another grid holds what GDAL's nearest neighbour puts there."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import CRS
from rasterio import Affine

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.scenes import nearest
from segpipe.pipeline.scenes.nearest import Nearest
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.pipeline.window import Window
from tests import toys

UTM = "EPSG:32621"
PLACE = (30.0, 0.0, 694005.0, 0.0, -30.0, -2766615.0)


def labels(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(1, 9, (1, height, width), dtype=np.uint8)


def write(path: Path, crs: str | None = UTM) -> Path:
    return toys.write_scene(path, labels(50, 60), crs=crs, transform=Affine(*PLACE))


def seen(view: Nearest, window: Window | None = None) -> NDArray[np.int64]:
    """The labels, -1 where there are none."""
    values, valid = view.read(window or view.grid.window)
    return np.where(valid, values[0].astype(np.int64), -1)


def wkt(code: str) -> str:
    return str(CRS(code).to_wkt())


# Steps that no centre shares with an edge, as both sides could then be right.
@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([UTM, "EPSG:32622", "EPSG:4326"]),
    st.floats(0.31, 2.7),
    st.floats(-20, 40),
    st.floats(-20, 40),
    st.sampled_from([0, 0.3]),
)
def test_it_is_what_gdal_warps(
    tmp_path_factory: pytest.TempPathFactory,
    code: str,
    scale: float,
    down: float,
    across: float,
    turn: float,
) -> None:
    path = write(tmp_path_factory.mktemp("n") / "a.tif")
    with rasterio.open(path) as raster:
        fitting, _, _ = rasterio.warp.calculate_default_transform(
            raster.crs, code, raster.width, raster.height, *raster.bounds
        )
        transform = fitting @ Affine.translation(across + 0.0137, down + 0.0173)
        transform = transform @ Affine.rotation(turn) @ Affine.scale(scale)
        expected = np.zeros((40, 45), np.uint8)
        rasterio.warp.reproject(
            raster.read(1),
            expected,
            src_transform=raster.transform,
            src_crs=raster.crs,
            src_nodata=0,
            dst_transform=transform,
            dst_crs=code,
            dst_nodata=0,
            tolerance=0,
        )
    a, b, c, d, e, f = transform[:6]
    found = seen(Nearest(open_scene(path), Grid(40, 45, (a, b, c, d, e, f), wkt(code))))
    # Centres a hair's breadth from an edge may fall to either side.
    assert (np.where(found < 0, 0, found) != expected).sum() <= 2


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 39), st.integers(1, 44), st.integers(20, 400))
def test_windows_agree_with_the_whole(
    tmp_path_factory: pytest.TempPathFactory, down: int, across: int, most: int
) -> None:
    scene = open_scene(write(tmp_path_factory.mktemp("n") / "a.tif"))
    view = Nearest(scene, Grid(40, 45, (21.0, 0, 694000.0, 0, -47.0, -2766600.0), wkt(UTM)))
    whole = seen(view)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "MOST_PIXELS", most)
        for window in (
            Window(0, 0, down, across),
            Window(0, across, down, 45 - across),
            Window(down, 0, 40 - down, 45),
        ):
            np.testing.assert_array_equal(seen(view, window), whole[window.slices])


def test_one_grid_is_read_as_it_is(tmp_path: Path) -> None:
    scene = open_scene(write(tmp_path / "a.tif"))
    other = Grid(50, 60, PLACE, wkt("EPSG:32622"))
    view = Nearest(scene, other)
    assert not view.resampled
    np.testing.assert_array_equal(seen(view), seen(Nearest(scene, scene.grid)))
    pixels, valid = scene.read(scene.grid.window)
    np.testing.assert_array_equal(seen(view)[valid], pixels[0][valid])


def test_a_raster_of_another_place_shows_nothing(tmp_path: Path) -> None:
    scene = open_scene(write(tmp_path / "a.tif"))
    far = Grid(10, 10, (30.0, 0, 0.0, 0, -30.0, 0.0), scene.grid.crs)
    assert (seen(Nearest(scene, far)) == -1).all()


def test_a_raster_without_a_crs_is_refused(tmp_path: Path) -> None:
    scene = open_scene(write(tmp_path / "a.tif", crs=None))
    with pytest.raises(InputRefusedError, match="has no crs, and they have other pixels"):
        seen(Nearest(scene, Grid(50, 60, (29.0, *PLACE[1:]), wkt(UTM))))


def test_a_crs_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    scene = open_scene(write(tmp_path / "a.tif"))
    local = 'ENGCRS["a",EDATUM["b"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],UNIT["m",1]]'
    with pytest.raises(InputRefusedError, match="its crs can't be brought to that of the raster"):
        seen(Nearest(scene, Grid(9, 9, PLACE, local)))
