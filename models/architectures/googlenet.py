"""GoogLeNet (Szegedy et al. 2015) as a fully convolutional encoder."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segpipe.models.architectures.layers import he_conv
from segpipe.models.architectures.network import FeatureMap


@dataclass(frozen=True, slots=True)
class Branches:
    """Channels of an inception module's branches; reductions come before 3 x 3 and 5 x 5."""

    one: int
    reduce3: int
    three: int
    reduce5: int
    five: int
    pool: int

    @property
    def outputs(self) -> int:
        """Channels of the four together."""
        return self.one + self.three + self.five + self.pool


LEVEL3 = (Branches(64, 96, 128, 16, 32, 32), Branches(128, 128, 192, 32, 96, 64))
LEVEL4 = (
    Branches(192, 96, 208, 16, 48, 64),
    Branches(160, 112, 224, 24, 64, 64),
    Branches(128, 128, 256, 24, 64, 64),
    Branches(112, 144, 288, 32, 64, 64),
    Branches(256, 160, 320, 32, 128, 128),
)
LEVEL5 = (Branches(256, 160, 320, 32, 128, 128), Branches(384, 192, 384, 48, 128, 128))

MAPS = (FeatureMap(32, LEVEL5[-1].outputs, 16),)
"""The last map alone."""


class Inception(nn.Module):
    """Convolutions of 1 x 1, 3 x 3 and 5 x 5 and a pooling side by side, joined by channel."""

    def __init__(self, inputs: int, channels: Branches) -> None:
        super().__init__()
        self.one = _conv(inputs, channels.one, 1)
        self.three = nn.Sequential(
            _conv(inputs, channels.reduce3, 1), _conv(channels.reduce3, channels.three, 3)
        )
        self.five = nn.Sequential(
            _conv(inputs, channels.reduce5, 1), _conv(channels.reduce5, channels.five, 5)
        )
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), _conv(inputs, channels.pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The joined maps, of the input's size."""
        return torch.cat((self.one(x), self.three(x), self.five(x), self.pool(x)), dim=1)


class GoogLeNet(nn.Module):
    """The map before the classifier, keyed by its stride 32.

    The last average pooling is 7 x 7 as in the classifier, with a stride of 1. Response
    normalisation and the auxiliary classifiers are left out. 5,973,552 parameters with three bands.

    Kernels of odd sides, padded by half on both sides, centre the unit i on the pixel 16 i after
    the third pooling. The fourth one sees the units 2 i to 2 i + 2, the pixels around 16 (2 i + 1).
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _conv(bands, 64, 7, stride=2),
            nn.MaxPool2d(3, 2, 1),
            _conv(64, 64, 1),
            _conv(64, 192, 3),
            nn.MaxPool2d(3, 2, 1),
            *_level(192, LEVEL3),
            nn.MaxPool2d(3, 2, 1),
            *_level(LEVEL3[-1].outputs, LEVEL4),
            # Rounding up looks to the right where padding looks to the left.
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *_level(LEVEL4[-1].outputs, LEVEL5),
            nn.AvgPool2d(7, 1, 3),
            nn.Dropout(0.4),
        )

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """The map by its stride."""
        return {32: self.features(image)}


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    convolution = he_conv(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
    return nn.Sequential(convolution, nn.ReLU(inplace=True))


def _level(inputs: int, modules: tuple[Branches, ...]) -> list[Inception]:
    before = (inputs, *(channels.outputs for channels in modules[:-1]))
    return [Inception(count, channels) for count, channels in zip(before, modules, strict=True)]
