"""How a scene is cut into tiles: arithmetic only, no pixels."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import gcd
from typing import Any

from segpipe.pipeline.grid import Grid
from segpipe.pipeline.window import Window

CHUNK = 256
"""Side of a stored chunk in pixels; a tile is a whole number of them, so no two tiles share one."""


@dataclass(frozen=True, slots=True)
class Margin:
    """How many pixels are needed around a core to the top, left, bottom and right."""

    top: int
    left: int
    bottom: int
    right: int

    def __post_init__(self) -> None:
        if min(self.top, self.left, self.bottom, self.right) < 0:
            raise ValueError(f"a margin is never negative, got {self}")


@dataclass(frozen=True, slots=True)
class Tile:
    """The pixels that one task writes (`core`) and those that it reads (`read`)."""

    row: int
    column: int
    core: Window
    read: Window

    @property
    def name(self) -> str:
        """The tile's place in the plan, for file names and messages."""
        return f"{self.row}.{self.column}"


@dataclass(frozen=True, slots=True)
class Stretch:
    """One direction of what is computed for a core: pixels before it, of it, and after it."""

    before: int
    core: int
    after: int

    @property
    def length(self) -> int:
        """All of them, a multiple of the stride."""
        return self.before + self.core + self.after


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a plan: `length` pixels in cores of `side`.

    A read window starts at a multiple of `stride` and ends at one or at the raster's end; it holds
    `before` and `after` pixels around the core where the raster has them, and no more than that
    takes; but no window is shorter than that of a core of one `CHUNK` within the raster. Libraries
    compute small images with other kernels, whose last bits differ.
    """

    length: int
    side: int
    stride: int
    before: int
    after: int

    @property
    def count(self) -> int:
        """How many cores there are."""
        return -(-self.length // self.side)

    @property
    def stretches(self) -> Counter[Stretch]:
        """What is computed for the cores, and for how many of them."""
        # Behind the first cores, whose windows are clipped, and before the last ones windows repeat
        # as the starts of their cores repeat their phase against the stride.
        first = min(-(-self.before // self.side), self.count)
        whole = min(
            (_up(self.length, self.stride) - self.after) // self.side, self.length // self.side
        )
        last = max(first, whole)
        found = Counter(self.stretch(index) for index in (*range(first), *range(last, self.count)))
        period = self.stride // gcd(self.side, self.stride)
        for index in range(first, min(first + period, last)):
            found[self.stretch(index)] += -(-(last - index) // period)
        return found

    def stretch(self, index: int) -> Stretch:
        """What is computed for core `index`, in the raster padded to a multiple of the stride."""
        (start, end), (low, high) = self.core(index), self.read(index)
        return Stretch(start - low, end - start, _up(high, self.stride) - end)

    def core(self, index: int) -> tuple[int, int]:
        """First pixel of core `index`, and the first behind it."""
        return index * self.side, min((index + 1) * self.side, self.length)

    def read(self, index: int) -> tuple[int, int]:
        """First pixel that core `index` reads, and the first behind, inside the raster."""
        least = _up(self.before + CHUNK + self.after, self.stride)
        low, high = self.around(*self.core(index))
        low = max(min(low, _up(self.length, self.stride) - least), 0)
        return low, min(max(high, low + least), self.length)

    def around(self, start: int, end: int) -> tuple[int, int]:
        """What the pixels `start` to `end` need, inside the raster."""
        low = (start - self.before) // self.stride * self.stride
        return max(low, 0), min(_up(end + self.after, self.stride), self.length)


Extent = tuple[Stretch, Stretch]
"""What is computed for a tile: its rows and its columns."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A scene's grid, cut into tiles of `side` for a network of this `stride` and `margin`.

    Raises:
        ValueError: `side` isn't a multiple of `CHUNK`, or `stride` isn't positive.
    """

    grid: Grid
    side: int
    stride: int
    margin: Margin

    def __post_init__(self) -> None:
        if self.side < CHUNK or self.side % CHUNK:
            raise ValueError(
                f"a tile's side is a multiple of {CHUNK}, got {self.side}; "
                f"{_up(max(self.side, 1), CHUNK)} is the next one"
            )
        if self.stride < 1:
            raise ValueError(f"a stride is 1 or more, got {self.stride}")

    def __len__(self) -> int:
        return self.rows.count * self.columns.count

    @property
    def rows(self) -> Axis:
        """The plan from top to bottom."""
        margin = self.margin
        return Axis(self.grid.height, self.side, self.stride, margin.top, margin.bottom)

    @property
    def columns(self) -> Axis:
        """The plan from left to right."""
        margin = self.margin
        return Axis(self.grid.width, self.side, self.stride, margin.left, margin.right)

    @property
    def read_shape(self) -> tuple[int, int]:
        """Greatest height and greatest width of what the network computes for a tile."""
        height, width = (
            max(one.length for one in axis.stretches) for axis in (self.rows, self.columns)
        )
        return height, width

    @property
    def extents(self) -> Counter[Extent]:
        """Rows and columns of what the network computes for a tile, and for how many tiles."""
        rows, columns = self.rows.stretches.items(), self.columns.stretches.items()
        return Counter({(row, column): m * n for row, m in rows for column, n in columns})

    @property
    def extra_work(self) -> float:
        """Pixels of the windows over pixels of the scene."""
        return window_pixels(self.extents) / self.grid.pixels

    def tiles(self) -> Iterator[Tile]:
        """Every tile, row by row."""
        rows, columns = self.rows, self.columns
        # A million tiles share a thousand columns.
        across = [(columns.core(column), columns.read(column)) for column in range(columns.count)]
        for row in range(rows.count):
            down = rows.core(row), rows.read(row)
            for column, (core, read) in enumerate(across):
                yield Tile(row, column, _window(down[0], core), _window(down[1], read))

    def tile(self, row: int, column: int) -> Tile:
        """The tile in this place."""
        return Tile(
            row,
            column,
            _window(self.rows.core(row), self.columns.core(column)),
            _window(self.rows.read(row), self.columns.read(column)),
        )

    def reads(self, core: Window) -> Window:
        """The smallest window from which the labels of `core` can be computed exactly."""
        return _window(
            self.rows.around(core.top, core.bottom), self.columns.around(core.left, core.right)
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON takes it."""
        return {
            "grid": self.grid.to_dict(),
            "side": self.side,
            "stride": self.stride,
            "margin": asdict(self.margin),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Plan":
        """The plan that `to_dict` wrote."""
        grid = Grid.from_dict(data["grid"])
        return cls(grid, data["side"], data["stride"], Margin(**data["margin"]))

    @property
    def digest(self) -> str:
        """The sha256 of the plan's canonical JSON, in hex."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def window_pixels(extents: Counter[Extent]) -> int:
    """Pixels of so many windows."""
    return sum(n * rows.length * columns.length for (rows, columns), n in extents.items())


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def _window(rows: tuple[int, int], columns: tuple[int, int]) -> Window:
    return Window(rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0])
