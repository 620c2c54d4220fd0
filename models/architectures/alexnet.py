"""AlexNet (Krizhevsky, Sutskever, Hinton 2012) as a fully convolutional encoder."""

from torch import Tensor, nn

from segpipe.models.architectures.layers import he_conv
from segpipe.models.architectures.network import FeatureMap

HEAD = 4096
"""Channels of the two fully connected layers."""

POOLINGS = (2, 5, 12)
"""Places of pool1, pool2 and pool5 among the layers."""

MAPS = (FeatureMap(8, 96, 0), FeatureMap(16, 256, 0), FeatureMap(32, HEAD, 16))
"""The maps after pool1, pool2 and conv7."""


class AlexNet(nn.Module):
    """The maps after pool1, pool2 and conv7, keyed by their strides 8, 16 and 32.

    Kernels, channels and groups are the paper's; its response normalisation, which later networks
    dropped without a loss, is left out. 56,868,224 parameters with three bands.

    Every layer but conv6 has a kernel of an odd side, padded by half of it on both sides, so that
    its unit i is centred on its input's unit i times the stride: conv1 on the pixel 4 i, pool1 on
    8 i, pool2 on 16 i, pool5 on 32 i. conv6 (6 x 6) sees the units i - 2 to i + 3 of pool5, the
    pixels around 32 (i + 1/2). No choice of paddings puts all three maps into the middles of their
    blocks: pooling 3 units in steps of 2 moves the middle by half a step, to one side or the other.
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
        """The maps by stride."""
        pooled: list[Tensor] = []
        for index, layer in enumerate(self.features):
            image = layer(image)
            if index in POOLINGS:
                pooled.append(image)
        return {8: pooled[0], 16: pooled[1], 32: self.head(pooled[2])}
