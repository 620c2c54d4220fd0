"""How a scene is cut into tiles: arithmetic only, no pixels."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
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
class Axis:
    """One direction of a plan: `length` pixels in cores of `side`, in windows of one `span`.

    A read window starts at a multiple of `stride` and ends at one or at the raster's end; it holds
    `before` and `after` pixels around the core where the raster has them. All windows have the
    same span, counted in the raster padded to a multiple of the stride: one that would leave the
    raster is shifted inwards, which only adds to what the network sees.
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
    def padded(self) -> int:
        """The length, rounded up to a whole number of strides."""
        return _up(self.length, self.stride)

    @property
    def span(self) -> int:
        """Length of every read window, a multiple of the stride."""
        # Starts repeat their phase against the stride after at most `stride` cores, of which the
        # first ones reach beyond the raster; behind them nothing is longer.
        distinct = self.stride + self.before // self.side + 2
        inner = (
            self._needed(index * self.side, (index + 1) * self.side)
            for index in range(min(self.count, distinct))
        )
        return max(min(end, self.padded) - max(start, 0) for start, end in inner)

    def core(self, index: int) -> tuple[int, int]:
        """First pixel of core `index`, and the first behind it."""
        return index * self.side, min((index + 1) * self.side, self.length)

    def read(self, index: int) -> tuple[int, int]:
        """First pixel that core `index` reads, and the first behind, inside the raster."""
        return self.around(*self.core(index), self.span)

    def around(self, start: int, end: int, span: int = 0) -> tuple[int, int]:
        """What the pixels `start` to `end` need, widened to `span`, inside the raster."""
        low, high = self._needed(start, end)
        low = max(low, 0)
        low = min(low, max(self.padded - span, 0))
        return low, min(max(high, low + span), self.length)

    def _needed(self, start: int, end: int) -> tuple[int, int]:
        return (start - self.before) // self.stride * self.stride, _up(
            end + self.after, self.stride
        )


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
        """Height and width of what the network computes for a tile: one shape for all of them."""
        return self.rows.span, self.columns.span

    @property
    def extra_work(self) -> float:
        """Pixels that the network computes over pixels of the scene."""
        height, width = self.read_shape
        return len(self) * height * width / self.grid.pixels

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


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def _window(rows: tuple[int, int], columns: tuple[int, int]) -> Window:
    return Window(rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0])
