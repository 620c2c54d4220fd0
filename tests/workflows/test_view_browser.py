"""A viewer's page as a browser without a window shows it: tiles, legend, pointer, keys, fingers.

The browser is led over its own protocol (DevTools), through two pipes.
"""

import base64
import contextlib
import io
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segpipe.pipeline.scenes.scene import open_scene
from segpipe.workflows.run import run
from segpipe.workflows.view import Viewer, view
from tests import toys

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 60
DESKTOP = (1280, 800)
PHONE = (390, 844)


class Browser:
    """A browser with one page."""

    def __init__(self, folder: Path) -> None:
        if CHROMIUM is None:
            pytest.skip("there is no chromium")
        from_us, self._to = os.pipe()
        self._from, to_us = os.pipe()
        words = [
            *("bash", "-c", f'exec "$@" 3<&{from_us} 4>&{to_us}', "bash"),
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe"),
            *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--hide-scrollbars"),
            *(f"--user-data-dir={folder / 'profile'}", "about:blank"),
        ]
        self._process = subprocess.Popen(
            words,
            pass_fds=(from_us, to_us),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(from_us)
        os.close(to_us)
        self._rest = b""
        self._count = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = self.send("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's result."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._count:
                assert "error" not in told, told
                return dict(told["result"])
            self.events.append(told)

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self._from, 1 << 20) if ready else b""
            if not data:
                pytest.skip("chromium doesn't start, or doesn't answer here")
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def open(self, url: str, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
        """Shows a page, and waits until its tiles are there."""
        self.events.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=size == PHONE,
        )
        self.send("Emulation.setTouchEmulationEnabled", enabled=size == PHONE)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.send("Emulation.setEmulatedMedia", features=[feature])
        self.send("Page.navigate", url=url)
        self.settle()

    def run(self, script: str) -> Any:
        """What an expression gives."""
        told = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def wait(self, script: str) -> None:
        """Until an expression is true."""
        deadline = time.monotonic() + PATIENCE
        while not self.run(script):
            assert time.monotonic() < deadline, script
            time.sleep(0.02)

    def settle(self) -> None:
        """Until all tiles that are wanted are drawn."""
        self.wait("document.readyState === 'complete'")
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        self.wait("document.documentElement.dataset.coming === '0'")

    def screenshot(self) -> NDArray[np.uint8]:
        """Red, green and blue, (row, column, 3)."""
        data = base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """A mouse event in the window."""
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        """A touch event with fingers at these points."""
        fingers = [{"x": x, "y": y, "id": finger} for finger, (x, y) in enumerate(points)]
        self.send("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)

    def key(self, key: str, **more: Any) -> None:
        """A key pressed and released."""
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **more)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, **more)

    def complaints(self) -> list[str]:
        """What went to the console, and exceptions."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event) for event in self.events if event.get("method") in kinds]

    def addresses(self) -> set[str]:
        """Everything that was asked for."""
        return {
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        }

    def close(self) -> None:
        """Ends it."""
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    """A map of several tiles over its scene."""
    folder = tmp_path_factory.mktemp("map")
    scene = toys.write_scene(folder / "scene.tif", toys.landscape(620, 700))
    output = folder / f"{'a-long-name-' * 6}.tif"
    run(scene, model=toys.small(), output=output, tile=1024)
    with view(output, scene=scene) as viewer:
        yield viewer


def box(browser: Browser, name: str) -> dict[str, float]:
    """Where an element lies in the window."""
    return dict(browser.run(f"document.querySelector('{name}').getBoundingClientRect().toJSON()"))


def middle(browser: Browser) -> tuple[float, float]:
    """The middle of the map in the window."""
    place = box(browser, ".map")
    return place["x"] + place["width"] / 2, place["y"] + place["height"] / 2


def at(browser: Browser) -> tuple[float, float, float]:
    """Column and row in the middle of the window, and how long a pixel is drawn."""
    x, y, scale = browser.run("[at.x, at.y, at.scale]")
    return x, y, scale


def labels(viewer: Viewer) -> NDArray[np.generic]:
    """The map's pixels, (row, column)."""
    scene = open_scene(viewer.map)
    pixels, _ = scene.read(scene.grid.window)
    plane: NDArray[np.generic] = pixels[0]
    return plane


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(
    browser: Browser, viewer: Viewer, size: tuple[int, int], scheme: str
) -> None:
    browser.open(viewer.url, size, scheme)
    assert browser.complaints() == []
    assert all(address.startswith(viewer.url) for address in browser.addresses())
    # Nothing sticks out, and nothing has to be scrolled but the panel.
    root = browser.run(
        "[document.documentElement.scrollWidth, innerWidth, innerHeight,"
        " document.documentElement.scrollHeight]"
    )
    assert root == [size[0], size[0], size[1], size[1]]
    for name in (".map", ".panel", ".legend li:first-of-type", ".slider input"):
        place = box(browser, name)
        assert 0 <= place["left"] < place["right"] <= size[0]
        assert 0 <= place["top"] < place["bottom"] <= size[1], name
    assert browser.run("document.querySelectorAll('.legend li').length") == 5
    shown = browser.screenshot()
    assert shown.shape == (size[1], size[0], 3)
    panel, x = box(browser, ".panel"), middle(browser)
    paper = shown[int(panel["bottom"]) - 3, int(panel["right"]) - 3].astype(int)
    assert (paper.mean() < 60) == (scheme == "dark")
    # The map's middle has many colours, its surroundings one.
    patch = shown[int(x[1]) - 40 : int(x[1]) + 40, int(x[0]) - 40 : int(x[0]) + 40]
    assert len(np.unique(patch.reshape(-1, 3), axis=0)) > 50


