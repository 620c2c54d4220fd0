"""What makes a network usable: which bands it takes and what its classes mean."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from segpipe.models.errors import ModelError

NODATA = 255
"""Value of a pixel without a label; never a class."""

LARGEST_WINDOW = 1 << 16

Edges = Literal["zeros", "mirror"]
"""What lies beyond an image: nothing, or the image itself, its edge pixels first."""

Units = Literal["stored", "reflectance"]
"""In which numbers a network's mean and deviation are: those that files hold, or reflectances."""


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
        if not _is_label(self.name):
            raise ModelError(f"a class has a name, got {self.name!r} for the value {self.value}")
        if not isinstance(self.color, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", self.color):
            raise ModelError(f"a class has a colour such as #4060c8, got {self.color!r}")

    @classmethod
    def from_dict(cls, data: object) -> "ClassInfo":
        """The class whose attributes `data` has.

        Raises:
            ModelError: keys are missing, unknown or of the wrong kind.
        """
        return cls(**_keys(data, "a class", ("value", "name", "color"), ()))


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a network was trained for.

    Attributes:
        name: one word, as it appears in outputs and messages.
        bands: names of the input bands, in the network's order.
        classes: the classes, in the order of the network's channels.
        mean: one number a band, in `units`; a band is fed as `(x - mean) / std`.
        std: likewise, positive.
        window: side in pixels of the windows it was trained on; networks that can't be tiled
            exactly run at this size.
        overlap: pixels that neighbouring windows share then; None for half a window.
        edges: what such windows see beyond the image: "zeros", or its "mirror" image.
        description: what it maps, from what, how well.
        licence: SPDX expression of the weights.
        training_data: where the examples came from.
        metrics: figures on data that training never saw, as JSON takes them.
        units: whether x is the number that a scene's file holds ("stored"), or the reflectance that
            it stands for, by the scale and the offset of its band.
        resolution: side of a pixel in metres in what it was trained on; None for any.

    Raises:
        ModelError: the parts don't fit together.
    """

    name: str
    bands: tuple[str, ...]
    classes: tuple[ClassInfo, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    window: int = 256
    overlap: int | None = None
    edges: Edges = "zeros"
    description: str = ""
    licence: str = ""
    training_data: str = ""
    metrics: dict[str, Any] = field(default_factory=dict, hash=False)
    units: Units = "stored"
    resolution: float | None = None

    def __post_init__(self) -> None:
        word = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
        if not isinstance(self.name, str) or not re.fullmatch(word, self.name):
            raise ModelError(
                f"a model's name is a word of letters, digits, dots and hyphens, got {self.name!r}"
            )
        self._check_bands()
        self._check_classes()
        if type(self.window) is not int or not 1 <= self.window <= LARGEST_WINDOW:
            raise ModelError(
                f"{self.name}: window is a side from 1 to {LARGEST_WINDOW} pixels, "
                f"got {self.window!r}"
            )
        if self.resolution is not None and not (
            _is_finite(self.resolution) and self.resolution > 0
        ):
            raise ModelError(
                f"{self.name}: resolution is the side of a pixel in metres, "
                f"got {self.resolution!r:.80}"
            )
        self._check_blend()
        for title in ("description", "licence", "training_data"):
            if not isinstance(getattr(self, title), str):
                raise ModelError(f"{self.name}: {title} is text, got {getattr(self, title)!r}")
        self._check_metrics()

    def _check_blend(self) -> None:
        most = self.window // 2
        if self.overlap is not None and not (
            type(self.overlap) is int and 2 <= self.overlap <= most
        ):
            raise ModelError(
                f"{self.name}: overlap is from 2 to {most} pixels, half a window, "
                f"got {self.overlap!r}"
            )
        if self.edges not in get_args(Edges):
            raise ModelError(
                f"{self.name}: edges are {' or '.join(get_args(Edges))}, got {self.edges!r:.80}"
            )

    def _check_bands(self) -> None:
        if not self.bands or not all(map(_is_label, self.bands)):
            raise ModelError(f"{self.name}: every band has a name, got {list(self.bands)}")
        if len(set(self.bands)) != len(self.bands):
            raise ModelError(f"{self.name}: bands are named once each, got {list(self.bands)}")
        for title, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) != len(self.bands) or not all(map(_is_finite, numbers)):
                raise ModelError(
                    f"{self.name}: {title} has a finite number for each of the {len(self.bands)} "
                    f"bands, got {list(numbers)}"
                )
        if min(self.std) <= 0:
            raise ModelError(f"{self.name}: std is positive, got {list(self.std)}")
        if self.units not in get_args(Units):
            raise ModelError(
                f"{self.name}: units are {' or '.join(get_args(Units))}, got {self.units!r:.80}"
            )

    def _check_classes(self) -> None:
        values = [info.value for info in self.classes]
        if not values or len(set(values)) != len(values):
            raise ModelError(f"{self.name}: classes have one value each, got {values}")
        names = [info.name for info in self.classes]
        if len(set(names)) != len(names):
            raise ModelError(f"{self.name}: classes have one name each, got {names}")

    def _check_metrics(self) -> None:
        if not isinstance(self.metrics, dict):
            raise ModelError(f"{self.name}: metrics is a table of figures, got {self.metrics!r}")
        try:
            # What JSON gives back, so that a card equals the one that is read from its package.
            metrics = json.loads(json.dumps(self.metrics, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise ModelError(f"{self.name}: JSON can't hold the metrics: {error}") from error
        object.__setattr__(self, "metrics", metrics)

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON takes it; what is younger than older packages is told if it's given."""
        table = asdict(self)
        if self.units == "stored":
            del table["units"]
        if self.resolution is None:
            del table["resolution"]
        return table

    def in_stored_units(self, scales: Sequence[float], offsets: Sequence[float]) -> "ModelCard":
        """The card for a scene whose stored number x stands for `scale * x + offset` in each band.

        `(scale * x + offset - mean) / std` is `(x - m) / s` with `m = (mean - offset) / scale` and
        `s = std / scale`: pixels stay as they are until they're normalised.

        Raises:
            ModelError: a scale isn't positive, or the numbers leave the range of floats.
        """
        if not all(scale > 0 for scale in scales):
            raise ModelError(f"{self.name}: scales are positive, got {list(scales)}")
        bands = list(zip(self.mean, self.std, scales, offsets, strict=True))
        return replace(
            self,
            units="stored",
            mean=tuple((mean - offset) / scale for mean, _, scale, offset in bands),
            std=tuple(std / scale for _, std, scale, _ in bands),
        )

    @classmethod
    def from_dict(cls, data: object) -> "ModelCard":
        """The card that `to_dict` wrote.

        Raises:
            ModelError: keys are missing, unknown or of the wrong kind.
        """
        names = [entry.name for entry in fields(cls)]
        card = _keys(data, "a model card", names[:5], names[5:])
        return cls(
            **{
                **card,
                "bands": tuple(_list(card, "bands")),
                "classes": tuple(map(ClassInfo.from_dict, _list(card, "classes"))),
                "mean": tuple(_list(card, "mean")),
                "std": tuple(_list(card, "std")),
            }
        )


def _keys(
    data: object, title: str, required: Iterable[str], optional: Iterable[str]
) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise ModelError(f"{title} is a table, got {data!r:.80}")
    missing = [key for key in required if key not in data]
    unknown = sorted(map(str, set(data) - {*required, *optional}))
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"has an unknown key {unknown[0]!r:.80}"
        raise ModelError(f"{title} {what}; it takes {', '.join((*required, *optional))}")
    return dict(data)


def _list(data: Mapping[str, Any], key: str) -> list[Any]:
    # A string is a sequence too, and would pass for the names of one-letter bands.
    if not isinstance(data[key], list | tuple):
        raise ModelError(f"a model card's {key!r} is a list, got {data[key]!r:.80}")
    return list(data[key])


def _is_label(value: object) -> bool:
    # Control characters would reach terminals, XML side-cars and file names.
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _is_finite(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
