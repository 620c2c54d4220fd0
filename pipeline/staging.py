"""The hidden folder beside the output in which a run lives until it is published.

    .NAME.segpipe-RUN-FINGERPRINT/
        run.json            what the fingerprint was made of; written last when the folder is made
        lock                held by the one process that drives the run
        store.zarr/         the map, chunk by chunk
        LAYER.zarr/         likewise another layer, where it is asked for
        receipts/ROW/COLUMN.json
        scratch/            files on their way to the output's name
        claims/HASH         names outside of this folder that are this run's to write

The fingerprint in the folder's name keeps a late worker of another run away from this one.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from segpipe.pipeline import storage
from segpipe.pipeline.errors import FingerprintMismatchError
from segpipe.pipeline.fingerprint import Fields, differences, digest
from segpipe.pipeline.maps.layer import CLASSES
from segpipe.pipeline.maps.publish import put_back
from segpipe.pipeline.receipt import Receipt

_STAGED = ".segpipe-"
"""Stands between the output's name and the fingerprint in a staging folder's name."""

_REMOVED = ".removed-"
"""Stands there in the name of a folder that isn't needed any more."""


@dataclass(frozen=True, slots=True)
class Staging:
    """The places inside a staging folder; a name, no handle."""

    folder: Path

    @property
    def run(self) -> Path:
        """What the fingerprint was made of; there if and only if the folder is complete."""
        return self.folder / "run.json"

    @property
    def store(self) -> Path:
        """The map."""
        return self.folder / "store.zarr"

    def layer(self, name: str) -> Path:
        """The store of a layer: `store` for the map, its own for another."""
        return self.store if name == CLASSES else self.store.with_name(f"{name}.zarr")

    @property
    def scratch(self) -> Path:
        """Room for the files of publishing."""
        return self.folder / "scratch"

    def keep(self, receipt: Receipt) -> None:
        """Stores a receipt; the tile's chunks must be on the disk by then."""
        path = self._receipt(receipt.row, receipt.column)
        storage.make_folder(path.parent)
        storage.write(path, receipt.to_json())

    def receipt(self, row: int, column: int) -> Receipt | None:
        """The tile's receipt, or None where there is none that can be read."""
        try:
            receipt = Receipt.from_json(self._receipt(row, column).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return receipt if receipt.place == (row, column) else None

    def claim(self, path: Path) -> None:
        """Notes that the file under `path`, which isn't there or may be replaced, is this run's."""
        claim = self._claim(path)
        storage.make_folder(claim.parent)
        storage.write(claim, str(path).encode())

    def has_claimed(self, path: Path) -> bool:
        """Whether the file under `path` was claimed by an earlier process of this run."""
        return self._claim(path).exists()

    def _claim(self, path: Path) -> Path:
        return self.folder / "claims" / hashlib.sha256(str(path).encode()).hexdigest()[:16]

    def _receipt(self, row: int, column: int) -> Path:
        return self.folder / "receipts" / str(row) / f"{column}.json"


def staged_beside(output: Path) -> list[Path]:
    """The staging folders of all runs that were begun for this output."""
    return sorted(output.parent.glob(f".{_escaped(output.name)}{_STAGED}*"))


def begun(output: Path) -> Fields | None:
    """The fields of the run that was begun for this output, or None without exactly one."""
    folders = staged_beside(output)
    return _fields(folders[0]) if len(folders) == 1 else None


@contextlib.contextmanager
def staging(
    output: Path,
    fields: Fields,
    *,
    new_run: bool,
    create: Callable[[Path], None],
    run: str = "",
) -> Iterator[Staging]:
    """The run's staging folder, made or found again, locked while the block runs.

    Args:
        output: where the map will be published.
        fields: what decides the map's bytes.
        new_run: throw away what other runs for the same output left, and what this one left.
        create: makes the empty store under the path that it is given.
        run: what the run is called in its logs, for the folder's name.

    Raises:
        FingerprintMismatchError: another run for this output was begun with other fields, or
            is writing right now.
        StorageError: the folder can't be written.
    """
    name = "-".join(filter(None, [run, digest(fields)[:16]]))
    mine = Staging(output.with_name(f".{output.name}{_STAGED}{name}"))
    if new_run:
        for folder in staged_beside(output):
            with _locked(folder, output):
                _throw_away(folder)
    for folder in staged_beside(output):
        if folder != mine.folder:
            _refuse(folder, output, fields)
    storage.make_folder(mine.folder)
    with _locked(mine.folder, output):
        storage.sweep(mine.folder)
        if not mine.run.exists():
            # It was killed while it was made: whatever is there already is of this very run.
            create(mine.store)
            storage.write(mine.run, json.dumps(fields, indent=2, sort_keys=True).encode())
        yield mine


def discard(finished: Staging) -> None:
    """Removes a staging folder whose map is published."""
    _remove(finished.folder)


def sweep_discarded(output: Path) -> None:
    """Removes what is left of staging folders whose removal was killed."""
    for folder in output.parent.glob(f".{_escaped(output.name)}{_REMOVED}*"):
        # Whoever holds the lock is removing it at this moment.
        with contextlib.suppress(FingerprintMismatchError), _locked(folder, output):
            storage.remove(folder)


def _refuse(folder: Path, output: Path, fields: Fields) -> None:
    before = _fields(folder)
    if before is None:
        # Killed while it was made or removed: nothing of value is inside.
        with _locked(folder, output):
            _throw_away(folder)
        return
    changes = "; ".join(differences(before, fields))
    raise FingerprintMismatchError(
        f"an unfinished run for {output} was begun differently ({changes}); "
        f"type the command as it was to resume it, or add --new-run to start again"
    )


def _throw_away(folder: Path) -> None:
    """Removes a staging folder after what an overwrite had set aside there is back in its place."""
    put_back(folder)
    _remove(folder)


def _remove(folder: Path) -> None:
    """Removes a staging folder.

    It loses its name first, at once: a folder that was removed halfway is never taken for a run.
    """
    name, _, fingerprint = folder.name.rpartition(_STAGED)
    removed = folder.with_name(f"{name}{_REMOVED}{fingerprint}")
    storage.rename(folder, removed)
    storage.remove(removed)


def _fields(folder: Path) -> Fields | None:
    try:
        fields: Fields = json.loads(Staging(folder).run.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return fields


@contextlib.contextmanager
def _locked(folder: Path, output: Path) -> Iterator[None]:
    descriptor = storage.open_lock(folder / "lock")
    try:
        try:
            # The kernel drops the lock with the process, however it ends.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FingerprintMismatchError(
                f"another segpipe run is writing {output} at this moment; "
                "wait for it, or choose another output with -o"
            ) from None
        yield
    finally:
        os.close(descriptor)


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
