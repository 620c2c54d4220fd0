"""AlexNet (Krizhevsky, Sutskever, Hinton 2012) as a fully convolutional encoder."""

from types import MappingProxyType

from torch import Tensor, nn

from segpipe.models.layers import he_conv

HEAD = 4096
"""Channels of the two fully connected layers."""

CHANNELS = MappingProxyType({32: HEAD})
"""Channels of the map after conv7, by its stride."""


class AlexNet(nn.Module):
    """The map after conv7, keyed by its stride 32.

    Kernels, channels and groups are the paper's; its response normalisation, which later networks
    dropped without a loss, is left out. The paddings put the unit (i, j) of conv7 half a pixel off
    the middle of its block of 32 x 32 pixels. 56,868,224 parameters with three bands.
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            he_conv(bands, 96, 11, stride=4, padding=5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
            he_conv(96, 256, 5, padding=2, groups=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
            he_conv(256, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            he_conv(384, 384, 3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            he_conv(384, 256, 3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        self.head = nn.Sequential(
            # A kernel of an even size can't be padded alike on both sides.
            nn.ZeroPad2d((2, 3, 2, 3)),
            he_conv(256, HEAD, 6),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            he_conv(HEAD, HEAD, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(),
        )

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """The map by its stride."""
        return {32: self.head(self.features(image))}
