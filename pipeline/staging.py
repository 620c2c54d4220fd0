"""The hidden folder beside the output in which a run lives until it is published.

    .NAME.segpipe-RUN-FINGERPRINT/
        run.json            what the fingerprint was made of; written last when the folder is made
        lock                held by the one process that drives the run
        store.zarr/         the map, chunk by chunk
        LAYER.zarr/         likewise another layer, where it is asked for
        receipts/ROW/COLUMN.json
        failed/ROW/COLUMN.json  why a tile that was given up has no receipt
        sealed/             the stores of a map without the tiles that failed, when it is published
        driver.json         who drives the run, for those who look; so is
        pulse.json          how far it is
        scratch/            files on their way to the output's name
        seam.json           what was found where tiles meet
        claims/HASH         names outside of this folder that are this run's to write

The fingerprint in the folder's name keeps a late worker of another run away from this one.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from segpipe.pipeline import storage
from segpipe.pipeline.errors import FingerprintMismatchError, StorageError
from segpipe.pipeline.failure import Failure
from segpipe.pipeline.fingerprint import Fields, differences, digest
from segpipe.pipeline.maps.layer import CLASSES
from segpipe.pipeline.maps.publish import put_back
from segpipe.pipeline.receipt import Receipt

_STAGED = ".segpipe-"
"""Stands between the output's name and the fingerprint in a staging folder's name."""

_REMOVED = ".removed-"
"""Stands there in the name of a folder that isn't needed any more."""

_GATE = ".lock"
"""Follows the output's name in that of the file that is there while a run is begun."""

_NAME = re.compile(
    rf"\.(?P<output>.+)(?P<kind>{re.escape(_STAGED)}|{re.escape(_REMOVED)})"
    r"([0-9a-f]{8}-)?[0-9a-f]{16}"
)
"""What a staging folder is called, and what one that isn't needed any more."""


