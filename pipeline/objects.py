"""Every change in an object store: an object is there whole or not at all, and is looked at after.

What isn't certain is asked again: a request whose answer was lost may have been done. So a change
is made until the store shows it, a few times at most.
"""

import contextlib
import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError

from segpipe.pipeline import storage
from segpipe.pipeline.errors import (
    FingerprintMismatchError,
    PipelineError,
    StorageError,
    UnreachableError,
)
from segpipe.pipeline.scenes.location import Address
from segpipe.pipeline.scenes.remote import RemoteError, store, translated

if TYPE_CHECKING:
    from obstore.store import ObjectStore

ONE_PUT = 64 << 20
"""Larger files go up in parts; smaller ones in one request, which can be made on a condition."""

_PART = 16 << 20
_MOST_PARTS = 9_000
_PARTS_AT_ONCE = 4
_PIECE = 8 << 20
_TRIES = 3
"""How often a change is made that the store doesn't show; each request has its own retries."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a store says of an object: bytes, and ETag without quotes ("" for none)."""

    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects below an address, by key; a name, which is opened where it's used."""

    address: Address

    def at(self, key: str) -> str:
        """The address of a key, for people."""
        return f"{str(self.address).rstrip('/')}/{key}"

    def held(self) -> dict[str, Held]:
        """All objects there are.

        Raises:
            StorageError: they can't be listed.
            UnreachableError: the store doesn't answer.
        """
        with self._reported(""):
            return {
                str(meta["path"]): Held(meta["size"], (meta["e_tag"] or "").strip('"'))
                for some in obstore.list(self._store)
                for meta in some
            }

    def look(self, key: str) -> Held | None:
        """What there is under a key; None for nothing.

        Raises:
            StorageError, UnreachableError: as `held`.
        """
        with self._reported(key):
            try:
                meta = obstore.head(self._store, key)
            except (FileNotFoundError, NotFoundError):
                return None
        return Held(meta["size"], (meta["e_tag"] or "").strip('"'))

    def holds(self, path: Path, key: str, held: Held | None) -> bool:
        """Whether the object under `key`, of which `held` is known, has the bytes of a file.

        They are read back where the store's ETag isn't made of them.

        Raises:
            StorageError, UnreachableError: as `held`.
        """
        with storage.reported("read", path):
            if held is None or held.size != path.stat().st_size:
                return False
            if held.etag == _etag(path):
                return True
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest == self._digest(key)

    def put(self, path: Path, key: str, held: Held | None, *, replace: bool) -> None:
        """Puts a file's bytes under `key`, and is done when the store shows them.

        Args:
            path: the file.
            key: where it goes.
            held: what is there, as far as it's known.
            replace: whether an object with other bytes may be replaced.

        Raises:
            FingerprintMismatchError: there is one that mustn't be.
            StorageError: the store refuses, or shows other bytes than it was given.
            UnreachableError: it doesn't answer.
        """
        problem: PipelineError = StorageError(
            f"{self.at(key)}: the store shows other bytes than it was given; "
            "type the same command again"
        )
        for _ in range(_TRIES):
            if self.holds(path, key, held):
                return
            if held is not None and not replace:
                raise exists(self.at(key))
            try:
                held = self._send(path, key, replace=replace)
            except PipelineError as error:
                # It may be there all the same: the answer was lost.
                problem, held = error, self.look(key)
        if not self.holds(path, key, held):
            raise problem

    def create(self, key: str, data: bytes) -> bool:
        """Whether the object under `key` has this content: made now, unless there is one already.

        Raises:
            StorageError, UnreachableError: as `put`.
        """
        storage.step("create", Path(self.at(key)))
        problem: PipelineError | None = None
        for _ in range(_TRIES):
            try:
                with (
                    self._reported(key),
                    contextlib.suppress(AlreadyExistsError, PreconditionError),
                ):
                    obstore.put(self._store, key, data, mode="create", use_multipart=False)
                    return True
            except UnreachableError as error:
                # A request on a condition isn't sent again: it may have made what it finds.
                problem = error
            if (there := self.read(key)) is not None:
                return there == data
        raise problem or StorageError(
            f"{self.at(key)}: the store says it's there and shows nothing"
        )

    def read(self, key: str) -> bytes | None:
        """An object's bytes; None where there is none.

        Raises:
            StorageError, UnreachableError: as `held`.
        """
        with self._reported(key):
            try:
                return bytes(obstore.get(self._store, key).bytes())
            except (FileNotFoundError, NotFoundError):
                return None

    def remove(self, keys: Iterable[str]) -> None:
        """Removes objects, in this order; nothing happens where there is none.

        Raises:
            StorageError, UnreachableError: as `put`.
        """
        for key in keys:
            storage.step("remove", Path(self.at(key)))
            self._remove(key)

    def _remove(self, key: str) -> None:
        problem: PipelineError | None = None
        for _ in range(_TRIES):
            try:
                with self._reported(key):
                    obstore.delete(self._store, key)
            except PipelineError as error:
                # S3 takes removals by POST, which isn't sent again by itself; other stores refuse
                # to remove what isn't there.
                problem = error
                if self.look(key) is None:
                    return
            else:
                return
        if problem:
            raise problem

    def _send(self, path: Path, key: str, *, replace: bool) -> Held | None:
        storage.step("upload", Path(self.at(key)))
        with storage.reported("read", path):
            size = path.stat().st_size
        alone = size <= ONE_PUT
        with self._reported(key):
            try:
                result = obstore.put(
                    self._store,
                    key,
                    path,
                    # No store takes a condition for parts that are put together.
                    mode="create" if alone and not replace else "overwrite",
                    use_multipart=not alone,
                    chunk_size=_part(size),
                    max_concurrency=_PARTS_AT_ONCE,
                )
            except (AlreadyExistsError, PreconditionError):
                return self.look(key)
        return Held(size, (result["e_tag"] or "").strip('"'))

    def _digest(self, key: str) -> str:
        digest = hashlib.sha256()
        with self._reported(key):
            for piece in obstore.get(self._store, key).stream(_PIECE):
                digest.update(piece)
        return digest.hexdigest()

    @property
    def _store(self) -> "ObjectStore":
        return store(self.address)

    @contextlib.contextmanager
    def _reported(self, key: str) -> Iterator[None]:
        try:
            with translated(self.address):
                yield
        except RemoteError as error:
            raise error.not_written(self.at(key)) from None


def exists(name: str) -> FingerprintMismatchError:
    """The error of an object that is there and mustn't be replaced."""
    return FingerprintMismatchError(
        f"{name} exists; name another output with -o, or replace it with --overwrite"
    )


def _part(size: int) -> int:
    """Bytes of a part: whole megabytes, and no more parts than a store takes."""
    return max(_PART, -(-size // _MOST_PARTS >> 20) + 1 << 20)


def _etag(path: Path) -> str:
    """The ETag that S3 and Google give an object with a file's bytes, sent as they are here."""
    size = path.stat().st_size
    md5 = functools.partial(hashlib.md5, usedforsecurity=False)
    with path.open("rb") as file:
        if size <= ONE_PUT:
            return hashlib.file_digest(file, md5).hexdigest()
        parts = [md5(piece).digest() for piece in iter(lambda: file.read(_part(size)), b"")]
    return f"{md5(b''.join(parts)).hexdigest()}-{len(parts)}"
