"""A report's page says what the map holds, is one file, and shows names as they are."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from segpipe.models.package import ClassInfo, SegmentationModel
from segpipe.pipeline import storage
from segpipe.pipeline.errors import FingerprintMismatchError, StorageError
from segpipe.workflows.errors import OptionError
from segpipe.workflows.pages.page_sections import shown_bands
from segpipe.workflows.results.report import Report
from segpipe.workflows.run import run
from tests import toys
from tests.workflows.conftest import Command
from tests.workflows.test_run import Squeezed

EVIL = "<script>alert('x')</script>\" onload=\"&amp;"
VOID = {"meta", "img", "input", "br"}


class Reader(HTMLParser):
    """What a browser would build: elements with their attributes, texts, and a broken nesting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, name: str) -> Iterator[dict[str, str | None]]:
        """The attributes of every element of this name."""
        return (attributes for tag, attributes in self.elements if tag == name)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.write_scene(
        tmp_path_factory.mktemp("scene") / "scene.tif", toys.landscape(300, 400)
    )


def named(*names: str) -> SegmentationModel:
    """The small model with other names for its first classes."""
    model = toys.small()
    infos = [
        ClassInfo(info.value, name, info.color)
        for info, name in zip(model.card.classes, names, strict=False)
    ]
    card = replace(model.card, classes=(*infos, *model.card.classes[len(infos) :]))
    return SegmentationModel(model.network, card)


def mapped(scene: Path, folder: Path, name: str = "map.tif") -> tuple[Report, str]:
    """A report and its page."""
    page = folder / "page.html"
    report = run(
        scene, model=toys.small(), output=folder / name, tile=256, precision="fp32", report=page
    )
    return report, page.read_text(encoding="utf-8")


def stable(page: str) -> str:
    """The page without what it says is measured."""
    kept, count = re.subn(r'<section id="measured">.*?</section>', "", page, flags=re.DOTALL)
    assert count == 1
    return kept


def test_a_second_run_differs_only_in_what_is_measured(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        pages.append(mapped(scene, Path())[1])
    assert stable(pages[0]) == stable(pages[1])
    assert "second" not in stable(pages[1])


@pytest.mark.parametrize("name", ["map.tif", "map.zarr"])
def test_the_page_tells_what_the_map_holds(scene: Path, tmp_path: Path, name: str) -> None:
    report, page = mapped(scene, tmp_path, name)
    found = Reader(page)
    text = " ".join(found.texts)
    for title, count in report.classes.items():
        assert title in text
        assert f"{count.pixels:,}" in text
        assert count.area_m2 is not None
        assert f"{count.area_m2 / 1e6:,.2f} km²" in text
    assert "Exact." in text
    assert "segpipe run" in text
    assert f"--report {tmp_path / 'page.html'}" in text
    assert len(list(found.all("img"))) == 2


def test_the_page_is_one_file_that_loads_nothing(scene: Path, tmp_path: Path) -> None:
    _, page = mapped(scene, tmp_path)
    found = Reader(page)
    policy = next(meta for meta in found.all("meta") if "http-equiv" in meta)
    assert policy["content"] is not None
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    addresses = [
        str(value)
        for _, attributes in found.elements
        for key, value in attributes.items()
        if key in {"src", "href", "srcset", "action", "data"}
    ]
    assert addresses
    assert all(address.startswith("data:image/") for address in addresses)
    assert "url(" not in page
    assert "@import" not in page


def test_who_cannot_see_it_can_read_it(scene: Path, tmp_path: Path) -> None:
    _, page = mapped(scene, tmp_path)
    found = Reader(page)
    assert page.startswith("<!doctype html>")
    assert next(found.all("html"))["lang"] == "en"
    assert all(image["alt"] for image in found.all("img"))
    assert all(slider["aria-label"] for slider in found.all("input"))
    assert all(cell.get("scope") in {"row", "col"} for cell in found.all("th"))
    headings = [int(tag[1]) for tag, _ in found.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))


