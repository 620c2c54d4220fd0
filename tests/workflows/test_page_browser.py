"""A report's page as a browser without a window shows it: the swipe, phones, and what it loads."""

import contextlib
import html
import json
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from segpipe.models.package import ClassInfo, SegmentationModel
from segpipe.workflows.run import run
from tests import toys

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 60

# A page around the page: it gives it a width, moves the swipe, and tells what it saw.
HARNESS = """<!doctype html><meta charset="utf-8"><pre id="told"></pre>
<iframe id="frame" src="page.html" width="WIDTH" height="900"></iframe>
<script>
frame.onload = () => {
  const page = frame.contentDocument, view = page.querySelector(".view");
  const input = page.querySelector("input"), map = page.querySelector(".map img");
  const clip = () => frame.contentWindow.getComputedStyle(map).clipPath;
  const told = {before: clip(), label: input.getAttribute("aria-valuetext")};
  input.focus();
  told.focused = page.activeElement === input;
  input.value = 20;
  input.dispatchEvent(new frame.contentWindow.Event("input"));
  told.after = clip();
  told.said = input.getAttribute("aria-valuetext");
  const [scene, made] = [...page.images].map((image) => image.getBoundingClientRect().toJSON());
  told.scene = scene;
  told.map = made;
  told.loaded = [...page.images].map((image) => image.complete && image.naturalWidth > 0);
  told.width = page.documentElement.scrollWidth;
  told.room = page.documentElement.clientWidth;
  told.requests = frame.contentWindow.performance.getEntriesByType("resource")
    .map((entry) => entry.name).filter((name) => !name.startsWith("data:"));
  document.getElementById("told").textContent = JSON.stringify(told);
};
</script>"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the browser's window told, and what went to its console."""

    told: dict[str, Any]
    console: list[str]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with a long name, a tag for a name, and several tiles."""
    folder = tmp_path_factory.mktemp("page")
    scene = toys.write_scene(folder / f"{'a-long-name-' * 8}.tif", toys.landscape(600, 700))
    model = toys.small()
    first, *others = model.card.classes
    odd = ClassInfo(first.value, "<script>parent.document.title = 'run'</script>", first.color)
    network = SegmentationModel(model.network, replace(model.card, classes=(odd, *others)))
    path = folder / "page.html"
    run(scene, model=network, output=folder / "map.tif", tile=256, report=path)
    return path


def browse(page: Path, width: int, folder: Path) -> Seen:
    """The page in a frame so many pixels wide; skips where the browser doesn't start."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    harness = page.with_name(f"harness-{width}.html")
    harness.write_text(HARNESS.replace("WIDTH", str(width)))
    words = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", "--disable-dev-shm-usage", "--allow-file-access-from-files"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}"),
        *("--enable-logging=stderr", "--window-size=1400,1000", "--virtual-time-budget=3000"),
        *("--dump-dom", harness.as_uri()),
    ]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        pytest.skip(f"chromium takes longer than {PATIENCE} s here")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    console = [line for line in err.splitlines() if "CONSOLE" in line]
    told = out.partition('<pre id="told">')[2].partition("</pre>")[0]
    if not told:
        assert console == []
        pytest.skip(f"chromium doesn't get as far as showing the page here: {err[-200:]}")
    assert "<title>run" not in out
    return Seen(json.loads(html.unescape(told)), console)


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(page: Path, tmp_path: Path, width: int) -> None:
    seen = browse(page, width, tmp_path)
    told = seen.told
    assert seen.console == []
    assert told["requests"] == []
    assert told["loaded"] == [True, True]
    # Nothing sticks out to the side.
    assert told["width"] <= told["room"] <= width
    # The map lies on the scene, and the slider moves its edge.
    assert told["scene"] == told["map"]
    assert told["scene"]["width"] > 0.6 * min(width, 800)
    assert told["before"] == "inset(0px 0px 0px 50%)"
    assert told["after"] == "inset(0px 0px 0px 20%)"
    assert told["focused"] is True
    assert told["label"] == "50 % scene, 50 % map"
    assert told["said"] == "20 % scene, 80 % map"
