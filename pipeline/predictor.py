"""What the pipeline asks of a network; the only thing that it knows about one."""

from collections.abc import Collection
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Predictor(Protocol):
    """Turns the pixels of a read window into the labels of its core, and how sure they are."""

    def layers(
        self,
        pixels: NDArray[np.generic],
        valid: NDArray[np.bool_],
        core: tuple[slice, slice],
        wanted: Collection[str],
    ) -> dict[str, NDArray[np.uint8]]:
        """The layers of `core` with the names in `wanted`, (row, column) or (band, row, column).

        See `pipeline/maps/layer` for their names and what they hold; pixels that aren't valid hold
        what the network says of them.

        Args:
            pixels: the scene's own numbers, (band, row, column), in the model's order of bands.
            valid: True where every band holds a measurement, (row, column).
            core: rows and columns of `pixels` that are wanted.
            wanted: names of layers.

        Raises:
            MemoryError: the device can't hold these pixels; a smaller window may pass.
        """
        ...