def test_names_stay_texts(tmp_path: Path) -> None:
    odd = tmp_path / "<b>&'scene.tif"
    toys.write_scene(odd, toys.landscape(300, 280))
    page = tmp_path / "page.html"
    report = run(odd, model=named(EVIL), output=tmp_path / "<i>.tif", report=page)
    found = Reader(page.read_text(encoding="utf-8"))
    text = "".join(found.texts)
    assert EVIL in text
    assert "<b>&'scene.tif" in text
    assert [tag for tag, _ in found.elements if tag in {"b", "i"}] == []
    assert len(list(found.all("script"))) == 1
    assert not [key for _, attributes in found.elements for key in attributes if key[:2] == "on"]
    assert EVIL in "".join(Reader(report._repr_html_()).texts)


def test_colours_are_readable(scene: Path, tmp_path: Path) -> None:
    _, page = mapped(scene, tmp_path)
    schemes = re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    assert len(schemes) == 3
    for scheme in schemes:
        colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", scheme))
        pairs = [(ink, back) for ink in ("ink", "soft") for back in ("paper", "card", "code")]
        for ink, back in [*pairs, ("good", "good-back"), ("warn", "warn-back")]:
            assert contrast(colors[ink], colors[back]) >= 4.5, (ink, back)


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.2, section 1.4.3."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    digits = color[1:] if len(color) == 7 else "".join(digit * 2 for digit in color[1:])
    parts = [byte / 255 for byte in bytes.fromhex(digits)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_what_is_approximate_is_called_so(scene: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    model = SegmentationModel(toys.alive(Squeezed()), replace(toys.card("squeezed"), window=128))
    report = run(scene, model=model, output=tmp_path / "map.tif", tile=256, report=page)
    text = " ".join(Reader(page.read_text(encoding="utf-8")).texts)
    assert not report.footprint.exact
    assert "Approximate." in text
    assert "128 x 128" in text
    assert "Exact." not in text
    for reason in report.footprint.reasons:
        assert reason in text


def test_without_a_crs_there_are_no_areas(tmp_path: Path) -> None:
    odd = toys.write_scene(tmp_path / "scene.tif", toys.landscape(300, 280), crs=None)
    page = tmp_path / "page.html"
    run(odd, model=toys.small(), output=tmp_path / "map.tif", report=page)
    text = page.read_text(encoding="utf-8")
    assert "unknown: no crs" in text
    assert "km²" not in text
    assert "Warnings" in text


def test_bands_are_found_by_name_then_by_order() -> None:
    assert shown_bands(("blue", "GREEN", "red", "nir"), ()) == (2, 1, 0)
    assert shown_bands(("band 3", "band 2", "band 1"), ("blue", "green", "red")) == (2, 1, 0)
    assert shown_bands(("a", "b", "c", "d"), ("a", "b", "c", "d")) == (0, 1, 2)
    assert shown_bands(("a", "b"), ("a", "b")) == (0,)


class TestRefusals:
    def test_a_page_that_is_there_stays(self, scene: Path, tmp_path: Path) -> None:
        page = tmp_path / "page.html"
        page.write_text("mine")
        with pytest.raises(FingerprintMismatchError, match="--overwrite"):
            run(scene, model=toys.small(), output=tmp_path / "map.tif", report=page)
        assert page.read_text() == "mine"
        assert not (tmp_path / "map.tif").exists()
        run(scene, model=toys.small(), output=tmp_path / "map.tif", report=page, overwrite=True)
        assert page.read_text().startswith("<!doctype html>")

    def test_a_folder_that_is_missing_is_told_before_any_work(
        self, scene: Path, tmp_path: Path
    ) -> None:
        for error, name in ((StorageError, "none/page.html"), (OptionError, "page.pdf")):
            with pytest.raises(error, match="report"):
                run(scene, model=toys.small(), output=tmp_path / "map.tif", report=tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    def test_several_scenes_have_no_common_page(self, segpipe: Command, scene: Path) -> None:
        assert segpipe("run", scene, scene, "--report", "page.html").code == 2

    def test_a_page_that_failed_is_made_by_the_same_call(
        self, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        page, write = tmp_path / "page.html", storage.write

        def full(path: Path, data: bytes) -> None:
            if path == page:
                raise StorageError("the disk is full")
            write(path, data)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "write", full)
            with pytest.raises(StorageError, match="full"):
                mapped(scene, tmp_path)
        assert not page.exists()
        report, text = mapped(scene, tmp_path)
        assert report.tiles_resumed == report.tiles
        assert text.startswith("<!doctype html>")
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "map.qml",
            "map.tif",
            "map.tif.aux.xml",
            "page.html",
        ]
