"""SegNet over VGG16 (Badrinarayanan, Kendall, Cipolla 2017): upsampling by max-unpooling."""

from torch import Tensor, nn

from segpipe.models.layers import conv_norm_relu
from segpipe.models.network import Network
from segpipe.models.vgg import STAGES, stage, stages


class SegNetVGG16(Network):
    """Thirteen convolutions down, thirteen up, then a 3 x 3 convolution to the classes.

    Each pooling passes the places of its maxima to the unpooling of the same size, which puts the
    values back there. Nothing is learned in the upsampling itself.
    """

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        self.down = stages(bands, conv_norm_relu)
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)
        outputs = (STAGES[0][1], *(channels for _, channels in STAGES[:-1]))
        self.up = nn.ModuleList(
            _mirrored(channels, after, convolutions)
            for after, (convolutions, channels) in zip(outputs, STAGES, strict=True)
        )
        self.score = nn.Conv2d(outputs[0], classes, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Class scores, (N, classes, H, W); H and W are multiples of 32."""
        places: list[Tensor] = []
        for convolutions in self.down:
            image, indices = self.pool(convolutions(image))
            places.append(indices)
        for convolutions, indices in zip(reversed(self.up), reversed(places), strict=True):
            image = convolutions(self.unpool(image, indices))
        scores: Tensor = self.score(image)
        return scores


def _mirrored(inputs: int, outputs: int, convolutions: int) -> nn.Sequential:
    # The last convolution changes the number of channels, as the first one did on the way down.
    before = stage(inputs, inputs, convolutions - 1, conv_norm_relu)
    return nn.Sequential(*before, *conv_norm_relu(inputs, outputs))
