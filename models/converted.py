"""A classifier that labels every pixel: in one pass, or crop by crop as the reference."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.architectures.layers import require
from segpipe.models.architectures.network import Architecture, Network
from segpipe.models.convolutionalize import LARGEST_SIDE, Conversion
from segpipe.models.errors import ModelError
from segpipe.models.footprints.exported import evaluating
from segpipe.models.formats.layer_graph import LayerGraph, with_weights

NAME = "converted"
"""The name under which these networks are registered."""

PIXELS_AT_ONCE = 1 << 20
"""Of the crops that are classified together; a crop that has more is classified alone."""

_CELLS = 4
"""Cells in each direction on which both ways are compared."""


class ConvertedClassifier(Network):
    """A classifier's scores for every pixel, (N, classes, H, W), in one pass.

    The image is divided into cells of `stride` x `stride` pixels, and H and W are multiples of it.
    A cell's score is that of the crop of `side` x `side` pixels around it; beyond the image are
    zeros. Between the middles of the cells scores are interpolated bilinearly, which is the fixed
    upsampling of Long, Shelhamer and Darrell (2015, section 3.3): repeating them would put every
    border between classes on the cells' grid.

    Args:
        bands: channels of the image.
        classes: channels of the scores.
        graph: the fully convolutional network, as `layer_graph` stores one.
        side: of the crops.
        stride: of the score map.

    Raises:
        ModelError: the graph or a number is refused.
    """

    def __init__(self, bands: int, classes: int, *, graph: str, side: int, stride: int) -> None:
        super().__init__()
        require("side", side, 1, LARGEST_SIDE)
        require("stride", stride, 1, LARGEST_SIDE)
        self.side, self.stride = side, stride
        self.inner = LayerGraph(bands, classes, graph=graph)

    def forward(self, image: Tensor) -> Tensor:
        """The scores of every pixel."""
        rows, columns = (side // self.stride for side in image.shape[-2:])
        # A pooling that rounds up gives a score more, of a window cut short.
        return self.upsampled(self.inner(self.framed(image))[..., :rows, :columns])

    def converted(self) -> nn.Module:
        """The score map alone, of which papers give the receptive field."""
        return self.inner

    def framed(self, image: Tensor) -> Tensor:
        """The image with the zeros around it that the outer cells' crops see."""
        before = (self.side - self.stride) // 2
        after = self.side - self.stride - before
        return F.pad(image, (before, after, before, after))

    def upsampled(self, scores: Tensor) -> Tensor:
        """Scores of cells, (N, classes, h, w), for pixels."""
        return F.interpolate(scores, scale_factor=self.stride, mode="bilinear", align_corners=False)


class SlidingWindow(nn.Module):
    """What a `ConvertedClassifier` gives, from the classifier on a crop for every cell.

    It shares the weights. Some crops are computed at once, so that memory stays bounded; each of
    them is computed whole, which takes some `(side / stride)^2` times as long.
    """

    def __init__(self, converted: ConvertedClassifier) -> None:
        super().__init__()
        self.converted = converted
        self.batch = max(1, PIXELS_AT_ONCE // converted.side**2)

    @property
    def pixels_at_once(self) -> int:
        """Pixels of the crops that are computed together."""
        return self.batch * self.converted.side**2

    def forward(self, image: Tensor) -> Tensor:
        """The scores of every pixel, (N, classes, H, W)."""
        side, stride = self.converted.side, self.converted.stride
        framed = self.converted.framed(image)
        rows, columns = (length // stride for length in image.shape[-2:])
        crops = [
            framed[number, :, top : top + side, left : left + side]
            for number in range(len(image))
            for top in range(0, rows * stride, stride)
            for left in range(0, columns * stride, stride)
        ]
        scores = [
            self.converted.inner(torch.stack(crops[first : first + self.batch]))
            for first in range(0, len(crops), self.batch)
        ]
        cells = torch.cat(scores)[..., 0, 0].reshape(len(image), rows, columns, -1)
        return self.converted.upsampled(cells.permute(0, 3, 1, 2).contiguous())


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the scores of one pass compare with those of crops.

    Attributes:
        difference: the largest one, in standard deviations of the crops' scores.
        labels: share of cells whose best class is the same.
        cells: how many there were.
    """

    difference: float
    labels: float
    cells: int


def labelling(conversion: Conversion, classifier: nn.Module) -> ConvertedClassifier:
    """The conversion of a classifier as a network that gives every pixel its scores.

    Raises:
        ModelError: it gives more classes than a map can hold.
    """
    graph, side, stride = conversion.graph.to_json(), conversion.side, conversion.stride
    bands, classes = conversion.bands, conversion.classes
    with torch.device("meta"):
        network = ConvertedClassifier(bands, classes, graph=graph, side=side, stride=stride)
    inner = with_weights(conversion.graph, classifier, bands, classes)
    network.inner = inner.to("cpu", torch.float32)
    network.architecture = Architecture(
        NAME, bands, classes, {"graph": graph, "side": side, "stride": stride}
    )
    return network.eval()


def sliding_window(network: nn.Module) -> SlidingWindow:
    """The reference of a converted classifier.

    Raises:
        ModelError: it is another network, which has no crops.
    """
    if not isinstance(network, ConvertedClassifier):
        raise ModelError(
            "only a converted classifier can be run on crops, and this model is none; make one "
            "with `segpipe convert`, or leave out --method"
        )
    return SlidingWindow(network)


def compare(network: ConvertedClassifier, bands: int, seed: int = 0) -> Agreement:
    """Both ways on normal noise, on cells whose crops lie inside the image."""
    side, stride = network.side, network.stride
    length = side + (_CELLS - 1) * stride
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(1, bands, length, length, generator=generator)
    tops = range(0, _CELLS * stride, stride)
    with evaluating(network):
        whole = network.inner(image)[0, :, :_CELLS, :_CELLS].flatten(1).T
        # One by one: a batch of a great network's crops would take gigabytes.
        crops = [
            network.inner(image[..., top : top + side, left : left + side]).flatten(1)
            for top in tops
            for left in tops
        ]
    alone = torch.cat(crops)
    difference = float((whole - alone).abs().max()) / (float(alone.std()) or 1.0)
    same = (whole.argmax(1) == alone.argmax(1)).float().mean()
    return Agreement(difference, float(same), len(crops))
