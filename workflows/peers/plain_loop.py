"""What people write themselves: a loop over patches whose scores are blended."""

import torch
from torch import Tensor, nn

from segpipe.workflows.peers.subject import Mapped, Subject


def labels(subject: Subject, *, patch: int, overlap: float) -> Mapped:
    """The labels of patches that share `overlap` of their side, weighted by a gaussian."""
    with torch.inference_mode():
        scores = blended(subject.network(), subject.image(), patch, overlap)
        return Mapped(subject.labelled(scores), patch)


def blended(network: nn.Module, image: Tensor, patch: int, overlap: float) -> Tensor:
    """Weighted sums of scores, (class, row, column).

    Weights fall to the edges of a patch as a gaussian of an eighth of its side. The last patches of
    rows and columns are pulled back to the image's end. Sums aren't divided by those of the
    weights, which changes no arg-max.
    """
    rows, columns = (_starts(length, patch, overlap) for length in image.shape[1:])
    weight = _gaussian(patch)
    total: Tensor | None = None
    for top in rows:
        for left in columns:
            place = (slice(None), slice(top, top + patch), slice(left, left + patch))
            scores = network(image[place][None])[0]
            if total is None:
                total = scores.new_zeros(len(scores), *image.shape[1:])
            total[place] += scores * weight[: scores.shape[1], : scores.shape[2]]
    assert total is not None, "an image has a patch"
    return total


def _starts(length: int, patch: int, overlap: float) -> list[int]:
    last = max(length - patch, 0)
    step = max(1, round(patch * (1 - overlap)))
    return [*range(0, last, step), last]


def _gaussian(side: int) -> Tensor:
    place = torch.arange(side) - (side - 1) / 2
    along = torch.exp(-(place**2) / (2 * (side / 8) ** 2))
    return along[:, None] * along
