"""The sections of a report's page, each from the run's facts to HTML."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import rasterio

from segpipe.models.card import ModelCard
from segpipe.pipeline.budget import readable
from segpipe.pipeline.errors import DamagedError
from segpipe.pipeline.failure import summary
from segpipe.pipeline.fingerprint import Fields
from segpipe.pipeline.maps.picture import Picture, composite, painted
from segpipe.pipeline.plan import Axis, Plan
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.pipeline.scenes.source import file_identity
from segpipe.workflows.pages.markup import Html, element, joined
from segpipe.workflows.plan import Preparation
from segpipe.workflows.results.again import PLACEHOLDER, Origin, word
from segpipe.workflows.results.report import Report
from segpipe.workflows.terminal import texts

LONGEST = 1600
"""Rows or columns of a picture at most."""

_SMALL = 800
"""A picture of fewer columns shows its pixels as squares."""

_MOST_CUTS = 200
_MOST_FIGURES = 80
_DIGEST = 64
_LIBRARIES = ("segpipe", "torch", "rasterio", "numpy", "zarr", "distributed")


def header(report: Report) -> Html:
    """The map's name, whether it is exact, and the figures that come first."""
    exact = report.footprint.exact
    valid = report.valid_pixels
    areas = [count.area_m2 for count in report.classes.values() if count.area_m2 is not None]
    figures = {
        "classes": str(len(report.classes)),
        "pixels with a class": f"{valid:,}",
        "of the scene" if report.aoi_pixels is None else "of the area of interest": _share(
            valid, report.pixels if report.aoi_pixels is None else report.aoi_pixels
        ),
        "area with a class": _area(sum(areas)) if areas else "unknown: no crs",
    }
    return element(
        "header",
        element("h1", report.output.name),
        element("p", f"A map of {report.scene.name}, by {report.model}.", class_="lead"),
        element(
            "p",
            element(
                "span",
                "exact" if exact else "approximate",
                class_="badge" if exact else "badge approximate",
            ),
        ),
        element(
            "dl",
            *(
                element("div", element("dt", name), element("dd", value))
                for name, value in figures.items()
            ),
            class_="figures",
        ),
    )


def view(report: Report, ready: Preparation) -> Html:
    """Scene and map as pictures, one over the other where a script runs."""
    bands = shown_bands(ready.scene.band_names, ready.model.card.bands)
    try:
        scene = composite(ready.scene, bands, LONGEST)
    except DamagedError as error:
        none = element("p", f"There is no picture: {error}", class_="note")
        return element("section", element("h2", "Scene and map"), none)
    pictures = element(
        "div",
        _picture_of_scene(scene, report, [ready.scene.band_names[band] for band in bands]),
        _picture_of_map(painted(open_scene(report.output), ready.legend, LONGEST), report),
        class_="pictures small" if scene.width < _SMALL else "pictures",
    )
    height, width = ready.plan.grid.shape
    reduced = f", shown as {scene.width:,} x {scene.height:,}" if scene.width < width else ""
    note = (
        f"{width:,} x {height:,} pixels{reduced}. Each band is stretched from its 2nd to its 98th "
        "percentile; what has no measurement or no class is left empty."
    )
    return element(
        "section",
        element("h2", "Scene and map"),
        element(
            "div",
            pictures,
            _swipe(),
            class_="view",
            style=f"--at:50%;--ratio:{scene.width / scene.height:.4f}",
        ),
        element("p", note, class_="note"),
    )


