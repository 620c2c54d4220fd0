"""A run's report as one page of HTML that needs nothing else: pictures, legend, card, provenance.

Two runs of one command give the same page byte for byte, but for the section `measured`: seconds
and memory are facts of one run. It has no dates.
"""

import base64
import hashlib
import os
from importlib.metadata import version
from pathlib import Path

from segpipe.pipeline import storage
from segpipe.pipeline.errors import StorageError
from segpipe.pipeline.fingerprint import Fields
from segpipe.workflows.errors import OptionError
from segpipe.workflows.pages import page_sections as sections
from segpipe.workflows.pages.markup import Html, element
from segpipe.workflows.pages.page_parts import SCRIPT, STYLE
from segpipe.workflows.plan import Preparation
from segpipe.workflows.results.again import Origin
from segpipe.workflows.results.report import Report


def page_target(path: str | Path | None) -> Path | None:
    """Where a page is written, absolute; None where none is asked for.

    Raises:
        OptionError: it doesn't end in .html.
        StorageError: its folder isn't there, or can't be written to.
    """
    if path is None:
        return None
    place = Path(path).absolute()
    if place.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"{place}: a report is a page; name a file that ends in .html")
    if place.is_dir() or not os.access(place.parent, os.W_OK | os.X_OK):
        what = "is a folder" if place.is_dir() else "isn't in a folder that can be written to"
        raise StorageError(f"the report {place} {what}; name another file with --report")
    return place


def write_page(
    path: Path, report: Report, ready: Preparation, fields: Fields, origin: Origin
) -> None:
    """Puts the page about a published map under `path`, whole or not at all.

    Args:
        path: the page, replaced if it is there.
        report: of the run.
        ready: what the run was prepared with.
        fields: the run's fingerprint.
        origin: how it was called.

    Raises:
        CorruptInputError: the scene or the map can't be read.
        StorageError: the disk refuses.
    """
    storage.sweep_beside(path)
    storage.write(path, page(report, ready, fields, origin).encode())


def page(report: Report, ready: Preparation, fields: Fields, origin: Origin) -> str:
    """The page's HTML; see `write_page`."""
    title, card = f"{report.output.name}: a map by {report.model}", ready.model.card
    body = element(
        "body",
        element(
            "div",
            sections.header(report),
            element(
                "main",
                sections.view(report, ready),
                sections.classes(report),
                sections.sureness(report.sureness),
                element(
                    "div",
                    element(
                        "div",
                        sections.exactness(report, card),
                        sections.model_card(card, ready.model.parameters),
                    ),
                    element("div", sections.tiles(report, ready.plan), sections.measured(report)),
                    class_="columns",
                ),
                sections.provenance(report, ready, fields),
                sections.again(report, origin),
            ),
            element(
                "footer",
                f"Made by segpipe {version('segpipe')}. This page is one file and loads nothing.",
            ),
            class_="wrap",
        ),
        element("script", Html(SCRIPT)),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy()),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content=f"segpipe {version('segpipe')}"),
        element("title", title),
        element("style", Html(STYLE)),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _policy() -> str:
    """Nothing may be loaded, and no script may run but the page's own, whatever names hold."""
    script = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
    )
