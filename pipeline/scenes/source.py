"""What a container of pixels says about itself, before anyone chooses bands."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.window import Window

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
"""What a band may hold."""

BLOCK_BYTES = 1 << 30
"""A block is decoded whole, so one that is larger than this would break every memory promise."""

_PIECE = 1 << 16
_PIECES = 32


class Source(Protocol):
    """Where pixels come from: names only, so that it travels to any process."""

    def read(
        self, window: Window, indexes: tuple[int, ...], dtype: str
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """The bands `indexes` (1-based) in `dtype`, (band, row, column), and what masks leave.

        The second array, (row, column), is False where a mask or an alpha band hides a pixel;
        values that stand for nodata are the caller's to find.

        Raises:
            CorruptInputError: these pixels can't be read.
        """
        ...

    def identity(self, full: bool) -> dict[str, Any]:
        """What tells these bytes from others, without their place; all bytes where `full`."""
        ...


@dataclass(frozen=True, slots=True)
class Band:
    """A band's name ("" where it has none), dtype and nodata as the file states it.

    A stored number x means the physical value `scale * x + offset`. `aliases` are other names that
    the band goes by.
    """

    name: str
    dtype: str
    nodata: float | None
    alpha: bool = False
    scale: float = 1.0
    offset: float = 0.0
    aliases: tuple[str, ...] = ()

    @property
    def marker(self) -> float | None:
        """The nodata that its dtype can hold; None where it has none, or never can be equal."""
        if self.nodata is None or not np.isfinite(self.nodata):
            return None
        dtype = np.dtype(self.dtype)
        if np.issubdtype(dtype, np.floating):
            with np.errstate(over="ignore"):
                value = float(dtype.type(self.nodata))
            return value if np.isfinite(value) else None
        limits = np.iinfo(dtype)
        inside = limits.min <= self.nodata <= limits.max and float(self.nodata).is_integer()
        return float(self.nodata) if inside else None


@dataclass(frozen=True, slots=True)
class Contents:
    """A container's grid, bands, height and width of a block, remarks, and how to read it."""

    grid: Grid
    bands: tuple[Band, ...]
    block_shape: tuple[int, int]
    warnings: tuple[str, ...]
    source: Source


def common_dtype(dtypes: Iterable[str]) -> str:
    """The smallest of `DTYPES` that holds all of them: float64 holds every 32-bit integer."""
    name = np.result_type(*map(np.dtype, dtypes)).name
    return name if name in DTYPES else "float64"


def check_block(path: str | Path, shape: tuple[int, ...], itemsize: int) -> None:
    """Nothing, for a block of this shape that fits in memory.

    Raises:
        InputRefusedError: it holds more than `BLOCK_BYTES`.
    """
    size = itemsize
    for side in shape:
        size *= side
    if size > BLOCK_BYTES:
        raise InputRefusedError(
            f"{path}: one block holds {' x '.join(map(str, shape))} values, {size / 2**30:.1f} GiB "
            f"at once, more than {BLOCK_BYTES >> 30} GiB; rewrite it tiled: "
            f"gdal_translate -co TILED=YES -co BIGTIFF=IF_SAFER"
        )


def file_identity(path: Path, full: bool) -> dict[str, Any]:
    """Size, modification time and hashes of a file's first bytes, last bytes and samples.

    The first and last bytes hold a TIFF's header and directory, as every usual writer places them.
    With `full`, the size and the hash of all bytes, which also hold for a copy.

    Raises:
        InputRefusedError: the file can't be read.
    """
    try:
        facts = path.stat()
        size = facts.st_size
        if full:
            return {"bytes": size, "sha256": _digest(path, [(0, size)])}
        last = max(size - _PIECE, 0)
        offsets = sorted({last * index // (_PIECES - 1) for index in range(1, _PIECES - 1)})
        return {
            "bytes": size,
            "mtime_ns": facts.st_mtime_ns,
            "directory": _digest(path, [(0, _PIECE), (last, _PIECE), *_directory(path)]),
            "samples": _digest(path, [(offset, _PIECE) for offset in offsets]),
        }
    except OSError as error:
        raise InputRefusedError(f"{path}: can't be read: {error.strerror}") from error


def _digest(path: Path, ranges: list[tuple[int, int]]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start, length in ranges:
            for piece in _pieces(start, length):
                file.seek(piece[0])
                digest.update(file.read(piece[1]))
    return digest.hexdigest()


def _pieces(start: int, length: int) -> Iterator[tuple[int, int]]:
    step = 1 << 20
    for offset in range(start, start + length, step):
        yield offset, min(step, start + length - offset)


def _directory(path: Path) -> list[tuple[int, int]]:
    """Where a TIFF's first directory lies; nothing for other formats."""
    with path.open("rb") as file:
        head = file.read(16)
    if head[:2] not in (b"II", b"MM"):
        return []
    byteorder: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    big = int.from_bytes(head[2:4], byteorder) == 43
    return [(int.from_bytes(head[8:16] if big else head[4:8], byteorder), _PIECE)]
