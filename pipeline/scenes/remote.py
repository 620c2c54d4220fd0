"""Objects on the network, read in ranges through obstore: S3, Google, Azure and http(s).

Whoever names an address means that object and no other: nothing else is asked for, a server that
sends on to another host isn't followed, and an object that changes while it's read is an error.
"""

import functools
import hashlib
import io
import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import obstore
from obstore.exceptions import (
    BaseError,
    NotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from segpipe.pipeline.errors import (
    CorruptInputError,
    InputRefusedError,
    PipelineError,
    StorageError,
    UnreachableError,
)
from segpipe.pipeline.scenes.location import Address, Service
from segpipe.pipeline.scenes.object_store import NOBODY, RETRY, connect

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

PAGE = 1 << 17
"""What a small read fetches: the head of a COG lies within."""

_PAGES = 64
_GAP = 1 << 16
_AT_ONCE = 8
_PIECE = 1 << 23

_CREDENTIALS: dict[Service, str] = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), and for public data "
    "AWS_NO_SIGN_REQUEST=YES",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, and for public data GS_NO_SIGN_REQUEST=YES",
    "azure": "set AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_ACCESS_KEY or AZURE_STORAGE_SAS_TOKEN, "
    "and for public data AZURE_NO_SIGN_REQUEST=YES",
    "http": "the address may have to be signed anew",
}
# Whom a machine in a cloud asks for credentials; elsewhere nobody answers.
_NO_CREDENTIALS = ("169.254.169.254", "/latest/api/token", "/computeMetadata/", "source: Missing")
_TROUBLES = (
    ("dns error", "its host isn't known"),
    ("ConnectionRefused", "the connection is refused"),
    ("ConnectionReset", "the connection breaks off"),
    ("Body", "the transfer breaks off"),
    ("IncompleteMessage", "the connection breaks off"),
    ("ertificate", "its certificate can't be trusted"),
    ("InvalidContentType", "it doesn't speak TLS"),
    ("TimedOut", "no answer in time"),
    ("Timeout", "no answer in time"),
)

_Read = TypeVar("_Read")


