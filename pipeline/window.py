"""A rectangle of pixels."""

from collections.abc import Iterator
from dataclasses import astuple, dataclass


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """Rows `top` to `top + height` and columns `left` to `left + width` of a raster.

    Units are whole pixels, the origin is the raster's upper left corner. `top` and `left` may be
    negative only in a window that is relative to another one.

    Raises:
        TypeError: a value isn't an `int`.
        ValueError: height or width isn't positive.
    """

    top: int
    left: int
    height: int
    width: int

    def __post_init__(self) -> None:
        for value in astuple(self):
            if type(value) is not int:
                raise TypeError(f"a window takes whole numbers, got {value!r}")
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a window holds a pixel or more, got {self.height} x {self.width}")

    @property
    def bottom(self) -> int:
        """The first row below."""
        return self.top + self.height

    @property
    def right(self) -> int:
        """The first column to the right."""
        return self.left + self.width

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, as numpy gives them."""
        return self.height, self.width

    @property
    def pixels(self) -> int:
        """How many pixels it holds."""
        return self.height * self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """The index of this window in an array (row, column)."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def contains(self, other: "Window") -> bool:
        """Whether every pixel of `other` lies inside."""
        return self.intersection(other) == other

    def intersection(self, other: "Window") -> "Window | None":
        """The pixels of both, or None where they share none."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        if bottom <= top or right <= left:
            return None
        return Window(top, left, bottom - top, right - left)

    def relative_to(self, outer: "Window") -> "Window":
        """The same pixels, counted from the upper left corner of `outer`."""
        return Window(self.top - outer.top, self.left - outer.left, self.height, self.width)

    def grown(self, margin: int, raster: "Window") -> "Window":
        """These pixels and so many around them, as far as they lie in the raster."""
        top, left = max(self.top - margin, raster.top), max(self.left - margin, raster.left)
        bottom = min(self.bottom + margin, raster.bottom)
        right = min(self.right + margin, raster.right)
        return Window(top, left, bottom - top, right - left)

    def squares(self, side: int) -> Iterator["Window"]:
        """Windows of this side that share its pixels between them, smaller at its end, by rows."""
        for top in range(self.top, self.bottom, side):
            for left in range(self.left, self.right, side):
                height, width = min(side, self.bottom - top), min(side, self.right - left)
                yield Window(top, left, height, width)

    def halves(self) -> tuple["Window", "Window"]:
        """Two windows that share the pixels between them, cut across the longer side.

        Raises:
            ValueError: there is only one pixel.
        """
        if self.pixels == 1:
            raise ValueError("a window of one pixel can't be halved")
        if self.height >= self.width:
            half = self.height // 2
            return (
                Window(self.top, self.left, half, self.width),
                Window(self.top + half, self.left, self.height - half, self.width),
            )
        half = self.width // 2
        return (
            Window(self.top, self.left, self.height, half),
            Window(self.top, self.left + half, self.height, self.width - half),
        )
