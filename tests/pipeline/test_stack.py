"""Bands in files of their own: what the stacked file holds, and what resampling by hand gives."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.transform import Affine
from rasterio.warp import Resampling, reproject

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.scenes.raster import open_raster
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.pipeline.scenes.stack import BandFile, on_grid, open_stack
from segpipe.pipeline.scenes.zarr_variables import Choice
from segpipe.pipeline.window import Window
from tests import toys

NAMES = ("red", "green", "blue")
FINE = Affine(10, 0, 600000, 0, -10, 5700000)
COARSE = Affine(20, 0, 600000, 0, -20, 5700000)


def split(folder: Path, pixels: NDArray[np.generic]) -> dict[str, Path]:
    """Each band of (band, row, column) in a file of its own."""
    folder.mkdir()
    return {
        name: toys.write_scene(folder / f"{name}.tif", plane[None], names=("",))
        for name, plane in zip(NAMES, pixels, strict=True)
    }


def single(path: Path, plane: NDArray[np.generic], transform: Affine, **options: object) -> Path:
    """One band (row, column)."""
    return toys.write_scene(
        path,
        plane[None],
        names=("",),
        transform=transform,
        crs="EPSG:32631",
        **options,  # type: ignore[arg-type]
    )


def smooth(height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    rows, columns = np.mgrid[0:height, 0:width] / 5
    shift = np.random.default_rng(seed).uniform(0, 9)
    values: NDArray[np.float32] = (np.sin(rows + shift) + np.cos(columns)).astype(np.float32)
    return values


def files(paths: Sequence[Path]) -> list[BandFile]:
    return [BandFile(path.stem, path) for path in paths]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    folder = tmp_path_factory.mktemp("stack")
    pixels = toys.landscape(90, 70)
    pixels[1, 20:30] = 0  # nodata in one band hides the pixel in all
    return toys.write_scene(folder / "all.tif", pixels), split(folder / "one", pixels)


@settings(max_examples=30, deadline=None)
@given(
    st.permutations(NAMES), st.integers(0, 60), st.integers(0, 40), st.integers(1, 30),
    st.integers(1, 30),
)  # fmt: skip
def test_files_of_one_band_are_the_file_of_all(
    scenes: tuple[Path, dict[str, Path]],
    order: list[str],
    top: int,
    left: int,
    height: int,
    width: int,
) -> None:
    whole, parts = scenes
    window = Window(top, left, height, width)
    expected, there = open_scene(whole, order).read(window)
    stacked = open_scene(whole.parent, {name: parts[name] for name in order}, order)
    pixels, valid = stacked.read(window)
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(valid, there)
    assert stacked.band_names == tuple(order)
    assert stacked.files == tuple(str(parts[name]) for name in order)


def test_a_file_of_several_bands_is_read_once(tmp_path: Path) -> None:
    pixels = toys.landscape(40, 40)
    path = toys.write_scene(tmp_path / "all.tif", pixels)
    contents = open_stack([BandFile("b", path, 3), BandFile("r", path, 1)])
    read, _ = contents.source.read(Window(0, 0, 40, 40), (1, 2), "uint16")
    np.testing.assert_array_equal(read, pixels[[2, 0]])
    assert len(contents.source.identity(full=False)["parts"]) == 1


def test_the_finest_grid_wins_and_the_others_are_interpolated_as_gdal_does(tmp_path: Path) -> None:
    fine, coarse = smooth(60, 80), smooth(30, 40, seed=1)
    paths = [
        single(tmp_path / "coarse.tif", coarse, COARSE, nodata=None),
        single(tmp_path / "fine.tif", fine, FINE, nodata=None),
    ]
    contents = open_stack(files(paths))
    assert contents.grid.shape == (60, 80)
    assert contents.grid.transform == tuple(FINE)[:6]
    assert "coarse.tif: resampled onto the pixels of fine.tif" in contents.warnings[-1]
    pixels, valid = contents.source.read(contents.grid.window, (1, 2), "float32")
    expected = np.zeros_like(fine)
    reproject(
        coarse, expected, src_transform=COARSE, dst_transform=FINE, src_crs="EPSG:32631",
        dst_crs="EPSG:32631", resampling=Resampling.bilinear,
    )  # fmt: skip
    np.testing.assert_allclose(pixels[0], expected, atol=1e-5)
    np.testing.assert_array_equal(pixels[1], fine)
    assert valid.all()


def test_on_another_grid_every_band_is_resampled_once_from_its_own(tmp_path: Path) -> None:
    fine, coarse = smooth(60, 80), smooth(30, 40, seed=1)
    paths = [
        single(tmp_path / "coarse.tif", coarse, COARSE, nodata=None),
        single(tmp_path / "fine.tif", fine, FINE, nodata=None),
    ]
    moved = on_grid(open_stack(files(paths)), open_raster(paths[0]).grid)
    pixels, _ = moved.source.read(moved.grid.window, (1, 2), "float32")
    np.testing.assert_array_equal(pixels[0], coarse)
    means = fine.astype(np.float64).reshape(30, 2, 40, 2).mean((1, 3))
    np.testing.assert_allclose(pixels[1], means, atol=1e-6)
    assert [band.name for band in moved.bands] == ["coarse", "fine"]


def test_nodata_of_the_product_is_no_measurement_when_resampled(tmp_path: Path) -> None:
    coarse = np.full((10, 10), 400, np.uint16)
    coarse[:5] = 0
    paths = [
        single(tmp_path / "fine.tif", np.full((20, 20), 7, np.uint16), FINE, nodata=None),
        single(tmp_path / "coarse.tif", coarse, COARSE, nodata=None),
    ]
    stack = open_stack([BandFile(path.stem, path, nodata=0.0) for path in paths])
    pixels, valid = stack.source.read(stack.grid.window, (1, 2), "uint16")
    np.testing.assert_array_equal(valid[:, 0], np.arange(20) >= 10)
    assert set(np.unique(pixels[1][valid])) == {400}


def test_the_nearest_statement_of_a_scale_holds(tmp_path: Path) -> None:
    plain = single(tmp_path / "plain.tif", np.ones((9, 9), np.uint16), FINE)
    scaled = single(tmp_path / "scaled.tif", np.ones((9, 9), np.uint16), FINE)
    fractions = single(tmp_path / "fractions.tif", smooth(9, 9), FINE)
    with rasterio.open(scaled, "r+") as file:
        file.scales, file.offsets = (0.5,), (1.0,)

    def found(path: Path, **told: tuple[float, float]) -> tuple[float, float]:
        (band,) = open_stack(
            [BandFile("x", path, scaling=told.get("item"), usual=told.get("usual"))]
        ).bands
        return band.scale, band.offset

    assert found(plain) == (1.0, 0.0)
    assert found(plain, usual=(0.1, 0.2)) == (0.1, 0.2)
    assert found(fractions, usual=(0.1, 0.2)) == (1.0, 0.0)
    assert found(fractions, item=(0.3, 0.4)) == (0.3, 0.4)
    assert found(scaled) == found(scaled, usual=(0.1, 0.2)) == (0.5, 1.0)
    assert found(scaled, item=(0.3, 0.4), usual=(0.1, 0.2)) == (0.3, 0.4)


def test_identity_follows_bytes_bands_and_nodata_and_not_places(tmp_path: Path) -> None:
    pixels = toys.landscape(40, 40)
    first, second = split(tmp_path / "a", pixels), split(tmp_path / "b", pixels)
    identity = open_scene(tmp_path, first, NAMES).identity(full=True)
    assert open_scene(tmp_path, second, NAMES).identity(full=True) == identity
    swapped = {**first, "red": first["green"], "green": first["red"]}
    others = [
        open_scene(tmp_path, swapped, NAMES),
        open_scene(tmp_path, {**first, "red": first["green"]}, NAMES),
    ]
    with rasterio.open(second["blue"], "r+") as file:
        file.nodata = 5
    others.append(open_scene(tmp_path, second, NAMES))
    found = [scene.identity(full=True) for scene in others]
    plain = single(tmp_path / "plain.tif", np.ones((9, 9), np.uint16), FINE, nodata=None)
    told, untold = (
        open_stack([BandFile("x", plain, nodata=nodata)]).source.identity(full=True)
        for nodata in (1.0, None)
    )
    assert told != untold
    assert all(other != identity for other in found)


@pytest.mark.parametrize(
    ("transform", "crs", "message"),
    [
        (Affine(20, 0, 900000, 0, -20, 5700000), "EPSG:32631", "shows other ground"),
        (Affine(20, 0, 600000, 0, -20, 5600000), "EPSG:32631", "shows other ground"),
        (FINE, "EPSG:32632", "has another crs"),
        (COARSE, None, "has another crs"),
        (Affine(18, -6, 600000, -6, -18, 5700000), "EPSG:32631", "doesn't fit the other bands"),
    ],
)
def test_files_of_other_ground_are_refused(
    tmp_path: Path, transform: Affine, crs: str | None, message: str
) -> None:
    one = single(tmp_path / "one.tif", smooth(20, 20), FINE)
    other = toys.write_scene(
        tmp_path / "other.tif", smooth(20, 20)[None], transform=transform, crs=crs
    )
    with pytest.raises(InputRefusedError, match=message):
        open_stack(files([one, other]))


def test_a_band_that_the_file_has_not_is_refused(tmp_path: Path) -> None:
    path = single(tmp_path / "one.tif", smooth(9, 9), FINE)
    with pytest.raises(InputRefusedError, match="has 1 band, and nir is its band 2"):
        open_stack([BandFile("nir", path, 2)])


def test_a_grid_of_one_file_is_that_file(tmp_path: Path) -> None:
    path = single(tmp_path / "one.tif", smooth(9, 9), FINE)
    contents = open_stack(files([path]))
    assert contents.grid == Grid(9, 9, (10, 0, 600000, 0, -10, 5700000), contents.grid.crs)
    assert contents.warnings == ()


def test_a_variable_is_asked_for_in_vain_of_a_file_that_has_none(tmp_path: Path) -> None:
    path = single(tmp_path / "one.tif", smooth(9, 9), FINE)
    with pytest.raises(InputRefusedError, match=r"one\.tif"):
        open_scene(tmp_path, {"red": path}, ("red",), Choice(variable="rain"))
