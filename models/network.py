"""What the project's own networks have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import nn

Option = int | str


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


class Network(nn.Module):
    """A network (N, bands, H, W) to (N, classes, H, W) that may know how it was built."""

    architecture: Architecture | None = None
