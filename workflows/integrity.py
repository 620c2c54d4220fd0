"""Whether the bytes of a map are those that were published, and those of a run what it stored."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segpipe.pipeline.driver import Driver
from segpipe.pipeline.errors import (
    CorruptInputError,
    InputRefusedError,
    StorageError,
    VerificationError,
)
from segpipe.pipeline.maps.checksums import (
    BLOCKS,
    HASH,
    LIST,
    BlockSums,
    damage_of_store,
    differing,
    is_whole,
)
from segpipe.pipeline.maps.label_store import LabelStore, joint_digest
from segpipe.pipeline.maps.layer import CLASSES, CONFIDENCE, PROBABILITIES
from segpipe.pipeline.scenes.location import Address, Place
from segpipe.pipeline.scenes.raster import read_tags
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.pipeline.staging import Staging, staged_beside
from segpipe.pipeline.window import Window

_ARRAYS = (CLASSES, PROBABILITIES, CONFIDENCE)


@dataclass(frozen=True, slots=True)
class Integrity:
    """What was checked, and the first damage.

    Attributes:
        output: the map.
        checked: `file`, `store`, or `tiles` of a run that isn't published; None where the map
            doesn't tell what it was, or lies elsewhere.
        tiles: how many stored tiles were checked.
        damage: where the first damage is, and what it is; None where there is none.
    """

    output: Place
    checked: str | None
    tiles: int | None = None
    damage: str | None = None

    @property
    def holds(self) -> bool:
        """Whether no damage was found."""
        return self.damage is None

    def to_dict(self) -> dict[str, Any]:
        """The result as `segpipe verify --json` prints it."""
        return {**asdict(self), "output": str(self.output), "holds": self.holds}

    def require(self) -> None:
        """Passes if something was checked and no damage was found.

        Raises:
            VerificationError: there is some.
            InputRefusedError: nothing could be checked.
        """
        if self.checked is None:
            raise InputRefusedError(
                f"{self.output}: doesn't tell what its bytes were: it lies in an object store, or "
                "another program wrote it; name its scene and its model, to compute it again"
            )
        if not self.holds:
            remedy = "map the scene again with --overwrite"
            if self.checked == "tiles":
                remedy = "type the run's command again, which makes such tiles anew"
            raise VerificationError(f"{self.output}: {self.damage}; {remedy}")


def check(output: Place) -> Integrity:
    """Compares all bytes of a map with what it says of itself, without scene and model.

    Of a run that isn't published, every stored tile is compared with its receipt.

    Raises:
        InputRefusedError: there is neither a map nor a run of this name.
    """
    if isinstance(output, Address):
        return Integrity(output, None)
    path = output.absolute()
    if path.is_dir():
        return _of_store(path)
    if path.exists():
        return _of_file(path)
    for folder in staged_beside(path):
        staged = Staging(folder)
        staged = replace(staged, sealed=staged.seal_folder.exists())
        if driver := Driver.of(staged):
            return _of_run(path, staged, driver)
    raise InputRefusedError(
        f"{path}: there is no such map, and no run for it was begun here; name what `segpipe run` "
        "has after -o"
    )


def _of_store(path: Path) -> Integrity:
    array = next((name for name in _ARRAYS if (path / name / LIST).is_file()), None)
    if array is None:
        return Integrity(path, None)
    damage = damage_of_store(path, array)
    if damage is None:
        return Integrity(path, "store")
    window = LabelStore(path, array).window_of(damage.file) if _readable(path, array) else None
    where = f"{_told(window)} are in {damage.file}, which" if window else damage.file
    return Integrity(path, "store", damage=f"{where} {damage.fault} since the map was published")


def _of_file(path: Path) -> Integrity:
    whole = is_whole(path)
    if whole is None:
        return Integrity(path, None) if not _had_checksum(path) else _damaged(path)
    return Integrity(path, "file") if whole else _damaged(path)


def _had_checksum(path: Path) -> bool:
    """Whether a file tells a hash of which too little is left to find it."""
    try:
        return HASH in read_tags(path) or BLOCKS in read_tags(path)
    except InputRefusedError:
        return True


def _damaged(path: Path) -> Integrity:
    """Where a file's damage is, as far as it can still be told."""
    return Integrity(path, "file", damage=f"{_where(path)} since the map was published")


def _where(path: Path) -> str:
    try:
        told, labels = read_tags(path).get(BLOCKS, ""), open_scene(path)
        side = int(told.partition(";")[0])
        if labels.dtype != "uint8":
            return "its head has changed"
        sums = BlockSums(side)
        for window in labels.grid.window.squares(side):
            try:
                pixels, _ = labels.read(window)
            except CorruptInputError:
                return f"{_told(window)} can't be read any more, they were changed"
            sums.add(window, np.asarray(pixels, np.uint8))
        found = differing(told, str(sums))
    except (InputRefusedError, ValueError):
        return "its head has changed"
    if found is None:
        return "bytes that hold no labels of full size (the head, or an overview) have changed"
    blocks, side = found
    rows, columns = labels.grid.shape
    top, left = blocks.top * side, blocks.left * side
    height = min(blocks.height * side, rows - top)
    return f"{_told(Window(top, left, height, min(blocks.width * side, columns - left)))} changed"


def _of_run(output: Path, staged: Staging, driver: Driver) -> Integrity:
    stores = [LabelStore(staged.layer(name), name) for name in driver.layers]
    tiles = 0
    for row, column in _places(staged):
        receipt, core = staged.receipt(row, column), driver.plan.tile(row, column).core
        tiles += 1
        try:
            stored = None if receipt is None else (receipt.stored, receipt.sha256)
            same = stored == joint_digest(stores, core)
        except StorageError:
            same = False
        if not same:
            fault = f"tile {row}.{column}, {_told(core)}, isn't what its receipt tells of"
            return Integrity(output, "tiles", tiles, fault)
    return Integrity(output, "tiles", tiles)


def _places(staged: Staging) -> list[tuple[int, int]]:
    """The tiles that have a receipt, row by row."""
    names = (staged.folder / "receipts").glob("[0-9]*/[0-9]*.json")
    return sorted((int(path.parent.name), int(path.stem)) for path in names)


def _readable(path: Path, array: str) -> bool:
    try:
        return bool(LabelStore(path, array).shape)
    except (StorageError, ValueError, KeyError):
        return False


def _told(window: Window) -> str:
    return (
        f"rows {window.top} to {window.bottom - 1} of columns {window.left} to {window.right - 1}"
    )
