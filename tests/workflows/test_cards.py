"""Cards: options before the file, the file before the defaults, and nothing that doesn't fit."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segpipe.models.card import ClassInfo
from segpipe.models.errors import ModelError
from segpipe.pipeline.errors import InputRefusedError
from segpipe.workflows.cards import describe, palette


def written(folder: Path, text: str) -> Path:
    path = folder / "card.yaml"
    path.write_text(text)
    return path


def test_a_network_without_any_description_has_numbers_for_names() -> None:
    card = describe("my model!", 2, 2)
    assert card.name == "my-model"
    assert card.bands == ("band 1", "band 2")
    assert [(info.value, info.name) for info in card.classes] == [(0, "class 0"), (1, "class 1")]
    assert (card.mean, card.std, card.window) == ((0.0, 0.0), (1.0, 1.0), 256)


@given(st.integers(1, 255))
def test_every_class_has_a_colour_of_its_own(count: int) -> None:
    card = describe("x", 1, count)
    assert len({info.color for info in card.classes}) == count
    assert palette(count) == palette(255)[:count]


def test_options_go_before_the_file(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        name: clouds
        bands: [red, nir]
        classes:
          - clear
          - {name: cloud, value: 7, color: "#ffffff"}
        mean: [100, 200]
        std: 50
        window: 128
        licence: MIT
        units: reflectance
        resolution: 28.5
        """,
    )
    card = describe("folder", 2, 2, card_file=path)
    assert (card.name, card.bands, card.licence, card.window) == (
        "clouds",
        ("red", "nir"),
        "MIT",
        128,
    )
    assert (card.units, card.resolution) == ("reflectance", 28.5)
    assert card.classes == (ClassInfo(0, "clear", "#0072b2"), ClassInfo(7, "cloud", "#ffffff"))
    assert (card.mean, card.std) == ((100.0, 200.0), (50.0, 50.0))
    other = describe(
        "folder",
        2,
        2,
        card_file=path,
        band_names=["a", "b"],
        class_names=["land", "water"],
        colors=["#000000", "#0000ff"],
        mean=[1.5],
        std=[2.0, 3.0],
        window=64,
    )
    assert other.bands == ("a", "b")
    assert other.classes == (ClassInfo(0, "land", "#000000"), ClassInfo(7, "water", "#0000ff"))
    assert (other.mean, other.std, other.window) == ((1.5, 1.5), (2.0, 3.0), 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "isn't a card"),
        ("bands: [a, b", "isn't YAML"),
        ("colour: red", "unknown key 'colour'"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("!!python/object/apply:os.system [touch marker]", "isn't YAML"),
    ],
)
def test_a_file_that_is_no_card_is_refused_as_input(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputRefusedError, match=message) as caught:
        describe("x", 2, 2, card_file=written(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "marker").exists()


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefusedError, match="can't be read"):
        describe("x", 2, 2, card_file=tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bands: [a]", "1 bands are named, the network has 2"),
        ("classes: [a, b, c]", "3 classes are named, the network has 2"),
        ("mean: [1, 2, 3]", "3 numbers of mean are named"),
        ("std: 0", "std is positive"),
        ("std: yes", "std is a number for each band"),
        ("bands: red", "'bands' is a list"),
        ("classes: [1, 2]", "a class is a name"),
        ("classes: [{name: a, colour: x}, b]", "unknown key 'colour'"),
        ("window: big", "window is a side"),
        ("licence: 3", "licence is text"),
    ],
)
def test_a_card_that_does_not_fit_its_network_is_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        describe("x", 2, 2, card_file=written(tmp_path, text))
    assert caught.value.exit_code == 4
    assert "card.yaml" in str(caught.value)
