"""A mosaic is the image that its scenes make together, whatever window of it is read."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.merge import merge

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.scenes.mosaic import Rule, mosaic
from segpipe.pipeline.scenes.scene import Scene, open_scene
from segpipe.pipeline.window import Window
from tests.pipeline.test_scene import windows
from tests.toys import landscape, write_scene

UTM = "EPSG:32617"
same_folder = settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(
    path: Path,
    top: float,
    left: float,
    shape: tuple[int, int] = (40, 50),
    *,
    seed: int = 0,
    side: float = 30,
    crs: str | None = UTM,
) -> Path:
    """A scene `top` and `left` pixels of 30 m away from a corner."""
    path.unlink(missing_ok=True)
    transform = rasterio.Affine(side, 0, 600000 + 30 * left, 0, -side, 4000000 - 30 * top)
    return write_scene(path, landscape(*shape, seed=seed), nodata=0, crs=crs, transform=transform)


places = st.tuples(st.integers(-60, 60), st.integers(-60, 60))
shapes = st.tuples(st.integers(1, 60), st.integers(1, 60))
scenes_ = st.lists(st.tuples(places, shapes), min_size=1, max_size=4)


def opened(
    folder: Path, drawn: Sequence[tuple[tuple[float, float], tuple[int, int]]]
) -> list[Scene]:
    return [
        open_scene(write(folder / f"{number}.tif", *place, shape, seed=number))
        for number, (place, shape) in enumerate(drawn)
    ]


@given(drawn=scenes_, rule=st.sampled_from(["first", "last"]))
@same_folder
def test_it_is_what_rasterio_merges(
    tmp_path: Path, drawn: list[tuple[tuple[int, int], tuple[int, int]]], rule: Rule
) -> None:
    scenes = opened(tmp_path, drawn)
    made = mosaic(scenes, rule)
    expected, transform = merge([scene.path for scene in scenes], method=rule)
    assert made.grid.transform == tuple(transform)[:6]
    pixels, valid = made.read(made.grid.window)
    np.testing.assert_array_equal(np.where(valid, pixels, 0), expected)
    np.testing.assert_array_equal(valid, (expected != 0).all(axis=0))


shifts = st.sampled_from([0.0, 3.0, 0.5, -17.25, 31.9, -44.0])


@given(
    data=st.data(),
    drawn=st.lists(st.tuples(st.tuples(shifts, shifts), shapes), min_size=2, max_size=3),
    side=st.sampled_from([30.0, 20.0, 47.0]),
    rule=st.sampled_from(["first", "last"]),
)
@same_folder
def test_a_pixel_is_the_same_in_every_window(
    tmp_path: Path,
    data: st.DataObject,
    drawn: list[tuple[tuple[float, float], tuple[int, int]]],
    side: float,
    rule: Rule,
) -> None:
    scenes = opened(tmp_path, drawn)
    other = write(tmp_path / "other.tif", 7.3, -12, (30, 20), seed=9, side=side)
    made = mosaic([*scenes, open_scene(other)], rule)
    whole, valid = made.read(made.grid.window)
    window = data.draw(windows(*made.grid.shape))
    part, known = made.read(window)
    np.testing.assert_array_equal(part, whole[:, *window.slices])
    np.testing.assert_array_equal(known, valid[window.slices])


def test_the_grid_is_the_first_one_s_and_the_others_are_brought_to_it(tmp_path: Path) -> None:
    first = open_scene(write(tmp_path / "a.tif", 0, 0, (20, 30)))
    near = open_scene(write(tmp_path / "b.tif", -10 + 5e-4, 20, (20, 30), seed=1))
    off = open_scene(write(tmp_path / "c.tif", 5.5, -10, (20, 30), seed=2))
    fine = open_scene(write(tmp_path / "d.tif", 30, 0, (20, 30), seed=3, side=10))
    alone = mosaic([first], "first")
    assert alone.grid == first.grid
    np.testing.assert_array_equal(
        alone.read(Window(3, 4, 5, 6))[0], first.read(Window(3, 4, 5, 6))[0]
    )
    made = mosaic([first, near, off, fine], "first")
    assert made.grid.shape == (10 + 37, 10 + 50)
    assert made.grid.transform == (30.0, 0.0, 599700.0, 0.0, -30.0, 4000300.0)
    told = f"not on the grid of {first.path}, so resampled onto it: c.tif, d.tif"
    assert made.warnings == (told,)
    pixels, valid = made.read(made.grid.window)
    own, known = first.read(first.grid.window)
    assert valid[10:30, 10:40][known].all()
    np.testing.assert_array_equal(pixels[:, 10:30, 10:40][:, known], own[:, known])
    # Three by three pixels of 10 m are one.
    sums = np.ma.masked_equal(landscape(20, 30, seed=3)[:, :18], 0).reshape(3, 6, 3, 10, 3)
    np.testing.assert_array_equal(pixels[:, 40:46, 10:20], np.rint(sums.mean(axis=(2, 4))))


def test_what_lies_outside_is_not_read(tmp_path: Path) -> None:
    scenes = [open_scene(write(tmp_path / f"{n}.tif", 0, 40 * n)) for n in range(3)]
    made = mosaic(scenes, "last")
    (tmp_path / "0.tif").unlink()
    # The last scene covers the second one's right edge; the first one would be opened further left.
    made.read(Window(0, 50, 40, 80))
    with pytest.raises(Exception, match=r"0\.tif"):
        made.read(Window(0, 0, 1, 1))


@pytest.mark.parametrize(
    ("crs", "found"),
    [("EPSG:32618", "EPSG:32618"), (None, "no crs"), ("EPSG:4326", "EPSG:4326")],
)
def test_several_crs_are_refused(tmp_path: Path, crs: str | None, found: str) -> None:
    scenes = [
        open_scene(write(tmp_path / "a.tif", 0, 0)),
        open_scene(write(tmp_path / "b.tif", 0, 0, crs=crs)),
    ]
    with pytest.raises(InputRefusedError) as refused:
        mosaic(scenes, "first")
    words = str(refused.value)
    assert f"b.tif lies in {found} and" in words
    assert "a.tif in EPSG:32617; a mosaic has one crs" in words
    assert ("gdalwarp -t_srs EPSG:32617 b.tif warped.tif" in words) == (crs is not None)
    assert ("gdal_edit.py -a_srs" in words) == (crs is None)


def test_turned_rows_and_other_scales_are_refused(tmp_path: Path) -> None:
    first = open_scene(write(tmp_path / "a.tif", 0, 0))
    turned = rasterio.Affine(30, 3, 600000, 3, -30, 4000000)
    path = write_scene(tmp_path / "b.tif", landscape(20, 20), crs=UTM, transform=turned)
    with pytest.raises(InputRefusedError, match=r"b\.tif: the rows .* don't run in the same"):
        mosaic([first, open_scene(path)], "first")
    scaled = replace(first, bands=tuple(replace(band, scale=0.1) for band in first.bands))
    with pytest.raises(InputRefusedError, match=r"a\.tif have the scales and offsets"):
        mosaic([first, scaled], "first")


def test_identities_tell_rule_place_and_scenes(tmp_path: Path) -> None:
    a, b = (open_scene(write(tmp_path / f"{n}.tif", 0, n, seed=n)) for n in range(2))
    moved = open_scene(write(tmp_path / "2.tif", 0, 2, seed=1))
    pairs: list[tuple[list[Scene], Rule]] = [
        ([a, b], "first"),
        ([a, b], "last"),
        ([a, moved], "first"),
        ([a], "first"),
    ]
    made = [mosaic(pair, rule) for pair, rule in pairs]
    assert len({str(scene.identity(full=True)) for scene in made}) == len(made)
    assert mosaic([a, b], "first").identity() == made[0].identity()
