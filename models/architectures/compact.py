"""A small fully convolutional network of the project's own, quick on a CPU."""

from itertools import pairwise

from torch import Tensor, nn

from segpipe.models.architectures.layers import conv_norm_relu, he_conv, require
from segpipe.models.architectures.trimming import Cut, Cuts, TrimmedNetwork

DROPOUT = 0.2
"""Share of the coarsest level's channels that each training step leaves out."""


class CompactFCN(TrimmedNetwork):
    """Encoder, skips and learned upsampling (Long, Shelhamer, Darrell 2015, sections 3 and 4).

    The finest of `depth` + 1 levels has `width` channels, each coarser one half the resolution and
    twice the channels. On the way back a level's features are upsampled by a transposed
    convolution, and the encoder's features of that size are added. Every operation is local and
    padded with zeros, so tiles give the whole image's labels.
    """

    def __init__(self, bands: int, classes: int, *, depth: int = 3, width: int = 16) -> None:
        require("depth", depth, 1, 6)
        require("width", width, 1, 256)
        super().__init__()
        widths = [width << level for level in range(depth + 1)]
        self.finest = level(bands, width, stride=1)
        self.down = nn.ModuleList(
            level(fine, coarse, stride=2) for fine, coarse in pairwise(widths)
        )
        self.dropout = nn.Dropout2d(DROPOUT)
        self.up = nn.ModuleList(Fusion(coarse, fine) for coarse, fine in pairwise(widths[::-1]))
        self.score = nn.Conv2d(width, classes, 1)

    def levels(self) -> list[nn.Module]:
        """What the decoder has at each level, coarse to fine."""
        return list(self.up)

    def trimmed(self, image: Tensor, cuts: Cuts[Cut]) -> Tensor:
        """The scores that are left by these cuts."""
        x = self.finest(image)
        skips: list[Tensor] = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        x = self.dropout(x)
        levels = zip(self.up, reversed(skips), cuts.coarse, cuts.skips, strict=True)
        for fuse, skip, coarse, beside in levels:
            x = fuse(coarse.off(x), beside.off(skip))
        return cuts.scores.off(self.score(x))


class Fusion(nn.Module):
    """Coarse features at twice their resolution plus the skip, and a convolution over the sum."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        # A kernel no larger than the stride: where kernels overlap, a CPU sums in an order that
        # depends on the width of the image, and the last bits of a tile aren't those of the whole.
        self.upsample = nn.ConvTranspose2d(coarse, fine, 2, stride=2, bias=False)
        self.refine = nn.Sequential(*conv_norm_relu(fine, fine))

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """The features of the finer level."""
        features: Tensor = self.refine(self.upsample(coarse) + skip)
        return features


def level(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    """Two convolutions at one resolution; the first one takes the step down."""
    return nn.Sequential(
        he_conv(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        *conv_norm_relu(outputs, outputs),
    )
