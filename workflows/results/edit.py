"""What is changed in a map on its way to another file: classes joined, small areas given away."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.models.learning.examples import IGNORED
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.maps.class_names import class_names
from segpipe.pipeline.maps.legend import Legend, LegendEntry
from segpipe.pipeline.maps.map_facts import MapFacts, read_facts, read_legend, read_provenance
from segpipe.pipeline.maps.sieve import sieved
from segpipe.pipeline.scenes.location import Place
from segpipe.pipeline.scenes.scene import Scene
from segpipe.pipeline.window import Window
from segpipe.workflows.errors import OptionError
from segpipe.workflows.labels.label_scheme import LabelScheme

LARGEST_SIEVE = 10_000
"""In pixels: around each tile as much may be read as its small areas are long."""

EDITS = "SEGPIPE_EDITS"
"""The tag in which a map tells what was done to it, as JSON."""

_NODATA = 255


Watcher = Callable[[float], None]
"""Is told which share of a map has been read."""


def unwatched(share: float) -> None:
    """Nobody looks."""


def watched(labels: Scene, watch: Watcher) -> Scene:
    """The same map, of which `watch` is told how far it has been read."""
    return replace(labels, source=_Watched(labels, watch))


@dataclass(frozen=True, slots=True)
class Edit:
    """Changes of a map, in this order; by default there are none.

    Attributes:
        scheme: the classes of the new map, each with the values of the old one that it is made of.
        sieve: areas of fewer pixels take the class of a neighbour; see `pipeline/maps/sieve`.

    Raises:
        OptionError: the sieve makes no sense.
    """

    scheme: LabelScheme | None = None
    sieve: int | None = None

    def __post_init__(self) -> None:
        if self.sieve is not None and not 2 <= self.sieve <= LARGEST_SIEVE:
            raise OptionError(
                f"--sieve takes 2 to {LARGEST_SIEVE:,} pixels, under which an area is given away; "
                f"got {self.sieve}"
            )

    @classmethod
    def of(cls, reclass: str | Path | None, sieve: int | None) -> Edit:
        """The changes that a file of classes and a least number of pixels stand for.

        Raises:
            InputRefusedError: the file isn't there, or holds no classes.
            OptionError: the sieve makes no sense.
        """
        return cls(None if reclass is None else LabelScheme.read(reclass), sieve)

    def __bool__(self) -> bool:
        return self != Edit()

    @property
    def steps(self) -> list[dict[str, Any]]:
        """What is done, as JSON takes it."""
        steps: list[dict[str, Any]] = []
        if self.scheme is not None:
            joined = {entry.info.name: list(entry.labels) for entry in self.scheme.classes}
            steps.append({"reclass": joined, "ignored": list(self.scheme.ignored)})
        if self.sieve is not None:
            steps.append({"sieve": self.sieve})
        return steps

    def apply(self, labels: Scene) -> Scene:
        """The changed map; its pixels are computed when they are read."""
        if self.scheme is not None:
            source = _Reclassed(labels, self.scheme)
            labels = replace(labels, source=source, dtype="uint8", nodata=(_NODATA,))
        return labels if self.sieve is None else sieved(labels, self.sieve)

    def names(self, path: Path) -> dict[int, str]:
        """The names of its values."""
        if self.scheme is None:
            return class_names(path)
        return {info.value: info.name for info in self.scheme.infos}

    def legend(self, path: Path) -> Legend | None:
        """The legend of the map at `path` once it is changed; None where it has none.

        Raises:
            InputRefusedError: two of the new classes have one value.
        """
        found = read_legend(path)
        if self.scheme is None:
            return found
        entries = [LegendEntry(info.value, info.name, info.color) for info in self.scheme.infos]
        try:
            return Legend(found.title if found else "classes", tuple(entries))
        except ValueError as error:
            raise InputRefusedError(f"the file of --reclass makes no legend: {error}") from error

    def facts(self, path: Path) -> MapFacts:
        """What the changed map says of itself: also what was done to it, as JSON in a tag.

        Raises:
            InputRefusedError: the map has no legend, and gets none.
        """
        legend = self.legend(path)
        if legend is None:
            return read_facts(path)
        tags = read_provenance(path)
        if self:
            before = edits(path)
            tags[EDITS] = json.dumps([*before, *self.steps], ensure_ascii=False)
        return MapFacts(legend, tags)


def edits(place: Place) -> list[Any]:
    """What was done to the map at `place` since it was computed, as `Edit.steps` has it.

    Raises:
        InputRefusedError: it can't be opened, or tells nonsense.
    """
    text = read_provenance(place).get(EDITS, "[]")
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise InputRefusedError(
            f"{place}: its tag {EDITS} is {text!r:.60}, expected a list as JSON; remove the tag"
        )
    return found


@dataclass(frozen=True, slots=True)
class _Reclassed:
    """The source of a map with other classes."""

    labels: Scene
    scheme: LabelScheme

    def read(
        self, window: Window, indexes: tuple[int, ...], dtype: str
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """See `Source.read`.

        Raises:
            InputRefusedError: the map holds a value that isn't named.
        """
        pixels, valid = self.labels.read(window)
        try:
            indices = self.scheme.indices(pixels[0], valid)
        except InputRefusedError as error:
            raise InputRefusedError(f"{self.labels.path}: {error}") from error
        values = np.full(256, _NODATA, dtype)
        values[: len(self.scheme.infos)] = [info.value for info in self.scheme.infos]
        return values[indices][None], indices != IGNORED

    def identity(self, full: bool) -> dict[str, Any]:
        """See `Source.identity`."""
        return {"reclass": repr(self.scheme.classes), **self.labels.identity(full)}


@dataclass(frozen=True, slots=True)
class _Watched:
    """The source of a map that somebody waits for."""

    labels: Scene
    watch: Watcher

    def read(
        self, window: Window, indexes: tuple[int, ...], dtype: str
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """See `Source.read`."""
        grid = self.labels.grid
        rows = window.top + window.height * window.right / grid.width
        read = self.labels.read(window)
        self.watch(min(rows / grid.height, 1.0))
        return read

    def identity(self, full: bool) -> dict[str, Any]:
        """See `Source.identity`."""
        return self.labels.identity(full)
