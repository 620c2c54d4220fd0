"""What training makes small: how far scores are from labels."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from segpipe.models.learning.examples import IGNORED, ExamplesRefusedError

LossName = Literal["cross-entropy", "focal"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""One number for scores (N, classes, H, W) and labels (N, H, W), some of them `IGNORED`."""

FOCUS: dict[LossName, float] = {"cross-entropy": 0.0, "focal": 2.0}
"""The exponent gamma of Lin et al. (2017), section 3; theirs is 2."""


def make_loss(name: LossName, weights: Tensor) -> Loss:
    """The mean over labelled pixels, weighted by their classes, of the pixels' losses.

    A pixel's cross-entropy is minus the logarithm of its class's probability p; the focal loss
    multiplies it by (1 - p)^gamma, so that pixels count for less the surer they are. Without any
    labelled pixel the loss is 0.
    """
    focus = FOCUS[name]

    def loss(scores: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(scores, labels, reduction="none", ignore_index=IGNORED)
        known = labels != IGNORED
        weight = torch.where(known, weights[labels * known], 0)
        if focus:
            losses = (1 - torch.exp(-losses)) ** focus * losses
        return (weight * losses).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)

    return loss


def class_weights(pixels: NDArray[np.int64], balance: float) -> Tensor:
    """A weight for each class, by its frequency to the power of `-balance`.

    The mean of the weights over the labelled pixels is 1.

    Raises:
        ExamplesRefusedError: a class has no pixel.
    """
    if not pixels.all():
        raise ExamplesRefusedError(
            f"each of the {len(pixels)} classes needs labelled pixels in the training area, found "
            f"{pixels.tolist()}; hold out another part, or merge classes"
        )
    weights: NDArray[np.float64] = (pixels / pixels.sum()) ** -balance
    return torch.from_numpy((weights / np.average(weights, weights=pixels)).astype(np.float32))
