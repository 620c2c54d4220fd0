"""What of a run goes to an object store: where it is finished before, and how it is sent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from segpipe.pipeline import storage
from segpipe.pipeline.guarantees import require_object_store
from segpipe.pipeline.maps.upload import require_room, upload_file, upload_store
from segpipe.pipeline.outbox import Outbox
from segpipe.pipeline.scenes.location import Address, is_remote
from segpipe.pipeline.scenes.scene import Scene
from segpipe.pipeline.staging import Staging
from segpipe.workflows.errors import OptionError
from segpipe.workflows.results.addresses import outbox_of, output_address

Names = Mapping[str, "str | Path | None"]

_LAST = ("output", "stac")
"""Options whose files are sent after all others: the map, and the item that tells of all."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """The files of a run that go to an object store, by the names of their options.

    Attributes:
        names: what the options name; those that aren't addresses are files on a disk.
        outbox: where the files are finished; None where nothing is sent.
        addresses: where they go.
    """

    names: Names
    outbox: Outbox | None = None
    addresses: Mapping[str, Address] = field(default_factory=dict)

    @classmethod
    def of(cls, names: Names, staging: str | Path | None) -> Delivery:
        """The delivery of files with these names, of which `output` is the map.

        Raises:
            OptionError: an address can't be written to, or the map isn't at one and others are.
            InputRefusedError: an address names no object.
            StorageError: the staging folder isn't there.
        """
        addresses = {
            option: output_address(option, name)
            for option, name in names.items()
            if isinstance(name, str) and is_remote(name)
        }
        if "output" not in addresses:
            if addresses:
                option, address = next(iter(addresses.items()))
                raise OptionError(
                    f"--{option} {address} goes to an object store and the map to a disk; name "
                    "both in the store, or both on the disk"
                )
            if staging is not None:
                raise OptionError(
                    "--staging is for maps that go to an object store; a map on a disk is staged "
                    "beside its output"
                )
            return cls(names)
        return cls(names, outbox_of(addresses["output"], staging), addresses)

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[dict[str, str | Path | None], tuple[str, ...]]]:
        """The names on a disk, by option, while there are folders for them; and remarks.

        Raises:
            StorageError: a folder can't be made, or the store can't be written to.
            UnreachableError: the store doesn't answer.
        """
        if self.outbox is None:
            yield dict(self.names), ()
            return
        with self.outbox.opened(*self.addresses.values()):
            folders = dict.fromkeys(address.folder for address in self.addresses.values())
            remarks = [require_object_store(folder, self.outbox.owner) for folder in folders]
            places = {option: self.outbox.place(to) for option, to in self.addresses.items()}
            yield {**self.names, **places}, tuple(chain(*remarks))

    @property
    def published(self) -> Mapping[Path, Address]:
        """Where the files on the disk will lie."""
        if self.outbox is None:
            return {}
        return {self.outbox.place(address): address for address in self.addresses.values()}

    def refuse_scene(self, scene: Scene) -> None:
        """Passes if nothing is sent to where the scene lies.

        Raises:
            OptionError: it would be replaced.
        """
        for option, address in self.addresses.items():
            if str(address) in (scene.path, *scene.files):
                raise OptionError(f"--{option} {address} is the scene itself; choose another name")

    def clear(self, staged: Staging) -> None:
        """Removes what runs that were thrown away have finished.

        Raises:
            StorageError: the disk refuses.
        """
        for folder in {path.parent for path in self.published}:
            for path in folder.iterdir():
                if path != staged.folder:
                    storage.remove(path)

    def claim(self, staged: Staging | None, *, overwrite: bool) -> None:
        """Notes in the staging folder that these addresses are the run's.

        Args:
            staged: the run's folder; None where it isn't begun, and nothing is noted.
            overwrite: whether what is there may be replaced.

        Raises:
            FingerprintMismatchError: there is something that this run didn't write.
            StorageError, UnreachableError: the store can't be asked.
        """
        for address in self.addresses.values():
            if self.outbox is None or (staged and staged.has_claimed(str(address))):
                continue
            require_room(address, self.outbox.mark, replace=overwrite)
            if staged:
                staged.claim(str(address))

    def send(self, *, overwrite: bool) -> None:
        """Sends everything, the map and its item last; called again, it sends what is missing.

        Raises:
            FingerprintMismatchError: something came under one of the addresses since the run began.
            StorageError, UnreachableError: the store can't be written to.
        """
        if self.outbox is None:
            return
        first = [option for option in self.addresses if option not in _LAST]
        for option in (*first, *_LAST):
            if (address := self.addresses.get(option)) is None:
                continue
            path = self.outbox.place(address)
            if path.is_dir():
                upload_store(path, address, self.outbox.mark, replace=overwrite)
            else:
                # A page tells how long its run took: it is another one after a resume.
                upload_file(path, address, replace=overwrite or option == "report")
