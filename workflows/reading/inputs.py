"""How a scene is opened for a workflow: its name, what the options say, what a model wants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from segpipe.models.card import ModelCard
from segpipe.pipeline.scenes.mosaic import Rule, mosaic
from segpipe.pipeline.scenes.scene import Scene, open_scene
from segpipe.pipeline.scenes.zarr_variables import Choice
from segpipe.workflows.errors import OptionError
from segpipe.workflows.reading.reflectance import with_scaling
from segpipe.workflows.reading.resolution import at_resolution

Bands = Sequence[str | int] | Mapping[str, str | Path]
"""Numbers (from 1) or names of a scene's bands, in the model's order; or, by the names of the
model's bands or their numbers, the file that holds each: "B4.tif", or "B4.tif:2" for its band 2."""

Scenes = str | Path | Sequence[str | Path]
"""A scene's name, or the names of the scenes of a mosaic."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the options say about a scene, beyond its name.

    Attributes:
        bands: which of the scene's bands the model's are, or in which files they lie; None for
            those that are named as in the model's card.
        resolution: `auto`, `native`, or the side of a pixel in metres; see `at_resolution`.
        scale, offset: what makes reflectances of the stored numbers; see `with_scaling`.
        mosaic: the rule by which scenes become one; None for a scene by itself.
        others: the scenes of the mosaic after the one that is named.
        variable, time: which variable and which step of time of a Zarr store; see `Choice`.
    """

    bands: Bands | None = None
    resolution: str | float = "auto"
    scale: float | None = None
    offset: float | None = None
    mosaic: str | None = None
    others: tuple[str | Path, ...] = ()
    variable: str | None = None
    time: str | None = None


def named(scene: Scenes, mosaic: str | None) -> tuple[str | Path, tuple[str | Path, ...]]:
    """The scene that gives a run its name, and those that make a mosaic with it.

    Raises:
        OptionError: there is no scene, or several without a rule.
    """
    if isinstance(scene, str | Path):
        return scene, ()
    if not scene:
        raise OptionError("no scene is named")
    if len(scene) > 1 and mosaic is None:
        raise OptionError(
            f"{len(scene)} scenes make one map by a rule: name one, such as --mosaic first"
        )
    return scene[0], tuple(scene[1:])


def open_input(scene: str | Path, reading: Reading, card: ModelCard) -> Scene:
    """The scene with the bands that the model takes, or the mosaic of which it is the first.

    Raises:
        InputRefusedError: it's missing, damaged, of a kind that can't be mapped, or lacks bands; or
            the scenes of a mosaic don't fit together.
        OptionError: the resolution, the scaling or the rule makes no sense.
    """
    if reading.mosaic is not None and reading.mosaic not in get_args(Rule):
        raise OptionError(
            f"a mosaic's rule is {' or '.join(get_args(Rule))}, got {reading.mosaic!r:.80}"
        )
    first = at_resolution(_open(scene, reading, card), reading.resolution, card)
    if reading.mosaic is None:
        return first
    others = [_open(other, reading, card) for other in reading.others]
    return mosaic([first, *others], cast("Rule", reading.mosaic))


def _open(scene: str | Path, reading: Reading, card: ModelCard) -> Scene:
    named: Mapping[str, str | Path] | list[str] | None = (
        reading.bands
        if reading.bands is None or isinstance(reading.bands, Mapping)
        else [str(band) for band in reading.bands]
    )
    opened = open_scene(scene, named, card.bands, Choice(reading.variable, reading.time))
    return with_scaling(opened, reading.scale, reading.offset, card)
