"""What the pipeline asks of a network; the only thing that it knows about one."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Predictor(Protocol):
    """Turns the pixels of a read window into the labels of its core."""

    def __call__(
        self, pixels: NDArray[np.generic], valid: NDArray[np.bool_], core: tuple[slice, slice]
    ) -> NDArray[np.uint8]:
        """Class values of `core`, (row, column).

        Args:
            pixels: the scene's own numbers, (band, row, column), in the model's order of bands.
            valid: True where every band holds a measurement, (row, column).
            core: rows and columns of `pixels` that are wanted.

        Raises:
            MemoryError: the device can't hold these pixels; a smaller window may pass.
        """
        ...