def test_at_full_zoom_the_screen_shows_the_maps_pixels(browser: Browser, viewer: Viewer) -> None:
    browser.open(viewer.url)
    browser.run("at.x = 520.5; at.y = 515.5; at.scale = 20; slider.value = 100; fade(); redraw()")
    browser.settle()
    shown, (x, y) = browser.screenshot(), middle(browser)
    values = labels(viewer)
    for row in range(511, 520):
        for column in range(512, 530):
            value = int(values[row, column])
            if value == 255:
                continue
            color = browser.run(
                f"document.querySelector('li[data-value=\"{value}\"] rect').getAttribute('fill')"
            )
            across, down = x + 20 * (column + 0.5 - 520.5), y + 20 * (row + 0.5 - 515.5)
            found = bytes(shown[int(down), int(across)].tolist()).hex()
            assert f"#{found}" == color.lower(), (row, column)


def test_the_pointer_tells_the_class_below_it(browser: Browser, viewer: Viewer) -> None:
    browser.open(viewer.url)
    values, (x, y) = labels(viewer), middle(browser)
    column, row, scale = at(browser)
    for across, down in ((0, 0), (-60, 35), (111, -70)):
        browser.mouse("mouseMoved", x + across, y + down)
        place = int(row + down / scale), int(column + across / scale)
        browser.wait(f"find('.where').textContent.startsWith('row {place[0]:,}, column')")
        told = browser.run("[find('.what').textContent, find('.where').textContent]")
        value = int(values[place])
        assert told[0] == ("no class" if value == 255 else f"class {value} ({value})")
        assert f"row {place[0]:,}, column {place[1]:,}" in told[1]
        assert "° N" in told[1]
        marked = browser.run("[...document.querySelectorAll('.here')].map(r => r.dataset.value)")
        assert marked == ([] if value == 255 else [str(value)])
    browser.mouse("mouseMoved", 300, 15)
    browser.wait("find('.what').textContent === 'outside the map'")


def test_the_wheel_zooms_where_the_pointer_is_and_dragging_moves(
    browser: Browser, viewer: Viewer
) -> None:
    browser.open(viewer.url)
    (x, y), before = middle(browser), at(browser)
    browser.mouse("mouseWheel", x + 90, y + 50, deltaX=0, deltaY=-200)
    browser.wait(f"at.scale > {before[2] * 1.2}")
    after = at(browser)
    for place in range(2):
        offset = (90, 50)[place]
        fixed = before[place] + offset / before[2]
        assert after[place] + offset / after[2] == pytest.approx(fixed, abs=1e-6)
    browser.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
    browser.mouse("mouseMoved", x + 80, y - 40, button="left", buttons=1)
    browser.mouse("mouseReleased", x + 80, y - 40, button="left", clickCount=1)
    moved = at(browser)
    assert moved[0] == pytest.approx(after[0] - 80 / after[2])
    assert moved[1] == pytest.approx(after[1] + 40 / after[2])


