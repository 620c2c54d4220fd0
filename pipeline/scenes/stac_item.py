"""A STAC item as a scene: which of its files holds which band, and what their numbers mean.

An item is text that others wrote. What it says is checked by hand (STAC 1.0 with the extensions eo
and raster, STAC 1.1), and it leads to files beneath its own folder and to addresses, nowhere else.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeGuard
from urllib.parse import urljoin

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.scenes.location import Address, Place, is_remote, place_of
from segpipe.pipeline.scenes.product import sentinel_names, sentinel_scaling, usual_scaling
from segpipe.pipeline.scenes.remote import RemoteError, read_whole
from segpipe.pipeline.scenes.stack import BandFile, Scaling

LARGEST = 16 << 20
"""Bytes of an item that are read at most; the usual one has some ten thousand."""

_SUFFIXES = (".json", ".geojson")
_IMAGES = ("image/tiff", "image/vnd.stac.geotiff", "image/jp2", "application/vnd+zarr")
_IMAGE_SUFFIXES = (".tif", ".tiff", ".jp2", ".zarr")
_PICTURES = {"thumbnail", "overview", "metadata"}
_OFFSET_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_LONGEST_NAME = 200

# What a common name that a model asks for means, where an item has none of that name.
_WIDER = {"nir08": "nir"}

Table = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A band of an asset: its file, and every name with how well it tells this band from others.

    The fewer, the better: of a name that several bands have, the one with the lowest rank is meant.
    """

    file: BandFile
    ranks: Mapping[str, tuple[int, ...]]


def is_item(place: Place) -> bool:
    """Whether a place is a STAC item by its name: NAME.json, or an address of a STAC API."""
    if isinstance(place, Path):
        return place.name.lower().endswith(_SUFFIXES) and place.is_file()
    return place.name.lower().endswith(_SUFFIXES) or "/items/" in f"/{place.path}"


def item_bands(place: Place) -> tuple[BandFile, ...]:
    """The bands of an item's assets, named by asset; their other names are those of the bands.

    Raises:
        InputRefusedError: it can't be read, or is no STAC item, or none of its assets is a raster.
    """
    item = _item(place)
    assets = _table(place, "assets", item.get("assets"))
    entries = [
        entry
        for key, asset in assets.items()
        if _is_name(key)
        for entry in _entries(place, item, key, _table(place, f"assets.{key}", asset))
    ]
    if not entries:
        raise InputRefusedError(
            f"{place}: none of its {len(assets)} assets is a GeoTIFF, JPEG 2000 or Zarr; name an "
            "item of a scene"
        )
    return tuple(_distinct(entries))


def _item(place: Place) -> Table:
    try:
        data = json.loads(_read(place))
    except (ValueError, RecursionError) as error:
        raise InputRefusedError(f"{place}: isn't JSON, so no STAC item: {error!s:.100}") from error
    found = data if isinstance(data, dict) else {}
    version = found.get("stac_version")
    if found.get("type") != "Feature" or not str(version).startswith("1."):
        what = str(found.get("type", "nothing of this kind"))
        raise InputRefusedError(
            f"{place}: isn't a STAC item of version 1 (type {what!r:.40}, stac_version "
            f"{version!r:.20}); name one item's own file or address"
        )
    return found


def _read(place: Place) -> bytes:
    if isinstance(place, Address):
        try:
            return read_whole(place, LARGEST)
        except RemoteError as error:
            raise error.refusal() from None
    try:
        if place.stat().st_size > LARGEST:
            raise InputRefusedError(f"{place}: has more than {LARGEST} bytes; an item has fewer")
        return place.read_bytes()
    except OSError as error:
        raise InputRefusedError(f"{place}: can't be read: {error.strerror}") from error


def _entries(place: Place, item: Table, key: str, asset: Table) -> Iterator[_Entry]:
    """The bands of an asset; none where it isn't a raster of measurements."""
    href, roles = asset.get("href"), asset.get("roles")
    if not isinstance(href, str) or not href.isprintable() or not _is_raster(asset, href):
        return
    if isinstance(roles, list) and _PICTURES & set(map(str, roles)):
        return
    properties = _table(place, "properties", item.get("properties"))
    found, refusal = _located(place, key, href)
    bands = _band_tables(place, key, asset)
    coarse = (len(bands) > 1, href.lower().endswith(".jp2"))
    for index, band in enumerate(bands, start=1):
        names = [name for name in map(band.get, ("name", *_COMMON)) if _is_name(name)]
        wider = [_WIDER[name] for name in names if name in _WIDER]
        # Names as they stand go before wider ones, files of one band before pictures of several.
        ranks = dict.fromkeys(wider, (1, *coarse, 0))
        ranks |= {name: (0, *coarse, place) for place, name in reversed(list(enumerate(names)))}
        told = [_first(title, band, asset, properties) for title in ("scale", "offset", "nodata")]
        scale, offset, nodata = (_number(place, key, value) for value in told)
        file = BandFile(
            key if len(bands) == 1 else f"{key}:{names[0] if names else index}",
            found,
            index,
            nodata=nodata,
            scaling=_scaling(properties, scale, offset),
            usual=_usual(properties, (key, *names), href) if len(bands) == 1 else None,
            refusal=refusal,
        )
        yield _Entry(file, ranks)


