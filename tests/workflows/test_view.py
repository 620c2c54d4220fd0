"""A viewer shows the map's own pixels, to this machine alone, and gives nothing else."""

import dataclasses
import io
import json
import re
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.warp import transform

from segpipe.pipeline.maps.map_facts import read_facts
from segpipe.workflows.errors import OptionError
from segpipe.workflows.run import run
from segpipe.workflows.view import Viewer, view
from segpipe.workflows.viewer import view_layers
from tests import toys
from tests.workflows.conftest import Command, start

HEIGHT, WIDTH = 700, 610
NAMES = ("map.tif", "map.zarr", "map3.zarr")
CLEAR = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Maps:
    """A scene and its map in every container, with what its pixels are."""

    folder: Path
    scene: Path
    labels: NDArray[np.uint8]
    palette: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server gave."""

    code: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def picture(self) -> NDArray[np.uint8]:
        """Red, green, blue and alpha, (row, column, 4)."""
        return np.asarray(Image.open(io.BytesIO(self.data)).convert("RGBA"))


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Maps:
    """One map in three containers."""
    folder = tmp_path_factory.mktemp("maps")
    scene = toys.write_scene(folder / "scene.tif", toys.landscape(HEIGHT, WIDTH))
    model = toys.small()
    for name, zarr_format in zip(NAMES, (2, 2, 3), strict=True):
        run(scene, model=model, output=folder / name, tile=1024, zarr_format=zarr_format)
    with rasterio.open(folder / "map.tif") as file:
        labels = file.read(1)
    palette = np.zeros((256, 4), np.uint8)
    for info in model.card.classes:
        palette[info.value] = (*bytes.fromhex(info.color[1:]), 255)
    return Maps(folder, scene, labels, palette)


@pytest.fixture(scope="module")
def viewer(maps: Maps) -> Iterator[Viewer]:
    """The GeoTIFF over its scene."""
    with view(maps.folder / "map.tif", scene=maps.scene) as viewer:
        yield viewer


def get(viewer: Viewer, path: str, **headers: str) -> Answer:
    """What is at a path."""
    request = urllib.request.Request(viewer.url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return Answer(reply.status, dict(reply.headers), reply.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, dict(error.headers), error.read())


def whole(viewer: Viewer, layer: str, query: str = "") -> NDArray[np.uint8]:
    """All tiles of level 0 together."""
    side = view_layers.SIDE
    rows = [
        np.concatenate(
            [
                get(viewer, f"tiles/{layer}/0/{row}/{column}.png{query}").picture
                for column in range(-(-WIDTH // side))
            ],
            axis=1,
        )
        for row in range(-(-HEIGHT // side))
    ]
    return np.concatenate(rows)


@pytest.mark.parametrize("name", NAMES)
def test_every_container_is_shown_pixel_by_pixel(maps: Maps, name: str) -> None:
    assert np.unique(maps.labels).size > 3
    with view(maps.folder / name) as viewer:
        shown = whole(viewer, "map")
        assert np.array_equal(shown, maps.palette[maps.labels])
        assert np.array_equal(shown[..., 3] == 0, maps.labels == 255)
        for row, column in ((0, 0), (HEIGHT - 1, WIDTH - 1), (513, 512), (40, 601)):
            told = json.loads(get(viewer, f"point?row={row}&column={column}").data)
            value = int(maps.labels[row, column])
            assert told["value"] == (None if value == 255 else value)
            assert told["name"] == (None if value == 255 else f"class {value}")


def test_a_pixel_without_a_class_has_none(maps: Maps, viewer: Viewer) -> None:
    row, column = np.argwhere(maps.labels == 255)[0].tolist()
    told = json.loads(get(viewer, f"point?row={row}&column={column}").data)
    assert (told["value"], told["name"]) == (None, None)


def test_a_pixel_lies_where_its_centre_lies(maps: Maps, viewer: Viewer) -> None:
    told = json.loads(get(viewer, "point?row=25&column=310").data)
    with rasterio.open(maps.folder / "map.tif") as file:
        x, y = file.xy(25, 310)
        (longitude,), (latitude,) = transform(file.crs, "EPSG:4326", [x], [y])
    assert (told["x"], told["y"]) == (x, y)
    assert (told["longitude"], told["latitude"]) == pytest.approx((longitude, latitude), abs=1e-9)


def test_a_coarse_tile_holds_all_of_the_map(maps: Maps) -> None:
    for name in NAMES:
        with view(maps.folder / name) as viewer:
            shown = get(viewer, "tiles/map/1/0/0.png").picture
            assert shown.shape == (-(-HEIGHT // 2), -(-WIDTH // 2), 4)
            # Every pixel is one of the map, from nearby.
            known = shown[..., 3] != 0
            colors = maps.palette[maps.labels]
            around = np.zeros(known.shape, bool)
            padded = np.pad(colors, ((2, 3), (2, 3), (0, 0)))
            for down in range(5):
                for across in range(5):
                    near = padded[down : down + 2 * len(known) : 2, across::2]
                    near = near[: len(known), : known.shape[1]]
                    around |= (near == shown).all(-1)
            assert around.all()
            assert known.mean() > 0.9


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_level_is_read_from_the_stores_own_copy(maps: Maps, name: str) -> None:
    shown = view_layers.open_map(maps.folder / name)
    assert (shown.top, shown.at(0)) == (1, shown.labels)
    assert shown.at(1).grid.shape == (-(-HEIGHT // 2), -(-WIDTH // 2))
    assert shown.at(1) == shown.coarser[2]
    # Without copies, pixels are picked.
    alone = dataclasses.replace(shown, coarser={}).at(1)
    assert alone.grid.shape == shown.at(1).grid.shape
    values, _ = alone.read(alone.grid.window)
    assert np.array_equal(values[0][:-1, :-1], maps.labels[1::2, 1::2][:, : WIDTH // 2 - 1][:349])


def test_many_tiles_at_once_are_the_same_and_nobody_is_warned(
    maps: Maps, viewer: Viewer, recwarn: pytest.WarningsRecorder
) -> None:
    def ask(layer: str) -> bytes:
        return get(viewer, f"tiles/{layer}/0/0/0.png").data

    layers = ["map", "scene"] * 16
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, layers))
    assert set(answers) == {ask("map"), ask("scene")}
    assert answers[::2] == [ask("map")] * 16
    assert [str(warning.message) for warning in recwarn] == []


def test_hidden_classes_are_transparent(maps: Maps, viewer: Viewer) -> None:
    palette = maps.palette.copy()
    palette[[2, 5]] = CLEAR
    assert np.array_equal(whole(viewer, "map", "?hide=2,5"), palette[maps.labels])


@pytest.mark.parametrize("hide", ["x", "1,,2", "1;2", "-1", "1" * 2000])
def test_what_is_hidden_is_a_list_of_values(viewer: Viewer, hide: str) -> None:
    assert get(viewer, f"tiles/map/0/0/0.png?hide={hide}").code == 422


def test_the_scene_lies_beneath(maps: Maps, viewer: Viewer) -> None:
    assert (viewer.map, viewer.scene) == (maps.folder / "map.tif", maps.scene)
    shown = whole(viewer, "scene").astype(float)
    with rasterio.open(maps.scene) as file:
        pixels = file.read().astype(float)
    valid = (pixels != 0).all(0)
    assert np.array_equal(shown[..., 3] == 255, valid)
    for band in range(3):
        low, high = np.percentile(pixels[band][valid], (2, 98))
        expected = np.clip((pixels[band] - low) / (high - low), 0, 1) * 255
        # The limits are found in a coarser copy.
        assert np.abs(shown[..., band] - expected)[valid].mean() < 3


def test_a_scene_on_another_grid_lies_beneath(maps: Maps, tmp_path: Path) -> None:
    with rasterio.open(maps.scene) as file:
        pixels, corner = file.read(), file.transform
    fine = pixels.repeat(2, 1).repeat(2, 2)[:, 100:]
    side, top = corner.a / 2, corner.f + 50 * corner.e
    shift = rasterio.Affine(side, 0, corner.c, 0, -side, top)
    other = toys.write_scene(tmp_path / "fine.tif", fine, transform=shift)
    with view(maps.folder / "map.tif", scene=other, bands=["2"]) as viewer:
        shown = whole(viewer, "scene")
        assert not shown[:50, :, 3].any()
        assert np.array_equal(shown[50:, :, 3] == 255, pixels[1, 50:] != 0)
        assert np.array_equal(shown[..., 0], shown[..., 2])
        order = np.argsort(pixels[1, 50:].ravel(), kind="stable")
        known = np.sort(pixels[1, 50:].ravel()) != 0
        assert (np.diff(shown[50:, :, 0].ravel()[order][known].astype(int)) >= 0).all()


def test_without_a_scene_there_are_no_tiles_of_one(maps: Maps) -> None:
    with view(maps.folder / "map.tif") as viewer:
        assert get(viewer, "tiles/scene/0/0/0.png").code == 404
        assert viewer.scene is None


@pytest.mark.parametrize(
    "path",
    [
        *("tiles/map/0/2/0.png", "tiles/map/0/0/2.png", "tiles/map/2/0/0.png"),
        *("tiles/map/-1/0/0.png", "tiles/map/0/-1/0.png", f"tiles/map/{10**30}/0/0.png"),
        *("tiles/map/0/0/0.tif", "tiles/other/0/0/0.png", f"point?row={HEIGHT}&column=0"),
        *("point?row=-1&column=0", "map.tif", "../map.tif", "%2e%2e/%2e%2e/etc/passwd"),
        *("docs", "redoc", "openapi.json", "info?url=/etc/passwd", "cog/info", "map.html"),
    ],
)
def test_nothing_else_is_there(viewer: Viewer, path: str) -> None:
    assert get(viewer, path).code == 404


def test_an_address_in_a_request_changes_nothing(viewer: Viewer, maps: Maps) -> None:
    plain = get(viewer, "tiles/map/0/0/0.png")
    again = get(viewer, f"tiles/map/0/0/0.png?url={maps.scene}&bidx=2&expression=b1*0")
    assert again.data == plain.data


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_it_only_gives(viewer: Viewer, method: str) -> None:
    request = urllib.request.Request(viewer.url, method=method)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 405


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "0.0.0.0", ""])
@pytest.mark.parametrize("path", ["", "tiles/map/0/0/0.png", "point?row=0&column=0"])
def test_a_foreign_host_is_refused(viewer: Viewer, host: str, path: str) -> None:
    answer = get(viewer, path, Host=host)
    assert answer.code == 400
    assert b"class" not in answer.data


def test_its_own_names_are_answered(viewer: Viewer) -> None:
    port = viewer.url.rsplit(":", 1)[1].strip("/")
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", "localhost"):
        assert get(viewer, "", Host=host).code == 200


def test_the_page_may_load_only_from_itself(viewer: Viewer) -> None:
    page = get(viewer, "")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    text = page.data.decode()
    assert not re.findall(r"https?://", text)
    assert " style=" not in text
    for name in ("", "tiles/map/0/0/0.png", "point?row=0&column=0", "nothing"):
        headers = get(viewer, name).headers
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers


def test_names_are_text_and_never_markup(tmp_path: Path, maps: Maps) -> None:
    odd = "</script><script>alert(1)</script>"
    path = tmp_path / "a<b>&.tif"
    path.write_bytes((maps.folder / "map.tif").read_bytes())
    aux = (maps.folder / "map.tif.aux.xml").read_text()
    escaped = odd.replace("<", "&lt;").replace(">", "&gt;")
    path.with_name(f"{path.name}.aux.xml").write_text(aux.replace("class 2", escaped))
    assert odd in {entry.name for entry in read_facts(path).legend.entries}
    with view(path) as viewer:
        text = get(viewer, "").data.decode()
    assert odd not in text
    assert escaped in text
    assert "<h1>a&lt;b&gt;&amp;.tif</h1>" in text


def test_a_name_may_be_bytes_that_are_no_text(tmp_path: Path, maps: Maps) -> None:
    path = tmp_path / "map\udcff.zarr"
    shutil.copytree(maps.folder / "map3.zarr", path)
    with view(path) as viewer:
        assert b"<h1>map?.zarr</h1>" in get(viewer, "").data
        assert np.array_equal(whole(viewer, "map"), maps.palette[maps.labels])


def test_the_legend_has_shares_and_areas(maps: Maps, viewer: Viewer) -> None:
    text = get(viewer, "").data.decode()
    valid = np.count_nonzero(maps.labels != 255)
    for value in range(1, 6):
        pixels = np.count_nonzero(maps.labels == value)
        (row,) = re.findall(rf'<li data-value="{value}">.*?</li>', text)
        assert f"{100 * pixels / valid:.1f} %" in row
        assert f"{pixels * 28.5**2 / 1e6:,.2f} km²" in row


def test_areas_in_degrees_are_counted_row_by_row(maps: Maps, tmp_path: Path) -> None:
    labels = np.array([[[1, 2], [2, 255], [1, 1]]], np.uint8)
    path = toys.write_scene(
        tmp_path / "map.tif",
        labels,
        nodata=255,
        crs="EPSG:4326",
        transform=rasterio.Affine(1, 0, 10, 0, -1, 60),
    )
    aux = (maps.folder / "map.tif.aux.xml").read_bytes()
    path.with_name("map.tif.aux.xml").write_bytes(aux)
    totals = view_layers.open_map(path).totals
    assert totals is not None
    assert [totals[value].pixels for value in (1, 2, 3)] == [3, 2, 0]
    # Square kilometres of a degree at 59.5, 58.5 and 57.5 north, on the sphere of equal area.
    degree = np.pi / 180 * 6371.0072**2 * -np.diff(np.sin(np.radians([60, 59, 58, 57])))
    first, second = totals[1].area_m2, totals[2].area_m2
    assert first is not None
    assert second is not None
    assert first / 1e6 == pytest.approx(degree[0] + 2 * degree[2], rel=0.01)
    assert second / 1e6 == pytest.approx(degree[0] + degree[1], rel=0.01)


def test_a_map_without_a_crs_is_shown_too(maps: Maps, tmp_path: Path) -> None:
    path = toys.write_scene(
        tmp_path / "map.tif",
        maps.labels[None],
        nodata=255,
        crs=None,
        transform=rasterio.Affine(1, 0, 0, 0, 1, 0.5),
    )
    aux = (maps.folder / "map.tif.aux.xml").read_bytes()
    path.with_name("map.tif.aux.xml").write_bytes(aux)
    with view(path) as viewer:
        assert np.array_equal(whole(viewer, "map"), maps.palette[maps.labels])
        told = json.loads(get(viewer, "point?row=3&column=4").data)
        assert (told["longitude"], told["latitude"]) == (None, None)
        assert b" px</span>" in get(viewer, "").data


def test_a_map_that_changed_is_told(maps: Maps, tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    for name in ("map.tif", "map.tif.aux.xml"):
        (tmp_path / name).write_bytes((maps.folder / name).read_bytes())
    with view(path) as viewer:
        path.write_bytes(b"II*\0")
        answer = get(viewer, "tiles/map/0/0/0.png")
        assert answer.code == 500
        assert str(path) in json.loads(answer.data)["detail"]
        assert b"Traceback" not in answer.data


def listening() -> set[tuple[str, int]]:
    """Addresses on which this process listens."""
    connections = psutil.Process().net_connections(kind="inet")
    return {(one.laddr.ip, one.laddr.port) for one in connections if one.status == "LISTEN"}


def test_it_listens_on_loopback_alone_until_it_is_closed(maps: Maps) -> None:
    before, threads = listening(), threading.active_count()
    viewer = view(maps.folder / "map.tif")
    port = int(viewer.url.rsplit(":", 1)[1].strip("/"))
    assert listening() - before == {("127.0.0.1", port)}
    assert viewer.url in viewer._repr_html_()
    viewer.close()
    viewer.close()
    assert listening() == before
    assert threading.active_count() <= threads
    with view(maps.folder / "map.tif", port=port) as again:
        assert again.url == viewer.url
        assert get(again, "").code == 200


def test_two_viewers_stand_side_by_side(maps: Maps) -> None:
    with view(maps.folder / "map.tif") as one, view(maps.folder / "map.zarr") as other:
        assert one.url != other.url
        assert b"<h1>map.tif" in get(one, "").data
        assert b"<h1>map.zarr" in get(other, "").data


def test_a_command_opens_the_browser_and_ends_well_when_it_is_interrupted(
    maps: Maps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.part && mv {opened}.part {opened}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    monkeypatch.setenv("DISPLAY", ":0")
    process = start("view", maps.folder / "map.tif", "--scene", maps.scene)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert url, (line, process.stderr and process.stderr.read())
        with urllib.request.urlopen(url[0], timeout=30) as reply:
            assert b"<h1>map.tif" in reply.read()
        while not opened.exists():
            time.sleep(0.01)
        assert opened.read_text().strip() == url[0]
        owned = psutil.Process(process.pid).net_connections(kind="inet")
        assert {one.laddr.ip for one in owned if one.status == "LISTEN"} == {"127.0.0.1"}
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "", "")
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", int(url[1])))


# What is refused


def refused(segpipe: Command, code: int, *words: str | Path) -> str:
    """The one line of a command that ends with this code."""
    outcome = segpipe("view", "--no-browser", *words)
    assert (outcome.code, outcome.out) == (code, "")
    (line,) = outcome.err.splitlines()
    return line


def test_what_is_no_map_is_refused(segpipe: Command, maps: Maps, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    plain = toys.write_scene(tmp_path / "plain.tif", maps.labels[None], nodata=255)
    wide = toys.write_scene(tmp_path / "wide.tif", maps.labels[None].astype(np.uint16))
    for path, words in {
        maps.scene: "3 bands, expected one",
        plain: "no legend",
        wide: "uint16, expected the bytes",
        tmp_path / "nothing.tif": "doesn't exist",
        tmp_path / "folder": "isn't Zarr",
    }.items():
        line = refused(segpipe, 3, path)
        assert words in line
        assert str(path) in line


def test_a_scene_that_cannot_lie_beneath_is_refused(
    segpipe: Command, maps: Maps, tmp_path: Path
) -> None:
    far = toys.write_scene(
        tmp_path / "far.tif",
        toys.landscape(50, 50),
        transform=rasterio.Affine(28.5, 0, 900000, 0, -28.5, 228114),
    )
    nowhere = toys.write_scene(tmp_path / "nowhere.tif", toys.landscape(50, 50), crs=None)
    shown = maps.folder / "map.tif"
    assert "nothing of it lies under" in refused(segpipe, 3, shown, "--scene", far)
    assert "no crs" in refused(segpipe, 3, shown, "--scene", nowhere)
    assert "no band 9" in refused(segpipe, 3, shown, "--scene", maps.scene, "--bands", "9")
    assert "2 bands" in refused(segpipe, 3, shown, "--scene", maps.scene, "--bands", "1,2")
    assert "--scene" in refused(segpipe, 2, shown, "--bands", "1")


def test_a_port_that_cannot_be_had_is_refused(segpipe: Command, maps: Maps) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refused(segpipe, 2, maps.folder / "map.tif", "--port", str(port))
    assert f"port {port}" in line
    assert "--port" in line
    assert "--port" in refused(segpipe, 2, maps.folder / "map.tif", "--port", "70000")
    with pytest.raises(OptionError, match="0 to 65535"):
        view(maps.folder / "map.tif", port=-1)


def test_without_its_packages_it_says_what_to_install(
    segpipe: Command, maps: Maps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "segpipe.workflows.viewer.view_server", raising=False)
    monkeypatch.setitem(sys.modules, "titiler.core.factory", None)
    line = refused(segpipe, 2, maps.folder / "map.tif")
    assert "pip install 'segpipe[view]'" in line
    assert "titiler.core.factory isn't installed" in line


def test_a_damaged_chunk_is_told_and_the_rest_is_shown(maps: Maps, tmp_path: Path) -> None:
    place = tmp_path / "map.zarr"
    shutil.copytree(maps.folder / "map.zarr", place)
    (place / "classes" / "0" / "0").write_bytes(b"broken")
    with view(place) as viewer:
        assert get(viewer, "tiles/map/0/0/0.png").code == 500
        assert get(viewer, "tiles/map/0/1/1.png").code == 200