def test_keys_move_and_zoom_and_tell(browser: Browser, viewer: Viewer) -> None:
    browser.open(viewer.url)
    browser.run("map.focus()")
    start = at(browser)
    browser.key("ArrowRight")
    browser.key("ArrowDown", modifiers=8)
    moved = at(browser)
    assert moved[0] > start[0] + 10
    assert moved[1] == pytest.approx(start[1] + 1)
    browser.key("+")
    assert at(browser)[2] == pytest.approx(1.5 * start[2])
    browser.key("-")
    assert at(browser) == pytest.approx(moved)
    value = int(labels(viewer)[int(moved[1]), int(moved[0])])
    told = "no class" if value == 255 else f"class {value} ({value})"
    browser.wait(f"find('[role=status]').textContent.startsWith('{told}, row')")
    assert browser.run("!cross.hidden")
    browser.key("0")
    assert at(browser) == pytest.approx(start)
    # Everything else is reached by keys too, and named.
    names = browser.run(
        "[...document.querySelectorAll('button, input, summary, [tabindex]')].map((one) => "
        "one.tabIndex >= 0 && (one.getAttribute('aria-label') || one.textContent.trim() || "
        "(one.labels && one.labels[0] && one.labels[0].textContent.trim())))"
    )
    assert len(names) >= 12
    assert all(names)


def test_fingers_move_pinch_and_tap(browser: Browser, viewer: Viewer) -> None:
    browser.open(viewer.url, PHONE)
    (x, y), start = middle(browser), at(browser)
    browser.touch("touchStart", (x, y))
    browser.touch("touchMove", (x - 30, y + 20))
    browser.touch("touchEnd")
    moved = at(browser)
    assert moved[0] == pytest.approx(start[0] + 30 / start[2], abs=1e-6)
    assert moved[1] == pytest.approx(start[1] - 20 / start[2], abs=1e-6)
    browser.touch("touchStart", (x - 20, y), (x + 20, y))
    browser.touch("touchMove", (x - 60, y), (x + 60, y))
    browser.touch("touchEnd")
    pinched = at(browser)
    assert pinched[2] == pytest.approx(3 * start[2], rel=1e-3)
    assert pinched[:2] == pytest.approx(moved[:2], abs=1e-3)
    browser.touch("touchStart", (x + 40, y + 10))
    browser.touch("touchEnd")
    row, column = int(pinched[1] + 10 / pinched[2]), int(pinched[0] + 40 / pinched[2])
    browser.wait(f"find('.where').textContent.startsWith('row {row:,}, column {column:,}')")
    assert browser.run("!cross.hidden")


def test_classes_are_hidden_and_the_map_fades(browser: Browser, viewer: Viewer) -> None:
    browser.open(viewer.url)
    full = browser.screenshot()
    browser.run("document.querySelector('.all button[value=none]').click()")
    browser.settle()
    bare = browser.screenshot()
    assert not np.array_equal(bare, full)
    browser.run("slider.value = 0; slider.dispatchEvent(new Event('input'))")
    browser.run("document.querySelector('.all button[value=all]').click()")
    browser.settle()
    faded, place = browser.screenshot(), box(browser, ".map")
    part = np.s_[200:600, 200 : int(place["right"]) - 200]
    # Both show the scene alone.
    assert np.array_equal(faded[part], bare[part])
    browser.run("boxes[1].click()")
    browser.settle()
    assert {address for address in browser.addresses() if "?hide=2" in address}


def test_text_is_readable_in_both_schemes(browser: Browser, viewer: Viewer) -> None:
    """WCAG 2.2, 1.4.3: a contrast of 4.5 between every text and what is behind it."""
    script = """
    (() => {
      const light = (text) => {
        const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map((v) => v / 255).map(
          (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const behind = (one) => {
        for (; one; one = one.parentElement) {
          const color = getComputedStyle(one).backgroundColor;
          if (!/, 0\\)$/.test(color)) return light(color);
        }
      };
      find("details").open = true;
      trouble.hidden = false;
      trouble.textContent = "trouble";
      const nodes = document.createTreeWalker(find(".view"), NodeFilter.SHOW_TEXT), found = [];
      while (nodes.nextNode()) {
        const one = nodes.currentNode.parentElement;
        if (!nodes.currentNode.textContent.trim()) continue;
        const [a, b] = [light(getComputedStyle(one).color), behind(one)];
        found.push((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
      }
      return found;
    })()
    """
    for scheme in ("light", "dark"):
        browser.open(viewer.url, scheme=scheme)
        contrasts = browser.run(script)
        assert len(contrasts) > 20
        assert min(contrasts) >= 4.5


def test_an_end_of_the_server_is_told(browser: Browser, viewer: Viewer) -> None:
    with view(viewer.map) as short:
        browser.open(short.url)
    x, y = middle(browser)
    browser.mouse("mouseMoved", x + 3, y + 3)
    browser.wait("!trouble.hidden && trouble.textContent === 'segpipe view has ended.'")
