"""A Zarr store, formats 2 and 3, in a folder or behind an address: what its documents say.

Documents are read and vetted here, and arrays are made of just these: zarr-python never looks for
documents itself, so that nothing which wasn't vetted is believed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import obstore
import zarr
from zarr.storage import LocalStore, ObjectStore, StorePath

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.scenes.location import Address, Place
from segpipe.pipeline.scenes.remote import Facts, RemoteError, store, translated
from segpipe.pipeline.scenes.source import file_identity

if TYPE_CHECKING:
    from zarr.abc.store import Store

METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")

# Codecs that only move and check bytes; `pickle` runs whatever the file says.
_CODECS = {
    *("blosc", "bz2", "bytes", "crc32", "crc32c", "adler32", "delta", "fixedscaleoffset"),
    *("gzip", "lz4", "lzma", "sharding_indexed", "shuffle", "transpose", "vlen-utf8", "zlib"),
    *("zstd", "fletcher32", "packbits", "vlen-bytes", "quantize", "bitround"),
}

Array = zarr.Array[Any]
Document = dict[str, Any]


class ZarrFiles(Protocol):
    """The keys and bytes of a store."""

    @property
    def place(self) -> Place:
        """Where it is."""
        ...

    def read(self, key: str) -> bytes | None:
        """The bytes under a key, or None where there are none."""
        ...

    def children(self) -> list[str]:
        """Names of folders that may be arrays, by name; none where there's no telling."""
        ...

    def identity(self, key: str) -> dict[str, Any] | None:
        """What tells the bytes under a key from others, or None where there are none."""
        ...

    def backend(self) -> "Store":
        """The store as zarr-python reads it."""
        ...


