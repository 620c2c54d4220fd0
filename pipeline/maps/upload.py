"""How what a run made comes to lie in an object store: whole, looked at, and the map last of all.

Each function can be called again after it was killed, and sends what isn't there yet.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from segpipe.pipeline.errors import FingerprintMismatchError
from segpipe.pipeline.maps.label_store import STORE_MARKS
from segpipe.pipeline.objects import Held, Objects, exists
from segpipe.pipeline.scenes.location import Address

MARK = ".segpipe-upload"
"""The object in a store that says who is uploading it."""

_ROOT = (".zattrs", ".zgroup", ".zmetadata", "zarr.json")
"""The documents of a store's root, in the order in which they are written: the last ones tell."""

_METADATA = {*_ROOT, ".zarray"}
_AT_ONCE = 8


def require_room(address: Address, mark: bytes, *, replace: bool) -> None:
    """Passes if nothing but what may be replaced lies under an output's address.

    Args:
        address: of a file, or of a Zarr store.
        mark: what an earlier process of this run has left where it was sending a store.
        replace: whether an output that is there may be replaced.

    Raises:
        FingerprintMismatchError: there is something that mustn't be replaced, or another run is
            sending a store.
        StorageError: the store refuses to say so.
        UnreachableError: it doesn't answer.
    """
    if not address.name.endswith(".zarr"):
        if not replace and Objects(address.folder).look(address.name):
            raise exists(str(address))
        return
    objects = Objects(address)
    held = objects.held()
    if MARK not in held:
        _refuse(address, held, replace=replace)
    elif objects.read(MARK) != mark:
        raise _busy(objects)


def upload_file(path: Path, address: Address, *, replace: bool) -> None:
    """Sends a file, after the legend and the style that lie beside it.

    Side-cars that are there are replaced, but for a style, which somebody may have made.

    Args:
        path: the file.
        address: where it goes.
        replace: whether an object with other bytes may be replaced.

    Raises:
        FingerprintMismatchError: there is one that mustn't be.
        StorageError: the store refuses.
        UnreachableError: it doesn't answer; what is there already isn't sent again.
    """
    folder = Objects(address.folder)
    there = folder.look(address.name)
    if there and not replace and not folder.holds(path, address.name, there):
        raise exists(str(address))
    _side_cars(path, folder, replace=replace)
    folder.put(path, address.name, there, replace=replace)


def upload_store(path: Path, address: Address, mark: bytes, *, replace: bool) -> None:
    """Sends a Zarr store: its chunks, then its metadata, and what makes it a store last of all.

    A store that is there stops being one before its first chunk is replaced.

    Args:
        path: the store's folder.
        address: where it goes.
        mark: tells this run from others that send to the same address.
        replace: whether a store that is there may be replaced.

    Raises:
        FingerprintMismatchError: there is one that mustn't be, or another run is sending.
        StorageError: the store refuses, or what is there is no Zarr store.
        UnreachableError: it doesn't answer; what is there already isn't sent again.
    """
    objects = Objects(address)
    resumed = objects.read(MARK) == mark
    if not objects.create(MARK, mark):
        raise _busy(objects)
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    held = {key: found for key, found in objects.held().items() if key != MARK}
    wrong = _wrong(objects, files, held)
    if wrong and not resumed:
        try:
            _refuse(address, held, replace=replace)
        except FingerprintMismatchError:
            objects.remove([MARK])
            raise
    _side_cars(path, Objects(address.folder), replace=replace)
    if wrong:
        _replace(objects, files, held, wrong)
    objects.remove([MARK])


def _replace(
    objects: Objects, files: Mapping[str, Path], held: Mapping[str, Held], wrong: list[str]
) -> None:
    """Makes the objects be the files, so that no reader takes a part of them for the whole."""
    metadata = sorted(filter(_is_metadata, {*files, *held}), key=_rank)
    objects.remove(key for key in reversed(metadata) if key in held)

    def send(key: str) -> None:
        there = None if key in metadata else held.get(key)
        objects.put(files[key], key, there, replace=True)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(send, [key for key in wrong if key in files and key not in metadata]))
    objects.remove(sorted({*held} - {*files} - {*metadata}))
    for key in metadata:
        if key in files:
            send(key)


def _busy(objects: Objects) -> FingerprintMismatchError:
    return FingerprintMismatchError(
        f"another run is sending a map to {objects.address}, or was killed while it did; if there "
        f"is none any more, remove the object {objects.at(MARK)}"
    )


def _refuse(address: Address, held: Mapping[str, Held], *, replace: bool) -> None:
    """Passes if nothing is lost when what is at the address is replaced."""
    is_store = any(mark in held for mark in STORE_MARKS)
    if held and not is_store:
        raise FingerprintMismatchError(
            f"{address} holds {len(held)} objects and is no Zarr store; remove them, or name "
            "another output with -o"
        )
    if is_store and not replace:
        raise exists(str(address))


def _side_cars(path: Path, folder: Objects, *, replace: bool) -> None:
    legend, style = path.with_name(f"{path.name}.aux.xml"), path.with_suffix(".qml")
    for side_car in (legend, style):
        there = folder.look(side_car.name)
        if side_car.exists():
            if not there or replace or side_car == legend:
                folder.put(side_car, side_car.name, there, replace=True)
        elif there and side_car == legend:
            # A side-car of another file would tell lies.
            folder.remove([side_car.name])


def _wrong(objects: Objects, files: Mapping[str, Path], held: Mapping[str, Held]) -> list[str]:
    """The keys under which there isn't what there should be, sorted."""

    def differs(key: str) -> bool:
        return key not in files or not objects.holds(files[key], key, held.get(key))

    keys = sorted({*files, *held})
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [key for key, other in zip(keys, pool.map(differs, keys), strict=True) if other]


def _is_metadata(key: str) -> bool:
    return key.rpartition("/")[2] in _METADATA


def _rank(key: str) -> tuple[int, int, str]:
    """Where a document of metadata comes in the order of writing: those of the root at the end."""
    return (0, 0, key) if "/" in key else (1, _ROOT.index(key), key)
