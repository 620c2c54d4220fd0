"""Scenes in Zarr folders, formats 2 and 3: one array (band, y, x) or (y, x)."""

import base64
import binascii
import functools
import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from segpipe.pipeline.errors import CorruptInputError, InputRefusedError
from segpipe.pipeline.grid import Affine, Grid
from segpipe.pipeline.source import Band, Contents, check_block, file_identity
from segpipe.pipeline.window import Window

_METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
_IDENTITY: Affine = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_SAMPLED = 64

# Codecs that only move and check bytes; `pickle` runs whatever the file says.
_CODECS = {
    *("blosc", "bz2", "bytes", "crc32", "crc32c", "adler32", "delta", "fixedscaleoffset"),
    *("gzip", "lz4", "lzma", "sharding_indexed", "shuffle", "transpose", "vlen-utf8", "zlib"),
    *("zstd", "fletcher32", "packbits", "vlen-bytes", "quantize", "bitround"),
}

# What zarr-python and its codecs raise for metadata and chunks that they dislike.
_FAILURES = (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError, IndexError)

Array = zarr.Array[Any]


def is_zarr(path: Path) -> bool:
    """Whether this folder is a Zarr store, be it a scene or not."""
    return any((path / name).is_file() for name in _METADATA)


def open_zarr(path: Path) -> Contents:
    """What the Zarr store at `path` holds.

    Raises:
        InputRefusedError: it isn't Zarr, or no scene can be told in it.
    """
    if not is_zarr(path):
        raise InputRefusedError(
            f"{path}: a folder that isn't Zarr (no zarr.json, .zgroup or .zarray in it); "
            f"name the raster file itself"
        )
    with _refusing(path):
        _vet_codecs(path)
        group, arrays = _members(path)
        name, array = _choose(path, arrays)
        dims = _dims(array)
        _check_layout(path, array, dims)
        attributes = {**group, **dict(array.attrs)}
        grid, remarks = _grid(path, array, dims, attributes, arrays)
        count = array.shape[0] if array.ndim == 3 else 1
        names = _band_names(array, dims, arrays, count)
        nodata = _nodata(array)
        return Contents(
            grid=grid,
            bands=tuple(Band(title, array.dtype.name, nodata) for title in names),
            block_shape=(array.chunks[-2], array.chunks[-1]),
            warnings=remarks,
            source=ZarrSource(str(path), name, _stamp(path / name)),
        )


def read_attributes(path: Path) -> dict[str, Any]:
    """What the Zarr store at `path` says of itself, by name.

    Raises:
        InputRefusedError: it can't be opened.
    """
    with _refusing(path):
        attributes, _ = _members(path)
        return dict(attributes)


