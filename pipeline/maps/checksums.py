"""How a published map proves that it is, byte for byte, as it was published.

A GeoTIFF holds the sha256 of itself in a tag, with zeros in the place of the hash while it is
computed, and a checksum for every row and every column of its blocks. A Zarr store holds a list of
the sha256 of its files, as `sha256sum --check` reads it from the store's folder. Side-cars for GDAL
have no part in either: GDAL itself adds statistics to them.
"""

import hashlib
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segpipe.pipeline import storage
from segpipe.pipeline.errors import StorageError
from segpipe.pipeline.window import Window

HASH = "SEGPIPE_SHA256"
"""The tag with the sha256 of the file that holds it."""

BLOCKS = "SEGPIPE_BLOCKS"
"""The tag with the checksums of rows and columns of blocks."""

BLANK = "0" * 64
"""Stands for the hash while it is computed."""

LIST = ".sha256"
"""The file in the array's folder that lists a store's files."""

_MARK = re.compile(rb'<Item name="SEGPIPE_SHA256">([0-9a-f]{64})</Item>')
_OVERLAP = 128
"""At least as many bytes as the mark is long, less one."""

_PIECE = 1 << 20
_LINE = re.compile(r"(?P<hash>[0-9a-f]{64})  (?P<name>.+)\n")


@dataclass(frozen=True, slots=True)
class Damage:
    """The first part of a map that isn't as it was published: which file, and what is wrong."""

    file: str
    fault: str


class BlockSums:
    """Checksums of each row and each column of a raster's blocks, in whichever order they come.

    Args:
        side: a block's side in pixels.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self._rows: dict[int, int] = {}
        self._columns: dict[int, int] = {}

    def add(self, window: Window, pixels: NDArray[np.uint8]) -> None:
        """Adds pixels (..., row, column) of a window that begins at a block's corner."""
        side = self.side
        for top in range(0, window.height, side):
            for left in range(0, window.width, side):
                block = np.ascontiguousarray(pixels[..., top : top + side, left : left + side])
                one = zlib.crc32(block.data)
                row, column = (window.top + top) // side, (window.left + left) // side
                # Whatever the order in which blocks come.
                self._rows[row] = self._rows.get(row, 0) ^ _placed(one, column)
                self._columns[column] = self._columns.get(column, 0) ^ _placed(one, row)

    def __str__(self) -> str:
        """The tag's text."""
        rows, columns = (
            "".join(f"{sums[index]:08x}" for index in sorted(sums))
            for sums in (self._rows, self._columns)
        )
        return f"{self.side};{rows};{columns}"


def differing(before: str, now: str) -> tuple[Window, int] | None:
    """The blocks, counted in blocks, that two texts of `BlockSums` tell apart, and a block's side.

    One block where it is known; else the first row of blocks in which one differs.
    """
    side, *old = before.split(";")
    _, *new = now.split(";")
    rows, columns = (
        [index for index, (a, b) in enumerate(zip_longest(_sums(one), _sums(other))) if a != b]
        for one, other in zip(old, new, strict=True)
    )
    if not rows:
        return None
    # In one row, whatever differs is in the columns that differ.
    if len(rows) == 1 and columns:
        return Window(rows[0], columns[0], 1, 1), int(side)
    return Window(rows[0], 0, 1, len(_sums(new[1]))), int(side)


def put_checksum(path: Path) -> None:
    """Puts the hash of a GeoTIFF into its tag, which holds `BLANK`.

    Raises:
        ValueError: there is no such tag.
        StorageError: the disk refuses.
    """
    found, sha256 = _hash(path)
    if found is None or found[1] != BLANK:
        raise ValueError(f"{path} has no place for its hash")
    storage.patch(path, found[0], sha256.encode())


def is_whole(path: Path) -> bool | None:
    """Whether the bytes of a GeoTIFF are those that its tag tells of; None without such a tag."""
    found, sha256 = _hash(path)
    return None if found is None else found[1] == sha256


def list_checksums(path: Path, array: str) -> None:
    """Lists the files of a finished store.

    Raises:
        StorageError: the disk refuses.
    """
    lines = (f"{_sha256(path / name)}  {name}\n".encode() for name in _files(path, array))
    storage.write_parts(path / array / LIST, lines)


def damage_of_store(path: Path, array: str) -> Damage | None:
    """The first file of a store that isn't as listed, by name; None where all are.

    Raises:
        StorageError: the list can't be read.
    """
    with storage.reported("read", path / array / LIST):
        text = (path / array / LIST).read_text(encoding="utf-8", errors="replace")
    names = set()
    for line in text.splitlines(keepends=True):
        entry = _LINE.fullmatch(line)
        if entry is None:
            return Damage(f"{array}/{LIST}", "isn't the list of files that it was")
        name = entry["name"]
        names.add(name)
        try:
            if _sha256(path / name) != entry["hash"]:
                return Damage(name, "has changed")
        except StorageError:
            return Damage(name, "is gone")
    added = next((name for name in _files(path, array) if name not in names), None)
    return Damage(added, "wasn't there") if added else None


def _files(path: Path, array: str) -> Iterator[str]:
    """The files of a store that are listed, in an order that follows from their names."""
    for folder, below, names in os.walk(path):
        below.sort()
        for name in sorted(names):
            file = (Path(folder) / name).relative_to(path).as_posix()
            if file != f"{array}/{LIST}" and not name.endswith((".aux.xml", ".part")):
                yield file


def _hash(path: Path) -> tuple[tuple[int, str] | None, str]:
    """Where a GeoTIFF's hash stands and what it says, and the sha256 with zeros in its place."""
    found: tuple[int, str] | None = None
    sha256, place, held = hashlib.sha256(), 0, b""
    for piece in chain(_pieces(path), (b"",)):
        held += piece
        if found is None and (mark := _MARK.search(held)):
            start, end = mark.span(1)
            found = place + start, mark[1].decode()
            held = held[:start] + BLANK.encode() + held[end:]
        # The mark may lie across two pieces.
        done = len(held) - (_OVERLAP if piece and found is None else 0)
        if done > 0:
            sha256.update(held[:done])
            place, held = place + done, held[done:]
    return found, sha256.hexdigest()


def _sha256(path: Path) -> str:
    sha256 = hashlib.sha256()
    for piece in _pieces(path):
        sha256.update(piece)
    return sha256.hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    with storage.reported("read", path), path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _placed(crc: int, place: int) -> int:
    """A checksum that also tells the block's place.

    No CRC: those of two blocks that change alike would cancel each other.
    """
    mixed = hashlib.blake2b(struct.pack(">QI", place, crc), digest_size=4)
    return int.from_bytes(mixed.digest(), "big")


def _sums(text: str) -> list[str]:
    return [text[start : start + 8] for start in range(0, len(text), 8)]
