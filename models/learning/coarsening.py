"""Labels as coarsely as a network of some stride tells them, upsampled again."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from segpipe.models.learning.metrics import Labels


def coarsened(labels: Labels, classes: int, factor: int) -> NDArray[np.int64]:
    """Class indices (row, column) that are downsampled by `factor` and upsampled again.

    Blocks of `factor` x `factor` pixels, counted from the upper left corner, are given the class
    that most of their pixels have, as a perfect classifier of blocks would. Its scores, 1 for that
    class and 0 for the others, are upsampled bilinearly, as an FCN's are, and the best class is
    taken. Long, Shelhamer and Darrell (2015, appendix A) bound networks from above in this way;
    they don't say how they downsampled.

    Where no pixel of the block has a class, the result means nothing. Of several classes that are
    equally good the first is taken.

    Args:
        labels: class indices (row, column); whatever isn't one is unknown and has no say.
        classes: how many there are.
        factor: side of a block in pixels; 1 leaves every class as it is.

    Raises:
        ValueError: the factor isn't positive.
    """
    if factor < 1:
        raise ValueError(f"labels are downsampled by 1 or more, got {factor}")
    scores = torch.from_numpy(_majority(labels, classes, factor))[None]
    fine = F.interpolate(scores, scale_factor=factor, mode="bilinear", align_corners=False)
    height, width = labels.shape
    best: NDArray[np.int64] = fine[0, :, :height, :width].argmax(dim=0).numpy()
    return best


def _majority(labels: Labels, classes: int, factor: int) -> NDArray[np.float32]:
    """1 for the most frequent class of each block and 0 for the others, (class, row, column)."""
    height, width = labels.shape
    padded = np.pad(
        labels.astype(np.int64),
        ((0, -height % factor), (0, -width % factor)),
        constant_values=-1,
    )
    rows, columns = padded.shape[0] // factor, padded.shape[1] // factor
    blocks = padded.reshape(rows, factor, columns, factor)
    counts = np.stack([(blocks == index).sum(axis=(1, 3)) for index in range(classes)])
    most = counts.argmax(axis=0)
    one_hot = (np.arange(classes)[:, None, None] == most) & (counts > 0)
    scores: NDArray[np.float32] = one_hot.astype(np.float32)
    return scores
