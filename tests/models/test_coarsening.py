"""Coarse labels are what a block's majority and a bilinear kernel give, written out."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from segpipe.models.architectures.layers import bilinear_kernel
from segpipe.models.learning.coarsening import coarsened

CLASSES = 4
UNKNOWN = 9
Image = NDArray[np.uint8]

sizes = st.tuples(st.integers(1, 13), st.integers(1, 13))
images = sizes.flatmap(
    lambda size: arrays(np.uint8, size, elements=st.sampled_from([*range(CLASSES), UNKNOWN]))
)


def blocks(labels: Image, factor: int) -> NDArray[np.float64]:
    """The scores of blocks (class, row, column), one block after the other."""
    rows, columns = -(-labels.shape[0] // factor), -(-labels.shape[1] // factor)
    scores = np.zeros((CLASSES, rows, columns))
    for row, column in np.ndindex(rows, columns):
        area = labels[row * factor :, column * factor :][:factor, :factor]
        counts = Counter(sorted(area[area != UNKNOWN].tolist()))
        if counts:
            scores[counts.most_common(1)[0][0], row, column] = 1
    return scores


def upsampled(scores: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """Every score spread by the kernel with which FCNs start, as a transposed convolution does."""
    kernel = bilinear_kernel(factor).numpy()
    # The edge goes on beyond the edge.
    scores = np.pad(scores, ((0, 0), (1, 1), (1, 1)), mode="edge")
    _, rows, columns = scores.shape
    fine = np.zeros((CLASSES, (rows + 1) * factor, (columns + 1) * factor))
    for row, column in np.ndindex(rows, columns):
        top, left = row * factor, column * factor
        spread = scores[:, row, column, None, None] * kernel
        fine[:, top : top + 2 * factor, left : left + 2 * factor] += spread
    start = factor + factor // 2
    return fine[:, start : start + (rows - 2) * factor, start : start + (columns - 2) * factor]


@given(images, st.sampled_from([2, 4, 6]))
def test_it_is_the_majority_upsampled_by_the_kernel_of_an_fcn(labels: Image, factor: int) -> None:
    fine = upsampled(blocks(labels, factor), factor)
    fine = fine[:, : labels.shape[0], : labels.shape[1]]
    best = coarsened(labels, CLASSES, factor)
    # Between classes that are equally good a last bit decides.
    chosen = np.take_along_axis(fine, best[None], axis=0)[0]
    np.testing.assert_allclose(chosen, fine.max(axis=0), atol=1e-6)


@given(images)
def test_nothing_is_lost_without_downsampling(labels: Image) -> None:
    best = coarsened(labels, CLASSES, 1)
    known = labels != UNKNOWN
    np.testing.assert_array_equal(best[known], labels[known])


def test_an_edge_between_blocks_stays() -> None:
    labels = np.repeat([0, 3], [8, 24])[None].repeat(16, 0)
    np.testing.assert_array_equal(coarsened(labels, CLASSES, 8), labels)


def test_a_factor_is_positive() -> None:
    with pytest.raises(ValueError, match="by 1 or more, got 0"):
        coarsened(np.zeros((2, 2), np.uint8), 1, 0)
