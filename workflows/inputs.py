"""How a scene is opened for a workflow: its name, what the options say, what a model wants."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segpipe.models.card import ModelCard
from segpipe.pipeline.scene import Scene, open_scene
from segpipe.workflows.resolution import at_resolution


@dataclass(frozen=True, slots=True)
class Reading:
    """What the options say about a scene, beyond its name.

    Attributes:
        bands: numbers (from 1) or names of the scene's bands, in the model's order; None for those
            that are named as in the model's card.
        resolution: `auto`, `native`, or the side of a pixel in metres; see `at_resolution`.
    """

    bands: Sequence[str | int] | None = None
    resolution: str | float = "auto"


def open_input(scene: str | Path, reading: Reading, card: ModelCard) -> Scene:
    """The scene with the bands that the model takes.

    Raises:
        InputRefusedError: it's missing, damaged, of a kind that can't be mapped, or lacks bands.
        OptionError: the resolution makes no sense.
    """
    bands = None if reading.bands is None else [str(band) for band in reading.bands]
    return at_resolution(open_scene(scene, bands, card.bands), reading.resolution, card)
