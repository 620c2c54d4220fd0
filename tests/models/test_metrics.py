"""The figures agree with scikit-learn's, and contours with a search around every pixel."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn import metrics as oracle

from segpipe.models.learning.metrics import Scores, boundary_iou, boundary_matrix, confusion_matrix

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
    share = expected.sum(axis=1)[present] / reference.size
    assert scores.frequency_weighted_iou == pytest.approx((share * iou).sum())
    assert scores.kappa == pytest.approx(kappa(reference, predicted), nan_ok=True)
    figures = oracle.precision_recall_fscore_support(
        reference, predicted, labels=everywhere, zero_division=np.nan
    )
    for ours, theirs in zip((scores.precision, scores.recall, scores.f1), figures, strict=False):
        np.testing.assert_allclose(ours, theirs)


def kappa(reference: Indices, predicted: Indices) -> float:
    with warnings.catch_warnings():
        # It warns of one class on both sides, where kappa is 0 / 0.
        warnings.simplefilter("ignore")
        return float(oracle.cohen_kappa_score(reference, predicted))


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
        "kappa": None,
        "mean_iou": None,
        "frequency_weighted_iou": None,
        "iou": [None, None, None],
        "precision": [None, None, None],
        "recall": [None, None, None],
        "f1": [None, None, None],
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


Image = NDArray[np.uint8]
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
# The value 9 is no class: a pixel that nobody knows.
images = sizes.flatmap(
    lambda size: st.tuples(*[arrays(np.uint8, size, elements=st.sampled_from([0, 1, 2, 9]))] * 2)
)


def near_contours(labels: Image, known: NDArray[np.bool_], index: int, distance: int) -> Any:
    """Pixels of a class with a known pixel of another one in the square around, one by one."""
    found = np.zeros(labels.shape, bool)
    for row, column in np.argwhere(known & (labels == index)):
        area = tuple(
            slice(max(place - distance, 0), place + distance + 1) for place in (row, column)
        )
        found[row, column] = (known[area] & (labels[area] != index)).any()
    return found


@given(images, st.integers(1, 4))
def test_boundary_iou_is_the_iou_of_what_lies_near_contours(
    pair: tuple[Image, Image], distance: int
) -> None:
    reference, predicted = pair
    known = (reference < 3) & (predicted < 3)
    expected = []
    for index in range(3):
        first, second = (near_contours(side, known, index, distance) for side in pair)
        either = (first | second).sum()
        expected.append((first & second).sum() / either if either else np.nan)
    found = boundary_iou(reference, predicted, 3, distance)
    np.testing.assert_allclose(found, expected)


def test_boundary_iou_of_a_shifted_square() -> None:
    reference, predicted = np.zeros((2, 20, 20), np.uint8)
    reference[5:15, 5:15] = 1
    predicted[5:15, 6:16] = 1
    # Rings of 36 pixels: 9 in each of the rows at the top and the bottom are common.
    assert boundary_iou(reference, predicted, 2, 1)[1] == 18 / (36 + 36 - 18)
    assert boundary_iou(reference, reference, 2, 3).tolist() == [1, 1]
    assert np.isnan(boundary_iou(reference * 0, reference * 0, 2, 1)).all()
    with pytest.raises(ValueError, match="thick"):
        boundary_iou(reference, predicted, 2, 0)


@given(images, st.integers(1, 3), st.integers(0, 9))
def test_boundaries_of_parts_add_up(pair: tuple[Image, Image], distance: int, cut: int) -> None:
    reference, predicted = pair
    height = len(reference)
    cut = min(cut, height)
    total = np.zeros((4, 4), np.int64)
    for top, bottom in ((0, cut), (cut, height)):
        first, last = max(top - distance, 0), min(bottom + distance, height)
        core = slice(top - first, bottom - first), slice(None)
        total += boundary_matrix(reference[first:last], predicted[first:last], 3, distance, core)
    np.testing.assert_array_equal(total, boundary_matrix(reference, predicted, 3, distance))
