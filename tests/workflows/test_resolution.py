"""A scene is mapped in the pixels that were asked for, as if it had been resampled beforehand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from segpipe.models.package import SegmentationModel, load, save
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.workflows.errors import OptionError
from segpipe.workflows.reading.resolution import at_resolution
from segpipe.workflows.run import run
from segpipe.workflows.verify import verify
from tests import toys
from tests.workflows.conftest import Command, write_scene

CARD = replace(toys.card(), resolution=30.0)


def scene(path: Path, side: float, crs: str | None = "EPSG:32621", shape: int = 90) -> Path:
    """A square scene with pixels of that side."""
    transform = rasterio.Affine(side, 0, 694005, 0, -side, 2766615)
    if crs == "EPSG:4326":
        transform = rasterio.Affine(side, 0, -60, 0, -side, 60)
    pixels = toys.landscape(shape, shape)
    return write_scene(path, pixels, crs=crs, transform=transform, nodata=0)


@pytest.mark.parametrize(
    ("side", "resolution", "expected"),
    [
        (30.0, "auto", 90),
        (28.5, "auto", 90),
        (27.01, "auto", 90),
        (26.0, "auto", 78),
        (33.5, "auto", 101),
        (10.0, "auto", 30),
        (10.0, "native", 90),
        (10.0, 30, 30),
        (10.0, "20", 45),
        (10.0, 10, 90),
        (10.0, 7.0, 129),
        (28.5, 30, 86),
    ],
)
def test_pixels_have_the_size_that_was_asked_for(
    tmp_path: Path, side: float, resolution: str | float, expected: int
) -> None:
    native = open_scene(scene(tmp_path / "a.tif", side))
    found = at_resolution(native, resolution, CARD)
    assert found.grid.shape == (expected, expected)
    assert found.grid.transform[2::3] == native.grid.transform[2::3]
    assert (found is native) == (expected == 90)
    assert len(found.warnings) == (resolution == "auto" and expected != 90)
    assert at_resolution(native, "auto", toys.card()) is native


def test_degrees_are_taken_to_metres_at_the_scene_s_centre(tmp_path: Path) -> None:
    native = open_scene(scene(tmp_path / "a.tif", 1 / 3600, "EPSG:4326"))
    a, _, _, _, e, _ = at_resolution(native, 10, CARD).grid.transform
    # A degree of latitude is 111.4 km there, one of longitude about half of it.
    assert -e == pytest.approx(10 / 111_412, rel=1e-3)
    assert a == pytest.approx(10 / (111_320 * np.cos(np.radians(59.9875)) * 1.0025), rel=1e-3)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    native = open_scene(scene(tmp_path / "a.tif", 10))
    for wrong in ("coarse", 0, -3.0, float("nan"), float("inf")):
        with pytest.raises(OptionError, match="auto, native, or a pixel's side in metres"):
            at_resolution(native, wrong, CARD)
    with pytest.raises(InputRefusedError, match=r"a\.tif: pixels would become 300 times as large"):
        at_resolution(native, 3000, CARD)
    nowhere = open_scene(scene(tmp_path / "b.tif", 10, crs=None))
    with pytest.raises(InputRefusedError, match=r"has no crs.*--resolution native"):
        at_resolution(nowhere, 30, CARD)
    assert "read as it is" in at_resolution(nowhere, "auto", CARD).warnings[-1]


def test_the_map_is_that_of_the_resampled_scene(tmp_path: Path) -> None:
    model = toys.small()
    path = scene(tmp_path / "fine.tif", 10, shape=400)
    coarse = at_resolution(open_scene(path), 13, model.card)
    pixels, valid = coarse.read(coarse.grid.window)
    expected = toys.whole_image(model.network, model.card, model.footprint.stride, pixels, valid)
    made = run(path, model=model, resolution=13, output=tmp_path / "map.tif", tile=256)
    assert made.tiles == 4
    with rasterio.open(made.output) as file:
        np.testing.assert_array_equal(file.read(1), expected)
        assert tuple(file.transform)[:6] == (13, 0, 694005, 0, -13, 2766615)
    assert verify(path, made.output, model=model, resolution=13, windows=None).holds
    with pytest.raises(InputRefusedError, match="name the scene that was mapped"):
        verify(path, made.output, model=model)


def test_the_command_line_takes_it(segpipe: Command, tmp_path: Path, tiny_model: Path) -> None:
    path = scene(tmp_path / "a.tif", 10)
    model = load(tiny_model)
    save(SegmentationModel(model.network, replace(model.card, resolution=30.0)), tmp_path / "own")
    auto = segpipe("run", path, "-m", tmp_path / "own", "-o", "auto.tif", "--json")
    assert json.loads(auto.out)["pixels"] == 900
    assert "resampled to the 30 m of tiny; --resolution native leaves them" in auto.lines[0]
    native = segpipe("run", path, "-m", tmp_path / "own", "-o", "n.tif", "--resolution", "native")
    assert (native.code, native.lines) == (0, [])
    planned = segpipe("plan", path, "-m", tiny_model, "--resolution", "5", "--json")
    assert json.loads(planned.out)["read"] == [180, 180]
    wrong = segpipe("run", path, "-m", tiny_model, "--resolution", "fine")
    assert (wrong.code, len(wrong.lines)) == (2, 1)
