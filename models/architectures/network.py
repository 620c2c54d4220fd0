"""What the project's own networks have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import nn

from segpipe.models.architectures.layers import Upsampling
from segpipe.models.errors import ModelError

Option = int | str

UPSAMPLINGS = (Upsampling, nn.ConvTranspose2d)
"""Layers whose parameters are upsampling kernels."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """Everything but the weights: a registered name, bands, classes and the builder's options."""

    name: str
    bands: int
    classes: int
    options: Mapping[str, Option] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    def __reduce__(self) -> tuple[type["Architecture"], tuple[str, int, int, dict[str, Option]]]:
        # A mapping proxy can't be pickled.
        return type(self), (self.name, self.bands, self.classes, dict(self.options))

    def to_dict(self) -> dict[str, Any]:
        """The architecture as JSON takes it."""
        return {
            "name": self.name,
            "bands": self.bands,
            "classes": self.classes,
            "options": dict(self.options),
        }

    @classmethod
    def from_dict(cls, data: object) -> "Architecture":
        """The architecture that `to_dict` wrote; its name and numbers are checked when it is built.

        Raises:
            ModelError: it isn't a table of a name, two numbers and options.
        """
        match data:
            case {
                "name": str(name),
                "bands": int(bands),
                "classes": int(classes),
                "options": dict(options),
                **others,
            } if not others and all(isinstance(value, int | str) for value in options.values()):
                return cls(name, bands, classes, options)
        raise ModelError(
            f"an architecture is a table of name, bands, classes and options, got {data!r:.120}"
        )


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """Where the units of an encoder's map lie: the unit (i, j) sees pixels around a middle.

    Attributes:
        stride: pixels from one unit to the next.
        channels: of the map.
        centre: row and column of the middle of what the unit (0, 0) sees; that of unit (i, j) is
            `centre` + `stride` (i, j). The middle of the first block of pixels would be
            (`stride` - 1) / 2.
    """

    stride: int
    channels: int
    centre: float


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many numbers training can change: in all, in the encoder, in upsampling kernels."""

    total: int
    encoder: int | None
    upsampling: int


class Network(nn.Module):
    """A network (N, bands, H, W) to (N, classes, H, W) that may know how it was built."""

    architecture: Architecture | None = None

    def converted(self) -> nn.Module | None:
        """The part that was a classifier: image to its last map; None where there is no such."""
        return None


def sizes(network: nn.Module) -> Sizes:
    """Parameters of a network and of those of its parts that papers count apart."""
    encoder = getattr(network, "encoder", None)
    upsamplings = (one for one in network.modules() if isinstance(one, UPSAMPLINGS))
    return Sizes(
        count(network),
        count(encoder) if isinstance(encoder, nn.Module) else None,
        sum(map(count, upsamplings)),
    )


def count(network: nn.Module) -> int:
    """How many numbers training can change."""
    return sum(parameter.numel() for parameter in network.parameters())
