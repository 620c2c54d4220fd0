"""The page of a viewer: a map's legend as HTML, and what its script has to know."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pyproj import CRS

from segpipe.pipeline.maps.legend import LegendEntry
from segpipe.workflows.pages.markup import Html, element
from segpipe.workflows.viewer.view_layers import SIDE, ClassTotal, MapLayer, SceneLayer, pixel_width
from segpipe.workflows.viewer.view_parts import SCRIPT, STYLE

_BOX = element("rect", width=1, height=1)
_KEYS = {
    "arrows": "move; with Shift by one pixel",
    "+ and -": "zoom in and out",
    "0": "the whole map",
    "mouse": "drag to move, turn the wheel to zoom",
    "fingers": "drag, pinch, tap for a pixel's class",
}


@dataclass(frozen=True, slots=True)
class Page:
    """A page's HTML, and the policy under which it loads nothing from elsewhere."""

    html: str
    policy: str


def make_page(shown: MapLayer, scene: SceneLayer | None, name: str) -> Page:
    """The page about a map called `name`."""
    body = element(
        "body",
        element(
            "div",
            element("main", *_stage(scene, name), class_="stage"),
            _panel(shown, scene, name),
            class_="view",
        ),
        element("p", role="status", class_="unseen"),
        element("script", _facts(shown), type="application/json", id="facts"),
        element("script", Html(SCRIPT)),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content=f"segpipe {version('segpipe')}"),
        element("title", f"{name}: a map by segpipe"),
        element("style", Html(STYLE)),
    )
    html = f"<!doctype html>\n{element('html', head, body, lang='en')}\n"
    return Page(html, _policy())


def _policy() -> str:
    """Style and script are the page's own, the rest is this server's; pages of this machine may
    frame it, as notebooks do.
    """
    style, script = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (STYLE, SCRIPT)
    )
    return (
        "default-src 'none'; img-src 'self'; connect-src 'self'; "
        f"style-src 'sha256-{style}'; script-src 'sha256-{script}'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors http://127.0.0.1:* http://localhost:*"
    )


def _facts(shown: MapLayer) -> Html:
    """What the script has to know, as JSON that can't end its element."""
    grid = shown.grid
    crs = None if grid.crs is None else CRS.from_wkt(grid.crs)
    side = math.sqrt(grid.pixel_area)
    facts = {
        "height": grid.height,
        "width": grid.width,
        "side": SIDE,
        "top": shown.top,
        "metres": pixel_width(grid),
        "crs": None if crs is None else crs.name,
        "geographic": crs is not None and crs.is_geographic,
        # A tenth of a pixel can be told.
        "digits": min(8, max(0, math.ceil(1 - math.log10(side)))),
    }
    return Html(json.dumps(facts, allow_nan=False).replace("<", "\\u003c"))


def _stage(scene: SceneLayer | None, name: str) -> Iterator[Html]:
    """The map, its buttons, and what is told about the pixel under the pointer."""
    paths = ("map",) if scene is None else ("scene", "map")
    yield element(
        "div",
        *(element("canvas", data_path=path, aria_hidden="true") for path in paths),
        element("div", class_="cross", hidden=""),
        class_="map",
        tabindex=0,
        role="application",
        aria_label=f"The map {name}; arrows move it, plus and minus zoom",
    )
    yield element(
        "div",
        element("button", "+", type="button", class_="nearer", aria_label="Zoom in"),
        element("button", "\N{MINUS SIGN}", type="button", class_="further", aria_label="Zoom out"),
        element("button", _frame(), type="button", class_="whole", aria_label="The whole map"),
        class_="tools",
    )
    yield element(
        "div",
        element(
            "div",
            element("svg", _BOX, class_="swatch", viewBox="0 0 1 1", aria_hidden="true"),
            element("p", "Point at the map", class_="what"),
            element("p", "to see a pixel's class and place.", class_="where"),
            class_="pixel",
        ),
        element(
            "div",
            element("span", ""),
            element("svg", element("path"), height=5, aria_hidden="true"),
            class_="scale",
        ),
        class_="told",
    )
    yield element("p", class_="trouble", role="alert", hidden="")


def _frame() -> Html:
    """A sign for all of the map: four corners."""
    corners = "M1 6V1H6 M10 1H15V6 M15 10V15H10 M6 15H1V10"
    path = element("path", d=corners, fill="none", stroke="currentColor", stroke_width=2)
    return element("svg", path, viewBox="0 0 16 16", aria_hidden="true")


