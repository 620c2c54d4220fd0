"""What the values of a label raster mean, and the classes that they are joined to."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.models.card import ClassInfo
from segpipe.models.errors import ModelError
from segpipe.models.learning.examples import IGNORED
from segpipe.pipeline.errors import InputRefusedError


@dataclass(frozen=True, slots=True)
class LabelClass:
    """A class of the map and the values that stand for it in the label raster."""

    info: ClassInfo
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LabelScheme:
    """The classes, in the order of the network's channels, and what a model card says of them.

    Attributes:
        classes: the classes of the map.
        ignored: values of the label raster that stand for no class; nodata needs no mention.
        description: what a model of these classes maps, and what it is fit for.
        training_data: where scene and labels came from.
        licence: SPDX expression for weights that were learnt from them.

    Raises:
        InputRefusedError: there are fewer than two classes, or a value stands for two things.
    """

    classes: tuple[LabelClass, ...]
    ignored: tuple[int, ...] = ()
    description: str = ""
    training_data: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise InputRefusedError(f"a map has two classes or more, got {len(self.classes)}")
        named = [*self.ignored, *(label for entry in self.classes for label in entry.labels)]
        if twice := sorted({label for label in named if named.count(label) > 1}):
            raise InputRefusedError(f"the label {twice[0]} stands for two things; name it once")

    @classmethod
    def read(cls, path: str | Path) -> "LabelScheme":
        """The scheme in a JSON file; `examples/landcover-classes.json` shows how it is written.

        Raises:
            InputRefusedError: the file isn't there, or isn't such a scheme.
        """
        try:
            return cls._from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise InputRefusedError(f"{path}: can't be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, ModelError, InputRefusedError) as error:
            raise InputRefusedError(
                f"{path}: isn't a table of classes, each with value, name, color and labels: "
                f"{error}"
            ) from error

    @classmethod
    def _from_dict(cls, data: dict[str, Any]) -> "LabelScheme":
        classes = tuple(
            LabelClass(
                ClassInfo.from_dict({key: entry[key] for key in entry if key != "labels"}),
                _whole_numbers(entry["labels"]),
            )
            for entry in data["classes"]
        )
        others = {key: data[key] for key in data if key not in ("classes", "ignored")}
        return cls(classes, _whole_numbers(data.get("ignored", [])), **others)

    @property
    def infos(self) -> tuple[ClassInfo, ...]:
        """What the map's legend says."""
        return tuple(entry.info for entry in self.classes)

    def indices(self, labels: NDArray[np.generic], known: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Class indices (row, column), `IGNORED` where nothing is `known` or it stands for none.

        Raises:
            InputRefusedError: a known label is in no class.
        """
        indices = np.full(labels.shape, IGNORED, np.uint8)
        strange = known & ~np.isin(labels, self.ignored)
        for index, entry in enumerate(self.classes):
            members = known & np.isin(labels, entry.labels)
            indices[members] = index
            strange &= ~members
        if strange.any():
            found = np.unique(labels[strange])
            shown = ", ".join(f"{value:g}" for value in found[:8].tolist())
            raise InputRefusedError(
                f"the labels hold {shown}{', ...' if len(found) > 8 else ''}, which no class "
                'names; add them to the "labels" of a class or to "ignored"'
            )
        return indices


def _whole_numbers(values: object) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise TypeError(f"labels are a list of whole numbers, got {values!r:.80}")
    return tuple(values)
