"""Pictures show the pixels that were picked, whatever container they came from."""

from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from segpipe.pipeline.maps import picture, thinned
from segpipe.pipeline.maps.legend import Legend, LegendEntry
from segpipe.pipeline.scenes.scene import Scene, open_scene
from tests import toys

LEGEND = Legend("toy", (LegendEntry(1, "water", "#4060c8"), LegendEntry(7, "town", "#c04040")))


def stored(folder: Path, pixels: NDArray[np.generic]) -> tuple[Scene, Scene]:
    """The same pixels in a GeoTIFF and in Zarr."""
    tif = toys.write_scene(folder / "scene.tif", pixels)
    array = zarr.open_array(
        str(folder / "scene.zarr"),
        mode="w",
        shape=pixels.shape,
        chunks=(len(pixels), 64, 64),
        dtype=pixels.dtype.name,
        fill_value=0,
        zarr_format=2,
    )
    array[:] = pixels
    return open_scene(tif), open_scene(folder / "scene.zarr")


@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    longest=st.integers(1, 90),
    block=st.integers(5, 300),
)
def test_every_container_gives_the_same_pixels(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, longest: int, block: int
) -> None:
    pixels = toys.landscape(height, width)
    scenes = stored(tmp_path_factory.mktemp("scenes"), pixels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thinned, "_BLOCK", block)
        (first, valid), (again, known) = (picture.reduced(scene, longest) for scene in scenes)
    assert max(valid.shape) == min(longest, max(height, width))
    assert np.array_equal(first, again)
    assert np.array_equal(valid, known)
    rows, columns = (
        [int(Fraction(2 * place + 1, 2) * length / count) for place in range(count)]
        for length, count in zip((height, width), valid.shape, strict=True)
    )
    assert np.array_equal(again, pixels[:, rows][:, :, columns])


def test_a_composite_is_transparent_where_the_scene_is_invalid(tmp_path: Path) -> None:
    pixels = toys.landscape(120, 90)
    made = picture.composite(
        open_scene(toys.write_scene(tmp_path / "a.tif", pixels)), (2, 1, 0), 60
    )
    shown = np.asarray(Image.open(BytesIO(made.data)).convert("RGBA"))
    assert shown.shape == (made.height, made.width, 4) == (60, 45, 4)
    valid = (pixels[:, 1::2, 1::2] != 0).all(0)
    assert np.array_equal(shown[..., 3] != 0, valid)


def test_a_band_is_stretched_between_its_percentiles(tmp_path: Path) -> None:
    pixels = np.arange(1, 10001, dtype=np.uint16).reshape(1, 100, 100)
    scene = open_scene(toys.write_scene(tmp_path / "a.tif", pixels))
    made = picture.composite(scene, (0,), 100)
    shown = np.asarray(Image.open(BytesIO(made.data)).convert("L")).astype(float)
    expected = np.clip((pixels[0].astype(float) - 200) / 9600, 0, 1) * 255
    assert np.abs(shown - expected).mean() < 4


def test_a_band_of_one_value_is_grey_and_one_of_none_is_empty(tmp_path: Path) -> None:
    for value, color in ((9, (128, 128, 128, 255)), (0, (0, 0, 0, 0))):
        pixels = np.full((1, 8, 8), value, np.uint8)
        scene = open_scene(toys.write_scene(tmp_path / f"{value}.tif", pixels))
        made = picture.composite(scene, (0,), 8)
        shown = np.asarray(Image.open(BytesIO(made.data)).convert("RGBA")).astype(int)
        assert np.abs(shown - color).max() <= 4


def test_a_map_has_its_legends_colours(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).choice([1, 7, 255], (1, 50, 70)).astype(np.uint8)
    scene = open_scene(toys.write_scene(tmp_path / "map.tif", labels, nodata=255))
    made = picture.painted(scene, LEGEND, 1000)
    assert made.media_type == "image/png"
    shown = np.asarray(Image.open(BytesIO(made.data)).convert("RGBA"))
    assert np.array_equal(shown, np.array(LEGEND.palette, np.uint8)[labels[0]])
    assert made.uri.startswith("data:image/png;base64,iVBOR")
    assert made == picture.painted(scene, LEGEND, 1000)
