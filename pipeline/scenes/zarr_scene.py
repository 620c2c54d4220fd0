"""Scenes in Zarr stores, formats 2 and 3, in a folder or behind an address."""

import base64
import binascii
import functools
import hashlib
import itertools
import math
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyproj
from numpy.typing import NDArray
from obstore.exceptions import BaseError

from segpipe.pipeline.errors import CorruptInputError, DamagedError, InputRefusedError
from segpipe.pipeline.grid import Affine, Grid
from segpipe.pipeline.scenes.location import Address, Place
from segpipe.pipeline.scenes.remote import RemoteError, translated
from segpipe.pipeline.scenes.source import Band, Contents, check_block
from segpipe.pipeline.scenes.zarr_store import Array, Members, ZarrFiles, files_at, is_zarr, members
from segpipe.pipeline.scenes.zarr_variables import ANY, Choice, Plane, dimensions, planes
from segpipe.pipeline.window import Window

__all__ = ["ZarrSource", "is_zarr", "open_zarr", "read_attributes"]

_IDENTITY: Affine = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_SAMPLED = 64
_SAMPLED_REMOTE = 8

# What zarr-python and its codecs raise for metadata and chunks that they dislike.
_FAILURES = (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError, IndexError)


class _ChangedError(OSError):
    """The store isn't the one that was accepted."""


def open_zarr(place: Place, choice: Choice = ANY) -> Contents:
    """What the Zarr store at `place` holds, as one scene.

    Raises:
        InputRefusedError: it isn't Zarr, no scene can be told in it, or nothing of the choice is
            there.
        RemoteError: it can't be read.
    """
    with _refusing(place):
        found = _members(files_at(place))
        chosen = planes(place, found.arrays, choice)
        arrays = {plane.array: found.arrays[plane.array] for plane in chosen}
        for array in arrays.values():
            check_block(str(place), array.chunks, array.dtype.itemsize)
        first = found.arrays[chosen[0].array]
        grid, remarks = _grid(place, first, found)
        return Contents(
            grid=grid,
            bands=tuple(_band(plane.title, found.arrays[plane.array]) for plane in chosen),
            block_shape=(
                max(array.chunks[-2] for array in arrays.values()),
                max(array.chunks[-1] for array in arrays.values()),
            ),
            warnings=remarks,
            source=ZarrSource(place, chosen, found.stamp(tuple(arrays))),
        )


def read_attributes(place: Place) -> dict[str, Any]:
    """What the Zarr store at `place` says of itself, by name.

    Raises:
        InputRefusedError: it can't be opened.
        RemoteError: it can't be read.
    """
    with _refusing(place):
        return dict(_members(files_at(place)).attributes)