@dataclass(frozen=True, slots=True)
class Folder:
    """A store in a folder of this machine."""

    place: Path

    def read(self, key: str) -> bytes | None:
        """See `ZarrFiles`."""
        file = self.place / key
        return file.read_bytes() if file.is_file() else None

    def children(self) -> list[str]:
        """See `ZarrFiles`."""
        return sorted(child.name for child in self.place.iterdir() if child.is_dir())

    def identity(self, key: str) -> dict[str, Any] | None:
        """See `ZarrFiles`."""
        file = self.place / key
        return file_identity(file, full=False) if file.is_file() else None

    def backend(self) -> "Store":
        """See `ZarrFiles`."""
        return LocalStore(self.place, read_only=True)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A store behind an address."""

    place: Address

    def read(self, key: str) -> bytes | None:
        """See `ZarrFiles`."""
        try:
            with translated(self.place):
                return bytes(obstore.get(store(self.place), key).bytes())
        except RemoteError as error:
            if error.absent:
                return None
            raise

    def children(self) -> list[str]:
        """See `ZarrFiles`; a web server lists nothing."""
        if self.place.service == "http":
            return []
        with translated(self.place):
            found = obstore.list_with_delimiter(store(self.place))["common_prefixes"]
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    def identity(self, key: str) -> dict[str, Any] | None:
        """See `ZarrFiles`."""
        try:
            with translated(self.place):
                facts = obstore.head(store(self.place), key)
        except RemoteError as error:
            if error.absent:
                return None
            raise
        return Facts.of(facts).to_dict()

    def backend(self) -> "Store":
        """See `ZarrFiles`."""
        return ObjectStore(store(self.place), read_only=True)


@dataclass(frozen=True, slots=True)
class Members:
    """A group's attributes and its arrays by name, each with its document.

    A store that is one array names it "".
    """

    attributes: Mapping[str, Any]
    documents: Mapping[str, Document]
    arrays: Mapping[str, Array]

    def stamp(self, names: tuple[str, ...]) -> str:
        """The sha256 of what is said of these arrays and of all."""
        told = [self.attributes, *(self.documents[name] for name in names)]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def files_at(place: Place) -> ZarrFiles:
    """The store at this place, be there one or not."""
    return Bucket(place) if isinstance(place, Address) else Folder(place)


def is_zarr(path: Path) -> bool:
    """Whether this folder is a Zarr store, be it a scene or not."""
    return any((path / name).is_file() for name in METADATA)


def members(files: ZarrFiles) -> Members | None:
    """What the store's documents say; None where there is no store.

    Raises:
        InputRefusedError: it asks for a codec that isn't run here.
        RemoteError: it can't be read.
        ValueError, TypeError, KeyError, AttributeError: the documents make no sense.
    """
    root = _document(files, "zarr.json")
    attributes, documents = _version_3(files, root) if root is not None else _version_2(files)
    if attributes is None:
        return None
    backend = files.backend()
    arrays = {
        name: zarr.Array.from_dict(StorePath(backend, name), document)
        for name, document in documents.items()
    }
    return Members(attributes, documents, arrays)


Found = tuple[Document | None, dict[str, Document]]


def _version_3(files: ZarrFiles, root: Document) -> Found:
    if root["node_type"] == "array":
        return {}, {"": root}
    inline = root.get("consolidated_metadata")
    listed: dict[str, Document] = {}
    if isinstance(files, Bucket) and inline:
        listed = {name: node for name, node in inline["metadata"].items() if _is_plain(name)}
    else:
        found = {name: _document(files, f"{name}/zarr.json") for name in files.children()}
        listed = {name: node for name, node in found.items() if node is not None}
    arrays = {name: node for name, node in listed.items() if node["node_type"] == "array"}
    return root.get("attributes", {}), arrays


def _version_2(files: ZarrFiles) -> Found:
    whole = _document(files, ".zmetadata")
    if isinstance(files, Bucket) and whole is not None:
        nodes: dict[str, Document] = whole["metadata"]
        names = [key.removesuffix("/.zarray") for key in nodes if key.endswith("/.zarray")]
        arrays = {
            name: _joined(nodes[f"{name}/.zarray"], nodes.get(f"{name}/.zattrs"))
            for name in names
            if _is_plain(name)
        }
        return nodes.get(".zattrs", {}), arrays
    array = _document(files, ".zarray")
    if array is not None:
        return {}, {"": _joined(array, _document(files, ".zattrs"))}
    if whole is None and _document(files, ".zgroup") is None:
        return None, {}
    found = {name: _document(files, f"{name}/.zarray") for name in files.children()}
    return _document(files, ".zattrs") or {}, {
        name: _joined(node, _document(files, f"{name}/.zattrs"))
        for name, node in found.items()
        if node is not None
    }


def _joined(array: Document, attributes: Document | None) -> Document:
    return {**array, "zarr_format": 2, "attributes": attributes or {}}


def _is_plain(name: str) -> bool:
    """Whether this is an array of the group itself, and of no other."""
    return "/" not in name and name not in ("", ".", "..")


def _document(files: ZarrFiles, key: str) -> Document | None:
    """The document under a key, with harmless codecs only; None where there is none."""
    data = files.read(key)
    if data is None:
        return None
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError(f"{key} holds {type(found).__name__}, expected an object")
    for codec in _codecs(found) if not key.endswith(".zattrs") else ():
        if codec.removeprefix("numcodecs.") not in _CODECS:
            raise InputRefusedError(
                f"{files.place}: {key} asks for the codec {codec[:50]!r}, "
                f"which isn't run here; write the store with zstd, blosc or zlib"
            )
    return found


def _codecs(document: object) -> Iterator[str]:
    """Names of all codecs that a metadata document mentions, at any depth outside attributes."""
    todo = [document]
    while todo:
        node = todo.pop()
        if isinstance(node, list):
            todo.extend(node)
        elif isinstance(node, dict):
            for key in ("codecs", "index_codecs", "filters"):
                listed = node.get(key)
                yield from map(_codec_name, listed if isinstance(listed, list) else [])
            if isinstance(node.get("compressor"), dict):
                yield _codec_name(node["compressor"])
            todo.extend(
                value
                for key, value in node.items()
                if key != "attributes" and not key.endswith(".zattrs")
            )


def _codec_name(codec: object) -> str:
    if isinstance(codec, dict):
        return str(codec.get("id", codec.get("name")))
    return str(codec)
