"""Which pixels the indices of a tensor read: carried through taps, sums and views.

A `Span` does it for one direction of the image. Its four arrays have the tensor's rank; a side of 1
stands for a dimension that makes no difference, such as channels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]
Marks = NDArray[np.uint64]

NOTHING = 1 << 30
"""Lowest index of what reads no pixel; its highest one is `-NOTHING`."""

SHIFT = np.uint64(0x9E3779B97F4A7C15)
"""Pixel j has the mark SHIFT ** j, modulo 2 ** 64."""


def mix(seed: int, *keys: Indices | int) -> Marks:
    """Odd pseudo-random numbers, one for each element of the broadcast keys.

    They are splitmix64's (Steele, Lea, Flood 2014).
    """
    state = np.asarray(seed, np.int64).astype(np.uint64)
    for key in (*keys, 0):
        with np.errstate(over="ignore"):
            state = (state ^ np.asarray(key, np.int64).astype(np.uint64)) + SHIFT
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray(state | np.uint64(1))


@dataclass(frozen=True, slots=True)
class Taps:
    """What every output index of an operation reads along one dimension: arrays (output, tap).

    `index` is an input index and counts where `used`. `edge`, (output,), is True where the taps
    aren't those of an inner index because the tensor ends there. `weight` tells taps apart.
    """

    index: Indices
    used: Flags
    edge: Flags
    weight: Marks

    @classmethod
    def padded(
        cls, index: Indices, length: int, weight: Marks, used: Flags | None = None
    ) -> "Taps":
        """Taps at `index` in a tensor of `length`; those beyond it read padding."""
        wanted = np.ones(index.shape, bool) if used is None else used
        inside = (index >= 0) & (index < length)
        return cls(
            index,
            wanted & inside,
            np.asarray((wanted & ~inside).any(axis=1)),
            np.broadcast_to(weight, index.shape),
        )

    @classmethod
    def clamped(cls, index: Indices, length: int, weight: Marks, used: Flags) -> "Taps":
        """Taps at `index` in a tensor of `length`; those beyond it read its last element."""
        taps = cls.padded(index, length, weight, used)
        return replace(taps, index=index.clip(0, length - 1), used=used)


@dataclass(frozen=True, slots=True)
class Span:
    """Rows (or columns) of an image of `length` rows that each index of a tensor reads.

    Attributes:
        length: rows of the image.
        low: the lowest row that is read.
        high: the highest row that is read.
        edge: True where the value depends on padding beyond a real edge.
        mark: a fingerprint of all taps: the sum over them of SHIFT ** row, each with a random
            weight. Indices that see one pattern of taps, s rows apart, have marks in the ratio
            SHIFT ** s. It is the network on random weights without activations, which could hide
            a tap.
    """

    length: int
    low: Indices
    high: Indices
    edge: Flags
    mark: Marks

    @classmethod
    def image(cls, length: int, dim: int, rank: int) -> "Span":
        """What an image reads of itself, with rows along dimension `dim` of `rank`."""
        shape = [1] * rank
        shape[dim] = length
        row = np.arange(length).reshape(shape)
        marks = np.full(length, SHIFT)
        marks[0] = 1
        return cls(
            length,
            row,
            row,
            np.zeros(shape, bool),
            np.multiply.accumulate(marks).reshape(shape),
        )

    @classmethod
    def nothing(cls, length: int, rank: int) -> "Span":
        """What a constant reads."""
        shape = (1,) * rank
        return cls(
            length,
            np.full(shape, NOTHING),
            np.full(shape, -NOTHING),
            np.zeros(shape, bool),
            np.zeros(shape, np.uint64),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Sides of the four arrays."""
        return self.low.shape

    @property
    def widest(self) -> int:
        """The largest number of rows from the lowest to the highest that an index reads."""
        return max(0, int((self.high - self.low).max()) + 1)

    def gather(self, dim: int, taps: Taps) -> "Span":
        """What the outputs of an operation with these `taps` along `dim` read."""
        if self.shape[dim] == 1:
            return self
        column = [-1 if at == dim else 1 for at in range(len(self.shape))]
        shape = list(self.shape)
        shape[dim] = len(taps.edge)
        low, high = np.full(shape, NOTHING), np.full(shape, -NOTHING)
        edge, mark = np.zeros(shape, bool), np.zeros(shape, np.uint64)
        edge |= taps.edge.reshape(column)
        index = np.where(taps.used, taps.index, 0)
        for tap in range(index.shape[1]):
            at, used = index[:, tap], taps.used[:, tap].reshape(column)
            np.minimum(low, self.low.take(at, dim), out=low, where=used)
            np.maximum(high, self.high.take(at, dim), out=high, where=used)
            edge |= self.edge.take(at, dim) & used
            mark += self.mark.take(at, dim) * (taps.weight[:, tap].reshape(column) * used)
        return Span(self.length, low, high, edge, mark)

    def reduce(self, dims: Sequence[int], seed: int) -> "Span":
        """What a function of all elements along `dims` reads; their side becomes 1."""
        dims = tuple(dim for dim in dims if self.shape[dim] > 1)
        if not dims:
            return self
        return Span(
            self.length,
            self.low.min(dims, keepdims=True),
            self.high.max(dims, keepdims=True),
            np.asarray(self.edge.any(dims, keepdims=True)),
            self.weigh(dims, seed).mark.sum(dims, dtype=np.uint64, keepdims=True),
        )

    def join(self, other: "Span", seed: int) -> "Span":
        """What a function of two tensors, broadcast to each other, reads."""
        return Span(
            self.length,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.edge | other.edge,
            self.mark * mix(seed, 1) + other.mark * mix(seed, 2),
        )

    def weigh(self, dims: Sequence[int], seed: int) -> "Span":
        """The same reads in a manner that differs from index to index along `dims`."""
        shape = [side if at in dims else 1 for at, side in enumerate(self.shape)]
        return replace(self, mark=self.mark * mix(seed, np.arange(prod(shape))).reshape(shape))

    def put(self, dim: int, part: slice, side: int, source: "Span") -> "Span":
        """What a tensor of `side` along `dim` reads after `source` was written to a part of it."""
        shape = list(np.broadcast_shapes(_without(self.shape, dim), _without(source.shape, dim)))
        shape[dim] = side

        def write(into: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
            result = np.broadcast_to(into, shape).copy()
            result[_at(dim, part)] = new
            return result

        pairs = zip(self._arrays(), source._arrays(), strict=True)
        return Span(self.length, *(write(into, new) for into, new in pairs))

    def cut(self, dim: int, part: slice) -> "Span":
        """What a slice along `dim` reads."""
        return self if self.shape[dim] == 1 else self._each(lambda array: array[_at(dim, part)])

    def beside(self) -> "Span":
        """What stands beside the image reads: nothing, and it counts as padding."""
        nothing = Span.nothing(self.length, len(self.shape))
        return replace(nothing, edge=~nothing.edge)

    def lift(self, rank: int) -> "Span":
        """The same with dimensions put before, up to `rank`."""
        return self._each(lambda array: array.reshape((1,) * (rank - array.ndim) + array.shape))

    def repeat(self, sides: Sequence[int]) -> "Span":
        """The same with sides of 1 written out as `sides`."""
        return self._each(lambda array: np.broadcast_to(array, sides))

    def permute(self, dims: Sequence[int]) -> "Span":
        """The same with its dimensions in another order."""
        return self._each(lambda array: array.transpose(dims))

    def drop(self, dims: Sequence[int]) -> "Span":
        """The same without `dims`, whose side is 1."""
        return self._each(lambda array: array.squeeze(tuple(dims)))

    def reshape(self, before: Sequence[int], after: Sequence[int]) -> "Span":
        """What a tensor of shape `before` reads when it is viewed as `after`."""
        full: list[int] = []
        shape: list[int] = []
        for old, new in _groups(before, after):
            sides = self.shape[old]
            matters = max(sides, default=1) > 1
            full += before[old] if matters else sides
            shape += after[new] if matters else [1] * len(after[new])
        return self._each(lambda array: np.broadcast_to(array, full).reshape(shape))._compact()

    def _compact(self) -> "Span":
        # A view may show that a dimension makes no difference after all.
        span = self
        for dim, side in enumerate(self.shape):
            arrays = span._arrays()
            if side > 1 and all((one == one.take([0], dim)).all() for one in arrays):
                span = span.cut(dim, slice(1))
        return span

    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return self.low, self.high, self.edge, self.mark

    def _each(self, view: Callable[[NDArray[Any]], NDArray[Any]]) -> "Span":
        return Span(self.length, *map(view, self._arrays()))


def _without(shape: Sequence[int], dim: int) -> tuple[int, ...]:
    return tuple(1 if at == dim else side for at, side in enumerate(shape))


def _at(dim: int, part: slice) -> tuple[slice, ...]:
    return (slice(None),) * dim + (part,)


def _groups(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Runs of dimensions of two shapes that hold the same elements."""
    old = new = 0
    while old < len(before) or new < len(after):
        first, second = old, new
        old, new = min(old + 1, len(before)), min(new + 1, len(after))
        while prod(before[first:old]) != prod(after[second:new]):
            if prod(before[first:old]) < prod(after[second:new]):
                old += 1
            else:
                new += 1
        yield slice(first, old), slice(second, new)