class RemoteError(Exception):
    """What became of a request, in words for the user and without credentials.

    Attributes:
        reason: without the address.
        kind: `absent` for what isn't there, `lost` where trying again may help, `denied` where
            new credentials may.
    """

    def __init__(
        self,
        address: Address,
        reason: str,
        kind: Literal["absent", "lost", "denied", "wrong"] = "wrong",
    ) -> None:
        super().__init__(f"{address}: {reason}")
        self.reason = reason
        self.kind = kind

    @property
    def absent(self) -> bool:
        """Whether there is nothing at the address."""
        return self.kind == "absent"

    def refusal(self) -> InputRefusedError:
        """The error of a scene that can't be opened."""
        return InputRefusedError(str(self))

    def interruption(self) -> PipelineError:
        """The error of a scene that had been accepted."""
        if self.kind in ("lost", "denied"):
            return UnreachableError(f"{self}; what is mapped is kept")
        return CorruptInputError(f"{self}, after the run began")

    def not_written(self, name: str) -> PipelineError:
        """The error of the object of this name, which couldn't be written or read back."""
        if self.kind == "lost":
            return UnreachableError(f"{name}: {self.reason}; what is mapped is kept")
        if self.kind == "absent":
            return StorageError(
                f"{name}: there is no such bucket; make it, or name another with -o"
            )
        return StorageError(f"{name}: {self.reason}")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a store says of an object: bytes, ETag ("" for none), and when it was changed."""

    size: int
    etag: str
    modified: str

    @classmethod
    def of(cls, meta: "ObjectMeta") -> "Facts":
        """The facts in obstore's words."""
        return cls(meta["size"], meta["e_tag"] or "", meta["last_modified"].isoformat())

    def to_dict(self) -> dict[str, Any]:
        """The facts for an identity."""
        return {"bytes": self.size, "etag": self.etag, "modified": self.modified}


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """An object as it was found: names and numbers, so that any process reads it.

    A process that reads it takes the credentials from its own environment.
    """

    address: Address
    facts: Facts

    @classmethod
    def at(cls, address: Address) -> "RemoteObject":
        """The object at this address, found with one request, which brings its head along.

        Raises:
            RemoteError: there is none, or it can't be read.
        """
        head, facts = _get(address, 0, PAGE)
        found = cls(address, facts)
        _pages(found).keep(0, head)
        return found

    @property
    def head(self) -> bytes:
        """The first bytes, `PAGE` at most."""
        return self.read(0, PAGE)

    def read(self, start: int, length: int) -> bytes:
        """Bytes from `start` on, fewer at the end: small parts out of pages that are kept.

        Raises:
            RemoteError: they can't be read, or the object is another one by now.
        """
        end = min(start + length, self.facts.size)
        if start >= end:
            return b""
        if end - start > PAGE:
            return self.fetch(start, end - start)
        first = start // PAGE
        pages = b"".join(_pages(self).get(page) for page in range(first, (end - 1) // PAGE + 1))
        return pages[start - first * PAGE : end - first * PAGE]

    def fetch(self, start: int, length: int) -> bytes:
        """Just these bytes, with one request.

        Raises:
            RemoteError: as `read`.
        """
        data, facts = _get(self.address, start, length)
        if facts != self.facts or len(data) != length:
            raise RemoteError(self.address, "the object was replaced by another one")
        return data

    def identity(self, full: bool) -> dict[str, Any]:
        """Size, ETag, time of change and hashes of the first and last bytes; `full` as of a file.

        Raises:
            RemoteError: as `read`.
        """
        size = self.facts.size
        if full:
            digest = hashlib.sha256()
            for start in range(0, size, _PIECE):
                digest.update(self.fetch(start, min(_PIECE, size - start)))
            return {"bytes": size, "sha256": digest.hexdigest()}
        last = (size - 1) // PAGE * PAGE
        return {
            **self.facts.to_dict(),
            "head": hashlib.sha256(self.head).hexdigest(),
            "tail": hashlib.sha256(self.read(last, PAGE)).hexdigest(),
        }


class Troubles:
    """Why an object that GDAL reads couldn't be read: the first reason, from whichever handle."""

    def __init__(self) -> None:
        self.first: RemoteError | None = None

    def check(self) -> None:
        """Passes if all that was read is true.

        Raises:
            RemoteError: something couldn't be read.
        """
        if self.first is not None:
            raise self.first


class RangeFile(io.RawIOBase):
    """An object as the file that GDAL asks for: its directory out of pages, its blocks in ranges.

    GDAL can't be told why a read failed: `troubles` keeps the reason, and from then on zeros come,
    which whoever opened this file must not take for pixels.
    """

    def __init__(self, remote: RemoteObject, troubles: Troubles) -> None:
        self._remote = remote
        self._troubles = troubles
        self._place = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io.IOBase.seek`."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._remote.facts.size}
        self._place = start[whence] + offset
        return self._place

    def tell(self) -> int:
        """See `io.IOBase.tell`."""
        return self._place

    def read(self, size: int = -1) -> bytes:
        """See `io.RawIOBase.read`."""
        rest = max(0, self._remote.facts.size - self._place)
        length = rest if size < 0 else min(size, rest)
        data = self._reading(lambda: self._remote.read(self._place, length), bytes(length))
        self._place += length
        return data

    def get_byte_ranges(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """The bytes of many ranges; neighbours are fetched together, others side by side."""
        return self._reading(
            lambda: _scattered(self._remote, list(zip(offsets, sizes, strict=True))),
            [bytes(size) for size in sizes],
        )

    def _reading(self, read: Callable[[], _Read], otherwise: _Read) -> _Read:
        if self._troubles.first is None:
            try:
                return read()
            except RemoteError as error:
                self._troubles.first = error
        return otherwise


def store(address: Address) -> "ObjectStore":
    """The store whose object with the empty name is the one at `address`; "NAME" lies below it.

    Raises:
        RemoteError: the environment doesn't say enough about it.
    """
    with translated(address):
        return connect(address)


def read_whole(address: Address, most: int) -> bytes:
    """All bytes of the object at `address`.

    Raises:
        RemoteError: it can't be read, or has more than so many.
    """
    with translated(address):
        answer = obstore.get(store(address), "")
        if answer.meta["size"] > most:
            raise RemoteError(address, f"it has more than {most} bytes")
        return bytes(answer.bytes())


@contextmanager
def translated(address: Address) -> Iterator[None]:
    """What obstore raises in this block, in words for the user and without credentials.

    Raises:
        RemoteError: anything went wrong.
    """
    try:
        yield
    except (FileNotFoundError, NotFoundError):
        reason = "there is no such object (404); check the address"
        raise RemoteError(address, reason, "absent") from None
    except (PermissionDeniedError, UnauthenticatedError) as error:
        status = "401" if isinstance(error, UnauthenticatedError) else "403"
        reason = f"access is denied ({status}); {_CREDENTIALS[address.service]}"
        raise RemoteError(address, reason, "denied") from None
    except NotSupportedError:
        reason = "the server gives no parts of files; download it and name the copy"
        raise RemoteError(address, reason) from None
    except BaseError as error:
        # Without the cause: its text has the whole address, with all that signs it.
        raise _explained(address, str(error)) from None


def _explained(address: Address, text: str) -> RemoteError:
    if address.service != "http" and any(mark in text for mark in _NO_CREDENTIALS):
        reason = f"no credentials were found; {_CREDENTIALS[address.service]}"
        return RemoteError(address, reason)
    if "redirect without LOCATION" in text:
        return RemoteError(address, "the bucket lies in another region; set AWS_REGION")
    if "MissingContentLength" in text:
        reason = "the server doesn't say how long it is; download it and name the copy"
        return RemoteError(address, reason)
    tries = f"given up after {RETRY['max_retries']} retries"
    status = re.search(r"status code: (\d{3}[A-Za-z ]*)", text)
    if status is not None:
        found = status[1].strip()
        if found[0] == "5" or found[:3] in ("408", "429"):
            return RemoteError(address, f"the server answers {found}; {tries}", "lost")
        return RemoteError(address, f"the server answers {found}; check the address")
    if NOBODY in text:
        return RemoteError(address, "it leads to another host; name the address there itself")
    found = next((words for mark, words in _TROUBLES if mark in text), "the network fails")
    return RemoteError(address, f"{found}; {tries}", "lost")


def _get(address: Address, start: int, length: int) -> tuple[bytes, Facts]:
    with translated(address):
        answer = obstore.get(store(address), "", options={"range": (start, start + length)})
        data = bytes(answer.bytes())
        facts = Facts.of(answer.meta)
    return data, facts


def _scattered(remote: RemoteObject, ranges: list[tuple[int, int]]) -> list[bytes]:
    """The bytes of each range (start, length)."""
    spans: list[tuple[int, int]] = []
    for start, length in sorted(ranges):
        if spans and start <= spans[-1][1] + _GAP:
            spans[-1] = spans[-1][0], max(spans[-1][1], start + length)
        else:
            spans.append((start, start + length))
    with ThreadPoolExecutor(min(_AT_ONCE, len(spans)) or 1) as pool:
        parts = list(pool.map(lambda span: remote.fetch(span[0], span[1] - span[0]), spans))
    starts = [start for start, _ in spans]
    found = []
    for start, length in ranges:
        place = bisect_right(starts, start) - 1
        skipped = start - starts[place]
        found.append(parts[place][skipped : skipped + length])
    return found


class _Pages:
    """The last few pages of an object that were read; all threads of a process share them."""

    def __init__(self, remote: RemoteObject) -> None:
        self._remote = remote
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, page: int) -> bytes:
        """The page, fetched where it isn't kept."""
        with self._lock:
            if page not in self._kept:
                rest = self._remote.facts.size - page * PAGE
                self._kept[page] = self._remote.fetch(page * PAGE, min(PAGE, rest))
            self._kept.move_to_end(page)
            while len(self._kept) > _PAGES:
                self._kept.popitem(last=False)
            return self._kept[page]

    def keep(self, page: int, data: bytes) -> None:
        """Keeps a page that was read already."""
        with self._lock:
            self._kept[page] = data


@functools.lru_cache(maxsize=8)
def _pages(remote: RemoteObject) -> _Pages:
    return _Pages(remote)
