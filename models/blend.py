"""Networks that no margin makes exact: windows of one size, blended where they overlap."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.card import ModelCard
from segpipe.models.footprint import Footprint

CUDA_BATCH = 8
"""Windows in one pass on a GPU, which a single small window leaves idle."""


class Blended(nn.Module):
    """Scores (N, classes, H, W) for images (N, bands, H, W), from windows of side `window`.

    Windows stand at every multiple of half their side, counted from the image's origin, and inside
    the image, padded with zeros at the bottom and the right to a multiple of that step and to one
    window at least. Where they overlap, their probabilities are averaged with the weights of a Hann
    window; the scores are the logarithms. Probabilities, because a network with global operations
    gives each window scores of another offset and scale, of which the softmax keeps no trace that
    would let one window outvote the rest.

    A part of the image that starts at a multiple of the step, and holds a step more on each side
    than what is kept, gives the whole image's scores: its windows are the same ones.

    Raises:
        ValueError: `window` isn't positive and even.
    """

    def __init__(self, network: nn.Module, window: int) -> None:
        super().__init__()
        if window < 2 or window % 2:
            raise ValueError(f"a window's side is even and positive, got {window}")
        self.network, self.window, self.step = network, window, window // 2

    def forward(self, images: Tensor) -> Tensor:
        """Logarithms of the blended probabilities, (N, classes, H, W)."""
        height, width = images.shape[2:]
        padded = F.pad(images, (0, self._missing(width), 0, self._missing(height)))
        scores = torch.stack([self._blend(image) for image in padded])
        return scores[..., :height, :width]

    def _missing(self, length: int) -> int:
        return max(self.window, -(-length // self.step) * self.step) - length

    def _blend(self, image: Tensor) -> Tensor:
        rows, columns = (self._weights(length, image.device) for length in image.shape[1:])
        total: Tensor | None = None
        for (top, left), odds in self._windows(image):
            if total is None:
                total = odds.new_zeros(len(odds), *image.shape[1:])
            bottom, right = top + self.window, left + self.window
            # Divided by the weights' sum first: the order of sums is then that of the windows.
            share = rows[top // self.step][:, None] * columns[left // self.step]
            total[:, top:bottom, left:right] += odds * share
        assert total is not None, "an image holds a window"
        tiny = torch.finfo(total.dtype).tiny
        return total.clamp_(min=tiny).log_()

    def _windows(self, image: Tensor) -> Iterator[tuple[tuple[int, int], Tensor]]:
        """Corner and probabilities of every window, row by row."""
        height, width = image.shape[1:]
        corners = [
            (top, left)
            for top in range(0, height - self.step, self.step)
            for left in range(0, width - self.step, self.step)
        ]
        # On a CPU a batch gains nothing, and bits could depend on a window's place in it.
        size = CUDA_BATCH if image.is_cuda else 1
        for first in range(0, len(corners), size):
            batch = corners[first : first + size]
            cut = [image[:, y : y + self.window, x : x + self.window] for y, x in batch]
            odds = self.network(torch.stack(cut)).float().softmax(dim=1)
            yield from zip(batch, odds, strict=True)

    def _weights(self, length: int, device: torch.device) -> Tensor:
        """Share of each window in each of its pixels along an axis, (windows, pixels)."""
        # Taken at the pixels' centres, where a Hann window is nowhere zero.
        centres = torch.arange(self.window, dtype=torch.float64) + 0.5
        hann = torch.sin(math.pi / self.window * centres).square()
        count = length // self.step - 1
        weights = hann.repeat(count, 1)
        # Neighbours' weights add up to 1; a border has one window, which counts in full.
        weights[0, : self.step] = 1
        weights[-1, self.step :] = 1
        return weights.to(device, torch.float32)


@dataclass(frozen=True, slots=True)
class TiledNetwork:
    """A network with the stride and the margins by which tiles give the whole image's scores."""

    network: nn.Module
    stride: int
    top: int
    left: int
    bottom: int
    right: int


def as_tiled(network: nn.Module, card: ModelCard, footprint: Footprint) -> TiledNetwork:
    """The network itself where its footprint is exact, else its blend over windows.

    The windows have the size that the network was trained on, rounded up to a multiple of twice its
    stride. A tile that starts at a multiple of half a window needs half a window around it.
    """
    if footprint.exact:
        return TiledNetwork(
            network,
            footprint.stride,
            footprint.top,
            footprint.left,
            footprint.bottom,
            footprint.right,
        )
    unit = 2 * max(footprint.stride, 1)
    blended = Blended(network, -(-card.window // unit) * unit)
    step = blended.step
    return TiledNetwork(blended, step, step, step, step, step)