def _panel(shown: MapLayer, scene: SceneLayer | None, name: str) -> Html:
    """The map's name, its opacity, its legend, and how it is moved."""
    keys = (
        (element("dt", element("kbd", key)), element("dd", text)) for key, text in _KEYS.items()
    )
    return element(
        "aside",
        *_head(shown, name),
        _opacity(scene),
        _legend(shown),
        element(
            "details",
            element("summary", "Moving around"),
            element("dl", *itertools.chain.from_iterable(keys)),
        ),
        class_="panel",
        aria_label="Legend and settings",
    )


def _head(shown: MapLayer, name: str) -> Iterator[Html]:
    """What the map is: name, exactness, size, crs, model."""
    grid, tags = shown.grid, shown.tags
    badge = []
    if exactness := tags.get("SEGPIPE_EXACT"):
        exact = exactness == "exact"
        kind = "badge" if exact else "badge approximate"
        badge.append(element("span", "exact" if exact else "approximate", class_=kind))
    yield element("div", element("h1", name), *badge, class_="head")
    crs = "without a crs" if grid.crs is None else CRS.from_wkt(grid.crs).name
    yield element("p", f"{grid.width:,} x {grid.height:,} pixels, {crs}", class_="lead")
    if model := tags.get("SEGPIPE_MODEL"):
        yield element("p", f"by the model {model}", class_="lead")


def _opacity(scene: SceneLayer | None) -> Html:
    """How much of what lies beneath is seen, and what that is."""
    under = "There is no scene beneath; --scene lays one there."
    if scene is not None:
        bands = ", ".join(scene.scene.band_names)
        under = f"Beneath: {bands} of {Path(scene.scene.path).name}."
    return element(
        "div",
        element(
            "label", "Opacity of the map", element("output", "", for_="opacity"), for_="opacity"
        ),
        element(
            "input",
            type="range",
            id="opacity",
            min=0,
            max=100,
            step=5,
            value=100 if scene is None else 75,
            autocomplete="off",
        ),
        element("p", under, class_="note"),
        class_="slider",
    )


def _legend(shown: MapLayer) -> Html:
    """A box to tick for every class, with its colour, name, area and share."""
    totals = shown.totals or {}
    pixels = [total.pixels for total in totals.values()]
    whole, largest = max(sum(pixels), 1), max([*pixels, 1])
    return element(
        "fieldset",
        element("legend", "Classes"),
        element(
            "div",
            element("button", "All", type="button", value="all", aria_label="Show all classes"),
            element("button", "None", type="button", value="none", aria_label="Hide all classes"),
            class_="all",
        ),
        element(
            "ul",
            *(
                _class(entry, totals.get(entry.value), whole, largest)
                for entry in shown.legend.entries
            ),
        ),
        class_="legend",
    )


def _class(entry: LegendEntry, total: ClassTotal | None, whole: int, largest: int) -> Html:
    """An entry; its bar is as long as the legend is wide for the largest class."""
    label = [
        element("input", type="checkbox", checked="", value=entry.value, autocomplete="off"),
        _filled("swatch", entry.color, 1),
        element("span", entry.name, class_="name"),
    ]
    if total is not None:
        much = f"{total.pixels:,} px" if total.area_m2 is None else _area(total.area_m2)
        label.append(
            element("span", element("b", _share(total.pixels / whole)), much, class_="much"),
        )
        label.append(_filled("share", entry.color, total.pixels / largest))
    return element("li", element("label", *label), data_value=entry.value)


def _filled(name: str, color: str, share: float) -> Html:
    """A box of which this share is filled from the left."""
    part = element("rect", width=f"{100 * share:.2f}", height=1, fill=color)
    return element(
        "svg",
        part,
        viewBox="0 0 100 1",
        preserveAspectRatio="none",
        class_=name,
        aria_hidden="true",
    )


def _share(share: float) -> str:
    return "<0.1 %" if 0 < share < 0.001 else f"{share:.1%}".replace("%", " %")


def _area(square_metres: float) -> str:
    """In the unit in which the number is easily read."""
    if square_metres >= 1e5 or square_metres == 0:
        return f"{square_metres / 1e6:,.2f} km²"
    return f"{square_metres / 1e4:,.2f} ha" if square_metres >= 100 else f"{square_metres:,.1f} m²"
