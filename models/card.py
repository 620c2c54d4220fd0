"""What makes a network usable: which bands it takes and what its classes mean."""

import math
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from segpipe.models.errors import ModelError

NODATA = 255
"""Value of a pixel without a label; never a class."""


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """A class: its value in the map (0 to 254), its name and its colour as `#rrggbb`.

    Raises:
        ModelError: the value, the name or the colour can't stand in a map.
    """

    value: int
    name: str
    color: str

    def __post_init__(self) -> None:
        if type(self.value) is not int or not 0 <= self.value < NODATA:
            raise ModelError(f"a class has a value from 0 to 254, got {self.value!r} ({self.name})")
        if not isinstance(self.name, str) or not self.name.strip():
            raise ModelError(f"a class has a name, got {self.name!r} for the value {self.value}")
        if not isinstance(self.color, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", self.color):
            raise ModelError(f"a class has a colour such as #4060c8, got {self.color!r}")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a network was trained for.

    Attributes:
        name: one word, as it appears in outputs and messages.
        bands: names of the input bands, in the network's order.
        classes: the classes, in the order of the network's channels.
        mean: one number a band, in the scene's own units; a band is fed as `(x - mean) / std`.
        std: likewise, positive.
        window: side in pixels of the windows it was trained on; networks that can't be tiled
            exactly run at this size.
        description: what it maps, from what, how well.
        licence: SPDX expression of the weights.
        training_data: where the examples came from.
        metrics: figures on data that training never saw, as JSON takes them.

    Raises:
        ModelError: the parts don't fit together.
    """

    name: str
    bands: tuple[str, ...]
    classes: tuple[ClassInfo, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    window: int = 256
    description: str = ""
    licence: str = ""
    training_data: str = ""
    metrics: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ModelError(f"a model's name is a word of letters and digits, got {self.name!r}")
        if not self.bands or len(set(self.bands)) != len(self.bands):
            raise ModelError(f"{self.name}: bands are named once each, got {list(self.bands)}")
        for title, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) != len(self.bands) or not all(map(math.isfinite, numbers)):
                raise ModelError(
                    f"{self.name}: {title} has a finite number for each of the {len(self.bands)} "
                    f"bands, got {list(numbers)}"
                )
        if min(self.std) <= 0:
            raise ModelError(f"{self.name}: std is positive, got {list(self.std)}")
        values = [info.value for info in self.classes]
        if not values or len(set(values)) != len(values):
            raise ModelError(f"{self.name}: classes have one value each, got {values}")
        if self.window < 1:
            raise ModelError(f"{self.name}: window is a positive number, got {self.window}")

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ModelCard":
        """The card that `to_dict` wrote.

        Raises:
            ModelError: keys are missing, unknown or of the wrong kind.
        """
        try:
            return cls(
                **{
                    **data,
                    "bands": tuple(data["bands"]),
                    "classes": tuple(ClassInfo(**info) for info in data["classes"]),
                    "mean": tuple(float(number) for number in data["mean"]),
                    "std": tuple(float(number) for number in data["std"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the model card can't be read: {error!r}") from error
