"""A scene behind an address is the scene: few requests, no other host, no silent fault."""

import itertools
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import zarr

from segpipe.pipeline.errors import CorruptInputError, InputRefusedError, UnreachableError
from segpipe.pipeline.scenes.location import Address, is_remote, place_of, shown
from segpipe.pipeline.scenes.remote import PAGE
from segpipe.pipeline.scenes.scene import Scene, open_scene
from segpipe.pipeline.window import Window
from tests.servers import RETRIES, Fault, Files, hide_settings, serving

NOISE = np.random.default_rng(5).integers(1, 60000, (3, 700, 640)).astype(np.uint16)
NEAR = Window(100, 60, 500, 520)
# What xarray writes for older readers.
pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")


def write_cog(path: Path, **options: Any) -> Path:
    """A COG with blocks of 128 x 128."""
    profile = {
        **{"driver": "COG", "dtype": "uint16", "crs": "EPSG:32621", "nodata": 0},
        **{"transform": rasterio.Affine(30, 0, 5, 0, -30, 7), "blocksize": 128},
        **{"compress": "deflate", **options},
    }
    with rasterio.open(path, "w", count=3, height=700, width=640, **profile) as file:
        file.write(NOISE)
        file.descriptions = ("red", "green", "blue")
    return path


def write_zarr(path: Path, version: int, *, consolidated: bool = True) -> Path:
    """A group with one array (band, y, x), which says where it lies."""
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == 2 else 3)
    dims = ["band", "y", "x"]
    names: dict[str, Any] = {"dimension_names": dims} if version == 3 else {}
    array = group.create_array(
        "img", shape=NOISE.shape, dtype="u2", chunks=(1, 256, 256), fill_value=0, **names
    )
    array[:] = NOISE
    place: dict[str, Any] = {
        "proj:code": "EPSG:32621",
        "spatial:transform": [30, 0, 5, 0, -30, 7],
    }
    array.attrs.update({"_ARRAY_DIMENSIONS": dims, "long_name": ["red", "green", "blue"], **place})
    if consolidated:
        zarr.consolidate_metadata(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COG, two TIFFs with other layouts, a JPEG 2000, and Zarr of both formats."""
    folder = tmp_path_factory.mktemp("scenes")
    write_cog(folder / "a b.tif")
    write_cog(folder / "planar.tif", driver="GTiff", interleave="band", tiled=True, blocksize=None)
    write_cog(folder / "strips.tif", driver="GTiff", blocksize=None)
    write_cog(
        folder / "a.jp2",
        **{"driver": "JP2OpenJPEG", "QUALITY": 100, "REVERSIBLE": "YES"},
        **{"blocksize": None, "compress": None},
    )
    # Names and nodata, which JPEG 2000 has in a side-car.
    (folder / "a.jp2.aux.xml").unlink()
    for version in (2, 3):
        write_zarr(folder / f"{version}.zarr", version)
        write_zarr(folder / f"loose{version}.zarr", version, consolidated=False)
    return folder


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hide_settings(monkeypatch, tmp_path)


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment that a user of this S3 server has."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


def same(one: Scene, other: Scene, window: Window = NEAR) -> bool:
    """Whether two scenes agree in all but where they lie."""
    pixels, valid = one.read(window)
    others, known = other.read(window)
    facts = [(s.grid, s.band_names, s.nodata, s.dtype, s.block_shape) for s in (one, other)]
    return bool((pixels == others).all()) and bool((valid == known).all()) and facts[0] == facts[1]


# The scene is the scene

NAMES = ["a b.tif", "planar.tif", "strips.tif", "a.jp2", "2.zarr", "3.zarr"]


@pytest.mark.parametrize("name", NAMES)
def test_http_gives_what_the_file_gives(folder: Path, served: Files, name: str) -> None:
    scene = open_scene(f"{served.url}/{name.replace(' ', '%20')}")
    assert same(scene, open_scene(folder / name))
    assert same(pickle.loads(pickle.dumps(scene)), scene)


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize("name", ["a b.tif", "2.zarr", "3.zarr/", "loose2.zarr", "loose3.zarr"])
def test_s3_gives_what_the_file_gives(folder: Path, name: str) -> None:
    scene = open_scene(f"s3://scenes/{name}")
    assert same(scene, open_scene(folder / name))
    assert scene.path == f"s3://scenes/{name}"


@pytest.mark.parametrize("name", ["a b.tif", "3.zarr"])
def test_the_names_of_gdal_and_of_aws_own_files_are_known(
    folder: Path, endpoint: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_S3_ENDPOINT", endpoint.removeprefix("http://"))
    monkeypatch.setenv("AWS_HTTPS", "NO")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / ".aws").mkdir()
    keys = "aws_access_key_id = test\naws_secret_access_key = te%st\n"
    (tmp_path / ".aws" / "credentials").write_text(f"[default]\n[maps]\n{keys}")
    (tmp_path / ".aws" / "config").write_text("[profile maps]\nregion = us-east-1\n")
    monkeypatch.setenv("AWS_PROFILE", "maps")
    assert same(open_scene(f"s3://scenes/{name}"), open_scene(folder / name))


@pytest.mark.parametrize(
    ("address", "settings"),
    [
        ("gs://scenes/{}", {"CPL_GS_ENDPOINT": "{}", "GS_NO_SIGN_REQUEST": "YES"}),
        (
            "az://scenes/{}",
            {
                "AZURE_STORAGE_CONNECTION_STRING": "AccountName=us;BlobEndpoint={};",
                "AZURE_NO_SIGN_REQUEST": "YES",
            },
        ),
        (
            "abfs://scenes@us.dfs.core.windows.net/{}",
            {
                "AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint={}",
                "AZURE_STORAGE_SAS_TOKEN": "sp=r&sig=hidden",
            },
        ),
    ],
)
@pytest.mark.parametrize("name", ["a b.tif", "3.zarr"])
def test_other_stores_are_asked_in_their_own_way(
    folder: Path,
    tmp_path: Path,
    address: str,
    settings: dict[str, str],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "scenes").symlink_to(folder)
    with serving(tmp_path) as files:
        for variable, value in settings.items():
            monkeypatch.setenv(variable, value.format(files.url))
        scene = open_scene(address.format(name))
        assert same(scene, open_scene(folder / name))
        assert {path.split("/")[0] for path, _ in files.asked} == {"scenes"}
        assert "hidden" not in scene.path + json.dumps(scene.identity()) + repr(scene)


# Few requests


def blocks(path: Path) -> dict[int, int]:
    """Where the full-resolution blocks of a TIFF begin, and where each ends."""
    with rasterio.open(path) as file:

        def tag(name: str, block: tuple[int, ...]) -> int:
            return int(file.get_tag_item(f"BLOCK_{name}_{block[1]}_{block[0]}", "TIFF", bidx=1))

        places = itertools.product(*(range(-(-side // 128)) for side in file.shape))
        return {tag("OFFSET", place): tag("OFFSET", place) + tag("SIZE", place) for place in places}


def test_a_cog_is_opened_with_one_request_and_read_in_whole_blocks(
    folder: Path, served: Files
) -> None:
    scene = open_scene(f"{served.url}/a%20b.tif")
    assert served.ranges() == [(0, PAGE - 1)]
    served.asked.clear()
    scene.read(NEAR)
    # Five rows of blocks, of five blocks each; a block is some 90 kB.
    assert 1 <= len(served.asked) <= 5
    spans = blocks(folder / "a b.tif")
    # A COG has four bytes before and after each block, and GDAL asks for those of neighbours.
    assert all(first + 4 in spans for first, _ in served.ranges())
    assert all(last + 1 - 8 in spans.values() for _, last in served.ranges())
    served.asked.clear()
    scene.read(scene.grid.window)
    assert len(served.asked) <= 2


def test_all_threads_of_a_process_share_the_head(served: Files) -> None:
    scene = open_scene(f"{served.url}/a%20b.tif")
    served.asked.clear()
    windows = [Window(top, 0, 100, 640) for top in range(0, 600, 100)]
    with ThreadPoolExecutor(4) as pool:
        reads = list(pool.map(scene.read, windows))
    for window, (pixels, _) in zip(windows, reads, strict=True):
        np.testing.assert_array_equal(pixels, NOISE[:, *window.slices])
    assert all(first >= 1000 for first, _ in served.ranges())
    assert len(served.asked) <= 2 * len(windows)


def test_zarr_is_opened_without_looking_around(served: Files) -> None:
    scene = open_scene(f"{served.url}/3.zarr")
    assert [path for path, _ in served.asked] == ["3.zarr/zarr.json"]
    served.asked.clear()
    scene.read(Window(0, 0, 300, 200))
    chunks = [path for path, _ in served.asked if "/c/" in path]
    assert sorted(chunks) == [f"3.zarr/img/c/{b}/{row}/0" for b in range(3) for row in range(2)]


# Identity


@pytest.mark.parametrize("name", ["a b.tif", "2.zarr", "3.zarr"])
def test_identity_is_of_the_bytes_not_of_the_address(
    folder: Path, tmp_path: Path, name: str
) -> None:
    copy = tmp_path / "copy"
    (shutil.copytree if (folder / name).is_dir() else shutil.copy)(folder / name, copy)
    with serving(folder) as one, serving(tmp_path) as two:
        first = open_scene(f"{one.url}/{name.replace(' ', '%20')}?sig=abc")
        second = open_scene(f"{two.url}/copy?sig=def")
        assert first.identity() == second.identity()
        assert first.identity(full=True) == second.identity(full=True)
        assert "abc" not in json.dumps(first.identity())
        files = [copy, *(copy / "img").rglob("*0")]
        changed = min(file for file in files if file.is_file())
        data = bytearray(changed.read_bytes())
        two.etags[f"copy{'' if copy.is_file() else '/' + str(changed.relative_to(copy))}"] = '"x"'
        data[-1] ^= 1
        changed.write_bytes(data)
        third = open_scene(f"{two.url}/copy")
        assert third.identity() != first.identity()
        assert third.identity(full=True) != first.identity(full=True)


def test_an_object_that_changes_after_it_was_opened_is_an_error(served: Files) -> None:
    scene = open_scene(f"{served.url}/a%20b.tif?token=hidden")
    served.etags["a b.tif"] = '"another"'
    with pytest.raises(CorruptInputError, match="was replaced by another one") as caught:
        scene.read(NEAR)
    assert "hidden" not in str(caught.value)


# Faults


@pytest.mark.parametrize("fault", [503, 429, 500, "reset", "cut"])
@pytest.mark.parametrize("name", ["a%20b.tif", "3.zarr"])
def test_some_faults_are_survived(folder: Path, served: Files, name: str, fault: Fault) -> None:
    served.faults = [fault] * RETRIES
    scene = open_scene(f"{served.url}/{name}")
    served.faults = [fault] * RETRIES
    assert same(scene, open_scene(folder / name.replace("%20", " ")))
    assert not served.faults


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (503, "the server answers 503 Service Unavailable; given up after 2 retries"),
        ("reset", "the connection breaks off; given up after 2 retries"),
        ("cut", "the transfer breaks off; given up after 2 retries"),
    ],
)
@pytest.mark.parametrize("name", ["a%20b.tif", "3.zarr"])
def test_many_faults_are_refused_at_first_and_stop_a_run_later(
    served: Files, name: str, fault: Fault, words: str
) -> None:
    scene = open_scene(f"{served.url}/{name}?sig=hidden")
    served.faults = [fault] * 200
    with pytest.raises(UnreachableError) as lost:
        scene.read(NEAR)
    with pytest.raises(InputRefusedError) as refused:
        open_scene(f"{served.url}/{name}?sig=hidden")
    for error in (lost.value, refused.value):
        assert str(error).startswith(f"{served.url}/{name}: {words}")
        assert "\n" not in str(error)
        assert "hidden" not in str(error)
    served.faults = []
    assert scene.read(NEAR)[1].all()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (404, r"\(404\); check the address"),
        (403, r"access is denied \(403\); the address may have to be signed anew"),
        (401, r"access is denied \(401\)"),
        (410, "the server answers 410 Gone"),
    ],
)
@pytest.mark.parametrize("name", ["a%20b.tif", "3.zarr"])
def test_what_no_retry_mends_is_said_at_once(
    served: Files, name: str, fault: int, words: str
) -> None:
    served.faults = [fault] * 9
    with pytest.raises(InputRefusedError, match=words):
        open_scene(f"{served.url}/{name}")
    # A raster may also be a Zarr store with another name, and each format has its documents.
    assert len(served.asked) <= (6 if fault == 404 else 1)


def test_a_closed_port_and_a_host_that_isn_t(served: Files) -> None:
    url = served.url
    with serving(served.folder) as gone:
        pass
    with pytest.raises(InputRefusedError, match=r"a\.tif: the connection is refused; given up"):
        open_scene(f"{gone.url}/a.tif")
    with pytest.raises(InputRefusedError, match="its host isn't known"):
        open_scene("https://segpipe.invalid/a.tif")
    with pytest.raises(InputRefusedError, match="it doesn't speak TLS"):
        open_scene(f"{url.replace('http', 'https')}/a.tif")


def test_missing_objects_and_credentials_of_a_bucket(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    for name in ("scenes/none.tif", "scenes/none.zarr", "nothing/a.tif"):
        with pytest.raises(InputRefusedError, match=rf"^s3://{name}: .*\(404\); check the addr"):
            open_scene(f"s3://{name}")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(InputRefusedError, match=r"no credentials.*set AWS_ACCESS_KEY_ID") as caught:
        open_scene("s3://scenes/a b.tif")
    assert "hidden" not in str(caught.value)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    # Where a machine in the cloud would be told its credentials.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputRefusedError, match=r"no credentials.*set AWS_ACCESS_KEY_ID"):
        open_scene("s3://scenes/a b.tif")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT", raising=False)
    with pytest.raises(InputRefusedError, match="set AZURE_STORAGE_ACCOUNT"):
        open_scene("az://scenes/a b.tif")


def test_a_server_without_ranges_is_refused(served: Files) -> None:
    served.partial = False
    with pytest.raises(InputRefusedError, match="gives no parts of files; download it"):
        open_scene(f"{served.url}/a%20b.tif")


@pytest.mark.parametrize("keep", [0, 3, 400, 200_000])
def test_a_truncated_object_is_refused(folder: Path, tmp_path: Path, keep: int) -> None:
    (tmp_path / "a.tif").write_bytes((folder / "a b.tif").read_bytes()[:keep])
    with serving(tmp_path) as files, pytest.raises(InputRefusedError) as caught:
        open_scene(f"{files.url}/a.tif")
    assert "\n" not in str(caught.value)


def test_a_web_server_can_t_list_a_store(served: Files) -> None:
    with pytest.raises(InputRefusedError, match=r"found none of 0 arrays; .* consolidate"):
        open_scene(f"{served.url}/loose3.zarr")


# Nobody else is asked


@pytest.fixture
def canary(folder: Path) -> Iterator[Files]:
    """Another server, under another name for the same machine."""
    with serving(folder, "localhost") as files:
        yield files


@pytest.mark.parametrize("when", ["opened", "read"])
@pytest.mark.parametrize("name", ["a b.tif", "3.zarr"])
def test_a_server_that_sends_on_to_another_host_isn_t_followed(
    served: Files, canary: Files, name: str, when: str
) -> None:
    address = f"{served.url}/{name.replace(' ', '%20')}"
    scene = open_scene(address)
    served.faults = [f"{canary.url}/{name.replace(' ', '%20')}?sig=hidden"] * 99
    with pytest.raises((InputRefusedError, CorruptInputError), match="leads to another host"):
        open_scene(address) if when == "opened" else scene.read(NEAR)
    assert not canary.asked


def test_a_vrt_isn_t_followed(tmp_path: Path, canary: Files) -> None:
    source = f"<SourceFilename>/vsicurl/{canary.url}/a b.tif</SourceFilename>"
    (tmp_path / "a.tif").write_text(
        '<VRTDataset rasterXSize="2" rasterYSize="2"><VRTRasterBand dataType="Byte" band="1">'
        f"<SimpleSource>{source}</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with (
        serving(tmp_path) as files,
        pytest.raises(InputRefusedError, match="a VRT is read from this machine only"),
    ):
        open_scene(f"{files.url}/a.tif")
    assert not canary.asked


def test_metadata_that_name_another_file_are_refused(tmp_path: Path, canary: Files) -> None:
    for place in (f"/vsicurl/{canary.url}/a b.tif", str(tmp_path / "local.ovr")):
        with rasterio.open(
            write_cog(tmp_path / "a.tif", driver="GTiff", blocksize=None), "r+"
        ) as f:
            f.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=place)
        # Writing it has followed it.
        canary.asked.clear()
        with (
            serving(tmp_path) as files,
            pytest.raises(InputRefusedError, match="metadata name another file as overview"),
        ):
            open_scene(f"{files.url}/a.tif")
        assert not canary.asked


def test_side_cars_of_an_address_aren_t_asked_for(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "a b.tif", tmp_path / "a.tif")
    for suffix in (".ovr", ".msk", ".aux.xml"):
        (tmp_path / f"a.tif{suffix}").write_text("nothing")
    with serving(tmp_path) as files:
        open_scene(f"{files.url}/a.tif").read(NEAR)
        assert {path for path, _ in files.asked} == {"a.tif"}


def test_a_process_that_read_from_afar_ends_in_silence(served: Files) -> None:
    code = (
        "import sys, threading\n"
        "from segpipe.pipeline.scenes.scene import open_scene\n"
        "scene = open_scene(sys.argv[1])\n"
        "read, wait = threading.Event(), threading.Event()\n"
        "def work():\n"
        "    scene.read(scene.grid.window)\n"
        "    read.set()\n"
        "    wait.wait()\n"
        "scene.read(scene.grid.window)\n"
        "threading.Thread(target=work, daemon=True).start()\n"
        "read.wait()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"{served.url}/a%20b.tif"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


# What a name means


@pytest.mark.parametrize(
    ("url", "text", "name", "stem"),
    [
        ("s3://b/x/y z.tif", "s3://b/x/y z.tif", "y z.tif", "y z"),
        ("S3://b/x.zarr/", "s3://b/x.zarr/", "x.zarr", "x"),
        ("https://u:p@h:8/x/y%20z.tif?sig=1#f", "https://h:8/x/y%20z.tif", "y z.tif", "y z"),
        ("https://h/x%2Fy.tif?a/b", "https://h/x%2Fy.tif", "x_y.tif", "x_y"),
        ("abfs://c@a.dfs.core.windows.net/k", "abfs://c@a.dfs.core.windows.net/k", "k", "k"),
    ],
)
def test_an_address_is_shown_without_what_opens_it(
    url: str, text: str, name: str, stem: str
) -> None:
    place = place_of(url)
    assert isinstance(place, Address)
    assert (str(place), place.name, place.stem, shown(url)) == (text, name, stem, text)
    assert "sig" not in repr(place)


@pytest.mark.parametrize("name", ["a.tif", "a://b", "s3:/b/k", "C:/x", "ftp://h/x", "/vsis3/b/k"])
def test_all_else_is_a_path(name: str) -> None:
    assert not is_remote(name)
    assert place_of(name) == Path(name).absolute()
    assert shown(name) == name


@pytest.mark.parametrize("url", ["s3://", "s3://b", "https://h/", "http://h:x/a", "http:///a"])
def test_an_address_of_nothing_is_refused(url: str) -> None:
    with pytest.raises(InputRefusedError, match="names no object; expected such as s3://"):
        place_of(url)
