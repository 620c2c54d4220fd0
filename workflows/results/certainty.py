"""What a run tells of its sureness beside the map: which layers, where they go, and a histogram."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segpipe.models.card import ModelCard
from segpipe.pipeline.errors import StorageError
from segpipe.pipeline.maps.label_store import STORE_MARKS
from segpipe.pipeline.maps.layer import (
    CONFIDENCE,
    PROBABILITIES,
    Layer,
    confidence_layer,
    probability_layer,
)
from segpipe.workflows.errors import OptionError

_SUFFIXES = (".tif", ".zarr")


@dataclass(frozen=True, slots=True)
class Certainty:
    """Where probabilities and confidence go, absolute, and whether confidence is counted."""

    probabilities: Path | None = None
    confidence: Path | None = None
    counted: bool = False

    @classmethod
    def of(
        cls, probabilities: str | Path | None, confidence: str | Path | None, *, counted: bool
    ) -> "Certainty":
        """The layers under these names; a run that makes one counts confidence too.

        Raises:
            OptionError: a name tells no format, or is a folder that is no Zarr store.
            StorageError: a folder isn't there, or can't be written to.
        """
        probable = None if probabilities is None else _target(probabilities, PROBABILITIES)
        confident = None if confidence is None else _target(confidence, CONFIDENCE)
        return cls(probable, confident, counted or probable is not None or confident is not None)

    @property
    def places(self) -> dict[str, Path]:
        """Where each layer goes that is wanted, by its name."""
        wanted = {PROBABILITIES: self.probabilities, CONFIDENCE: self.confidence}
        return {name: path for name, path in wanted.items() if path is not None}

    def layers(self, card: ModelCard) -> Iterator[tuple[Layer, Path]]:
        """The layers that are wanted of this model, and where each goes."""
        if self.probabilities is not None:
            names = tuple(info.name for info in card.classes)
            yield probability_layer(card.name, names), self.probabilities
        if self.confidence is not None:
            yield confidence_layer(card.name), self.confidence

    def refuse_places(self, scene: Path, output: Path) -> None:
        """Passes if every layer has a place of its own, to which it can be moved from the map's.

        Raises:
            OptionError: one is the scene, the map or another layer, shares its style's name with
                one of them, or lies on another file system than the map.
        """
        taken = {output.with_suffix(""): str(output)}
        for name, path in self.places.items():
            if path.exists() and scene.exists() and path.samefile(scene):
                raise OptionError(f"--{name} names the scene itself; choose another name")
            if (other := taken.setdefault(path.with_suffix(""), str(path))) != str(path):
                raise OptionError(
                    f"--{name} {path} and {other} differ by no more than their endings, so that "
                    "they would share a style; choose another name"
                )
            if path.parent.stat().st_dev != output.parent.stat().st_dev:
                raise OptionError(
                    f"--{name} {path} lies on another disk than {output}; name a place on the same"
                )
            if path == output or list(self.places.values()).count(path) > 1:
                raise OptionError(f"--{name} {path} is written by this run already; name another")


UNTOLD = Certainty()
"""A run that makes nothing but its map."""


def _target(name: str | Path, layer: str) -> Path:
    path = Path(name).absolute()
    if path.suffix not in _SUFFIXES:
        raise OptionError(f"--{layer} ends in .tif (COG) or .zarr, got {path.name}")
    if path.is_dir() and not any((path / mark).is_file() for mark in STORE_MARKS):
        raise OptionError(f"{path} is a folder and no Zarr store; choose another --{layer}")
    if not path.parent.is_dir():
        raise StorageError(
            f"there is no folder {path.parent}; make it, or choose another --{layer}"
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise StorageError(
            f"the folder {path.parent} can't be written to; choose another --{layer}"
        )
    return path
