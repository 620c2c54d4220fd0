"""Every change on a disk, in small steps that survive a crash.

A step either happened or didn't; what a function here wrote is on the disk when it returns. Tests
replace `step` to count the steps of a run, and to stop, kill or fail it before any of them.
"""

import contextlib
import errno
import fnmatch
import glob
import itertools
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from segpipe.pipeline.errors import StorageError

_PARTIAL = ".part"

_REMEDIES = {
    errno.ENOSPC: "free some space and type the same command again",
    errno.EDQUOT: "free some of your quota and type the same command again",
    errno.EFBIG: "raise the limit on file sizes and type the same command again",
    errno.EACCES: "choose a folder that you may write to, with -o",
    errno.EPERM: "choose a folder that you may write to, with -o",
    errno.EROFS: "choose a folder that can be written to, with -o",
    errno.ENOENT: "make the folder, or choose another with -o",
    errno.ENOTDIR: "choose a folder with -o",
}


def step(action: str, path: Path) -> None:
    """Called before each change with its kind and its place; does nothing.

    Kinds are `make` a folder, `write` a file, `sync` a file or the names in a folder, `replace` and
    `rename` (the place is the new name), and `remove`. What a library writes into a file is one
    step, however often it writes.
    """


@contextlib.contextmanager
def reported(action: str, path: Path) -> Iterator[None]:
    """Turns what the operating system says about `path` into a line for the user.

    Raises:
        StorageError: an `OSError` came out of the block.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = _REMEDIES.get(error.errno or 0, "check the disk and type the same command again")
        raise StorageError(f"can't {action} {path}: {reason}; {remedy}") from error


def write(path: Path, data: bytes) -> None:
    """Puts `data` under `path`, whole or not at all, whatever stood there before."""
    _put(path, data)
    sync(path.parent)


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Puts a file under `path`, whole or not at all, of which no more than a part is in memory."""
    _put_parts(path, parts)
    sync(path.parent)


def patch(path: Path, offset: int, data: bytes) -> None:
    """Replaces bytes in a file that is still on its way."""
    with reported("write", path):
        step("write", path)
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(data)
    sync(path)


def write_all(files: Mapping[Path, bytes | None], within: Path) -> None:
    """Puts each file under its name, whole or not at all; where there is None, none is after.

    Folders that are missing `within` a folder that is there are made. Each folder is synchronised
    once, however many files it gets.
    """
    for folder in sorted({path.parent for path, data in files.items() if data is not None}):
        make_folder(folder, within)
    for path, data in files.items():
        if data is not None:
            _put(path, data)
        elif path.exists():
            _unlink(path)
    for folder in sorted({path.parent for path in files}):
        if folder.is_dir():
            sync(folder)


def refresh(path: Path, data: bytes) -> None:
    """Puts `data` under `path`, whole or not at all, if that is possible.

    No step, and nothing is made sure of: for what may be lost.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_PARTIAL}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def append(path: Path, line: bytes) -> None:
    """Adds a line to a file that several processes may write to; no step, as no run reads it."""
    with reported("write", path), path.open("ab", buffering=0) as file:
        file.write(line)


def make_folder(path: Path, within: Path | None = None) -> None:
    """Makes a folder and the missing ones above it.

    `within` isn't made: whoever comes late to a folder that was removed finds nothing to write to.

    Raises:
        StorageError: `within` isn't there, or the disk refuses.
    """
    inside = itertools.takewhile(lambda folder: folder != within, (path, *path.parents))
    missing = [folder for folder in inside if not folder.is_dir()]
    for folder in reversed(missing):
        with reported("make the folder", folder):
            step("make", folder)
            folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Makes sure that a file's bytes, or the names in a folder, survive a loss of power."""
    with reported("write", path):
        step("sync", path)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_folders(path: Path) -> None:
    """Makes sure of the names in a folder and in all folders below it."""
    for folder, _, _ in os.walk(path):
        sync(Path(folder))


def rename(source: Path, destination: Path) -> None:
    """Moves a file or a folder to a name on the same file system, at once."""
    with reported("write", destination):
        step("rename", destination)
        source.rename(destination)
    sync(destination.parent)
    if source.parent != destination.parent:
        sync(source.parent)


def remove(path: Path) -> None:
    """Removes a file or a whole folder; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        with reported("remove", path):
            step("remove", path)
            shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        _unlink(path)
    else:
        return
    sync(path.parent)


def sweep(folder: Path) -> None:
    """Removes what writers that were killed left half-written under a folder.

    A folder that was made by a process that was killed before it could make sure of it is there
    after a loss of power too.
    """
    for inside, _, names in os.walk(folder):
        for name in fnmatch.filter(names, f".*{_PARTIAL}"):
            _unlink(Path(inside, name))
        sync(Path(inside))


def sweep_beside(path: Path) -> None:
    """Removes what writers of this one file that were killed left beside it."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*{_PARTIAL}"):
        _unlink(partial)


def open_lock(path: Path) -> int:
    """A descriptor of the file under `path`, which is made where it isn't there; for `flock`."""
    with reported("lock", path.parent):
        step("write", path)
        return os.open(path, os.O_CREAT | os.O_RDWR, 0o644)


def free_bytes(folder: Path) -> int:
    """How much may still be written on the folder's file system."""
    with reported("look at", folder):
        return shutil.disk_usage(folder).free


def require_free(folder: Path, size: float) -> None:
    """Passes if `size` more bytes fit on the folder's file system.

    Raises:
        StorageError: they don't.
    """
    with reported("write into", folder):
        if shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _put(path: Path, data: bytes) -> None:
    """Writes, but for the sync of the folder."""
    _put_parts(path, (data,))


def _put_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Writes, but for the sync of the folder."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_PARTIAL}")
    with reported("write", path):
        try:
            step("write", partial)
            with partial.open("xb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                step("sync", partial)
                os.fsync(file.fileno())
            step("replace", path)
            partial.replace(path)
        except OSError:
            # On a disk that fails this may fail too; a sweep comes back for it.
            with contextlib.suppress(StorageError):
                _unlink(partial)
            raise


def _unlink(path: Path) -> None:
    with reported("remove", path):
        step("remove", path)
        path.unlink(missing_ok=True)
