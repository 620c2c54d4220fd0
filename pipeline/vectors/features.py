"""Some polygons with the columns of their table, on the way into a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Some polygons and the columns of their table, each (polygons,)."""

    shapes: NDArray[np.object_]
    columns: Mapping[str, NDArray[Any]]
