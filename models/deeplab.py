"""DeepLabV3 over ResNet50 (Chen et al. 2017) with output stride 8."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.layers import conv_norm_relu, he_conv
from segpipe.models.network import Network
from segpipe.models.resnet import RESNET50, ResNet

RATES = (12, 24, 36)
"""Dilations of the pyramid's 3 x 3 convolutions at output stride 8."""

CHANNELS = 256
"""Channels of each of the pyramid's branches."""


class ImagePooling(nn.Module):
    """The mean over the whole map, given back at every place: no tile can know it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = _branch(inputs, outputs, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """One value a channel, spread over the map's size."""
        mean: Tensor = self.project(F.adaptive_avg_pool2d(x, 1))
        return mean.expand(-1, -1, x.shape[-2], x.shape[-1])


class AtrousPyramid(nn.Module):
    """Parallel convolutions of several dilations and the image's mean, projected to one map."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            (
                _branch(inputs, CHANNELS, 1, 1),
                *(_branch(inputs, CHANNELS, 3, rate) for rate in RATES),
                ImagePooling(inputs, CHANNELS),
            )
        )
        self.project = nn.Sequential(
            _branch(len(self.branches) * CHANNELS, CHANNELS, 1, 1), nn.Dropout(0.5)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The projected map, (N, CHANNELS, h, w)."""
        y: Tensor = self.project(torch.cat([branch(x) for branch in self.branches], dim=1))
        return y


class DeepLabV3ResNet50(Network):
    """DeepLabV3 over a dilated ResNet50, upsampled bilinearly; not exact under tiling."""

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        self.encoder = ResNet(RESNET50, bands, dilated=True)
        self.pyramid = AtrousPyramid(RESNET50.channels[-1])
        self.head = nn.Sequential(
            *conv_norm_relu(CHANNELS, CHANNELS), nn.Conv2d(CHANNELS, classes, 1)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Class scores, (N, classes, H, W); H and W are multiples of 8."""
        scores = self.head(self.pyramid(self.encoder(image)[-1]))
        return F.interpolate(scores, scale_factor=8, mode="bilinear", align_corners=False)


def _branch(inputs: int, outputs: int, kernel: int, dilation: int) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        he_conv(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