@dataclass(frozen=True, slots=True)
class ZarrSource:
    """An array in a Zarr folder: the store's path, the array's name ("" for the root), a stamp."""

    path: str
    name: str
    stamp: str

    def read(
        self, window: Window, indexes: tuple[int, ...], dtype: str
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """See `Source.read`; Zarr has no masks."""
        rows, columns = window.slices
        try:
            array = _array(self)
            if array.ndim == 2:
                plane = np.asarray(array[rows, columns])
                pixels = np.repeat(plane[np.newaxis], len(indexes), axis=0)
            else:
                order, places = np.unique(np.array(indexes) - 1, return_inverse=True)
                stack = np.asarray(array.oindex[order, rows, columns])
                pixels = stack[places]
        except _FAILURES as error:
            raise CorruptInputError(
                f"{self.path}: rows {window.top} to {window.bottom}, columns {window.left} to "
                f"{window.right} can't be read ({_reason(error)}); "
                f"a chunk is damaged: get the store again, then run the same command"
            ) from error
        native = np.dtype(dtype)
        return pixels.astype(native, copy=False), np.ones(window.shape, dtype=np.bool_)

    def identity(self, full: bool) -> dict[str, Any]:
        """See `Source.identity`: the array's metadata, and chunks spread over it."""
        folder = Path(self.path) / self.name
        if full:
            return {"sha256": _tree(folder)}
        with _refusing(folder):
            chunks = [folder / key for key in _sampled_keys(_array(self))]
        return {
            "metadata": _stamp(folder),
            "chunks": [
                file_identity(chunk, full=False) if chunk.is_file() else None for chunk in chunks
            ],
        }


@functools.lru_cache(maxsize=8)
def _array(source: ZarrSource) -> Array:
    # Arrays of zarr-python may be shared between threads.
    path = Path(source.path)
    if _stamp(path / source.name) != source.stamp:
        raise OSError("its metadata were changed after the run began")
    _vet_codecs(path)
    return _members(path)[1][source.name]


def _members(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """A group's attributes and the arrays in it; a store that is one array names it ""."""
    # Consolidated metadata may name arrays that lie elsewhere.
    node = zarr.open(LocalStore(path, read_only=True), mode="r", use_consolidated=False)
    if isinstance(node, zarr.Array):
        return {}, {"": node}
    return dict(node.attrs), dict(node.arrays())


def _choose(path: Path, arrays: dict[str, Array]) -> tuple[str, Array]:
    images = {
        name: array
        for name, array in arrays.items()
        if array.ndim in (2, 3) and array.dtype.kind in "iufcb"
    }
    placed = {
        name: array
        for name, array in images.items()
        if {"grid_mapping", "_CRS", "proj:wkt2", "proj:code"} & set(array.attrs)
    }
    if len(images) != 1 and len(placed) == 1:
        images = placed
    if len(images) != 1:
        found = ", ".join(sorted(images)) or "none"
        raise InputRefusedError(
            f"{path}: a scene is one array (band, y, x) or (y, x), found {found} of "
            f"{len(arrays)} arrays; name the folder of the array itself"
        )
    return next(iter(images.items()))


def _check_layout(path: Path, array: Array, dims: tuple[str, ...]) -> None:
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise InputRefusedError(
            f"{path}: a scene is one array (band, y, x) or (y, x), found the shape {array.shape}"
        )
    if dims and (dims[-1] in ("band", "time") or dims[-2] in ("band", "time")):
        raise InputRefusedError(
            f"{path}: the dimensions are {', '.join(dims)}; a scene has (band, y, x): transpose it"
        )
    if array.ndim == 3 and dims and dims[0] == "time" and array.shape[0] > 1:
        raise InputRefusedError(
            f"{path}: holds {array.shape[0]} time steps; a scene is one: write one step out"
        )
    check_block(path, array.chunks, array.dtype.itemsize)


def _dims(array: Array) -> tuple[str, ...]:
    names = getattr(array.metadata, "dimension_names", None)
    names = names or array.attrs.get("_ARRAY_DIMENSIONS")
    if not isinstance(names, list | tuple) or len(names) != array.ndim:
        return ()
    return tuple(str(name) for name in names)


def _band_names(
    array: Array, dims: tuple[str, ...], arrays: dict[str, Array], count: int
) -> list[str]:
    titles: Any = array.attrs.get("long_name")
    if isinstance(titles, str):
        titles = [titles]
    coordinate = arrays.get(dims[0]) if array.ndim == 3 and dims else None
    if coordinate is not None and coordinate.shape == (count,) and coordinate.dtype.kind in "OUTS":
        titles = np.asarray(coordinate[:]).tolist()
    if not isinstance(titles, list | tuple) or len(titles) != count:
        return [""] * count
    return [title.decode() if isinstance(title, bytes) else str(title) for title in titles]


def _nodata(array: Array) -> float | None:
    """As xarray has it: `_FillValue`, or the fill value of format 2."""
    value: Any = array.attrs.get("_FillValue", array.attrs.get("nodata"))
    if value is None and array.metadata.zarr_format == 2:
        value = array.metadata.fill_value
    if isinstance(value, str) and value not in ("NaN", "Infinity", "-Infinity"):
        try:
            (value,) = struct.unpack("<d", base64.b64decode(value, validate=True))
        except (binascii.Error, struct.error):
            value = float(value)
    return None if value is None else float(value)


def _grid(
    path: Path,
    array: Array,
    dims: tuple[str, ...],
    attributes: Mapping[str, Any],
    arrays: dict[str, Array],
) -> tuple[Grid, tuple[str, ...]]:
    mapping = arrays.get(str(attributes.get("grid_mapping", "spatial_ref")))
    reference = {**(dict(mapping.attrs) if mapping is not None else {})}
    crs = _crs(attributes, reference)
    height, width = array.shape[-2:]
    transform = _transform(path, dims, {**attributes, **reference}, arrays, (height, width))
    remarks = []
    if crs is None:
        remarks.append(f"{path.name} has no crs: its map won't have one either")
    if transform is None:
        remarks.append(f"{path.name} has no transform: rows and columns stand for it")
    return Grid(height, width, transform or _IDENTITY, crs), tuple(remarks)


def _crs(attributes: Mapping[str, Any], reference: Mapping[str, Any]) -> str | None:
    own: Any = attributes.get("_CRS") or {}
    if not isinstance(own, dict):
        raise ValueError(f"_CRS is {type(own).__name__}, expected an object with wkt or projjson")
    wkt = (
        own.get("wkt")
        or reference.get("crs_wkt")
        or reference.get("spatial_ref")
        or attributes.get("proj:wkt2")
    )
    projjson = own.get("projjson") or attributes.get("proj:projjson")
    code = attributes.get("proj:code") or _code(own.get("url"))
    if wkt:
        crs = pyproj.CRS.from_wkt(wkt)
    elif projjson:
        crs = pyproj.CRS.from_json_dict(projjson)
    elif code:
        authority, _, number = str(code).partition(":")
        crs = pyproj.CRS.from_authority(authority, number)
    else:
        return None
    return str(crs.to_wkt("WKT2_2019"))


def _code(url: object) -> str | None:
    """EPSG:4326 from an address such as http://www.opengis.net/def/crs/EPSG/0/4326."""
    parts = url.split("/") if isinstance(url, str) else []
    return f"{parts[-3]}:{parts[-1]}" if len(parts) >= 3 else None


def _transform(
    path: Path,
    dims: tuple[str, ...],
    attributes: Mapping[str, Any],
    arrays: dict[str, Array],
    shape: tuple[int, int],
) -> Affine | None:
    """From GDAL's or the spatial convention's attribute, else from the coordinates."""
    text = attributes.get("GeoTransform")
    if text is not None:
        c, a, b, f, d, e = map(float, str(text).split())
        return a, b, c, d, e, f
    spatial = attributes.get("spatial:transform")
    if spatial is not None:
        a, b, c, d, e, f = map(float, spatial)
        return a, b, c, d, e, f
    names = dims[-2:] or ("y", "x")
    if not all(name in arrays for name in names):
        return None
    (f, e), (c, a) = (
        _axis(path, name, np.asarray(arrays[name][:], dtype=np.float64), length)
        for name, length in zip(names, shape, strict=True)
    )
    return a, 0.0, c, 0.0, e, f


def _axis(path: Path, name: str, centres: NDArray[np.float64], length: int) -> tuple[float, float]:
    """The edge of the first pixel and the step, from pixel centres."""
    if centres.shape != (length,) or length < 2:
        raise InputRefusedError(
            f"{path}: the coordinate {name} has the shape {centres.shape}, expected {length} "
            f"values, two or more; add a GeoTransform"
        )
    step = float(centres[-1] - centres[0]) / (length - 1)
    even = centres[0] + step * np.arange(length)
    if not np.all(np.abs(centres - even) <= 1e-3 * abs(step)):
        raise InputRefusedError(
            f"{path}: the coordinate {name} isn't evenly spaced; resample the scene to a grid first"
        )
    return float(centres[0]) - step / 2, step


def _vet_codecs(path: Path) -> None:
    """Refuses a store that asks for a codec which isn't known to be harmless."""
    folders = [path, *(child for child in path.iterdir() if child.is_dir())]
    files = [folder / name for folder in folders for name in _METADATA if name != ".zattrs"]
    for file in filter(Path.is_file, files):
        for codec in _codecs(json.loads(file.read_bytes())):
            if codec.removeprefix("numcodecs.") not in _CODECS:
                raise InputRefusedError(
                    f"{path}: {file.relative_to(path)} asks for the codec {codec[:50]!r}, "
                    f"which isn't run here; write the store with zstd, blosc or zlib"
                )


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


def _sampled_keys(array: Array) -> list[str]:
    """Keys of stored objects, spread evenly over the array."""
    side = array.shards or array.chunks
    counts = [-(-length // step) for length, step in zip(array.shape, side, strict=True)]
    total = math.prod(counts)
    picked = sorted({total * index // _SAMPLED for index in range(_SAMPLED)})
    return [
        array.metadata.encode_chunk_key(tuple(map(int, np.unravel_index(index, counts))))
        for index in picked
    ]


def _stamp(folder: Path) -> str:
    """The sha256 of an array's metadata and of its store's."""
    digest = hashlib.sha256()
    for file in (folder / name for name in _METADATA):
        if file.is_file():
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _tree(folder: Path) -> str:
    """The sha256 of every file below, with the names relative to `folder`."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            name = file.relative_to(folder).as_posix()
            digest.update(f"{name}\0{file_identity(file, full=True)['sha256']}\n".encode())
    return digest.hexdigest()


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except (*_FAILURES, pyproj.exceptions.ProjError) as error:
        raise InputRefusedError(
            f"{path}: can't be read as a Zarr scene ({_reason(error)})"
        ) from error


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "..."
