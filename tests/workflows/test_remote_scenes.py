"""Scenes on the network and steps of Zarr stores, from the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray
from numpy.typing import NDArray

from tests.servers import Fault, Files, hide_settings, serving
from tests.workflows.conftest import Command, noise

NAMES = ("red", "green", "blue")
SECRET = "X-Amz-Signature=s3cr3t"
TRANSFORM = rasterio.Affine(30, 0, 694005, 0, -30, -2766615)
# xarray's own remarks on what is no part of format 3 yet, and what it writes for older readers.
pytestmark = pytest.mark.filterwarnings(
    "ignore::zarr.errors.ZarrUserWarning", "ignore:Consolidated metadata"
)


def write_cog(path: Path, pixels: NDArray[np.uint16]) -> Path:
    """A COG of the pixels (band, row, column), in blocks of 128 x 128."""
    _, height, width = pixels.shape
    options: dict[str, Any] = {"driver": "COG", "blocksize": 128, "compress": "deflate"}
    shape = {"count": len(NAMES), "height": height, "width": width, "dtype": "uint16"}
    with rasterio.open(
        path, "w", crs="EPSG:32621", transform=TRANSFORM, **shape, **options
    ) as file:
        file.write(pixels)
        file.descriptions = NAMES
    return path


def write_zarr(path: Path, variables: dict[str, Any], coordinates: dict[str, Any]) -> Path:
    """A store of the variables, whose pixels are those of `write_cog`."""
    height, width = next(iter(variables.values()))[1].shape[-2:]
    place = {
        "y": TRANSFORM.f - 30 * (np.arange(height) + 0.5),
        "x": TRANSFORM.c + 30 * (np.arange(width) + 0.5),
        "spatial_ref": ((), 0, {"crs_wkt": rasterio.CRS.from_epsg(32621).to_wkt()}),
    }
    dataset = xarray.Dataset(variables, coords=place | coordinates)
    for name in dataset.data_vars:
        dataset[name].attrs["grid_mapping"] = "spatial_ref"
        ones = (1,) * (dataset[name].ndim - 3)
        dataset[name].encoding["chunks"] = (*ones, 3, 200, 200)
    dataset.to_zarr(path, zarr_format=2)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same scene as a COG and as a Zarr store."""
    folder = tmp_path_factory.mktemp("scenes")
    pixels = noise(600, 560)
    write_cog(folder / "my scene.tif", pixels)
    write_zarr(folder / "store.zarr", {"img": (("band", "y", "x"), pixels)}, {"band": list(NAMES)})
    return folder


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hide_settings(monkeypatch, tmp_path)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """What opens the bucket."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")


@pytest.fixture
def options(tiny_model: Path) -> tuple[str, ...]:
    return ("-m", str(tiny_model), "--precision", "fp32")


def contents(folder: Path) -> bytes:
    """All bytes in all files of a folder, and their names."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assert files
    return b"".join(str(path).encode() + path.read_bytes() for path in files)


