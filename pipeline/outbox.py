"""The folder on a disk in which a run's files are finished before they go to an object store.

    .segpipe-outbox-NAME-HASH/
        id                      a random name, by which uploads from here know their own marks
        map                     the address of the map
        FOLDER/NAME             a file, or a Zarr store, with the side-cars beside it
        FOLDER/.NAME.segpipe-*  the staging folder of the run

HASH is that of the map's address, FOLDER that of the address under which the files will lie: what
the store holds side by side lies side by side here.
"""

import contextlib
import hashlib
import socket
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segpipe.pipeline import storage
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.scenes.location import Address
from segpipe.pipeline.staging import Staging, staged_beside

_PREFIX = ".segpipe-outbox-"


@dataclass(frozen=True, slots=True)
class Outbox:
    """Where the files of one run wait; a name, no handle.

    Attributes:
        home: the folder in which the outbox is; the workers of a run must see it.
        output: the address of the map.
    """

    home: Path
    output: Address

    @property
    def folder(self) -> Path:
        """The outbox itself."""
        return self.home / f"{_PREFIX}{self.output.name}-{_hashed(self.output)}"

    def place(self, address: Address) -> Path:
        """Where the file that goes to an address is finished."""
        return self.folder / _hashed(address.folder) / address.name

    @property
    def runs(self) -> list[Staging]:
        """The staging folders of all runs that were begun for the map."""
        return [Staging(folder) for folder in staged_beside(self.place(self.output))]

    @property
    def owner(self) -> str:
        """By what the runs of this outbox are told from those of others."""
        return f"{socket.gethostname()}:{self.folder}"

    @property
    def mark(self) -> bytes:
        """What an upload from here leaves in the store as long as it lasts."""
        return (self.folder / "id").read_bytes()

    @contextlib.contextmanager
    def opened(self, *addresses: Address) -> Iterator[None]:
        """Folders for the files that go to these addresses; those that stay empty go afterwards.

        Without a staging folder, what is in the outbox was sent by a process that was killed while
        it cleaned up, and is removed.

        Raises:
            StorageError: the disk refuses.
        """
        if self.folder.is_dir() and not self.runs:
            storage.remove(self.folder)
        try:
            for address in addresses:
                storage.make_folder(self.place(address).parent)
            storage.write(self.folder / "map", str(self.output).encode())
            if not (self.folder / "id").exists():
                storage.write(self.folder / "id", uuid.uuid4().hex.encode())
            yield
        finally:
            if self.folder.is_dir() and not self.runs:
                storage.remove(self.folder)


def outboxes(home: Path) -> Iterator[Outbox]:
    """The outboxes in a folder, by name; what only resembles one isn't among them."""
    for folder in sorted(home.glob(f"{_PREFIX}*")):
        with contextlib.suppress(OSError, ValueError, InputRefusedError):
            outbox = Outbox(home, Address.of((folder / "map").read_text(encoding="utf-8")))
            if outbox.folder == folder:
                yield outbox


def _hashed(address: Address) -> str:
    named = f"{address.service}://{address.host}/{address.path}"
    return hashlib.sha256(named.encode()).hexdigest()[:8]
