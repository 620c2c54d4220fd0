"""VGG16 (Simonyan and Zisserman 2015), whole as a fully convolutional encoder or in stages."""

from collections.abc import Callable

from torch import Tensor, nn

from segpipe.models.architectures.layers import conv_relu, he_conv, require
from segpipe.models.architectures.network import FeatureMap

WIDTH = 64
"""Channels of the first stage in the paper; all others are multiples of them."""

WIDEST = 512


def layout(width: int = WIDTH) -> tuple[tuple[int, int], ...]:
    """Convolutions and channels before each of the five poolings."""
    require("width", width, 1, WIDEST)
    return (2, width), (2, 2 * width), (3, 4 * width), (3, 8 * width), (3, 8 * width)


def head(width: int = WIDTH) -> int:
    """Channels of the two fully connected layers."""
    return 64 * width


def maps(width: int = WIDTH) -> tuple[FeatureMap, FeatureMap, FeatureMap]:
    """Those after pool3, pool4 and conv7; pooling 2 x 2 keeps a unit in the middle of its block."""
    return (
        FeatureMap(8, 4 * width, 3.5),
        FeatureMap(16, 8 * width, 7.5),
        FeatureMap(32, head(width), 15.5),
    )


STAGES, HEAD, MAPS = layout(), head(), maps()
"""As in the paper."""

ConvBlock = Callable[[int, int], tuple[nn.Module, ...]]


def stage(inputs: int, outputs: int, convolutions: int, block: ConvBlock) -> nn.Sequential:
    """Some 3 x 3 convolutions in a row; the first one changes the number of channels."""
    layers = list(block(inputs, outputs))
    for _ in range(convolutions - 1):
        layers.extend(block(outputs, outputs))
    return nn.Sequential(*layers)


def stages(bands: int, block: ConvBlock, width: int = WIDTH) -> nn.ModuleList:
    """The five stages of VGG16 without their poolings."""
    rows = layout(width)
    inputs = (bands, *(channels for _, channels in rows[:-1]))
    return nn.ModuleList(
        stage(before, channels, convolutions, block)
        for before, (convolutions, channels) in zip(inputs, rows, strict=True)
    )


class VGG16(nn.Module):
    """The maps after pool3, pool4 and conv7, keyed by their strides 8, 16 and 32.

    The fully connected layers are convolutions: conv6 (7 x 7) and conv7 (1 x 1). conv6 is padded
    by 3 so that its unit lies in the middle of what it sees; Long, Shelhamer and Darrell pad the
    image by 100 pixels and crop the scores instead. 134,260,544 parameters with three bands and
    the width of the paper.
    """

    def __init__(self, bands: int, width: int = WIDTH) -> None:
        super().__init__()
        self.stages = stages(bands, conv_relu, width)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Sequential(
            he_conv(8 * width, head(width), 7, padding=3),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            he_conv(head(width), head(width), 1),
            nn.ReLU(inplace=True),
            nn.Dropout(),
        )

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """The maps by stride."""
        pooled: list[Tensor] = []
        for convolutions in self.stages:
            image = self.pool(convolutions(image))
            pooled.append(image)
        return {8: pooled[2], 16: pooled[3], 32: self.head(pooled[4])}
