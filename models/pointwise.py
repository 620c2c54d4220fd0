"""Convolutions of 1 x 1 whose last bits don't depend on the size of the image."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


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


CONVOLUTIONS = (
    torch.ops.aten.conv2d.default,
    torch.ops.aten.convolution.default,
    torch.ops.aten._convolution.default,
)
"""Operations under whose names a convolution comes: by who calls it, and whether gradients are on.
All of them take images and weight first."""


class Settling(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside of it every 1 x 1 convolution is computed as `Pointwise` does, whoever calls it.

    For networks that have no modules to make one of; it costs some microseconds an operation.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """What the operation gives."""
        if func not in CONVOLUTIONS or not _is_pointwise(*args):
            return func(*args, **(kwargs or {}))
        settled = args[0].contiguous(memory_format=torch.channels_last)
        return func(settled, *args[1:], **(kwargs or {})).contiguous()


def _is_pointwise(images: Tensor, weight: Tensor, *rest: Any) -> bool:
    here = images.device.type == "cpu" and images.dtype is torch.float32
    return here and weight.ndim == 4 and tuple(weight.shape[2:]) == (1, 1)