def cut_off(sound: Files) -> list[Fault | None]:
    """Faults of a server that fails for good after three quarters of what `sound` was asked."""
    return [*[None] * (len(sound.asked) * 3 // 4), *[503] * 500]


@pytest.fixture
def expected(
    segpipe: Command,
    tmp_path_factory: pytest.TempPathFactory,
    folder: Path,
    options: tuple[str, ...],
) -> bytes:
    """The map of the local file."""
    output = tmp_path_factory.mktemp("local") / "map.tif"
    assert segpipe("run", folder / "my scene.tif", *options, "-o", output).code == 0
    return output.read_bytes()


# The same map


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("address", "stem"),
    [
        (f"{{http}}/my%20scene.tif?{SECRET}", "my scene"),
        (f"{{http}}/store.zarr?{SECRET}", "store"),
        ("s3://scenes/my scene.tif", "my scene"),
    ],
)
def test_the_map_of_an_address_is_that_of_the_file(
    segpipe: Command,
    tmp_path: Path,
    served: Files,
    options: tuple[str, ...],
    expected: bytes,
    address: str,
    stem: str,
) -> None:
    scene = address.format(http=served.url)
    beside = ("--report", "page.html", "--stac", "item.json", "--datetime", "2000-07-20")
    planned = segpipe("plan", scene, *options, "--json")
    done = segpipe("run", scene, *options, *beside, "--tile", "256", "--json")
    assert (done.code, done.lines) == (0, [])
    output = tmp_path / f"{stem}.classes.tif"
    assert output.read_bytes() == expected
    checked = segpipe("verify", scene, output, *options, "--windows", "2", "--json")
    assert checked.code == 0
    assert json.loads(checked.out)["differing"] == 0
    assert json.loads(planned.out)["output"] == json.loads(done.out)["output"] == str(output)
    assert json.loads(done.out)["scene"] == scene.partition("?")[0]
    assert "s3cr3t" not in planned.out + done.out + checked.out + done.err
    assert b"s3cr3t" not in contents(tmp_path)


def test_several_addresses_are_told_without_what_opens_them(
    segpipe: Command, tmp_path: Path, served: Files, options: tuple[str, ...], expected: bytes
) -> None:
    scenes = [
        f"{served.url}/{name}?{SECRET}" for name in ("my%20scene.tif", "store.zarr", "no.tif")
    ]
    (tmp_path / "maps").mkdir()
    command = ("run", *scenes, *options, "-o", "maps", "--stac", "maps/all.json", "--json")
    for key in ("runs", "already_mapped"):
        done = segpipe(*command, "--datetime", "2000-07-20")
        found = json.loads(done.out)
        assert (len(found[key]), len(found["failed"])) == (2, 1)
        assert "s3cr3t" not in done.out + done.err
    assert (tmp_path / "maps" / "my scene.classes.tif").read_bytes() == expected
    clash = segpipe("run", scenes[0], f"{scenes[0]}&again", *options)
    assert clash.code == 2
    assert "s3cr3t" not in clash.err
    assert b"s3cr3t" not in contents(tmp_path)


def test_bands_at_addresses_are_told_without_what_opens_them(
    segpipe: Command, tmp_path: Path, served: Files, options: tuple[str, ...], expected: bytes
) -> None:
    def command(server: Files, output: str) -> tuple[str, ...]:
        address = f"{server.url}/my%20scene.tif?{SECRET}"
        bands = ",".join(f"{name}={address}:{n}" for n, name in enumerate(NAMES, 1))
        return ("run", ".", *options, "--bands", bands, "--tile", "256", "-o", output)

    with serving(served.folder) as sound:
        assert segpipe(*command(sound, "sound.tif"), "--report", "page.html").code == 0
    served.faults = cut_off(sound)
    lost = segpipe(*command(served, "map.tif"))
    assert lost.code == 8
    assert f"--bands red={served.url}/my%20scene.tif,green=" in lost.err
    assert "s3cr3t" not in lost.err
    served.faults = []
    done = segpipe(*command(served, "map.tif"))
    assert done.code == 0
    assert "s3cr3t" not in done.out + done.err
    assert (tmp_path / "map.tif").read_bytes() == expected
    assert b"s3cr3t" not in contents(tmp_path)


# Faults


@pytest.mark.parametrize("name", ["my%20scene.tif", "store.zarr"])
def test_a_server_that_is_lost_leaves_a_run_that_goes_on(
    segpipe: Command,
    tmp_path: Path,
    served: Files,
    options: tuple[str, ...],
    expected: bytes,
    name: str,
) -> None:
    scene = f"{served.url}/{name}?{SECRET}"
    command = ("run", scene, *options, "--tile", "256", "-o", "map.tif", "--quiet")
    with serving(served.folder) as sound:
        assert segpipe("run", f"{sound.url}/{name}", *command[2:-3], "-o", "sound.tif").code == 0
    served.faults = cut_off(sound)
    lost = segpipe(*command)
    assert lost.code == 8
    assert lost.out == ""
    reason, resume = lost.err.splitlines()
    assert reason.startswith(f"segpipe: {served.url}/{name}: the server answers 503")
    assert resume.startswith(f"segpipe: resume with: segpipe run {served.url}/{name} ")
    assert not (tmp_path / "map.tif").exists()
    assert "s3cr3t" not in lost.err
    assert b"s3cr3t" not in contents(tmp_path)
    served.faults = []
    done = segpipe(*command, "--json")
    assert done.code == 0
    assert json.loads(done.out)["tiles_resumed"] > 0
    assert (tmp_path / "map.tif").read_bytes() == expected
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("action", ["run", "plan"])
def test_what_can_t_be_opened_is_refused_in_one_line(
    segpipe: Command,
    tmp_path: Path,
    served: Files,
    options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    action: str,
) -> None:
    def refusal(scene: str) -> str:
        done = segpipe(action, scene, *options)
        assert (done.code, done.out, len(done.lines)) == (3, "", 1)
        assert "s3cr3t" not in done.err
        assert list(tmp_path.iterdir()) == []
        return done.err

    with serving(served.folder) as gone:
        pass
    assert "(404); check the address" in refusal(f"{served.url}/none.tif?{SECRET}")
    assert "the connection is refused" in refusal(f"{gone.url}/my%20scene.tif?{SECRET}")
    assert "(404); check the address" in refusal("s3://scenes/none.tif")
    served.faults = [403] * 9
    assert "access is denied (403)" in refusal(f"{served.url}/my%20scene.tif?{SECRET}")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "set AWS_ACCESS_KEY_ID" in refusal("s3://scenes/my scene.tif")


# Variables and steps of time


def test_a_step_of_a_variable_is_mapped_as_the_raster_of_its_planes(
    segpipe: Command, tmp_path: Path, options: tuple[str, ...]
) -> None:
    steps = np.stack([noise(300, 280), noise(300, 280)[:, ::-1]])
    dims = ("time", "band", "y", "x")
    days = np.array(["2024-05-03", "2024-06-07"], "datetime64[ns]")
    write_zarr(
        tmp_path / "cube.zarr",
        {"clear": (dims, steps), "hazy": (dims, steps[:, :, :, ::-1])},
        {"time": days, "band": list(NAMES)},
    )
    write_cog(tmp_path / "plane.tif", np.ascontiguousarray(steps[1, :, :, ::-1]))
    assert segpipe("run", "plane.tif", *options, "-o", "expected.tif").code == 0
    expected = (tmp_path / "expected.tif").read_bytes()
    chosen = ("--variable", "hazy", "--time", "2024-06")
    before = set(tmp_path.iterdir())
    for action in (
        ("run", "cube.zarr"),
        ("plan", "cube.zarr"),
        ("verify", "cube.zarr", "plane.tif"),
    ):
        open_question = segpipe(*action, *options)
        assert (open_question.code, open_question.out, len(open_question.lines)) == (3, "", 1)
        assert "--variable" in open_question.err
        assert "--time" in open_question.err
        assert "clear, hazy" in open_question.err
    assert set(tmp_path.iterdir()) == before
    assert segpipe("plan", "cube.zarr", *chosen, *options).code == 0
    with serving(tmp_path) as files:
        address = f"{files.url}/cube.zarr"
        for scene, output in (("cube.zarr", "near.tif"), (address, "far.tif")):
            assert segpipe("run", scene, *chosen, *options, "-o", output).code == 0
            assert (tmp_path / output).read_bytes() == expected
        assert (
            segpipe("verify", "cube.zarr", "near.tif", *chosen, *options, "--windows", "2").code
            == 0
        )
        other = ("--variable", "hazy", "--time", "1")
        assert (
            segpipe("verify", "cube.zarr", "near.tif", *other, *options, "--windows", "2").code
            == 10
        )
        run = ("run", address, *options, "-o", "map.tif", "--tile", "256")
        files.asked.clear()
        assert segpipe(*run, *chosen, "-o", "sound.tif").code == 0
        files.faults = cut_off(files)
        assert segpipe(*run, *chosen).code == 8
        files.faults = []
        mismatch = segpipe(*run, *other)
        assert (mismatch.code, len(mismatch.lines)) == (5, 1)
        assert segpipe(*run, *chosen).code == 0
    assert (tmp_path / "map.tif").read_bytes() == expected
