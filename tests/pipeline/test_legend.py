"""A legend keeps its names and colours in every form that a reader takes."""

import pickle
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segpipe.pipeline.maps.legend import Legend, LegendEntry
from segpipe.pipeline.maps.pam import geotiff_pam, zarr_pam
from segpipe.pipeline.maps.qml import qgis_style
from tests.pipeline.maps import LEGEND

names = st.text(min_size=1, max_size=12).filter(lambda name: name.strip() and name.isprintable())
colors = st.from_regex(r"#[0-9a-fA-F]{6}", fullmatch=True)


@st.composite
def legends(draw: st.DrawFn) -> Legend:
    values = draw(st.lists(st.integers(0, 254), min_size=1, max_size=8, unique=True))
    # Few characters, so that names fall together.
    name = st.one_of(names, st.text("ab _-5水", min_size=1).filter(str.strip))
    entries = tuple(LegendEntry(value, draw(name), draw(colors)) for value in values)
    return Legend(draw(names), entries)


@given(legends())
def test_flag_meanings_are_different_words_that_cf_allows(legend: Legend) -> None:
    words = legend.flag_meanings
    assert len(set(words)) == len(legend.entries)
    assert all(re.fullmatch(r"[A-Za-z0-9_.+@-]+", word) for word in words)


def test_flag_meanings_stay_close_to_the_names() -> None:
    assert LEGEND.flag_meanings == ("developed_area", "foret_bois", "water")


@given(legends())
def test_a_legend_survives_pickling_and_has_one_order(legend: Legend) -> None:
    assert pickle.loads(pickle.dumps(legend)) == legend
    assert Legend(legend.title, legend.entries[::-1]) == legend
    assert list(legend.values) == sorted(legend.values)


@given(legends())
def test_the_palette_has_the_classes_colours_and_nothing_else(legend: Legend) -> None:
    assert len(legend.palette) == 256
    for value, (red, green, blue, alpha) in enumerate(legend.palette):
        found = [entry for entry in legend.entries if entry.value == value]
        assert alpha == (255 if found else 0)
        for entry in found:
            assert entry.color.lower() == f"#{red:02x}{green:02x}{blue:02x}"


@given(legends(), st.integers(0, 2**50))
def test_the_side_cars_hold_every_name_as_it_is(legend: Legend, pixels: int) -> None:
    counts = {legend.values[0]: pixels}
    for text in (geotiff_pam(legend, counts), zarr_pam(legend, counts, "classes")):
        root = ET.fromstring(text)
        categories = [element.text or "" for element in root.iter("Category")]
        rows = [[field.text for field in row] for row in root.iter("Row")]
        assert {entry.value: entry.name for entry in legend.entries} == {
            value: name for value, name in enumerate(categories) if name
        }
        assert [(row[0], row[1]) for row in rows] == [
            (str(entry.value), entry.name) for entry in legend.entries
        ]
        assert [row[2] for row in rows] == [str(pixels), *["0"] * (len(rows) - 1)]


@given(legends())
def test_the_style_has_exactly_the_classes(legend: Legend) -> None:
    entries = ET.fromstring(qgis_style(legend)).iter("paletteEntry")
    assert [(int(e.attrib["value"]), e.attrib["label"], e.attrib["color"]) for e in entries] == [
        (entry.value, entry.name, entry.color) for entry in legend.entries
    ]


@pytest.mark.parametrize(
    ("value", "name", "color"),
    [
        (-1, "water", "#4060c8"),
        (256, "water", "#4060c8"),
        (True, "water", "#4060c8"),
        (5, " ", "#4060c8"),
        (5, "wa\x00ter", "#4060c8"),
        (5, "wa\nter", "#4060c8"),
        (5, "water", "blue"),
        (5, "water", "#4060c8ff"),
    ],
)
def test_what_no_file_could_hold_is_refused(value: int, name: str, color: str) -> None:
    with pytest.raises(ValueError, match="a class has a"):
        LegendEntry(value, name, color)


@pytest.mark.parametrize("values", [(), (1, 1), (1, 255)])
def test_classes_have_values_of_their_own(values: tuple[int, ...]) -> None:
    entries = tuple(LegendEntry(value, "water", "#4060c8") for value in values)
    with pytest.raises(ValueError, match="one value each"):
        Legend("map", entries)
