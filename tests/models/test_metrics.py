"""The figures agree with scikit-learn's."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn import metrics as oracle

from segpipe.models.metrics import Scores, confusion_matrix

CLASSES = 5
Indices = NDArray[np.uint8]


def labels(pixels: int) -> st.SearchStrategy[Indices]:
    # Often fewer classes than there are, so that some are missing from one side or both.
    return st.integers(1, CLASSES).flatmap(
        lambda most: arrays(np.uint8, pixels, elements=st.integers(0, most - 1))
    )


pairs = st.integers(1, 60).flatmap(lambda pixels: st.tuples(labels(pixels), labels(pixels)))


@given(pairs)
def test_figures_are_those_of_scikit_learn(pair: tuple[Indices, Indices]) -> None:
    reference, predicted = pair
    scores = Scores(confusion_matrix(reference, predicted, CLASSES))
    everywhere = range(CLASSES)
    expected = oracle.confusion_matrix(reference, predicted, labels=everywhere)
    np.testing.assert_array_equal(scores.confusion, expected)
    assert scores.overall_accuracy == pytest.approx(oracle.accuracy_score(reference, predicted))
    present = np.union1d(reference, predicted)
    iou = oracle.jaccard_score(reference, predicted, labels=present, average=None)
    np.testing.assert_allclose(scores.iou[present], iou)
    assert np.isnan(np.delete(scores.iou, present)).all()
    assert scores.mean_iou == pytest.approx(iou.mean())


@given(pairs, st.integers(0, 60))
def test_matrices_of_parts_add_up(pair: tuple[Indices, Indices], cut: int) -> None:
    reference, predicted = pair
    first = confusion_matrix(reference[:cut], predicted[:cut], CLASSES)
    second = confusion_matrix(reference[cut:], predicted[cut:], CLASSES)
    np.testing.assert_array_equal(first + second, confusion_matrix(reference, predicted, CLASSES))


def test_rows_are_the_reference() -> None:
    matrix = confusion_matrix(np.array([0, 0, 0]), np.array([1, 1, 0]), 2)
    assert matrix.tolist() == [[1, 2], [0, 0]]


def test_nothing_to_compare_gives_no_figures() -> None:
    scores = Scores(np.zeros((3, 3), np.int64))
    assert scores.to_dict() == {
        "pixels": 0,
        "overall_accuracy": None,
        "mean_iou": None,
        "iou": [None, None, None],
        "confusion_matrix": [[0, 0, 0]] * 3,
    }


@pytest.mark.parametrize(
    ("reference", "predicted", "message"),
    [
        (np.zeros(3, int), np.zeros(2, int), "one shape"),
        (np.array([0, 2]), np.array([0, 1]), "got 0 to 2"),
        (np.array([0, 1]), np.array([0, -1]), "got -1 to 0"),
    ],
)
def test_other_than_class_indices_are_refused(
    reference: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_matrix(reference, predicted, 2)


def test_a_matrix_that_isnt_square_is_refused() -> None:
    with pytest.raises(ValueError, match="square"):
        Scores(np.zeros((2, 3), np.int64))
