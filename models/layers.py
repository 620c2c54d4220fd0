"""Layers that several networks share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.errors import ModelError


def bilinear_kernel(factor: int) -> Tensor:
    """Weights of a transposed convolution that upsamples bilinearly, (2 factor, 2 factor).

    Used with a stride of `factor` and a padding of `factor / 2` it puts every score into the
    middle of the block of pixels that it came from (Long, Shelhamer, Darrell 2015, section 3.3).
    """
    ramp = 1 - torch.abs(torch.arange(2 * factor) - (factor - 0.5)) / factor
    return torch.outer(ramp, ramp)


class Upsampling(nn.Module):
    """Maps (N, channels, h, w) to (N, channels, factor h, factor w), each channel by itself.

    The kernel starts as bilinear interpolation. It is a parameter if it is learned and a buffer if
    it stays fixed. `factor` is even.
    """

    weight: Tensor

    def __init__(self, channels: int, factor: int, *, learned: bool) -> None:
        super().__init__()
        self.channels = channels
        self.factor = factor
        kernel = bilinear_kernel(factor).expand(channels, 1, -1, -1).clone()
        if learned:
            self.weight = nn.Parameter(kernel)
        else:
            self.register_buffer("weight", kernel)

    def forward(self, scores: Tensor) -> Tensor:
        """The upsampled scores."""
        return F.conv_transpose2d(
            scores,
            self.weight,
            stride=self.factor,
            padding=self.factor // 2,
            groups=self.channels,
        )

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.channels}, factor={self.factor}"


def score_layer(channels: int, classes: int) -> nn.Conv2d:
    """A 1 x 1 convolution to class scores that starts at zero."""
    layer = nn.Conv2d(channels, classes, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(_bias(layer))
    return layer


def conv_relu(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    """A 3 x 3 convolution that keeps the size, with its ReLU."""
    return he_conv(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)


def conv_norm_relu(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    """A 3 x 3 convolution that keeps the size, with batch normalisation and ReLU."""
    convolution = he_conv(inputs, outputs, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def he_conv(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
) -> nn.Conv2d:
    """A convolution whose weights keep the variance through a ReLU (He et al. 2015)."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if bias:
        nn.init.zeros_(_bias(layer))
    return layer


def require(name: str, value: int, low: int, high: int) -> None:
    """Nothing, if `value` is a whole number from `low` to `high`.

    Raises:
        ModelError: it isn't.
    """
    if type(value) is not int or not low <= value <= high:
        raise ModelError(f"{name} is a whole number from {low} to {high}, got {value!r}")


def _bias(layer: nn.Conv2d) -> Tensor:
    if layer.bias is None:
        raise ValueError("the layer has no bias")
    return layer.bias
