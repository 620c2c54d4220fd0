"""What a network is fed: bands shifted and scaled by statistics of all that it learns from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segpipe.models.learning.examples import Block, ExamplesRefusedError

Features = NDArray[np.float32]
Numbers = NDArray[np.float64]

_CONSTANT = 1e-12
"""A deviation below this share of the mean is rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Count, mean and sum of squared deviations of each band; those of two parts add up.

    The sum is that of Chan, Golub and LeVeque (1983), which loses no digits where the plain sum of
    squares does.

    Attributes:
        count: how many pixels.
        mean: one number a band.
        squares: sums of the squared deviations from the mean, one number a band.
    """

    count: int
    mean: Numbers
    squares: Numbers

    @classmethod
    def none(cls, bands: int) -> "Moments":
        """Those of no pixel."""
        return cls(0, np.zeros(bands), np.zeros(bands))

    @classmethod
    def of(cls, block: Block) -> "Moments":
        """Those of a block's valid pixels."""
        count = int(block.valid.sum())
        if not count:
            return cls.none(len(block.pixels))
        bands = block.pixels[:, block.valid].astype(np.float64)
        mean = bands.mean(axis=1)
        return cls(count, mean, np.square(bands - mean[:, None]).sum(axis=1))

    def __add__(self, other: "Moments") -> "Moments":
        count = self.count + other.count
        if not count:
            return self
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        between = np.square(apart) * (self.count * other.count / count)
        return Moments(count, mean, self.squares + other.squares + between)


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Mean and standard deviation of every band, in the scene's own units."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, moments: Moments) -> "Normalisation":
        """The one under which these pixels have mean 0 and deviation 1.

        Raises:
            ExamplesRefusedError: there is no pixel, or a band has one value only.
        """
        if not moments.count:
            raise ExamplesRefusedError("no pixel of the training area is valid; choose another one")
        std = np.sqrt(moments.squares / moments.count)
        constant = np.flatnonzero(std <= _CONSTANT * np.abs(moments.mean))
        if constant.size:
            raise ExamplesRefusedError(f"band {constant[0] + 1} has one value only; leave it out")
        return cls(tuple(moments.mean.tolist()), tuple(std.tolist()))

    def __call__(self, block: Block) -> Features:
        """The features (band, row, column): `(x - mean) / std`, and 0 where a pixel isn't valid."""
        mean, std = (np.array(numbers)[:, None, None] for numbers in (self.mean, self.std))
        features = ((block.pixels - mean) / std).astype(np.float32)
        return np.where(block.valid, features, np.float32(0))
