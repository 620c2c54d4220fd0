"""Decoders that compute no more than is wanted of an image's scores."""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from math import prod
from typing import Generic, Protocol, TypeVar

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

    def left_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns that are wanted of a map of this size."""
        return height - self.top - self.bottom, width - self.left - self.right

    def off(self, x: Tensor) -> Tensor:
        """The map (..., rows, columns) without them, as a view."""
        if self == WHOLE:
            return x
        height, width = x.shape[-2:]
        return x[..., self.top : height - self.bottom, self.left : width - self.right]


WHOLE = Edges()
"""Everything is wanted."""


class Cut(Protocol):
    """What takes unwanted edges off a map; `Edges` where their numbers are known."""

    def off(self, x: Tensor, /) -> Tensor:
        """The map (..., rows, columns) without them."""


_Cut = TypeVar("_Cut", bound=Cut, covariant=True)


@dataclass(frozen=True, slots=True)
class Cuts(Generic[_Cut]):
    """What a decoder takes off its maps.

    Attributes:
        coarse: off the map that each level doubles, coarse to fine.
        skips: off the encoder's map that joins it there.
        scores: off the scores.
    """

    coarse: Sequence[_Cut]
    skips: Sequence[_Cut]
    scores: _Cut


FEW = 20_480
"""On a CPU torch convolves an image of no more numbers by itself, not with oneDNN (`use_mkldnn` in
its Convolution.cpp), and the last bits differ."""

NARROW = 16
"""Where a map of more than 512 channels has fewer columns, OpenVINO convolves it in fp32 with a
kernel that sums in another order."""


class TrimmedNetwork(Network):
    """A network that computes less where not all of its scores are wanted.

    Attributes:
        score: the layer that makes the scores of the finest level's map.
    """

    score: nn.Conv2d

    def levels(self) -> list[nn.Module]:
        """What the decoder has at each level, coarse to fine: an upsampling by 2, convolutions."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        """Class scores, (N, classes, H, W); H and W are multiples of the stride."""
        return self.inner(image, WHOLE)

    def inner(self, image: Tensor, unwanted: Edges) -> Tensor:
        """The scores of `forward` without the unwanted edges."""
        return self.trimmed(image, self.cuts(unwanted, (image.shape[-2], image.shape[-1])))

    def trimmed(self, image: Tensor, cuts: Cuts[Cut]) -> Tensor:
        """The scores that are left by these cuts."""
        raise NotImplementedError

    def cuts(self, unwanted: Edges, shape: tuple[int, int]) -> Cuts[Edges]:
        """What goes where edges of the scores of an image of this shape are unwanted."""
        needless = self.trims(unwanted, shape)
        lost = [WHOLE, *(edges.finer() for edges in needless)]
        coarse = [edges - gone for edges, gone in zip(needless, lost[:-1], strict=True)]
        return Cuts(coarse, lost[1:], unwanted - lost[-1])

    def trims(self, unwanted: Edges, shape: tuple[int, int]) -> list[Edges]:
        """What each level can do without of the map that it doubles, in an image of this shape."""
        return trims(unwanted, shape, self.score, self.levels())

    def saved(self, unwanted: Edges, shape: tuple[int, int]) -> float:
        """Multiplications that `inner` does without, beside `forward`."""
        levels, edges = self.levels(), self.trims(unwanted, shape)
        saved = 0.0
        for scale, (level, needless) in enumerate(zip(levels[::-1], edges[::-1], strict=True)):
            height, width = shape[0] >> scale, shape[1] >> scale
            left = prod(needless.finer().left_of(height, width))
            layers = [*level.modules(), *([self.score] if scale == 0 else [])]
            saved += sum(map(multiplications, layers)) * (height * width - left)
        return saved


def multiplications(layer: nn.Module) -> float:
    """Of a convolution for each place of its output, for which a transposed one has a stride."""
    if isinstance(layer, nn.ConvTranspose2d):
        return layer.weight.numel() / prod(layer.stride)
    return layer.weight.numel() if isinstance(layer, nn.Conv2d) else 0


def trims(
    unwanted: Edges, shape: tuple[int, int], score: nn.Module, levels: Sequence[nn.Module]
) -> list[Edges]:
    """What each of a decoder's upsamplings can do without of the map that it doubles.

    A level of which little would be left stays whole, so that the same kernels compute it.

    Args:
        unwanted: of the scores.
        shape: rows and columns of the scores.
        score: the layer that makes them of the finest level's map.
        levels: what follows one another at each level, coarse to fine.
    """
    if unwanted == WHOLE:
        return [WHOLE] * len(levels)
    found: list[Edges] = []
    height, width = shape
    edges = unwanted.within(reach(score))
    for scale, convolutions in enumerate(reversed(levels)):
        edges = edges.within(reach(convolutions)).coarser()
        rows, columns = edges.finer().left_of(height >> scale, width >> scale)
        channels = min(one.in_channels for one in _convolutions(convolutions))
        if rows * columns * channels <= FEW or columns < NARROW:
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
