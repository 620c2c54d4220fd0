"""Convolutions of 1 x 1 whose last bits don't depend on the size of the image."""

import torch
from torch import Tensor, nn


class Pointwise(nn.Conv2d):
    """A 1 x 1 convolution that computes in channels_last between contiguous tensors.

    On a CPU oneDNN's kernel for contiguous fp32 splits the sum over channels by the divisors of
    height times width, so that a tile and the whole image differ in the last bits, and once in some
    hundred thousand pixels of FCN-ResNet50 in a label. The kernel for channels_last doesn't.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that nn.Conv2d gave it
        """What `nn.Conv2d` gives."""
        return super().forward(input.contiguous(memory_format=torch.channels_last)).contiguous()


def settle(network: nn.Module) -> None:
    """Makes every 1 x 1 convolution of `network` a `Pointwise`, in place."""
    for module in network.modules():
        if type(module) is nn.Conv2d and module.kernel_size == (1, 1):
            # The same object, so that whoever holds it or reads its weights still can.
            module.__class__ = Pointwise
