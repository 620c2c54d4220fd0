"""Layers that several networks share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.errors import ModelError


def bilinear_kernel(factor: int, *, even: bool = True) -> Tensor:
    """Weights of a transposed convolution that upsamples bilinearly, (side, side), on the CPU.

    The side is 2 `factor`, for scores that lie between two fine units (Long, Shelhamer, Darrell
    2015, section 3.3), or one less, for scores that lie on one.
    """
    side = 2 * factor if even else 2 * factor - 1
    places = torch.arange(side, device="cpu")
    ramp = 1 - torch.abs(places - (side - 1) / 2) / factor
    return torch.outer(ramp, ramp)


class Upsampling(nn.Module):
    """Maps (N, channels, h, w) to (N, channels, factor h, factor w), each channel by itself.

    The kernel starts as bilinear interpolation, with zeros beyond the map. It is a parameter if it
    is learned and a buffer if it stays fixed.

    Args:
        channels: of the map.
        factor: fine units for each coarse one, even.
        learned: whether training changes the kernel.
        place: row and column of the fine grid on which the coarse unit (0, 0) lies, a multiple of
            1/2 from 0 to `factor` - 1; the middle of its block unless it's said.
    """

    weight: Tensor

    def __init__(
        self, channels: int, factor: int, *, learned: bool, place: float | None = None
    ) -> None:
        super().__init__()
        self.channels = channels
        self.factor = factor
        self.place = (factor - 1) / 2 if place is None else place
        kernel = self._bilinear()
        if learned:
            self.weight = nn.Parameter(kernel)
        else:
            self.register_buffer("weight", kernel)

    def reset(self) -> None:
        """Makes the kernel bilinear again."""
        with torch.no_grad():
            self.weight.copy_(self._bilinear())

    def forward(self, scores: Tensor) -> Tensor:
        """The upsampled scores."""
        height, width = (self.factor * side for side in scores.shape[-2:])
        # The kernel's first weight falls `lead` units before the first fine one; what its last
        # weights lack at the map's end is filled up with zeros, or cut off.
        side = self.weight.shape[-1]
        lead = (side - 1) / 2 - self.place
        lack = self.factor + 2 * int(lead) - side
        fine = F.conv_transpose2d(
            scores,
            self.weight,
            stride=self.factor,
            padding=int(lead),
            output_padding=max(lack, 0),
            groups=self.channels,
        )
        return fine if lack >= 0 else fine[..., :height, :width]

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.channels}, factor={self.factor}, place={self.place}"

    def _bilinear(self) -> Tensor:
        kernel = bilinear_kernel(self.factor, even=self.place % 1 == 0.5)
        # Moved last of all: for work on the meta device torch would import its compiler.
        whole = kernel.expand(self.channels, 1, -1, -1).clone()
        return whole.to(torch.get_default_device())


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
    """A convolution whose weights keep the variance through a ReLU (He et al. 2015).

    On the meta device there is nothing to fill, and torch would import its compiler for it, which
    takes a second.
    """
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias)
    if layer.weight.is_meta:
        return layer
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
