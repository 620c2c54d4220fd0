"""How a scene is opened for a workflow: its name, what the options say, what a model wants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segpipe.models.card import ModelCard
from segpipe.pipeline.scene import Scene, open_scene
from segpipe.workflows.reflectance import with_scaling
from segpipe.workflows.resolution import at_resolution

Bands = Sequence[str | int] | Mapping[str, str | Path]
"""Numbers (from 1) or names of a scene's bands, in the model's order; or, by the names of the
model's bands or their numbers, the file that holds each: "B4.tif", or "B4.tif:2" for its band 2."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the options say about a scene, beyond its name.

    Attributes:
        bands: which of the scene's bands the model's are, or in which files they lie; None for
            those that are named as in the model's card.
        resolution: `auto`, `native`, or the side of a pixel in metres; see `at_resolution`.
        scale, offset: what makes reflectances of the stored numbers; see `with_scaling`.
    """

    bands: Bands | None = None
    resolution: str | float = "auto"
    scale: float | None = None
    offset: float | None = None


def open_input(scene: str | Path, reading: Reading, card: ModelCard) -> Scene:
    """The scene with the bands that the model takes.

    Raises:
        InputRefusedError: it's missing, damaged, of a kind that can't be mapped, or lacks bands.
        OptionError: the resolution or the scaling makes no sense.
    """
    named: Mapping[str, str | Path] | list[str] | None = (
        reading.bands
        if reading.bands is None or isinstance(reading.bands, Mapping)
        else [str(band) for band in reading.bands]
    )
    opened = open_scene(scene, named, card.bands)
    scaled = with_scaling(opened, reading.scale, reading.offset, card)
    return at_resolution(scaled, reading.resolution, card)