_COMMON = ("eo:common_name", "common_name")


def _band_tables(place: Place, key: str, asset: Table) -> list[Table]:
    """What is said of each of an asset's bands: `bands` of STAC 1.1, or the two lists before it."""
    lists = []
    for title in ("raster:bands", "eo:bands", "bands"):
        listed = asset.get(title, [])
        if not isinstance(listed, list):
            raise InputRefusedError(
                f"{place}: {title} of asset {key} is a list, got {listed!r:.40}"
            )
        lists.append([_table(place, f"{title} of asset {key}", entry) for entry in listed])
    count = max(1, *map(len, lists))
    return [
        {name: value for told in lists if index < len(told) for name, value in told[index].items()}
        for index in range(count)
    ]


def _first(title: str, band: Table, asset: Table, properties: Table) -> object:
    """A fact as it's said nearest to the band: STAC 1.1 hands it down from asset and item."""
    names = ("nodata",) if title == "nodata" else (f"raster:{title}", title)
    for name in names:
        if band.get(name) is not None:
            return band[name]
    for table in (asset, properties):
        if table.get(names[0]) is not None:
            return table[names[0]]
    return None


def _scaling(properties: Table, scale: float | None, offset: float | None) -> Scaling | None:
    if scale is None and offset is None:
        return None
    # Some catalogues state the agency's offset, and say elsewhere that it's in the pixels already.
    applied = any(properties.get(name) is True for name in _OFFSET_APPLIED)
    return 1.0 if scale is None else scale, 0.0 if applied or offset is None else offset


def _usual(properties: Table, names: Sequence[str], href: str) -> Scaling | None:
    """The product's own scaling, where the item says which product it is."""
    known = {name.casefold() for band in names for name in (band, *sentinel_names(band))}
    if not known & _SENTINEL_NAMES:
        return usual_scaling(href)
    baseline = properties.get("s2:processing_baseline")
    if isinstance(baseline, str) and (found := sentinel_scaling(baseline)):
        return _scaling(properties, *found)
    return usual_scaling(href)


_SENTINEL_NAMES = {
    name.casefold()
    for band in (*(f"B{number:02}" for number in range(1, 13)), "B8A")
    for name in (band, *sentinel_names(band))
}


def _located(place: Place, key: str, href: str) -> tuple[Place | None, str]:
    """Where an asset lies; or None, and why it isn't opened."""
    if is_remote(href):
        try:
            return place_of(href), ""
        except InputRefusedError as error:
            return None, f"{place}: asset {key}: {error}"
    refusal = (
        f"{place}: asset {key} lies at {href!r:.100}, and an item may lead to files beneath its "
        "own folder, or to http(s), s3, gs and Azure; name files yourself with --bands NAME=FILE"
    )
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", href):
        return None, refusal
    if isinstance(place, Address):
        return beside(place, href), ""
    path = Path(os.path.normpath(place.parent / href))
    return (path, "") if path.is_relative_to(place.parent) else (None, refusal)


def beside(address: Address, href: str) -> Address:
    """What a relative reference means beside an address (RFC 3986), whatever its scheme.

    Raises:
        InputRefusedError: it names no object.
    """
    scheme, _, rest = address.url.partition("://")
    joined = urljoin(f"http://{rest}", href)
    return Address.of(f"{scheme}{joined.removeprefix('http')}")


def _distinct(entries: Sequence[_Entry]) -> Iterator[BandFile]:
    """The files; a name that several bands have stays with the one that it tells best."""
    best: dict[str, tuple[int, ...]] = {}
    for entry in entries:
        for name, rank in entry.ranks.items():
            best[name] = min(best.get(name, rank), rank)
    for entry in entries:
        aliases = tuple(name for name, rank in entry.ranks.items() if rank == best[name])
        yield replace(entry.file, aliases=aliases)


def _is_raster(asset: Table, href: str) -> bool:
    media = asset.get("type")
    if isinstance(media, str):
        return media.lower().startswith(_IMAGES)
    return href.partition("?")[0].lower().endswith(_IMAGE_SUFFIXES)


def _is_name(value: object) -> TypeGuard[str]:
    return (
        isinstance(value, str)
        and bool(value.strip())
        and value.isprintable()
        and len(value) <= _LONGEST_NAME
    )


def _table(place: Place, title: str, value: object) -> Table:
    if not isinstance(value, dict):
        raise InputRefusedError(f"{place}: {title} is a table in a STAC item, got {value!r:.40}")
    return value


def _number(place: Place, key: str, value: object) -> float | None:
    """A number, also where JSON has to write it as text; None for none that is finite."""
    if value is None or value in ("nan", "inf", "-inf"):
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InputRefusedError(
            f"{place}: scale, offset and nodata of asset {key} are numbers, got {value!r:.40}"
        )
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
