"""Where a raster lies on the Earth."""

import math
from dataclasses import dataclass
from typing import Any

from segpipe.pipeline.window import Window

Affine = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Grid:
    """Height and width in pixels, an affine transform and a crs; no pixels, no handle.

    `transform` is (a, b, c, d, e, f) with x = a * column + b * row + c and y = d * column + e * row
    + f, for a pixel's upper left corner. `crs` is WKT 2, or None where the raster says nothing.

    Raises:
        ValueError: a side isn't positive, or the transform isn't finite or collapses the plane.
    """

    height: int
    width: int
    transform: Affine
    crs: str | None

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a grid holds a pixel or more, got {self.height} x {self.width}")
        if len(self.transform) != 6 or not all(map(math.isfinite, self.transform)):
            raise ValueError(f"a transform is six finite numbers, got {self.transform}")
        if self.pixel_area == 0:
            raise ValueError(f"the transform {self.transform} gives pixels without an area")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def pixels(self) -> int:
        """How many pixels it has."""
        return self.height * self.width

    @property
    def window(self) -> Window:
        """The window that holds all of it."""
        return Window(0, 0, self.height, self.width)

    @property
    def pixel_area(self) -> float:
        """Area of a pixel in squared units of the crs."""
        a, b, _, d, e, _ = self.transform
        return abs(a * e - b * d)

    def to_dict(self) -> dict[str, Any]:
        """The grid as JSON takes it."""
        return {
            "height": self.height,
            "width": self.width,
            "transform": list(self.transform),
            "crs": self.crs,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Grid":
        """The grid that `to_dict` wrote."""
        a, b, c, d, e, f = data["transform"]
        return cls(data["height"], data["width"], (a, b, c, d, e, f), data["crs"])
