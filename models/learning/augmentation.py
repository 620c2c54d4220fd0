"""Examples are varied, so that a network learns what doesn't depend on how they were seen."""

from dataclasses import dataclass

import numpy as np

from segpipe.models.learning.examples import Labels, Mask
from segpipe.models.learning.normalisation import Features


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far examples are varied, each anew whenever it is drawn.

    Attributes:
        turns: whether they are turned by quarters and mirrored.
        brightness: a number up to this, in standard deviations, is added to each band.
        contrast: each band is multiplied by a number that is at most this far from 1.
        zoom: they are enlarged or reduced up to this many times.

    Raises:
        ValueError: a number is out of bounds.
    """

    turns: bool = True
    brightness: float = 0.0
    contrast: float = 0.0
    zoom: float = 1.0

    def __post_init__(self) -> None:
        if self.brightness < 0 or not 0 <= self.contrast < 1 or not 1 <= self.zoom <= 4:
            raise ValueError(
                "brightness is 0 or more, contrast lies between 0 and 1, zoom between 1 and 4, got "
                f"{self.brightness:g}, {self.contrast:g} and {self.zoom:g}"
            )

    def side(self, crop: int, random: np.random.Generator) -> int:
        """How many pixels across are shown as `crop` pixels."""
        return max(1, round(float(crop * self.zoom ** random.uniform(-1, 1))))

    def jittered(self, features: Features, valid: Mask, random: np.random.Generator) -> Features:
        """The features (band, row, column), darker or brighter; what isn't valid stays 0."""
        shape = len(features), 1, 1
        factor = 1 + random.uniform(-self.contrast, self.contrast, shape)
        shift = random.uniform(-self.brightness, self.brightness, shape)
        return np.where(valid, features * factor + shift, 0).astype(np.float32)

    def turned(
        self, features: Features, labels: Labels, random: np.random.Generator
    ) -> tuple[Features, Labels]:
        """Both in one of the eight positions of a square."""
        turns, mirrored = int(random.integers(4)), bool(random.integers(2))
        if not self.turns:
            return features, labels
        features = np.rot90(features, turns, axes=(1, 2))
        labels = np.rot90(labels, turns)
        return (features[..., ::-1], labels[..., ::-1]) if mirrored else (features, labels)
