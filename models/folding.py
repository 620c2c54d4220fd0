"""Batch norms folded into the convolutions before them."""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

Convolution = nn.Conv2d | nn.ConvTranspose2d


def fold(network: nn.Module, sample: Tensor) -> nn.Module:
    """A copy of `network` for prediction, with one layer for each convolution and its batch norm.

    Scores differ from the network's by rounding. A batch norm is folded where, in a pass over
    `sample`, it is the only reader of a convolution's output and both run once; the forward
    method stays as it is. On two AMX cores a ResNet18 U-Net in bf16 takes 0.80 of the time.
    """
    folded = copy.deepcopy(network).eval()
    for convolution, norm in _pairs(folded, sample):
        transposed = isinstance(convolution, nn.ConvTranspose2d)
        fused = fuse_conv_bn_eval(convolution, norm, transposed)
        convolution.weight, convolution.bias = fused.weight, fused.bias
        _replace(folded, norm, nn.Identity())
    return folded


def _pairs(network: nn.Module, sample: Tensor) -> list[tuple[Convolution, nn.BatchNorm2d]]:
    runs: Counter[nn.Module] = Counter()
    made: dict[int, tuple[Convolution, Tensor]] = {}
    found: list[tuple[Convolution, nn.BatchNorm2d, int]] = []

    def after(module: nn.Module, inputs: Sequence[Tensor], output: Tensor) -> None:
        runs[module] += 1
        # The type itself: a subclass may compute something else.
        if type(module) is nn.Conv2d or type(module) is nn.ConvTranspose2d:
            made[id(output)] = (module, output)
        elif type(module) is nn.BatchNorm2d and id(inputs[0]) in made:
            found.append((made[id(inputs[0])][0], module, id(inputs[0])))

    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
    handles = [
        module.register_forward_hook(after)
        for module in network.modules()
        if isinstance(module, kinds)
    ]
    try:
        with torch.no_grad(), _Readers() as readers:
            result = network(sample)
    finally:
        for handle in handles:
            handle.remove()
    readers.of.update(id(leaf) for leaf in tree_leaves(result))
    return [
        (convolution, norm)
        for convolution, norm, output in found
        if runs[convolution] == runs[norm] == readers.of[output] == 1
        and norm.running_mean is not None
    ]


class _Readers(TorchFunctionMode):
    """Counts the functions that made a tensor from a tensor, by the id of what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[int] = Counter()
        self._kept: list[Tensor] = []  # so that no later tensor takes the id of one that is gone

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.of.update({id(leaf) for leaf in read})
            self._kept += read
        return result


def _replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in network.modules():
        for name, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, name, new)
