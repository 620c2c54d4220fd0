"""The Zarr store of a map's labels, or of another layer: where chunks are written and read.

zarr encodes and decodes; `storage` writes. Every file of chunks is encoded in memory and put on the
disk whole, so a store never holds half a chunk.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import LocalStore, MemoryStore

from segpipe.pipeline import storage
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.maps import georeference, pam
from segpipe.pipeline.maps.layer import CLASSES, Bands, Layer
from segpipe.pipeline.maps.legend import Legend
from segpipe.pipeline.plan import CHUNK
from segpipe.pipeline.window import Window

ARRAY = CLASSES
"""Name of the array (y, x) of labels."""

STORE_MARKS = (".zgroup", ".zarray", "zarr.json")
"""One of these files makes a folder a Zarr store."""

ZarrFormat = Literal[2, 3]

_LARGEST_SHARD = 2048
_BANDS_AT_ONCE = 16
"""Bands in a chunk at most: it is 1 MB then, and one of them is read without thousands."""

_COMPRESSORS: dict[int, dict[str, Any]] = {
    2: {"id": "zstd", "level": 1},
    3: {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
}
_ROOT = {2: ".zmetadata", 3: "zarr.json"}
_METADATA = {2: ".zarray", 3: "zarr.json"}
_DOCUMENTS = {2: (".zgroup", ".zattrs", ".zarray"), 3: ("zarr.json",)}
_ROOT_DOCUMENTS = {2: (".zattrs", ".zmetadata"), 3: ("zarr.json",)}


@dataclass(frozen=True)
class LabelStore:
    """The labels in the store at `path`; a name that is opened where it is used, and pickles.

    Or another layer: `array` is its name. Where it has bands, its pixels are (band, row, column).
    """

    path: Path
    array: str = ARRAY

    def __reduce__(self) -> tuple[type["LabelStore"], tuple[Path, str]]:
        return LabelStore, (self.path, self.array)

    @property
    def complete(self) -> bool:
        """Whether `create` ended here: its metadata stand, whatever chunks there are."""
        return (self.path / _ROOT[2]).is_file() or (self.path / _ROOT[3]).is_file()

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self._array.shape[-2:]
        return height, width

    @property
    def unit(self) -> int:
        """Side in pixels of what one file holds: a chunk, or a shard where there are shards."""
        return (self._array.shards or self._array.chunks)[-1]

    @property
    def zarr_format(self) -> ZarrFormat:
        """2 or 3."""
        return 2 if self._array.metadata.zarr_format == 2 else 3

    def read(self, window: Window) -> NDArray[np.uint8]:
        """The labels of any window inside, (row, column); nodata where nothing was written."""
        return np.asarray(self._array[(..., *window.slices)], dtype=np.uint8)

    def write(self, window: Window, labels: NDArray[np.uint8]) -> None:
        """Puts `labels` (row, column) into the files that `window` owns, and onto the disk.

        Raises:
            ValueError: the window doesn't own its files whole, or the labels have another shape.
            StorageError: the disk refuses, or the store isn't there any more.
        """
        shape = (*self._array.shape[:-2], *window.shape)
        if labels.shape != shape or labels.dtype != np.uint8:
            raise ValueError(
                f"the window {window} takes {shape} uint8 labels, got {labels.shape} {labels.dtype}"
            )
        keys = list(self._keys(window))
        encoded = self._encoded(window, labels)
        _write_files(self.path, {key: encoded.get(key) for key in keys})

    def chunk_files(self, window: Window) -> tuple[Path, ...]:
        """The files that hold the pixels of `window` and no others; some may not be there.

        A file whose pixels are all nodata isn't written.

        Raises:
            ValueError: the window shares a file with pixels outside of it.
        """
        return tuple(self.path / key for key in self._keys(window))

    def window_of(self, name: str) -> Window | None:
        """The pixels that a file holds, by its name in the store; None for what holds none."""
        prefix = f"{self.array}/" if self.zarr_format == 2 else f"{self.array}/c/"
        places = name.removeprefix(prefix).split("/")[-2:]
        if not name.startswith(prefix) or not all(place.isdecimal() for place in places):
            return None
        row, column = map(int, places)
        unit, (height, width) = self.unit, self.shape
        top, left = row * unit, column * unit
        if top >= height or left >= width:
            return None
        return Window(top, left, min(unit, height - top), min(unit, width - left))

    def digest(self, window: Window) -> tuple[int, str]:
        """How many bytes the files of `window` hold, and the sha256 over which there are and them.

        Raises:
            ValueError: the window shares a file with pixels outside of it.
        """
        total, sha256 = 0, hashlib.sha256()
        for file in self.chunk_files(window):
            with storage.reported("read", file):
                data = file.read_bytes() if file.exists() else None
            sha256.update(b"absent;" if data is None else f"{len(data)};".encode())
            sha256.update(data or b"")
            total += len(data or b"")
        return total, sha256.hexdigest()

    def write_legend(self, legend: Legend, counts: pam.Counts) -> None:
        """Puts the legend with the pixels of each class where GDAL looks for it."""
        self._write_pam(pam.zarr_pam(legend, counts, self.array))

    def write_names(self, bands: Bands) -> None:
        """Puts the bands' names where GDAL looks for them."""
        self._write_pam(pam.zarr_names_pam(bands.names, self.array))

    def erase(self, window: Window) -> None:
        """Makes nodata of the files that `window` owns.

        Raises:
            ValueError: the window doesn't own its files whole.
            StorageError: the disk refuses.
        """
        _write_files(self.path, dict.fromkeys(self._keys(window)))

    def adopt(self, attributes: Mapping[str, Any]) -> None:
        """Takes the groups below into the store's root, which gets `attributes`.

        Called again, it changes nothing.
        """
        kind = self.zarr_format
        names = _DOCUMENTS[kind]
        files = sorted(file for name in names for file in self.path.rglob(name))
        with storage.reported("read", self.path):
            data = {file.relative_to(self.path).as_posix(): file.read_bytes() for file in files}
        held = {key: default_buffer_prototype().buffer.from_bytes(data[key]) for key in data}
        memory = MemoryStore(held)
        root = zarr.open_group(memory, mode="r+", zarr_format=kind, use_consolidated=False)
        root.update_attributes(dict(attributes))
        _consolidate(memory, kind)
        for key in _ROOT_DOCUMENTS[kind]:
            _write_files(self.path, {key: held[key]})

    def _write_pam(self, text: bytes) -> None:
        name = f"{_METADATA[self._array.metadata.zarr_format]}.aux.xml"
        storage.write(self.path / self.array / name, text)

    @cached_property
    # In quotes: zarr 3.0 has no Array[...] when the program runs.
    def _array(self) -> "zarr.Array[Any]":
        with storage.reported("open", self.path):
            return zarr.open_array(LocalStore(self.path, read_only=True), path=self.array, mode="r")

    def _keys(self, window: Window) -> Iterator[str]:
        # Built from integers: a name out of the store might lead anywhere.
        prefix = self.array if self._array.metadata.zarr_format == 2 else f"{self.array}/c"
        bands = [
            f"{number}/"
            for shape, size in zip(self._array.shape[:-2], self._array.chunks[:-2], strict=True)
            for number in range(-(-shape // size))
        ]
        unit, (height, width) = self.unit, self.shape
        rows = _units(window.top, window.bottom, unit, height)
        columns = _units(window.left, window.right, unit, width)
        if rows is None or columns is None:
            raise ValueError(
                f"{window} isn't a whole number of files of {unit} x {unit} pixels in {self.shape}"
            )
        for band in bands or [""]:
            for row in rows:
                for column in columns:
                    yield f"{prefix}/{band}{row}/{column}"

    def _encoded(self, window: Window, labels: NDArray[np.uint8]) -> Mapping[str, Buffer]:
        """The bytes of the files that `window` owns, by their place in the store."""
        key = f"{self.array}/{_METADATA[self._array.metadata.zarr_format]}"
        with storage.reported("write into", self.path):
            # Read again for every window: a worker that outlived its run finds nothing here.
            metadata = (self.path / key).read_bytes()
        held: dict[str, Buffer] = {key: default_buffer_prototype().buffer.from_bytes(metadata)}
        array = zarr.open_array(MemoryStore(held), path=self.array, mode="r+")
        array[(..., *window.slices)] = labels
        return held


def joint_digest(stores: Sequence[LabelStore], window: Window) -> tuple[int, str]:
    """How many bytes the files of `window` hold in all stores, and a hash over them."""
    sizes, hashes = zip(*(store.digest(window) for store in stores), strict=True)
    if len(hashes) == 1:
        return sizes[0], hashes[0]
    return sum(sizes), hashlib.sha256("".join(hashes).encode()).hexdigest()


def create(
    path: Path,
    grid: Grid,
    layer: Layer,
    *,
    side: int,
    attributes: Mapping[str, str],
    zarr_format: ZarrFormat = 2,
    suffix: str = "",
) -> LabelStore:
    """A complete store at `path` with nodata everywhere; called again, it changes no labels.

    Args:
        path: the store's folder.
        grid: where the map lies.
        layer: the map, or another layer.
        side: a tile's side in pixels, a multiple of `CHUNK`; in format 3 a tile is a whole number
            of shards.
        attributes: what the store says of its origin.
        zarr_format: 2 for every GDAL from 3.6 on, 3 for shards and GeoZarr.
        suffix: ends the dimensions' names where the store is a level of a pyramid.

    Raises:
        ValueError: `side` isn't a multiple of `CHUNK`.
        StorageError: the disk refuses.
    """
    if side < CHUNK or side % CHUNK:
        raise ValueError(f"a tile's side is a multiple of {CHUNK}, got {side}")
    held: dict[str, Buffer] = {}
    memory = MemoryStore(held)
    root = zarr.create_group(
        memory,
        zarr_format=zarr_format,
        # Sorted, as the tags of a GeoTIFF are: a map that was one is the same store again.
        attributes={
            "Conventions": "CF-1.11",
            "title": layer.title,
            **dict(sorted(attributes.items())),
        },
    )
    _add_layer(root, grid, layer, side, zarr_format, suffix)
    _add_georeference(root, grid, zarr_format, suffix)
    if layer.bands:
        _add_names(root, layer.bands, zarr_format)
    _consolidate(memory, zarr_format)
    # The root's metadata come last: where they stand, the store is complete.
    last = _ROOT[zarr_format]
    storage.make_folder(path)
    _write_files(path, {key: held[key] for key in sorted(held) if key != last})
    store = LabelStore(path, layer.name)
    if layer.legend:
        store.write_legend(layer.legend, {})
    if layer.bands:
        store.write_names(layer.bands)
    _write_files(path, {last: held[last]})
    return store


def shard_side(side: int) -> int:
    """The largest side of a shard that divides a tile of `side` pixels and isn't too large."""
    chunks = side // CHUNK
    most = _LARGEST_SHARD // CHUNK
    return CHUNK * max(count for count in range(1, most + 1) if chunks % count == 0)


def _consolidate(memory: MemoryStore, zarr_format: ZarrFormat) -> None:
    with warnings.catch_warnings():
        # Format 3 doesn't define consolidated metadata yet; stores that can't be listed need them.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(memory, zarr_format=zarr_format)


def _add_layer(
    root: zarr.Group, grid: Grid, layer: Layer, side: int, zarr_format: ZarrFormat, suffix: str
) -> None:
    attributes = {
        "long_name": layer.title,
        **_meaning(layer),
        **georeference.array_attributes(grid),
    }
    if zarr_format == 3:
        attributes |= {"_FillValue": layer.nodata, **georeference.geozarr_attributes(grid, suffix)}
    dimensions: tuple[str, ...] = georeference.dimensions(suffix)
    shape: tuple[int, ...] = grid.shape
    before: tuple[int, ...] = ()
    if layer.bands:
        dimensions, shape = (layer.bands.dimension, *dimensions), (layer.count, *shape)
        before = (min(layer.count, _BANDS_AT_ONCE),)
    _add_array(
        root,
        layer.name,
        dimensions,
        zarr_format,
        attributes,
        shape=shape,
        dtype="uint8",
        chunks=(*before, CHUNK, CHUNK),
        shards=(*before, *(shard_side(side),) * 2) if zarr_format == 3 else None,
        fill_value=layer.nodata,
    )


def _meaning(layer: Layer) -> dict[str, Any]:
    """What values mean, in the words of CF 1.11, sections 3.5 and 8.1."""
    meaning: dict[str, Any] = {}
    if layer.legend:
        meaning |= {
            "flag_values": list(layer.legend.values),
            "flag_meanings": " ".join(layer.legend.flag_meanings),
            "flag_colors": " ".join(entry.color for entry in layer.legend.entries),
        }
    if layer.scale:
        meaning |= {"units": "1", "scale_factor": layer.scale, "add_offset": 0.0}
    return meaning


def _add_names(root: zarr.Group, bands: Bands, zarr_format: ZarrFormat) -> None:
    names = np.array(bands.names)
    array = _add_array(
        root,
        bands.dimension,
        (bands.dimension,),
        zarr_format,
        {"long_name": bands.dimension},
        shape=names.shape,
        # GDAL reads such text in format 2; for format 3 there is one that many read.
        dtype=names.dtype if zarr_format == 2 else "string",
        chunks=names.shape,
        # A coordinate misses no value (CF 1.11, section 2.5.1); format 3 has no null.
        fill_value=None if zarr_format == 2 else "",
    )
    array[:] = names


def _add_georeference(root: zarr.Group, grid: Grid, zarr_format: ZarrFormat, suffix: str) -> None:
    fill = None if zarr_format == 2 else 0
    for name, coordinate in georeference.coordinates(grid, suffix).items():
        array = _add_array(
            root,
            name,
            (name,),
            zarr_format,
            coordinate.attributes,
            shape=coordinate.values.shape,
            dtype="float64",
            chunks=coordinate.values.shape,
            fill_value=fill,
        )
        array[:] = coordinate.values
    mapping = georeference.grid_mapping(grid)
    _add_array(
        root,
        georeference.GRID_MAPPING,
        (),
        zarr_format,
        mapping,
        shape=(),
        dtype="int32",
        chunks=(),
        fill_value=0,
    )


def _add_array(
    root: zarr.Group,
    name: str,
    dimensions: tuple[str, ...],
    zarr_format: ZarrFormat,
    attributes: Mapping[str, Any],
    **layout: Any,
) -> "zarr.Array[Any]":
    if zarr_format == 2:
        return root.create_array(
            name,
            attributes={"_ARRAY_DIMENSIONS": list(dimensions), **attributes},
            compressors=_COMPRESSORS[2],
            # A folder for each row of chunks: millions of files in one folder are slow to list.
            chunk_key_encoding={"name": "v2", "separator": "/"},
            **layout,
        )
    return root.create_array(
        name,
        dimension_names=dimensions,
        attributes=dict(attributes),
        compressors=_COMPRESSORS[3],
        **layout,
    )


def _write_files(root: Path, files: Mapping[str, Buffer | None]) -> None:
    """Puts files under `root`, which is there; where there is None, there is no file after."""
    storage.write_all(
        {root / key: None if data is None else data.to_bytes() for key, data in files.items()},
        within=root,
    )


def _units(start: int, end: int, unit: int, length: int) -> range | None:
    """The units that fill `start` to `end` of `length` pixels; None where they don't."""
    if start < 0 or end > length or start % unit or (end % unit and end != length):
        return None
    return range(start // unit, -(-end // unit))
