"""Labels become classes, and none is dropped in silence."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from segpipe.models.card import ClassInfo
from segpipe.models.learning.examples import IGNORED
from segpipe.pipeline.errors import InputRefusedError
from segpipe.workflows.labels.label_scheme import LabelClass, LabelScheme

SCHEME = LabelScheme(
    (
        LabelClass(ClassInfo(7, "land", "#804000"), (1, 2)),
        LabelClass(ClassInfo(3, "water", "#0000ff"), (4,)),
    ),
    ignored=(0,),
)
INDEX = {0: IGNORED, 1: 0, 2: 0, 4: 1}


@given(
    arrays(np.int16, (5, 6), elements=st.sampled_from(list(INDEX))),
    arrays(np.bool_, (5, 6)),
)
def test_labels_become_the_index_of_their_class(
    labels: NDArray[np.int16], known: NDArray[np.bool_]
) -> None:
    expected = [
        [INDEX[label] if k else IGNORED for label, k in zip(*row, strict=True)]
        for row in zip(labels.tolist(), known.tolist(), strict=True)
    ]
    indices = SCHEME.indices(labels, known)
    assert indices.dtype == np.uint8
    assert indices.tolist() == expected


def test_a_label_without_a_class_is_refused_unless_it_is_unknown() -> None:
    labels = np.array([[1, 9, 4]], np.uint8)
    assert SCHEME.indices(labels, labels != 9).tolist() == [[0, IGNORED, 1]]
    with pytest.raises(InputRefusedError, match="hold 9, which no class names"):
        SCHEME.indices(labels, np.ones_like(labels, dtype=bool))


def test_a_file_says_the_same(tmp_path: Path) -> None:
    entries = [
        {"value": e.info.value, "name": e.info.name, "color": e.info.color, "labels": [*e.labels]}
        for e in SCHEME.classes
    ]
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"classes": entries, "ignored": [0]}))
    assert LabelScheme.read(path) == SCHEME


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"classes": []}',
        '{"classes": [1, 2]}',
        '{"classes": [{"value": 1, "name": "a", "color": "#000000"}]}',
        '{"classes": [{"value": 1, "name": "a", "color": "black", "labels": [1]}]}',
        '{"classes": [{"value": 1, "name": "a", "color": "#000000", "labels": "1"}]}',
        '{"unknown": 1, "classes": [{"value": 1, "name": "a", "color": "#000000", "labels": [1]},'
        '{"value": 2, "name": "b", "color": "#000000", "labels": [2]}]}',
        '{"classes": [{"value": 1, "name": "a", "color": "#000000", "labels": [1]},'
        '{"value": 2, "name": "b", "color": "#000000", "labels": [1]}]}',
    ],
)
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text(text)
    with pytest.raises(InputRefusedError, match="isn't a table of classes"):
        LabelScheme.read(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefusedError, match="can't be read: No such file"):
        LabelScheme.read(tmp_path / "classes.json")