@dataclass(frozen=True, slots=True)
class Staging:
    """The places inside a staging folder; a name, no handle.

    Where it is sealed, its stores have other names: a worker that still has a tile that was given
    up finds nothing to write into.
    """

    folder: Path
    sealed: bool = False

    @property
    def run(self) -> Path:
        """What the fingerprint was made of; there if and only if the folder is complete."""
        return self.folder / "run.json"

    @property
    def store(self) -> Path:
        """The map."""
        return (self.seal_folder if self.sealed else self.folder) / "store.zarr"

    def layer(self, name: str) -> Path:
        """The store of a layer: `store` for the map, its own for another."""
        return self.store if name == CLASSES else self.store.with_name(f"{name}.zarr")

    @property
    def scratch(self) -> Path:
        """Room for the files of publishing."""
        return self.folder / "scratch"

    @property
    def driver(self) -> Path:
        """Who drives the run; no part of it."""
        return self.folder / "driver.json"

    @property
    def pulse(self) -> Path:
        """How far the run is; no part of it."""
        return self.folder / "pulse.json"

    @property
    def is_driven(self) -> bool:
        """Whether a process drives the run at this moment."""
        try:
            descriptor = os.open(self.folder / "lock", os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    @property
    def output(self) -> Path:
        """Where the map will be published."""
        return self.folder.with_name(_NAME.sub(r"\g<output>", self.folder.name))

    def count(self, kind: Literal["receipts", "failed"]) -> int:
        """How many tiles are noted there; no file is opened."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder / kind) as rows:
            return sum(_documents(row) for row in rows if row.is_dir(follow_symlinks=False))
        return 0

    def keep(self, receipt: Receipt) -> None:
        """Stores a receipt; the tile's chunks must be on the disk by then."""
        path = self._receipt(receipt.row, receipt.column)
        storage.make_folder(path.parent, within=self.folder)
        storage.write(path, receipt.to_json())

    def has_receipt(self, row: int, column: int) -> bool:
        """Whether there is a receipt of the tile, be it sound or not."""
        return self._receipt(row, column).exists()

    def receipt(self, row: int, column: int) -> Receipt | None:
        """The tile's receipt, or None where there is none that can be read."""
        try:
            receipt = Receipt.from_json(self._receipt(row, column).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return receipt if receipt.place == (row, column) else None

    def give_up(self, failure: Failure) -> None:
        """Notes why a tile has no labels."""
        path = self._failed(*failure.place)
        storage.make_folder(path.parent)
        storage.write(path, failure.to_json())

    def forgive(self, row: int, column: int) -> None:
        """Forgets that a tile failed."""
        path = self._failed(row, column)
        if path.exists():
            storage.remove(path)

    def failures(self) -> tuple[Failure, ...]:
        """What is noted of tiles that failed, row by row; they may be tried again."""
        found = []
        for path in (self.folder / "failed").glob("*/*.json"):
            with contextlib.suppress(ValueError):
                found.append(Failure.from_json(path.read_bytes()))
        return tuple(sorted(found, key=lambda failure: failure.place))

    def seal(self, layers: Iterable[str]) -> "Staging":
        """The same folder after its stores have got other names."""
        sealed = replace(self, sealed=True)
        _move_stores(self, sealed, layers)
        return sealed

    def unseal(self, layers: Iterable[str]) -> "Staging":
        """The same folder after its stores have their own names again."""
        unsealed = replace(self, sealed=False)
        _move_stores(self, unsealed, layers)
        storage.remove(self.seal_folder)
        return unsealed

    def claim(self, name: Path | str) -> None:
        """Notes that a file or an object, which isn't there or may be replaced, is this run's."""
        claim = self._claim(name)
        storage.make_folder(claim.parent)
        storage.write(claim, str(name).encode())

    def has_claimed(self, name: Path | str) -> bool:
        """Whether a file or an object was claimed by an earlier process of this run."""
        return self._claim(name).exists()

    def _claim(self, name: Path | str) -> Path:
        return self.folder / "claims" / hashlib.sha256(str(name).encode()).hexdigest()[:16]

    @property
    def seal_folder(self) -> Path:
        """Where the stores are while they are sealed."""
        return self.folder / "sealed"

    def _failed(self, row: int, column: int) -> Path:
        return self.folder / "failed" / str(row) / f"{column}.json"

    def _receipt(self, row: int, column: int) -> Path:
        return self.folder / "receipts" / str(row) / f"{column}.json"


def _move_stores(source: Staging, destination: Staging, layers: Iterable[str]) -> None:
    """Gives stores the names that they have in `destination`; called again, it goes on."""
    for name in layers:
        old, new = source.layer(name), destination.layer(name)
        if old.exists():
            storage.make_folder(new.parent)
            storage.remove(new)
            storage.rename(old, new)


def staged_beside(output: Path) -> list[Path]:
    """The staging folders of all runs that were begun for this output."""
    return [staged.folder for staged in staged_in(output.parent) if staged.output == output]


def staged_in(folder: Path) -> list[Staging]:
    """The staging folders in a folder; what only resembles one isn't among them."""
    return _called(_STAGED, folder)


def removed_in(folder: Path) -> list[Staging]:
    """The folders there whose removal was begun; they hold anything or nothing of a run."""
    return _called(_REMOVED, folder)


def _called(kind: str, folder: Path) -> list[Staging]:
    if not folder.is_dir():
        return []
    return [
        Staging(path)
        for path in sorted(folder.iterdir())
        if (name := _NAME.fullmatch(path.name)) and name["kind"] == kind
        if path.is_dir() and not path.is_symlink()
    ]


def throw_away(staged: Staging) -> None:
    """Removes a run's folder, or one whose removal was begun.

    What an overwrite had set aside there is put back in its place first.

    Raises:
        FingerprintMismatchError: a process drives the run.
        StorageError: the disk refuses.
    """
    with _alone(staged.output), _locked(staged.folder, staged.output):
        if staged in removed_in(staged.folder.parent):
            storage.remove(staged.folder)
        else:
            _throw_away(staged.folder)


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
        create: makes the empty store under the path that it is given, or refuses to.
        run: what the run is called in its logs, for the folder's name.

    Raises:
        FingerprintMismatchError: another run for this output was begun with other fields, or
            is writing right now; or `create` refuses.
        StorageError: the folder can't be written.
    """
    name = "-".join(filter(None, [run, digest(fields)[:16]]))
    mine = Staging(output.with_name(f".{output.name}{_STAGED}{name}"))
    storage.make_folder(output.parent)
    with contextlib.ExitStack() as held:
        with _alone(output):
            if new_run:
                for folder in staged_beside(output):
                    with _locked(folder, output):
                        _throw_away(folder)
            for folder in staged_beside(output):
                if folder != mine.folder:
                    _refuse(folder, output, fields)
            storage.make_folder(mine.folder)
            held.enter_context(_locked(mine.folder, output))
        storage.sweep(mine.folder)
        if not mine.run.exists():
            try:
                # It was killed while it was made: whatever is there already is of this very run.
                create(mine.store)
            except FingerprintMismatchError:
                discard(mine)
                raise
            storage.write(mine.run, json.dumps(fields, indent=2, sort_keys=True).encode())
        yield replace(mine, sealed=mine.seal_folder.exists())


def discard(finished: Staging) -> None:
    """Removes a staging folder whose map is published."""
    _remove(finished.folder)


def sweep_discarded(output: Path) -> None:
    """Removes what is left of staging folders whose removal was killed."""
    for staged in removed_in(output.parent):
        if staged.output == output:
            # Whoever holds the lock is removing it at this moment.
            with contextlib.suppress(FingerprintMismatchError), _locked(staged.folder, output):
                storage.remove(staged.folder)
    if _gate(output).exists():
        with contextlib.suppress(FingerprintMismatchError), _alone(output):
            pass  # it goes when it is left


def _documents(row: os.DirEntry[str]) -> int:
    """How many documents lie in a row's folder; those on their way there have hidden names."""
    with os.scandir(row) as columns:
        return sum(entry.name.endswith(".json") and entry.name[0] != "." for entry in columns)


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
    # It isn't a run any more, and the next one for this output sweeps what stays.
    with contextlib.suppress(StorageError):
        storage.remove(removed)


def _fields(folder: Path) -> Fields | None:
    try:
        fields: Fields = json.loads(Staging(folder).run.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return fields


@contextlib.contextmanager
def _alone(output: Path) -> Iterator[None]:
    """While the block runs, nobody else begins a run for this output.

    Two that begin different runs at the same moment would each find that there is no other.
    """
    gate = _gate(output)
    with _held(gate, output):
        try:
            yield
        finally:
            # The next run for this output takes it away.
            with contextlib.suppress(StorageError):
                storage.remove(gate)


def _gate(output: Path) -> Path:
    return output.with_name(f".{output.name}{_GATE}")


def _locked(folder: Path, output: Path) -> contextlib.AbstractContextManager[None]:
    return _held(folder / "lock", output)


@contextlib.contextmanager
def _held(lock: Path, output: Path) -> Iterator[None]:
    """Holds a lock while the block runs; the kernel drops it with the process, however it ends.

    Raises:
        FingerprintMismatchError: another process holds it, or has just removed what it guards.
        StorageError: the file can't be made or locked.
    """
    busy = FingerprintMismatchError(
        f"another segpipe run is writing {output} at this moment; "
        "wait for it, or choose another output with -o"
    )
    try:
        descriptor = storage.open_lock(lock)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError) and output.parent.exists():
            raise busy from None
        raise
    with os.fdopen(descriptor):
        with storage.reported("lock", lock.parent):
            taken = _taken(descriptor)
        if not taken or not _is_at(descriptor, lock):
            raise busy
        yield


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file has this name still."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _taken(descriptor: int) -> bool:
    """Whether the lock is ours now; whoever only looks holds it for less than all attempts."""
    for pause in (0.01, 0.03, 0.06, 0):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause)
        else:
            return True
    return False
