"""Cards survive JSON, and a bad one can't be made."""

import json
import pickle
import string
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segpipe.models.card import ClassInfo, ModelCard
from segpipe.models.errors import ModelError

LABELS = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=12).filter(
    lambda text: bool(text.strip())
)
COLORS = st.integers(0, 0xFFFFFF).map(lambda number: f"#{number:06x}")
MEANS = st.floats(-1e9, 1e9)
STDS = st.floats(1e-6, 1e9)
FIGURES = st.dictionaries(LABELS, st.floats(0, 1) | st.lists(st.integers(), max_size=3), max_size=3)


@st.composite
def cards(draw: st.DrawFn) -> ModelCard:
    bands = draw(st.lists(LABELS, min_size=1, max_size=6, unique=True))
    labels = draw(st.lists(LABELS, min_size=1, max_size=6, unique=True))
    values = draw(
        st.lists(st.integers(0, 254), min_size=len(labels), max_size=len(labels), unique=True)
    )
    return ModelCard(
        name=draw(st.text(string.ascii_letters + string.digits, min_size=1, max_size=8)),
        bands=tuple(bands),
        classes=tuple(
            ClassInfo(value, label, draw(COLORS))
            for value, label in zip(values, labels, strict=True)
        ),
        mean=tuple(draw(MEANS) for _ in bands),
        std=tuple(draw(STDS) for _ in bands),
        window=draw(st.integers(1, 4096)),
        description=draw(st.text(max_size=20)),
        metrics=draw(FIGURES),
        units=draw(st.sampled_from(["stored", "reflectance"])),
        resolution=draw(st.none() | st.floats(0.01, 1000)),
    )


CARD = ModelCard(
    name="water",
    bands=("red", "nir"),
    classes=(ClassInfo(1, "water", "#4060c8"), ClassInfo(2, "land", "#c0b080")),
    mean=(10.0, 20.0),
    std=(2.0, 3.0),
)


@given(cards())
def test_a_card_survives_json_and_pickle(card: ModelCard) -> None:
    assert ModelCard.from_dict(json.loads(json.dumps(card.to_dict()))) == card
    assert pickle.loads(pickle.dumps(card)) == card


def test_what_is_not_given_changes_nothing_in_what_older_packages_hold() -> None:
    assert not {"units", "resolution"} & CARD.to_dict().keys()
    assert replace(CARD, units="reflectance").to_dict() == {
        **CARD.to_dict(),
        "units": "reflectance",
    }


@given(
    st.integers(0, 65535),
    st.floats(1e-6, 1.0),
    st.floats(-1.0, 1.0),
    st.floats(-1.0, 1.0),
    st.floats(1e-3, 1.0),
)
def test_stored_numbers_are_normalised_as_their_reflectances_are(
    stored: int, scale: float, offset: float, mean: float, std: float
) -> None:
    card = replace(CARD, mean=(mean, mean), std=(std, std), units="reflectance")
    folded = card.in_stored_units((scale, 1.0), (offset, 0.0))
    expected = (scale * stored + offset - mean) / std
    size = max(abs(mean), abs(offset), 1.0) / std
    assert (stored - folded.mean[0]) / folded.std[0] == pytest.approx(
        expected, abs=1e-9 * max(size, abs(expected))
    )
    assert (folded.mean[1], folded.std[1]) == (mean, std)
    assert replace(folded, mean=card.mean, std=card.std, units="reflectance") == card


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), 5e-324])
def test_a_scale_that_turns_or_flattens_a_band_is_refused(scale: float) -> None:
    with pytest.raises(ModelError, match=r"scales are positive|finite number"):
        CARD.in_stored_units((scale, 1.0), (0.0, 0.0))


def test_metrics_are_what_json_gives_back() -> None:
    card = replace(CARD, metrics={"iou": (0.5, 0.25)})
    assert card.metrics == {"iou": [0.5, 0.25]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "a word"),
        ({"name": "../x"}, "a word"),
        ({"name": "a b"}, "a word"),
        ({"name": 5}, "a word"),
        ({"bands": ()}, "every band has a name"),
        ({"bands": ("red", 5)}, "every band has a name"),
        ({"bands": ("red", "a\x1b[2J")}, "every band has a name"),
        ({"bands": ("red", "red")}, "once each"),
        ({"mean": (1.0,)}, "mean has a finite number for each of the 2"),
        ({"mean": (1.0, float("nan"))}, "mean"),
        ({"mean": (1.0, True)}, "mean"),
        ({"mean": (1.0, 10**400)}, "mean"),
        ({"std": (1.0, 0.0)}, "std is positive"),
        ({"std": (1.0, float("inf"))}, "std"),
        ({"classes": ()}, "one value each"),
        ({"classes": (ClassInfo(1, "a", "#000000"), ClassInfo(1, "b", "#000000"))}, "one value"),
        ({"classes": (ClassInfo(1, "a", "#000000"), ClassInfo(2, "a", "#000000"))}, "one name"),
        ({"units": "percent"}, "units are stored or reflectance"),
        ({"units": None}, "units are stored or reflectance"),
        ({"resolution": 0}, "side of a pixel in metres"),
        ({"resolution": float("nan")}, "side of a pixel in metres"),
        ({"resolution": "10 m"}, "side of a pixel in metres"),
        ({"window": 0}, "window"),
        ({"window": 64.0}, "window"),
        ({"window": 10**9}, "window"),
        ({"licence": None}, "licence is text"),
        ({"metrics": {"iou": float("nan")}}, "JSON can't hold the metrics"),
        ({"metrics": {"iou": object()}}, "JSON can't hold the metrics"),
        ({"metrics": [1]}, "metrics is a table"),
    ],
)
def test_a_card_whose_parts_do_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        replace(CARD, **changes)


@pytest.mark.parametrize(
    ("value", "name", "color", "message"),
    [
        (255, "a", "#000000", "0 to 254"),
        (-1, "a", "#000000", "0 to 254"),
        (True, "a", "#000000", "0 to 254"),
        (1, " ", "#000000", "has a name"),
        (1, "a\n", "#000000", "has a name"),
        (1, "a", "red", "#4060c8"),
        (1, "a", "#00000g", "#4060c8"),
    ],
)
def test_a_class_that_no_map_can_hold_is_refused(
    value: int, name: str, color: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        ClassInfo(value, name, color)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bands": "rn"}, "'bands' is a list"),
        ({"mean": "12"}, "'mean' is a list"),
        ({"mean": ["1", "2"]}, "mean has a finite number"),
        ({"classes": [{"value": 1, "name": "a"}]}, "a class lacks 'color'"),
        ({"classes": [5]}, "a class is a table"),
        ({"classes": [{"value": 1, "name": "a", "color": "#000000", "x": 0}]}, "unknown key 'x'"),
        ({"colour": 1}, "unknown key 'colour'"),
    ],
)
def test_a_table_that_is_no_card_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ModelCard.from_dict({**CARD.to_dict(), **change})


@pytest.mark.parametrize("data", [None, [], "card", {}, {"name": "x"}])
def test_what_is_no_card_at_all_is_refused(data: object) -> None:
    with pytest.raises(ModelError, match="a model card"):
        ModelCard.from_dict(data)
