"""DeepLabV3 over ResNet50 (Chen et al. 2017) with output stride 8, as published or made local."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.architectures.layers import conv_norm_relu, he_conv, require
from segpipe.models.architectures.network import Network
from segpipe.models.architectures.resnet import RESNET50, ResNet
from segpipe.models.errors import ModelError

RATES = (12, 24, 36)
"""Dilations of the pyramid's 3 x 3 convolutions at output stride 8."""

STRIDE = 8
"""Pixels from one cell of the encoder's map to the next."""

WIDEST = 2048
"""Largest training window that a sliding mean takes; wider ones leave no tile worth reading."""

CHANNELS = 256
"""Channels of each of the pyramid's branches."""


class ImagePooling(nn.Module):
    """The mean over the whole map, given back at every place: no tile can know it."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.project = _branch(inputs, CHANNELS, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """One value a channel, spread over the map's size."""
        mean: Tensor = self.project(F.adaptive_avg_pool2d(x, 1))
        return mean.expand(-1, -1, x.shape[-2], x.shape[-1])


class WindowPooling(nn.Module):
    """The mean over the `cells` x `cells` around each place, which a tile with a margin knows.

    It covers the cells from `cells` // 2 before to (`cells` - 1) // 2 behind, less what lies
    outside the image. The weights are those of `ImagePooling`.
    """

    def __init__(self, inputs: int, cells: int) -> None:
        super().__init__()
        self.cells = cells
        self.project = _branch(inputs, CHANNELS, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The projected means, of the map's size."""
        convolution, *rest = self.project
        # Means and the convolution may change places: it leaves an eighth of the channels.
        y: Tensor = sliding_mean(convolution(x), self.cells)
        for layer in rest:
            y = layer(y)
        return y


def sliding_mean(x: Tensor, cells: int) -> Tensor:
    """The mean of the cells around each place, less those outside, of the map's size.

    The mean of a column's means of rows is the window's, as every row has as many cells. Running
    sums would be quicker, but their rounding depends on where the map starts.
    """
    height, width = x.shape[-2:]
    half = cells // 2
    x = F.avg_pool2d(x, (cells, 1), 1, (half, 0), count_include_pad=False)[..., :height, :]
    return F.avg_pool2d(x, (1, cells), 1, (0, half), count_include_pad=False)[..., :width]


class AtrousPyramid(nn.Module):
    """Parallel convolutions of several dilations and a mean, projected to one map."""

    def __init__(self, inputs: int, pooling: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            (
                _branch(inputs, CHANNELS, 1, 1),
                *(_branch(inputs, CHANNELS, 3, rate) for rate in RATES),
                pooling,
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
    """DeepLabV3 over a dilated ResNet50, upsampled bilinearly.

    Args:
        bands: number of input channels.
        classes: number of output channels.
        pooling_window: side in pixels of the windows over which the pyramid's mean is taken, or 0
            for the whole image, as published: then no tiling is exact. In an image of that side
            the cell in the middle sees the mean that it would see in the published network.
    """

    def __init__(self, bands: int, classes: int, *, pooling_window: int = 0) -> None:
        require("pooling_window", pooling_window, 0, WIDEST)
        if pooling_window % STRIDE:
            raise ModelError(f"pooling_window is a multiple of {STRIDE}, got {pooling_window}")
        super().__init__()
        self.encoder = ResNet(RESNET50, bands, dilated=True)
        inputs = RESNET50.channels[-1]
        self.pyramid = AtrousPyramid(
            inputs,
            WindowPooling(inputs, pooling_window // STRIDE)
            if pooling_window
            else ImagePooling(inputs),
        )
        self.head = nn.Sequential(
            *conv_norm_relu(CHANNELS, CHANNELS), nn.Conv2d(CHANNELS, classes, 1)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Class scores, (N, classes, H, W); H and W are multiples of 8."""
        scores = self.head(self.pyramid(self.encoder(image)[-1]))
        return F.interpolate(scores, scale_factor=STRIDE, mode="bilinear", align_corners=False)


def localised(network: DeepLabV3ResNet50, window: int) -> DeepLabV3ResNet50:
    """The same weights with a mean that slides over `window` pixels, so that tiles are exact.

    The window should be the side of the images that the network was trained on. Scores differ from
    the given network's wherever the image's mean differs from the window's.

    Raises:
        ModelError: the window isn't a multiple of 8 up to 2048, or segpipe didn't build `network`.
    """
    architecture = network.architecture
    if architecture is None:
        raise ModelError("only a network that segpipe built knows its bands and classes")
    require("the pooling window", window, STRIDE, WIDEST)
    with torch.device("meta"):
        local = DeepLabV3ResNet50(architecture.bands, architecture.classes, pooling_window=window)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    local.load_state_dict(state, assign=True)
    local.architecture = replace(
        architecture, options={**architecture.options, "pooling_window": window}
    )
    return local.train(network.training)


def _branch(inputs: int, outputs: int, kernel: int, dilation: int) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        he_conv(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
