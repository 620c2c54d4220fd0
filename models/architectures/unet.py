"""U-Net (Ronneberger, Fischer, Brox 2015) with padded convolutions, plain and over a ResNet."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.architectures.layers import conv_norm_relu, require
from segpipe.models.architectures.network import Network
from segpipe.models.architectures.resnet import RESNET18, RESNET34, WIDTHS, Layout, ResNet
from segpipe.models.architectures.trimming import Cut, Cuts, TrimmedNetwork

DECODER = (256, 128, 64, 32, 16)
"""Channels of the decoder over a ResNet, coarse to fine."""


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3 x 3 convolutions that keep the size."""
    return nn.Sequential(*conv_norm_relu(inputs, outputs), *conv_norm_relu(outputs, outputs))


class UNet(TrimmedNetwork):
    """Encoder and decoder of `depth` poolings, with a skip at every size.

    The finest level has `width` channels, each coarser one twice as many. Upsampling is a learned
    2 x 2 transposed convolution.
    """

    def __init__(self, bands: int, classes: int, *, depth: int = 4, width: int = 64) -> None:
        require("depth", depth, 1, 6)
        require("width", width, 1, 256)
        super().__init__()
        widths = [width << level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            double_conv(before, after)
            for before, after in zip([bands, *widths], widths, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.upsamplings = nn.ModuleList(
            nn.ConvTranspose2d(2 * narrow, narrow, 2, 2) for narrow in reversed(widths[:-1])
        )
        self.up = nn.ModuleList(double_conv(2 * narrow, narrow) for narrow in reversed(widths[:-1]))
        self.score = nn.Conv2d(width, classes, 1)

    def levels(self) -> list[nn.Module]:
        """What the decoder has at each level, coarse to fine: an upsampling by 2, convolutions."""
        return [nn.ModuleList(pair) for pair in zip(self.upsamplings, self.up, strict=True)]

    def trimmed(self, image: Tensor, cuts: Cuts[Cut]) -> Tensor:
        """The scores that are left by these cuts."""
        x = self.down[0](image)
        skips: list[Tensor] = []
        for convolutions in self.down[1:]:
            skips.append(x)
            x = convolutions(self.pool(x))
        levels = zip(self.upsamplings, self.up, cuts.coarse, cuts.skips, strict=True)
        for upsample, convolutions, coarse, skip in levels:
            x = upsample(coarse.off(x))
            # One name for all: the memory of what is joined is free as soon as it was used.
            x = torch.cat((skip.off(skips.pop()), x), dim=1)
            x = convolutions(x)
        return cuts.scores.off(self.score(x))


class UNetResNet(TrimmedNetwork):
    """U-Net over a ResNet: its five maps are the skips, upsampling is by nearest neighbour."""

    def __init__(self, layout: Layout, bands: int, classes: int) -> None:
        super().__init__()
        self.encoder = ResNet(layout, bands)
        fourth, *skips = reversed((WIDTHS[0], *layout.channels))
        inputs = (fourth, *DECODER[:-1])
        self.up = nn.ModuleList(
            double_conv(before + skip, after)
            for before, skip, after in zip(inputs, [*skips, 0], DECODER, strict=True)
        )
        self.score = nn.Conv2d(DECODER[-1], classes, 3, padding=1)

    def levels(self) -> list[nn.Module]:
        """The convolutions of each level, coarse to fine."""
        return list(self.up)

    def trimmed(self, image: Tensor, cuts: Cuts[Cut]) -> Tensor:
        """The scores that are left by these cuts."""
        skips: list[Tensor] = self.encoder(image)
        x = skips.pop()
        for convolutions, coarse, skip in zip(self.up, cuts.coarse, cuts.skips, strict=True):
            x = _doubled(coarse.off(x))
            if skips:
                # One name for all: the memory of what is joined is free as soon as it was used.
                x = torch.cat((x, skip.off(skips.pop())), dim=1)
            x = convolutions(x)
        return cuts.scores.off(self.score(x))


def unet_resnet18(bands: int, classes: int) -> Network:
    """U-Net over ResNet18."""
    return UNetResNet(RESNET18, bands, classes)


def unet_resnet34(bands: int, classes: int) -> Network:
    """U-Net over ResNet34."""
    return UNetResNet(RESNET34, bands, classes)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
