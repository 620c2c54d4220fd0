"""Networks that no margin makes exact: windows of one size, blended where they overlap."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.card import Edges, ModelCard
from segpipe.models.footprint import Footprint
from segpipe.models.formats.foreign import Foreign

CUDA_BATCH = 8
"""Windows in one pass on a GPU, which a single small window leaves idle."""


class Blended(nn.Module):
    """Scores (N, classes, H, W) for images (N, bands, H, W), from windows of side `window`.

    Windows stand at every multiple of `step`, so that neighbours share `overlap` pixels, half a
    window by default. Where they overlap, their probabilities are averaged with weights that rise
    and fall as a squared sine; the scores are the logarithms. Probabilities, because a network with
    global operations gives each window scores of another offset and scale, of which the softmax
    keeps no trace that would let one window outvote the rest.

    With `edges="zeros"` the first window starts at the image's origin, what is missing at the
    bottom and the right is 0, and weights are taken at the pixels' centres: with half a window of
    overlap they are a Hann window's. With `edges="mirror"` windows start `overlap - 1` pixels
    before the image, which is mirrored around it, and weights are those of `tukey` in SciPy.

    A part of the image that starts at a multiple of the step, and holds `margin` more on each side
    than what is kept, gives the whole image's scores: its windows are the same ones.

    Raises:
        ValueError: the window isn't positive, the overlap isn't from 1 (2 for mirrored edges) to
            half of it, or is to be half of an odd window.
    """

    def __init__(
        self,
        network: nn.Module,
        window: int,
        overlap: int | None = None,
        edges: Edges = "zeros",
    ) -> None:
        super().__init__()
        if window < 2 or (overlap is None and window % 2):
            raise ValueError(f"a window's side is even and positive, got {window}")
        overlap = window // 2 if overlap is None else overlap
        if not 1 <= overlap <= window // 2 or (edges == "mirror" and overlap < 2):
            raise ValueError(f"windows of {window} pixels overlap by half of that, got {overlap}")
        self.network, self.window, self.overlap, self.edges = network, window, overlap, edges
        self.step = window - overlap

    @property
    def margin(self) -> int:
        """Pixels that a tile needs around what is kept."""
        # What is mirrored into a window at an edge lies up to a window's side from it.
        return self.window if self.edges == "mirror" else self.step

    def around(self, network: nn.Module) -> "Blended":
        """The same blend of another network."""
        return Blended(network, self.window, self.overlap, self.edges)

    def forward(self, images: Tensor) -> Tensor:
        """Logarithms of the blended probabilities, (N, classes, H, W)."""
        height, width = images.shape[2:]
        before = self._before
        padded = self._padded(self._padded(images, 2), 3)
        scores = torch.stack([self._blend(image) for image in padded])
        return scores[..., before : before + height, before : before + width]

    @property
    def _before(self) -> int:
        """Pixels of the first window that lie before the image."""
        return self.overlap - 1 if self.edges == "mirror" else 0

    def _padded(self, images: Tensor, dim: int) -> Tensor:
        """The images with whole windows along a dimension."""
        length, before = images.shape[dim], self._before
        if self.edges == "mirror":
            # Every window that holds a pixel of the image, so that weights add up to 1.
            count = (length - 1 + before) // self.step + 1
        else:
            count = max(0, -(-(length - self.window) // self.step)) + 1
        full = self.window + (count - 1) * self.step
        if self.edges == "zeros":
            missing = full - length
            return F.pad(images, (0, missing) if dim == 3 else (0, 0, 0, missing))
        place = torch.arange(-before, full - before, device=images.device) % (2 * length)
        return images.index_select(dim, torch.minimum(place, 2 * length - 1 - place))

    def _blend(self, image: Tensor) -> Tensor:
        rows, columns = (self._weights(length, image.device) for length in image.shape[1:])
        total: Tensor | None = None
        for (top, left), odds in self._windows(image):
            if total is None:
                total = odds.new_zeros(len(odds), *image.shape[1:])
            bottom, right = top + self.window, left + self.window
            # Weights add up to 1 beforehand: the order of sums is then that of the windows.
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
            for top in range(0, height - self.overlap, self.step)
            for left in range(0, width - self.overlap, self.step)
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
        overlap, count = self.overlap, (length - self.overlap) // self.step
        place = torch.arange(overlap, dtype=torch.float64)
        share = place / (overlap - 1) if self.edges == "mirror" else (place + 0.5) / overlap
        rise = torch.sin(math.pi / 2 * share).square()
        weights = torch.ones(count, self.window, dtype=torch.float64)
        # Neighbours' weights add up to 1; a border has one window, which counts in full.
        weights[1:, :overlap] = rise
        weights[:-1, -overlap:] = rise.flip(0)
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
    stride, or the only size that its file takes.
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
    fixed = network.window if isinstance(network, Foreign) else None
    unit = 2 * max(footprint.stride, 1)
    window = fixed or -(-card.window // unit) * unit
    blended = Blended(network, window, card.overlap or window // 2, card.edges)
    margin = blended.margin
    return TiledNetwork(blended, blended.step, margin, margin, margin, margin)
