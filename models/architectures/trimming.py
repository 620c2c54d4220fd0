"""Decoders that compute no more than is wanted of an image's scores."""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

from torch import Tensor, nn

from segpipe.models.architectures.network import Network


@dataclass(frozen=True, slots=True)
class Edges:
    """Rows and columns at the four edges of a map that nobody wants."""

    top: int = 0
    left: int = 0
    bottom: int = 0
    right: int = 0

    def within(self, reach: int) -> "Edges":
        """What is unwanted of a map by those who read so many units to each side."""
        return Edges(*(max(0, side - reach) for side in astuple(self)))

    def coarser(self) -> "Edges":
        """What is unwanted of a map whose units are doubled."""
        return Edges(*(side // 2 for side in astuple(self)))

    def finer(self) -> "Edges":
        """What a map lacks whose units were doubled."""
        return Edges(*(2 * side for side in astuple(self)))

    def __sub__(self, other: "Edges") -> "Edges":
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Edges(*(mine - theirs for mine, theirs in pairs))

    def leave(self, height: int, width: int) -> int:
        """How many units are wanted of a map of this size."""
        return (height - self.top - self.bottom) * (width - self.left - self.right)

    def off(self, x: Tensor) -> Tensor:
        """The map (..., rows, columns) without them, as a view."""
        if self == WHOLE:
            return x
        height, width = x.shape[-2:]
        return x[..., self.top : height - self.bottom, self.left : width - self.right]


WHOLE = Edges()
"""Everything is wanted."""

FEW = 20_480
"""On a CPU torch convolves an image of no more numbers by itself, not with oneDNN (`use_mkldnn` in
its Convolution.cpp), and the last bits differ."""


class TrimmedNetwork(Network):
    """A network that computes less where not all of its scores are wanted."""

    def forward(self, image: Tensor) -> Tensor:
        """Class scores, (N, classes, H, W); H and W are multiples of the stride."""
        return self.inner(image, WHOLE)

    def inner(self, image: Tensor, unwanted: Edges) -> Tensor:
        """The scores of `forward` without the unwanted edges."""
        raise NotImplementedError


def trims(
    unwanted: Edges, image: Tensor, score: nn.Module, levels: Sequence[nn.Module]
) -> list[Edges]:
    """What each of a decoder's upsamplings can do without of the map that it doubles.

    A level of which little would be left stays whole, so that the same kernels compute it.

    Args:
        unwanted: of the scores.
        image: of the size of the scores.
        score: the layer that makes them of the finest level's map.
        levels: the convolutions behind each upsampling, coarse to fine.
    """
    if unwanted == WHOLE:
        return [WHOLE] * len(levels)
    found: list[Edges] = []
    height, width = image.shape[-2:]
    edges = unwanted.within(reach(score))
    for scale, convolutions in enumerate(reversed(levels)):
        edges = edges.within(reach(convolutions)).coarser()
        left = edges.finer().leave(height >> scale, width >> scale)
        if left * min(one.in_channels for one in _convolutions(convolutions)) <= FEW:
            edges = WHOLE
        found.insert(0, edges)
    return found


def reach(layers: nn.Module) -> int:
    """How many units to each side an output of convolutions one after the other reads."""
    return sum(
        max(
            (side - 1) * step // 2
            for side, step in zip(layer.kernel_size, layer.dilation, strict=True)
        )
        for layer in _convolutions(layers)
    )


def _convolutions(layers: nn.Module) -> Iterator[nn.Conv2d]:
    return (layer for layer in layers.modules() if isinstance(layer, nn.Conv2d))
