"""SegNet over VGG16 (Badrinarayanan, Kendall, Cipolla 2017), by unpooling or by learned kernels."""

import torch
from torch import Tensor, nn

from segpipe.models.architectures.layers import conv_norm_relu
from segpipe.models.architectures.network import Network
from segpipe.models.architectures.vgg import WIDTH, layout, stage, stages
from segpipe.models.errors import ModelError


class SegNetVGG16(Network):
    """Thirteen convolutions down, thirteen up, then a 3 x 3 convolution to the classes.

    Each pooling passes the places of its maxima to the upsampling of the same size.

    Args:
        bands: number of input channels.
        classes: number of output channels.
        upsampling: "unpooling" puts the values back into these places and learns nothing, as in
            the paper; "transposed" takes a 2 x 2 transposed convolution with a stride of 2, which
            starts by repeating each value and doesn't look at the places.
        width: channels of the first stage; the others are multiples of it.
    """

    def __init__(
        self, bands: int, classes: int, *, upsampling: str = "unpooling", width: int = WIDTH
    ) -> None:
        if upsampling not in ("unpooling", "transposed"):
            raise ModelError(f"upsampling is unpooling or transposed, got {upsampling!r}")
        super().__init__()
        rows = layout(width)
        self.down = stages(bands, conv_norm_relu, width)
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.upsamplings = nn.ModuleList(
            nn.MaxUnpool2d(2) if upsampling == "unpooling" else Transposed(channels)
            for _, channels in reversed(rows)
        )
        outputs = (rows[0][1], *(channels for _, channels in rows[:-1]))
        self.up = nn.ModuleList(
            _mirrored(channels, after, convolutions)
            for after, (convolutions, channels) in zip(outputs, rows, strict=True)
        )
        self.score = nn.Conv2d(outputs[0], classes, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Class scores, (N, classes, H, W); H and W are multiples of 32."""
        places: list[Tensor] = []
        for convolutions in self.down:
            image, indices = self.pool(convolutions(image))
            places.append(indices)
        for upsample, convolutions, indices in zip(
            self.upsamplings, reversed(self.up), reversed(places), strict=True
        ):
            image = convolutions(upsample(image, indices))
        scores: Tensor = self.score(image)
        return scores


class Transposed(nn.ConvTranspose2d):
    """A learned kernel that is called as an unpooling is.

    It is no larger than its stride: where kernels overlap, a CPU sums in an order that depends on
    the width of the image, and a tile's last bits aren't those of the whole.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 2, 2, bias=False)
        with torch.no_grad():
            self.weight.copy_(torch.eye(channels)[:, :, None, None])

    def forward(self, x: Tensor, places: object = None) -> Tensor:
        """The map at twice its size."""
        return super().forward(x)


def _mirrored(inputs: int, outputs: int, convolutions: int) -> nn.Sequential:
    # The last convolution changes the number of channels, as the first one did on the way down.
    before = stage(inputs, inputs, convolutions - 1, conv_norm_relu)
    return nn.Sequential(*before, *conv_norm_relu(inputs, outputs))
