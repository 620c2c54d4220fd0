"""Stores as xarray writes them: variables, steps of time, bands, packed numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.scenes.scene import Scene, open_scene
from segpipe.pipeline.scenes.zarr_variables import ANY, Choice
from segpipe.pipeline.window import Window

BOTH = pytest.mark.parametrize("version", [2, 3])
HEIGHT, WIDTH, STEPS = 40, 50, 4
DAYS = (np.datetime64("2020-06-01") + 10 * np.arange(STEPS)).astype("datetime64[ns]")
HOURS = np.datetime64("2020-01-01T10:30", "ns") + np.timedelta64(6, "h") * np.arange(STEPS)
RANDOM = np.random.default_rng(0)
PLACE = {
    "y": 7 - 30 * (np.arange(HEIGHT) + 0.5),
    "x": 5 + 30 * (np.arange(WIDTH) + 0.5),
    "spatial_ref": ((), 0, {"crs_wkt": 'LOCAL_CS["here",UNIT["metre",1]]'}),
}
# xarray's own remarks on what is no part of format 3 yet.
pytestmark = pytest.mark.filterwarnings(
    "ignore::zarr.errors.ZarrUserWarning", "ignore:Consolidated metadata", "ignore:The data type"
)


def planes(*leading: int, dtype: str = "uint16") -> Any:
    """Numbers of this shape before rows and columns."""
    return RANDOM.integers(1, 900, (*leading, HEIGHT, WIDTH)).astype(dtype)


def write(path: Path, version: int, variables: dict[str, Any], **options: Any) -> xarray.Dataset:
    """A store of these variables, which says where it lies."""
    dataset = xarray.Dataset(variables, coords=PLACE)
    for name in dataset.data_vars:
        dataset[name].attrs["grid_mapping"] = "spatial_ref"
    dataset.to_zarr(path, zarr_format=2 if version == 2 else 3, **options)
    return dataset


def pixels(scene: Scene) -> Any:
    return scene.read(scene.grid.window)[0]


def refusal(path: Path, choice: Choice = ANY) -> str:
    with pytest.raises(InputRefusedError) as caught:
        open_scene(path, choice=choice)
    text = str(caught.value)
    assert "\n" not in text
    return text


@BOTH
def test_variables_on_the_same_pixels_are_bands(tmp_path: Path, version: int) -> None:
    names = ("red", "green", "nir")
    held = write(tmp_path / "a", version, {name: (("y", "x"), planes()) for name in names})
    scene = open_scene(tmp_path / "a", wanted=("NIR", "red"))
    assert scene.band_names == ("nir", "red")
    assert scene.grid.transform == pytest.approx((30, 0, 5, 0, -30, 7))
    np.testing.assert_array_equal(pixels(scene), [held["nir"], held["red"]])
    picked = open_scene(tmp_path / "a", ["red", "green", "nir"])
    np.testing.assert_array_equal(pixels(picked), [held[name] for name in names])
    alone = open_scene(tmp_path / "a", choice=Choice("green"))
    np.testing.assert_array_equal(pixels(alone), [held["green"]])


@BOTH
@pytest.mark.parametrize(
    "dims",
    [
        ("y", "x"),
        ("band", "y", "x"),
        ("time", "y", "x"),
        ("time", "band", "y", "x"),
        ("band", "time", "y", "x"),
        ("height", "band", "y", "x"),
    ],
)
def test_every_order_of_dimensions(tmp_path: Path, version: int, dims: tuple[str, ...]) -> None:
    lengths = {"band": 3, "time": STEPS, "height": 1}
    coordinates: dict[str, Any] = {"band": ["blue", "green", "red"], "time": DAYS, "height": [10.0]}
    values = planes(*(lengths[dim] for dim in dims[:-2]))
    array = xarray.DataArray(
        values, dims=dims, coords={dim: coordinates[dim] for dim in dims if dim in coordinates}
    )
    write(tmp_path / "a", version, {"img": array})
    choice = Choice(time="3") if "time" in dims else ANY
    scene = open_scene(tmp_path / "a", choice=choice)
    expected = array.isel(time=2) if "time" in dims else array
    expected = expected.isel(height=0) if "height" in dims else expected
    np.testing.assert_array_equal(pixels(scene), expected.values.reshape(-1, HEIGHT, WIDTH))
    if "band" in dims:
        chosen = open_scene(tmp_path / "a", ["red", "blue", "red"], choice=choice)
        np.testing.assert_array_equal(pixels(chosen), expected.values[[2, 0, 2]])


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("cube") / "a"
    values = planes(STEPS, 3)
    dims = ("time", "band", "y", "x")
    image = xarray.DataArray(values, dims=dims, coords={"time": DAYS})
    write(path, 3, {"img": image}, encoding={"img": {"chunks": (2, 2, 16, 32)}})
    return path, values


@given(data=st.data())
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_window_of_a_step_holds_what_zarr_holds(
    cube: tuple[Path, Any], data: st.DataObject
) -> None:
    path, values = cube
    step = data.draw(st.integers(0, STEPS - 1))
    bands = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    top, left = data.draw(st.integers(0, HEIGHT - 1)), data.draw(st.integers(0, WIDTH - 1))
    height = data.draw(st.integers(1, HEIGHT - top))
    width = data.draw(st.integers(1, WIDTH - left))
    window = Window(top, left, height, width)
    scene = open_scene(path, list(map(str, bands)), choice=Choice("img", str(step + 1)))
    found, valid = scene.read(window)
    wanted = values[step][[band - 1 for band in bands]]
    np.testing.assert_array_equal(found, wanted[:, *window.slices])
    assert valid.all()


@BOTH
@pytest.mark.parametrize(
    ("times", "labels"),
    [
        (DAYS, {"2020-06-11": 1, "2020-07": 3, "2020-06-21T00:00:00": 2, "4": 3, " 1 ": 0}),
        (
            HOURS,
            {"2020-01-01T16:30:00": 1, "2020-01-02": 3, "2020-01-01 10": 0, "2020-01-01": None},
        ),
        (np.array([2017, 2018, 2019, 2020]), {"2018": 1, "2": 1, "2021": None, "0": None}),
        (["dry", "wet", "2", "x"], {"wet": 1, "2": 2, "1": 0, "w": None}),
    ],
)
def test_steps_by_number_date_and_label(
    tmp_path: Path, version: int, times: Any, labels: dict[str, int | None]
) -> None:
    values = planes(STEPS)
    image = xarray.DataArray(values, dims=("time", "y", "x"), coords={"time": times})
    write(tmp_path / "a", version, {"img": image})
    for label, step in labels.items():
        if step is None:
            assert repr(label) in refusal(tmp_path / "a", Choice(time=label))
        else:
            scene = open_scene(tmp_path / "a", choice=Choice(time=label))
            np.testing.assert_array_equal(pixels(scene)[0], values[step])


def test_a_time_by_its_units_under_any_name(tmp_path: Path) -> None:
    values = planes(STEPS)
    dims = ("when", "y", "x")
    image = xarray.DataArray(values, dims=dims, coords={"when": DAYS})
    write(tmp_path / "a", 3, {"img": image})
    scene = open_scene(tmp_path / "a", choice=Choice(time="2020-07-01"))
    np.testing.assert_array_equal(pixels(scene)[0], values[3])


@BOTH
def test_packed_numbers_stay_as_they_are_and_say_what_they_mean(
    tmp_path: Path, version: int
) -> None:
    values = RANDOM.random((HEIGHT, WIDTH))
    values[3, 4] = np.nan
    packing = {"dtype": "int16", "scale_factor": 1e-4, "add_offset": -0.1, "_FillValue": -9999}
    write(tmp_path / "a", version, {"img": (("y", "x"), values)}, encoding={"img": packing})
    scene = open_scene(tmp_path / "a")
    (band,) = scene.bands
    stored, valid = scene.read(scene.grid.window)
    assert (scene.dtype, scene.nodata) == ("int16", (-9999.0,))
    assert (band.scale, band.offset) == (1e-4, -0.1)
    np.testing.assert_array_equal(valid, np.isfinite(values))
    np.testing.assert_allclose(
        (band.scale * stored[0] + band.offset)[valid], values[valid], atol=1e-4
    )


def test_steps_and_variables_are_other_scenes(cube: tuple[Path, Any], tmp_path: Path) -> None:
    write(tmp_path / "b", 3, {name: (("y", "x"), planes()) for name in ("one", "two")})
    scenes = [open_scene(cube[0], choice=Choice(time=step)) for step in ("1", "2", "3")]
    scenes += [open_scene(tmp_path / "b", choice=Choice(name)) for name in ("one", "two")]
    identities = [repr(scene.identity(full=full)) for scene in scenes for full in (False, True)]
    assert len(set(identities)) == len(identities)


# What is refused


def test_questions_that_a_store_leaves_open(cube: tuple[Path, Any], tmp_path: Path) -> None:
    assert "holds 4 time steps, 2020-06-01 to 2020-07-01; a scene is one" in refusal(cube[0])
    text = refusal(cube[0], Choice("red"))
    assert "there's no variable 'red': it has img" in text
    write(tmp_path / "a", 3, {"img": (("y", "x"), planes())})
    assert "img has no time (y, x are its dimensions)" in refusal(tmp_path / "a", Choice(time="1"))
    write(tmp_path / "b", 3, {"one": (("y", "x"), planes()), "two": (("b", "y", "x"), planes(2))})
    assert "found one, two of 5 arrays; choose one with --variable" in refusal(tmp_path / "b")
    write(tmp_path / "c", 3, {"img": (("a", "b", "y", "x"), planes(2, 2))})
    assert "one dimension of bands before rows and columns" in refusal(tmp_path / "c")
    write(tmp_path / "d", 3, {"img": (("y", "x", "time"), np.moveaxis(planes(2), 0, -1))})
    assert "a scene has (band, y, x): transpose it" in refusal(tmp_path / "d")


def test_bounds_and_coordinates_are_no_variables(tmp_path: Path) -> None:
    image = xarray.DataArray(planes(STEPS), dims=("time", "y", "x"), coords={"time": DAYS})
    image["time"].attrs["bounds"] = "time_bnds"
    where = (("y", "x"), planes(dtype="float64"))
    variables = {"img": image, "time_bnds": (("time", "edge"), np.zeros((STEPS, 2)))}
    dataset = xarray.Dataset(variables, coords={**PLACE, "lon": where, "lat": where})
    dataset.to_zarr(tmp_path / "a", zarr_format=3)
    scene = open_scene(tmp_path / "a", choice=Choice(time="1"))
    np.testing.assert_array_equal(pixels(scene)[0], image[0])


def test_a_file_has_neither_variables_nor_steps(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    text = refusal(tmp_path / "a.tif", Choice("red"))
    assert "a file without variables and time steps; leave --variable and --time out" in text