@dataclass(frozen=True, slots=True)
class ZarrSource:
    """Planes of arrays in a Zarr store, one a band, and what the store said when it was accepted.

    Attributes:
        place: the store's folder or address.
        planes: the bands.
        stamp: the sha256 of the documents.
    """

    place: Place
    planes: tuple[Plane, ...]
    stamp: str

    def read(
        self, window: Window, indexes: tuple[int, ...], dtype: str
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """See `Source.read`; Zarr has no masks."""
        pixels = np.empty((len(indexes), *window.shape), dtype)
        wanted = [self.planes[index - 1] for index in indexes]
        try:
            for name in dict.fromkeys(plane.array for plane in wanted):
                at = [place for place, plane in enumerate(wanted) if plane.array == name]
                pixels[at] = _stack(_arrays(self)[name], [wanted[place] for place in at], window)
        except (RemoteError, BaseError) as error:
            raise _interruption(self.place, error) from None
        except _FAILURES as error:
            raise (CorruptInputError if isinstance(error, _ChangedError) else DamagedError)(
                f"{self.place}: rows {window.top} to {window.bottom}, columns {window.left} to "
                f"{window.right} can't be read ({_reason(error)}); "
                f"a chunk is damaged: get the store again, then run the same command"
            ) from error
        return pixels, np.ones(window.shape, dtype=np.bool_)

    def identity(self, full: bool) -> dict[str, Any]:
        """See `Source.identity`: the arrays' documents, and chunks spread over the planes."""
        files = files_at(self.place)
        with _refusing(self.place):
            keys = _Keys(self)
            told = {
                "metadata": self.stamp,
                "planes": [[plane.array, *plane.index] for plane in self.planes],
            }
            try:
                if full:
                    return {**told, "sha256": _digest(files, map(keys.key, range(keys.count)))}
                most = _SAMPLED_REMOTE if isinstance(self.place, Address) else _SAMPLED
                count = min(most, keys.count)
                picked = [keys.key(keys.count * sample // count) for sample in range(count)]
                return {**told, "chunks": [files.identity(key) for key in picked]}
            except RemoteError as error:
                raise error.refusal() from None


def _stack(array: Array, wanted: list[Plane], window: Window) -> NDArray[np.generic]:
    """Planes of one array: (plane, row, column)."""
    rows, columns = window.slices
    leading = [sorted(set(places)) for places in zip(*(p.index for p in wanted), strict=True)]
    block = np.asarray(array.oindex[(*map(np.array, leading), rows, columns)])
    order = [
        tuple(axis.index(place) for axis, place in zip(leading, plane.index, strict=True))
        for plane in wanted
    ]
    return np.stack([block[place] for place in order])


@functools.lru_cache(maxsize=8)
def _arrays(source: ZarrSource) -> Mapping[str, Array]:
    # Arrays of zarr-python may be shared between threads.
    found = _members(files_at(source.place))
    if found.stamp(tuple(dict.fromkeys(plane.array for plane in source.planes))) != source.stamp:
        raise _ChangedError("its metadata were changed after the run began")
    return found.arrays


def _members(files: ZarrFiles) -> Members:
    found = members(files)
    if found is not None:
        return found
    if isinstance(files.place, Address):
        raise RemoteError(
            files.place, "no raster and no Zarr store is there (404); check the address", "absent"
        )
    raise InputRefusedError(
        f"{files.place}: a folder that isn't Zarr (no zarr.json, .zgroup or .zarray in it); "
        f"name the raster file itself"
    )


def _interruption(place: Place, error: RemoteError | BaseError) -> Exception:
    """The error of a store that had been accepted, in the words of `remote`."""
    if isinstance(error, RemoteError) or not isinstance(place, Address):
        return error.interruption() if isinstance(error, RemoteError) else error
    try:
        with translated(place):
            raise error
    except RemoteError as told:
        return told.interruption()


def _band(title: str, array: Array) -> Band:
    scale = array.attrs.get("scale_factor", 1.0)
    offset = array.attrs.get("add_offset", 0.0)
    return Band(
        title,
        array.dtype.name,
        _nodata(array),
        scale=float(str(scale)),
        offset=float(str(offset)),
    )


def _nodata(array: Array) -> float | None:
    """As xarray has it: `_FillValue`, or the fill value of format 2."""
    told = (array.attrs.get(name) for name in ("_FillValue", "missing_value", "nodata"))
    value: Any = next((value for value in told if value is not None), None)
    if value is None and array.metadata.zarr_format == 2:
        value = array.metadata.fill_value
    if isinstance(value, str) and value not in ("NaN", "Infinity", "-Infinity"):
        try:
            (value,) = struct.unpack("<d", base64.b64decode(value, validate=True))
        except (binascii.Error, struct.error):
            value = float(value)
    return None if value is None else float(value)


def _grid(place: Place, array: Array, found: Members) -> tuple[Grid, tuple[str, ...]]:
    attributes, arrays = {**found.attributes, **dict(array.attrs)}, found.arrays
    mapping = arrays.get(str(attributes.get("grid_mapping", "spatial_ref")))
    reference = {**(dict(mapping.attrs) if mapping is not None else {})}
    crs = _crs(attributes, reference)
    height, width = array.shape[-2:]
    transform = _transform(
        place, dimensions(array), {**attributes, **reference}, arrays, (height, width)
    )
    remarks = []
    if crs is None:
        remarks.append(f"{place.name} has no crs: its map won't have one either")
    if transform is None:
        remarks.append(f"{place.name} has no transform: rows and columns stand for it")
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
    place: Place,
    dims: tuple[str, ...],
    attributes: Mapping[str, Any],
    arrays: Mapping[str, Array],
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
        _axis(place, name, np.asarray(arrays[name][:], dtype=np.float64), length)
        for name, length in zip(names, shape, strict=True)
    )
    return a, 0.0, c, 0.0, e, f


def _axis(
    place: Place, name: str, centres: NDArray[np.float64], length: int
) -> tuple[float, float]:
    """The edge of the first pixel and the step, from pixel centres."""
    if centres.shape != (length,) or length < 2:
        raise InputRefusedError(
            f"{place}: the coordinate {name} has the shape {centres.shape}, expected {length} "
            f"values, two or more; add a GeoTransform"
        )
    step = float(centres[-1] - centres[0]) / (length - 1)
    even = centres[0] + step * np.arange(length)
    if not np.all(np.abs(centres - even) <= 1e-3 * abs(step)):
        raise InputRefusedError(
            f"{place}: the coordinate {name} isn't evenly spaced; resample the scene to a grid "
            "first"
        )
    return float(centres[0]) - step / 2, step


class _Keys:
    """Keys of all stored objects that hold a part of the planes, none made before it is asked for.

    An array may claim more chunks than any memory holds.
    """

    def __init__(self, source: ZarrSource) -> None:
        self._parts: list[tuple[str, Array, tuple[int, ...], tuple[int, int]]] = []
        for name in dict.fromkeys(plane.array for plane in source.planes):
            array = _arrays(source)[name]
            side = array.shards or array.chunks
            down, across = (
                -(-length // step) for length, step in zip(array.shape[-2:], side[-2:], strict=True)
            )
            leading = dict.fromkeys(
                tuple(place // step for place, step in zip(plane.index, side, strict=False))
                for plane in source.planes
                if plane.array == name
            )
            self._parts += [(name, array, first, (down, across)) for first in leading]
        self._ends = list(itertools.accumulate(math.prod(shape) for *_, shape in self._parts))

    @property
    def count(self) -> int:
        """How many there are."""
        return self._ends[-1]

    def key(self, index: int) -> str:
        """The key in this place of their order."""
        part = bisect_right(self._ends, index)
        name, array, first, (down, across) = self._parts[part]
        row, column = divmod(index - self._ends[part] + down * across, across)
        key = array.metadata.encode_chunk_key((*first, row, column))
        return f"{name}/{key}" if name else key


def _digest(files: ZarrFiles, keys: Iterable[str]) -> str:
    """The sha256 of the bytes under all keys."""
    digest = hashlib.sha256()
    for key in keys:
        data = files.read(key)
        told = "" if data is None else hashlib.sha256(data).hexdigest()
        digest.update(f"{key}\0{told}\n".encode())
    return digest.hexdigest()


@contextmanager
def _refusing(place: Place) -> Iterator[None]:
    try:
        yield
    except (*_FAILURES, pyproj.exceptions.ProjError) as error:
        raise InputRefusedError(
            f"{place}: can't be read as a Zarr scene ({_reason(error)})"
        ) from error


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "..."
