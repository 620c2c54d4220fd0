"""A collection of the maps of many scenes: where and when all of them are, and what they share."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from segpipe.models.stac import STAC_VERSION
from segpipe.pipeline import storage
from segpipe.pipeline.errors import FingerprintMismatchError
from segpipe.workflows.reading.timespan import UNKNOWN
from segpipe.workflows.results.map_item import (
    CLASSIFICATION,
    GEOJSON,
    JSON,
    PROJECTION,
    RASTER,
    Membership,
    as_json,
    item_target,
    relative,
)

_WORLD = (-180.0, -90.0, 180.0, 90.0)

_OWN = {"href", "file:size", "file:checksum", "processing:expression", "processing:level"}
"""What an item's asset has for itself, and what belongs to extensions of items."""

_COUNTED = {"count", "percentage", "segpipe:area_m2"}
"""What a class has in one map."""

BBox = Sequence[float]


def collection_target(path: str | Path, *, overwrite: bool) -> Membership:
    """The collection that is written under `path`, which is named after its file or its folder.

    Raises:
        OptionError: it doesn't end in .json.
        StorageError: its folder isn't there, or can't be written to.
        FingerprintMismatchError: there is a file that isn't such a collection.
    """
    place = item_target(path)
    name = place.parent.name if place.stem == "collection" and place.parent.name else place.stem
    if place.exists() and not overwrite and not _is_ours(place, name):
        raise FingerprintMismatchError(
            f"{place} exists and is another file than this collection; choose another name with "
            "--stac, or replace it with --overwrite"
        )
    return Membership(name, place)


def write_collection(member: Membership, items: Sequence[Path]) -> None:
    """Puts the collection of these items under its name, whole or not at all.

    Raises:
        StorageError: an item can't be read, or the disk refuses.
    """
    read = []
    for path in items:
        with storage.reported("read", path):
            read.append(json.loads(path.read_bytes()))
    storage.sweep_beside(member.path)
    storage.write(member.path, as_json(collection(member, items, read)))


def collection(
    member: Membership, paths: Sequence[Path], items: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The collection of one or more items, STAC 1.1.0, the same for the same items."""
    folder = member.path.parent
    first, properties = items[0], [item["properties"] for item in items]
    codes = {facts["proj:code"] for facts in properties if facts["proj:code"]}
    models = sorted({facts["segpipe:model"] for facts in properties})
    by = ", ".join(models)
    return {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "stac_extensions": [CLASSIFICATION, PROJECTION, RASTER],
        "id": member.collection,
        "title": f"Classes by {by}",
        "description": f"Maps of {len(items)} scenes by {by}, made by segpipe",
        "license": "other",
        "extent": {
            "spatial": {"bbox": [list(union(item["bbox"] for item in items if "bbox" in item))]},
            "temporal": {"interval": [list(_interval(properties))]},
        },
        "summaries": {
            **({"proj:code": sorted(codes)} if codes else {}),
            "segpipe:model": models,
        },
        "item_assets": {name: _shared(asset) for name, asset in first["assets"].items()},
        "links": [
            {"rel": "root", "href": relative(member.path, folder), "type": JSON},
            *(
                {
                    "rel": "item",
                    "href": relative(path, folder),
                    "type": GEOJSON,
                    "title": item["id"],
                }
                for path, item in zip(paths, items, strict=True)
            ),
        ],
    }


def union(boxes: Iterable[BBox]) -> BBox:
    """The smallest west, south, east, north around all boxes; the world where there is none.

    Longitudes are on a circle: the widest gap between boxes is left out, and where that isn't the
    one at the antimeridian, west is greater than east (RFC 7946, section 5.2).
    """
    found = list(boxes)
    if not found:
        return _WORLD
    spans = sorted((west, east if west <= east else east + 360) for west, _, east, _ in found)
    # Once more around, so that the gap across the antimeridian is one like the others.
    reach, gaps = spans[0][1], []
    for west, east in [*spans[1:], (spans[0][0] + 360, spans[0][1] + 360)]:
        gaps.append((west - reach, reach, west))
        reach = max(reach, east)
    width, end, start = max(gaps)
    south, north = min(box[1] for box in found), max(box[3] for box in found)
    if width <= 0:
        return -180.0, south, 180.0, north
    return _wrapped(start, -180.0), south, _wrapped(end, 180.0), north


def _wrapped(longitude: float, edge: float) -> float:
    inside = (longitude + 180) % 360 - 180
    return edge if abs(inside) == 180 else round(inside, 9)


def _interval(properties: Iterable[dict[str, Any]]) -> tuple[str | None, str | None]:
    """From the first to the last time of all items; None on a side where one isn't known."""
    times = [
        (facts["datetime"] or facts["start_datetime"], facts["datetime"] or facts["end_datetime"])
        for facts in properties
    ]
    start = min((start for start, _ in times), key=datetime.fromisoformat)
    end = max((end for _, end in times), key=datetime.fromisoformat)
    return None if start == UNKNOWN[0] else start, None if end == UNKNOWN[1] else end


def _shared(asset: dict[str, Any]) -> dict[str, Any]:
    """What the asset of every item has."""
    found = {name: value for name, value in asset.items() if name not in _OWN}
    if classes := found.get("classification:classes"):
        found["classification:classes"] = [
            {name: value for name, value in entry.items() if name not in _COUNTED}
            for entry in classes
        ]
    return found


def _is_ours(place: Path, name: str) -> bool:
    try:
        found = json.loads(place.read_bytes())
        return bool(
            found["type"] == "Collection"
            and found["id"] == name
            and "segpipe:model" in found["summaries"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False
