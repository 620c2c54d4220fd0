"""The layers and functions of which a network may consist that is stored as data."""

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Function = Callable[..., object]


def _shape(tensor: Tensor) -> torch.Size:
    return tensor.shape


def _named(prefix: str, home: object, names: str) -> dict[str, Function]:
    return {f"{prefix}.{name}": getattr(home, name) for name in names.split()}


_LAYERS: Iterable[type[nn.Module]] = (
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AlphaDropout,
    nn.AvgPool2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.ConstantPad2d,
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.ELU,
    nn.Flatten,
    nn.GELU,
    nn.GroupNorm,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Identity,
    nn.InstanceNorm2d,
    nn.LayerNorm,
    nn.LeakyReLU,
    nn.Linear,
    nn.LocalResponseNorm,
    nn.LogSoftmax,
    nn.MaxPool2d,
    nn.MaxUnpool2d,
    nn.Mish,
    nn.PReLU,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ReLU,
    nn.ReLU6,
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softmax,
    nn.Softmax2d,
    nn.Softplus,
    nn.Tanh,
    nn.Upsample,
    nn.UpsamplingBilinear2d,
    nn.UpsamplingNearest2d,
    nn.ZeroPad2d,
)

LAYERS: Mapping[str, type[nn.Module]] = MappingProxyType({kind.__name__: kind for kind in _LAYERS})
"""The classes of torch.nn by their names."""

FUNCTIONS: Mapping[str, Function] = MappingProxyType(
    {
        "Tensor.shape": _shape,
        **_named(
            "operator",
            operator,
            "add sub mul truediv floordiv mod neg getitem",
        ),
        **_named(
            "torch",
            torch,
            "add sub mul div cat concat stack chunk split flatten reshape squeeze unsqueeze "
            "permute transpose relu relu_ sigmoid tanh softmax log_softmax mean sum amax amin exp "
            "clamp square sqrt rsqrt matmul pixel_shuffle adaptive_avg_pool1d",
        ),
        **_named(
            "functional",
            F,
            "relu relu_ relu6 leaky_relu elu selu gelu silu mish hardswish hardsigmoid softplus "
            "sigmoid tanh softmax log_softmax max_pool2d max_pool2d_with_indices max_unpool2d "
            "avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d interpolate upsample dropout "
            "dropout2d alpha_dropout pad pixel_shuffle pixel_unshuffle local_response_norm "
            "layer_norm group_norm linear conv2d conv_transpose2d normalize",
        ),
        **_named(
            "Tensor",
            Tensor,
            "size dim add add_ sub sub_ mul mul_ div div_ view view_as reshape flatten unflatten "
            "squeeze unsqueeze permute transpose contiguous expand expand_as chunk split narrow "
            "relu relu_ sigmoid sigmoid_ tanh softmax log_softmax mean sum amax amin exp clamp "
            "square sqrt rsqrt matmul float clone neg",
        ),
    }
)
"""What a step may call, by name. None of them touches anything but its arguments."""

_LAYER_NAMES = {kind: name for name, kind in LAYERS.items()}
_FUNCTION_NAMES = {function: name for name, function in FUNCTIONS.items()}


def layer_name(layer: nn.Module) -> str | None:
    """The name of the layer's class, None for any other class; subclasses are others."""
    return _LAYER_NAMES.get(type(layer))


def function_name(function: Function) -> str | None:
    """The name under which a function is known, or None."""
    return _FUNCTION_NAMES.get(function)


def defaults(kind: str) -> dict[str, object]:
    """What the constructor of a layer takes, but for device and type, with its defaults."""
    parameters = inspect.signature(LAYERS[kind]).parameters.values()
    return {
        one.name: one.default
        for one in parameters
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        and one.name not in ("device", "dtype")
    }
