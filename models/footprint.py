"""How far one output pixel of a network sees."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, slots=True)
class Footprint:
    """A network's stride and how many pixels an output pixel sees to each side.

    `stride` is the smallest shift of the input that shifts the output alike. The four extents are
    the largest over the stride's phases. `exact` is False for a network that no margin makes
    exact; `reasons` then names each operation, and the module that holds it.
    """

    stride: int
    top: int
    left: int
    bottom: int
    right: int
    exact: bool
    reasons: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The footprint as JSON takes it."""
        return {**asdict(self), "reasons": list(self.reasons)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Footprint":
        """The footprint that `to_dict` wrote."""
        return cls(**{**data, "reasons": tuple(data["reasons"])})


def measure(network: nn.Module, bands: int = 3) -> Footprint:
    """The footprint of a network that maps (N, bands, H, W) to (N, classes, H, W)."""
    raise NotImplementedError
