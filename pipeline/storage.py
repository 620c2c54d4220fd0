"""Every change on a disk, in small steps that survive a crash.

A step either happened or didn't; what a step wrote is on the disk when the next one begins. Tests
replace `step` to stop, kill or fail a run before any of them.
"""

import contextlib
import errno
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
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
    """Called before each change with its name and place; does nothing."""


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
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_PARTIAL}")
    with reported("write", path):
        step("write", partial)
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            step("replace", path)
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def make_folder(path: Path) -> None:
    """Makes a folder and the missing ones above it."""
    with reported("make the folder", path):
        step("make", path)
        path.mkdir(parents=True, exist_ok=True)
        _sync(path.parent)


def sync_folder(path: Path) -> None:
    """Makes sure that the names in a folder survive a loss of power."""
    with reported("write", path):
        step("sync", path)
        _sync(path)


def sync_file(path: Path) -> None:
    """Makes sure that a file that another library wrote survives a loss of power."""
    with reported("write", path):
        step("sync", path)
        _sync(path)


def rename(source: Path, destination: Path) -> None:
    """Moves a file or a folder to a name on the same file system, at once."""
    with reported("write", destination):
        step("rename", destination)
        source.rename(destination)
        _sync(destination.parent)
        _sync(source.parent)


def remove(path: Path) -> None:
    """Removes a file or a whole folder; nothing happens where there is none."""
    with reported("remove", path):
        step("remove", path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Removes what writers that were killed left half-written under a folder."""
    with reported("clean", folder):
        for partial in folder.rglob(f".*{_PARTIAL}"):
            partial.unlink(missing_ok=True)


def sweep_beside(path: Path) -> None:
    """Removes what writers of this one file that were killed left beside it."""
    with reported("clean", path.parent):
        for partial in path.parent.glob(f".{glob.escape(path.name)}.*{_PARTIAL}"):
            partial.unlink(missing_ok=True)


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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