def shown_bands(names: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[int, ...]:
    """Which bands are red, green and blue, from 0: by the scene's names, the model's, or order."""
    for known in (names, wanted):
        folded = [name.strip().casefold() for name in known]
        if {"red", "green", "blue"} <= set(folded):
            return tuple(folded.index(color) for color in ("red", "green", "blue"))
    return (0, 1, 2) if len(names) >= 3 else (0,)


def _picture_of_scene(picture: Picture, report: Report, bands: Sequence[str]) -> Html:
    names = ", ".join(bands)
    colors = "in red, green and blue" if len(bands) == 3 else "in grey"
    alt = f"The scene {report.scene.name}: its bands {names} {colors}"
    return _picture(picture, alt, f"Scene: {names}", "scene")


def _picture_of_map(picture: Picture, report: Report) -> Html:
    name, most = max(report.classes.items(), key=lambda item: item[1].pixels)
    alt = (
        f"The map {report.output.name} in the colours of its {len(report.classes)} classes; "
        f"most of it is {name} ({_share(most.pixels, report.valid_pixels)})"
    )
    return _picture(picture, alt, "Map", "map")


def _swipe() -> Html:
    """What moves the border between scene and map."""
    slider = element(
        "input",
        type="range",
        min=0,
        max=100,
        value=50,
        step=1,
        aria_label="How much of the scene is shown before the map begins, in percent",
    )
    return element("div", slider, class_="control")


def _picture(picture: Picture, alt: str, caption: str, name: str) -> Html:
    return element(
        "figure",
        element(
            "img",
            src=picture.uri,
            alt=alt,
            width=picture.width,
            height=picture.height,
            draggable="false",
        ),
        element("figcaption", caption),
        class_=name,
    )


def classes(report: Report) -> Html:
    """The legend with pixels, areas and shares."""
    areas = any(count.area_m2 is not None for count in report.classes.values())
    head = [_column("value", minor=True), _column("pixels", minor=areas), _column("area")]
    return element(
        "section",
        element("h2", "Classes"),
        element(
            "div",
            element(
                "table",
                element("caption", "Shares are those of the pixels that have a class."),
                element(
                    "thead",
                    element(
                        "tr",
                        element("th", "class", scope="col"),
                        *(head if areas else head[:2]),
                        _column("share"),
                        _bars("the share as a bar"),
                    ),
                ),
                element("tbody", *_class_rows(report, areas)),
                element("tfoot", *_sum_rows(report, areas)),
            ),
            class_="scroll",
        ),
    )


def _class_rows(report: Report, areas: bool) -> Iterator[Html]:
    largest = max(count.pixels for count in report.classes.values())
    for name, count in report.classes.items():
        swatch = element("span", class_="swatch", style=f"background:{count.color}")
        bar = element("span", class_="bar", style=_bar(count.pixels, largest, count.color))
        yield _row(
            joined(swatch, name),
            (str(count.value), count.pixels, _area(count.area_m2)),
            areas,
            _number(_share(count.pixels, report.valid_pixels)),
            element("td", bar, class_="shares"),
        )


def _sum_rows(report: Report, areas: bool) -> Iterator[Html]:
    valid = report.valid_pixels
    known = [count.area_m2 for count in report.classes.values() if count.area_m2 is not None]
    rest = (_number(""), element("td", class_="shares"))
    yield _row("all classes", ("", valid, _area(sum(known))), areas, *rest)
    yield _row("no data", ("255", report.pixels - valid, ""), areas, *rest)


def _row(name: str, figures: tuple[str, int, str], areas: bool, *rest: Html) -> Html:
    """A row of the legend: value, pixels and area, the last where there are areas at all."""
    value, pixels, area = figures
    cells = [_number(value, minor=True), _number(f"{pixels:,}", minor=areas), _number(area)]
    return element("tr", element("th", name, scope="row"), *cells[: 3 if areas else 2], *rest)


def sureness(bins: tuple[int, ...] | None) -> Html:
    """How many pixels the network was how sure of; nothing where that wasn't counted."""
    if bins is None or not sum(bins):
        return joined()
    whole, most = sum(bins), max(bins)
    # One that is there is seen, however few its pixels are.
    heights = [max(_TALL * pixels / most, 0.4 if pixels else 0) for pixels in bins]
    bars = [
        element(
            "rect",
            element("title", f"{_range(place, len(bins))}: {_share(pixels, whole)}"),
            x=4 * place,
            y=f"{_TALL - height:.2f}",
            width="3.6",
            height=f"{height:.2f}",
        )
        for place, (pixels, height) in enumerate(zip(bins, heights, strict=True))
    ]
    shares = "; ".join(
        f"{_range(place, len(bins))}: {_share(pixels, whole)}"
        for place, pixels in enumerate(bins)
        if pixels
    )
    return element(
        "section",
        element("h2", "Confidence"),
        element(
            "p",
            "The probability that the network gives to the class that it chose: how many pixels "
            "have which. It is the network's own opinion; that it is sure doesn't make it right.",
        ),
        element(
            "svg",
            *bars,
            class_="histogram",
            viewBox=f"0 0 {4 * len(bins)} {_TALL}",
            preserveAspectRatio="none",
            role="img",
            aria_label=f"Shares of the pixels with a class by their probability. {shares}",
        ),
        element("p", *(element("span", f"{tick:g}") for tick in _TICKS), class_="ticks"),
        element("p", f"{_told(bins)} The tallest bar holds {_share(most, whole)}.", class_="note"),
    )


def _told(bins: tuple[int, ...]) -> str:
    """What share of the pixels is rather unsure, and what share very sure."""
    whole, low, high = sum(bins), len(bins) // 2, len(bins) * 9 // 10
    return (
        f"{_share(sum(bins[:low]), whole)} of the pixels have less than {low / len(bins):.2f}, "
        f"{_share(sum(bins[high:]), whole)} have {high / len(bins):.2f} or more."
    )


_TICKS = (0, 0.25, 0.5, 0.75, 1)
"""What stands beneath a histogram of probabilities."""

_TALL = 24
"""Height of its tallest bar, of which 25 are 100 wide."""


def _range(place: int, bins: int) -> str:
    return f"{place / bins:.2f} to {(place + 1) / bins:.2f}"


def exactness(report: Report, card: ModelCard) -> Html:
    """Whether every label is that of one pass, and why not."""
    found = report.footprint
    if found.exact:
        words = element(
            "p",
            element("strong", "Exact."),
            " Every label is the one that a single pass over the whole scene gives. The size of "
            "the tiles, the number of workers and interruptions change nothing.",
        )
        rows = {
            "stride": f"{found.stride} pixels",
            "a pixel sees": f"{found.top} up, {found.left} left, {found.bottom} down, "
            f"{found.right} right",
        }
    else:
        words = joined(
            element(
                "p",
                element("strong", "Approximate."),
                f" No margin makes this network exact. It ran in windows of {card.window} x "
                f"{card.window} pixels that overlap and are blended; the map isn't what the "
                "network says of the whole scene, though it is the same for every size of tiles. "
                "What stands against exactness:",
            ),
            element("ul", *(element("li", reason) for reason in found.reasons)),
        )
        rows = {}
    if report.seam is not None:
        rows["a seam, computed again"] = (
            f"{report.seam.differing:,} of {report.seam.pixels:,} labels differ"
        )
    rows["numbers"] = texts.precision(report.engine)
    return element("section", element("h2", "Footprint and exactness"), words, _facts(rows))


def tiles(report: Report, plan: Plan) -> Html:
    """How the scene was cut."""
    height, width = plan.read_shape
    margin = plan.margin
    rows = {
        "tiles": texts.tiles(report.tiles, plan.side),
        "read for a tile": f"at most {width:,} x {height:,} pixels",
        "margin": f"{margin.top} above, {margin.left} left, {margin.bottom} below, "
        f"{margin.right} right",
        "read in all": f"{plan.extra_work:.2f} pixels for each of the scene",
    }
    if report.failed:
        rows["failed, and nodata"] = summary(report.failed, report.tiles)
    return element("section", element("h2", "The plan"), _facts(rows), *_tiling(plan))


def _tiling(plan: Plan) -> Iterator[Html]:
    """A drawing of the cuts, and of what the tile in the middle owns and reads."""
    rows, columns = plan.rows, plan.columns
    if len(plan) == 1 or rows.count + columns.count > _MOST_CUTS:
        return
    height, width = plan.grid.shape
    lines = [
        *(
            element("line", class_="cut", x1=0, x2=width, y1=place, y2=place)
            for place in range(plan.side, height, plan.side)
        ),
        *(
            element("line", class_="cut", y1=0, y2=height, x1=place, x2=place)
            for place in range(plan.side, width, plan.side)
        ),
    ]
    row, column = rows.count // 2, columns.count // 2
    core = _rectangle("core", rows, columns, rows.core(row), columns.core(column))
    read = _rectangle("read", rows, columns, rows.read(row), columns.read(column))
    yield element(
        "svg",
        element("rect", class_="ground", width=width, height=height),
        core,
        *lines,
        read,
        class_="tiling",
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=f"The scene cut into {rows.count} rows and {columns.count} columns of tiles",
    )
    yield element(
        "p",
        "Filled: the pixels that one tile owns. Dashed: those that are read for it.",
        class_="note",
    )


def _rectangle(
    name: str, rows: Axis, columns: Axis, down: tuple[int, int], across: tuple[int, int]
) -> Html:
    return element(
        "rect",
        class_=name,
        x=across[0],
        y=down[0],
        width=min(across[1], columns.length) - across[0],
        height=min(down[1], rows.length) - down[0],
    )


def model_card(card: ModelCard, parameters: int) -> Html:
    """What the network was trained for, and how well it did."""
    rows = {
        "name": card.name,
        "licence": card.licence or "not told",
        "trained on": card.training_data or "not told",
        "parameters": f"{parameters:,}",
        "bands": ", ".join(card.bands),
    }
    figures = dict(list(_figures(card.metrics))[:_MOST_FIGURES])
    told = [element("h3", "Figures in its card"), _facts(figures)]
    return element(
        "section",
        element("h2", "The model"),
        element("p", card.description or "The model's card doesn't describe it."),
        _facts(rows),
        *(told if figures else []),
    )


def _figures(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and text of every single figure, and of those that come one for each class."""
    names = metrics.get("classes")
    for key, value in metrics.items():
        title = str(key).replace("_", " ")
        if isinstance(value, bool | int | float | str):
            yield title, _plain(value)
        elif isinstance(value, Mapping):
            inner = {"classes": names, **value} if names else value
            yield from ((f"{title}: {name}", text) for name, text in _figures(inner))
        elif (
            isinstance(value, list)
            and isinstance(names, list)
            and key != "classes"
            and len(value) == len(names)
            and all(isinstance(number, int | float) for number in value)
        ):
            yield (
                title,
                ", ".join(
                    f"{name} {_plain(number)}" for name, number in zip(names, value, strict=True)
                ),
            )


def measured(report: Report) -> Html:
    """Seconds and memory: the one section that differs from run to run."""
    spent = report.seconds
    names = {
        "in all": spent.total,
        "reading": spent.read,
        "predicting": spent.predict,
        "writing": spent.write,
        "publishing": spent.publish,
    }
    longest = max(*names.values(), 1e-9)
    rows = [
        element(
            "tr",
            element("th", name, scope="row"),
            _number(f"{seconds:,.1f} s"),
            element("td", element("span", class_="bar", style=_bar(seconds, longest))),
        )
        for name, seconds in names.items()
    ]
    facts = {
        "speed": f"{report.megapixels_per_second:.2f} megapixels a second",
        "memory": readable(report.peak_rss_bytes) if report.peak_rss_bytes else "",
        "tiles from before": f"{report.tiles_resumed:,} of {report.tiles:,}",
    }
    return element(
        "section",
        element("h2", "What this run took"),
        element(
            "table",
            element(
                "caption",
                "Reading, predicting and writing overlap, and are sums over threads. This section "
                "alone differs when the same command runs again.",
            ),
            element(
                "thead",
                element(
                    "tr",
                    element("th", "part", scope="col"),
                    _column("seconds"),
                    _bars("the seconds as a bar"),
                ),
            ),
            element("tbody", *rows),
        ),
        _facts(facts),
        id="measured",
    )


def provenance(report: Report, ready: Preparation, fields: Fields) -> Html:
    """Versions and digests, and what a user was warned of."""
    engine = report.engine
    rows = {
        "scene": str(report.scene),
        "bands of the scene": ", ".join(ready.scene.band_names),
        "grid": f"{ready.plan.grid.width:,} x {ready.plan.grid.height:,} pixels, "
        f"transform {', '.join(f'{number:.10g}' for number in ready.plan.grid.transform)}",
        "computed by": " ".join(filter(None, (engine.name, engine.version)))
        + f" on {engine.device} in {engine.precision}, {engine.threads} threads",
        "with": ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
        + f", GDAL {rasterio.__gdal_version__}, Python {platform.python_version()}",
    }
    if report.polygons:
        rows["polygons"] = f"{report.polygons.polygons:,} in {report.place(report.polygons.output)}"
    digests = {
        "model": ready.model.digest,
        "plan": ready.plan.digest,
        **_map_digest(report.output),
        **{f"input: {name}": text for name, text in _hashes(fields["input"])},
    }
    warnings = [
        element("h3", "Warnings"),
        element("ul", *(element("li", warning) for warning in report.warnings)),
    ]
    return element(
        "section",
        element("h2", "Provenance"),
        _facts(rows),
        element("h3", "Digests (SHA-256)"),
        _facts({name: element("code", text) for name, text in digests.items()}),
        *(warnings if report.warnings else []),
    )


def _map_digest(output: Path) -> dict[str, str]:
    if output.is_dir():
        return {}
    return {"map": str(file_identity(output, full=True)["sha256"])}


def _hashes(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Every hash in nested JSON, with its dotted name."""
    if isinstance(value, str) and len(value) == _DIGEST:
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _hashes(inner, f"{name}.{key}".strip("."))
    elif isinstance(value, list):
        for place, inner in enumerate(value, start=1):
            yield from _hashes(inner, f"{name} {place}".strip())


def again(report: Report, origin: Origin) -> Html:
    """The command that makes the map again."""
    arguments = {name: word(value) for name, value in origin.arguments.items()}
    unnamed = PLACEHOLDER in arguments.values()
    note = (
        f"The model was handed over in Python; {PLACEHOLDER} stands for the folder that "
        "segpipe.models.package.save makes of it."
    )
    return element(
        "section",
        element("h2", "Make it again"),
        element("pre", element("code", origin.command)),
        *([element("p", note, class_="note")] if unnamed else []),
        element("p", "With the same scene, model and versions the map is the same, byte for byte."),
        element("h3", "What was given; all else is by default"),
        _facts({name: element("code", text) for name, text in arguments.items()}),
    )


def _facts(rows: Mapping[str, str]) -> Html:
    return element(
        "table",
        element(
            "tbody",
            *(
                element("tr", element("th", name, scope="row"), element("td", text))
                for name, text in rows.items()
                if text
            ),
        ),
        class_="facts",
    )


def _column(title: str, *, minor: bool = False) -> Html:
    return element("th", title, scope="col", class_="number minor" if minor else "number")


def _bars(title: str) -> Html:
    return element("th", element("span", title, class_="unseen"), scope="col", class_="shares")


def _number(text: str, *, minor: bool = False) -> Html:
    """A cell; a minor one gives way on a phone."""
    return element("td", text, class_="number minor" if minor else "number")


def _bar(part: float, longest: float, color: str | None = None) -> str:
    width = f"--share:{100 * part / max(longest, 1e-9):.2f}%"
    return width if color is None else f"{width};--color:{color}"


def _area(square_metres: float | None) -> str:
    return "" if square_metres is None else f"{square_metres / 1e6:,.2f} km²"


def _share(part: int, whole: int) -> str:
    share = part / max(whole, 1)
    return "<0.1%" if 0 < share < 0.001 else f"{share:.1%}"


def _plain(value: bool | int | float | str) -> str:
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
