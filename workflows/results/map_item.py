"""A map as a STAC item: where and when, what its values mean, which model made it, which files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pyproj import CRS

from segpipe.models.stac import STAC_VERSION, class_object
from segpipe.pipeline import storage
from segpipe.pipeline.area import row_areas
from segpipe.pipeline.errors import StorageError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.maps.layer import CLASSES, CONFIDENCE, PROBABILITIES, Layer, class_layer
from segpipe.pipeline.scenes.location import Address
from segpipe.pipeline.vectors.outline import outline
from segpipe.workflows.errors import OptionError
from segpipe.workflows.plan import Preparation
from segpipe.workflows.reading.timespan import Timespan, parsed, properties, told
from segpipe.workflows.results.report import Report
from segpipe.workflows.stages import provenance

_PLACE = "https://stac-extensions.github.io"
CLASSIFICATION = f"{_PLACE}/classification/v1.1.0/schema.json"
FILE = f"{_PLACE}/file/v2.1.0/schema.json"
PROCESSING = f"{_PLACE}/processing/v1.2.0/schema.json"
PROJECTION = f"{_PLACE}/projection/v2.0.0/schema.json"
RASTER = f"{_PLACE}/raster/v2.0.0/schema.json"
RENDER = f"{_PLACE}/render/v2.0.0/schema.json"
EXTENSIONS = (CLASSIFICATION, FILE, PROCESSING, PROJECTION, RASTER, RENDER)

GEOJSON, JSON = "application/geo+json", "application/json"

_TYPES = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".xml": "application/xml",
    ".qml": "application/xml",
    ".gpkg": "application/geopackage+sqlite3",
    ".fgb": "application/vnd.flatgeobuf",
    ".parquet": "application/vnd.apache.parquet",
    ".html": "text/html",
    ".htm": "text/html",
}

_TITLES = {
    CLASSES: "Map of classes",
    PROBABILITIES: "Probability of each class",
    CONFIDENCE: "Greatest probability, and its lead over the second one",
}

_ABOUT: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "legend": ("Legend and attribute table for GDAL, QGIS and GRASS", ("metadata",)),
    "style": ("Style for QGIS", ("metadata",)),
    "polygons": ("Connected areas of a class", ("data",)),
    "report": ("Page about the run", ("metadata",)),
}
"""Titles and roles of what is beside the map."""

_ITEMS = (".json", ".geojson")

Refer = Callable[[str | Path], str]
"""Gives the reference from an item to a file."""

_SHA256 = "1220"
"""What stands before 32 bytes of SHA-256 in a multihash."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Of which collection an item is one: the collection's identifier and its file."""

    collection: str
    path: Path


@dataclass(frozen=True, slots=True)
class ItemTarget:
    """An item that is to be written.

    Attributes:
        path: its file, absolute.
        taken: when the scene was, if the user says so.
        member: the collection that it is in, if any.
    """

    path: Path
    taken: Timespan | None = None
    member: Membership | None = None

    @classmethod
    def of(
        cls,
        path: str | Path | None,
        taken: str | None,
        member: Membership | None,
        ready: Preparation,
    ) -> ItemTarget | None:
        """The item under this name; None for None.

        Raises:
            OptionError: it doesn't end in .json, or is the scene, or the time is none.
            StorageError: its folder isn't there, or can't be written to.
        """
        if path is None:
            if taken is not None:
                raise OptionError("--datetime is what a STAC item says; name one with --stac")
            return None
        place = item_target(path)
        if any(place == Path(source).absolute() for source in _sources(ready)):
            raise OptionError(f"{place} is the scene itself; name another item with --stac")
        return cls(place, None if taken is None else parsed(taken), member)


def item_target(path: str | Path) -> Path:
    """Where an item is written, absolute.

    Raises:
        OptionError: it doesn't end in .json or .geojson.
        StorageError: its folder isn't there, or can't be written to.
    """
    place = Path(path).absolute()
    if place.suffix.lower() not in _ITEMS:
        raise OptionError(f"{place}: a STAC item is JSON; name a file that ends in .json")
    if place.is_dir() or not os.access(place.parent, os.W_OK | os.X_OK):
        what = "is a folder" if place.is_dir() else "isn't in a folder that can be written to"
        raise StorageError(f"the STAC item {place} {what}; name another file with --stac")
    return place


def write_item(
    target: ItemTarget, report: Report, ready: Preparation, beside: Mapping[str, Path]
) -> str:
    """Puts the item of a published map under its name, whole or not at all; see `item`.

    Returns:
        A remark for the user, or nothing.

    Raises:
        StorageError: the disk refuses, or a file that the item tells of can't be read.
    """
    taken = target.taken or told(_sources(ready))
    document = item(replace(target, taken=taken), report, ready, beside)
    storage.sweep_beside(target.path)
    storage.write(target.path, as_json(document))
    if taken is not None:
        return ""
    return f"{Path(ready.scene.path).name} doesn't say when it was taken; --datetime says it"


def as_json(document: Mapping[str, Any]) -> bytes:
    """A STAC document as it is written."""
    return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def item(
    target: ItemTarget, report: Report, ready: Preparation, beside: Mapping[str, Path]
) -> dict[str, Any]:
    """The item of a published map, STAC 1.1.0, the same for every run with the same files.

    Args:
        target: where it is written, which what it refers to is relative to; when the scene was
            taken; its collection.
        report: of the run.
        ready: what the run was prepared with.
        beside: files that were made of the map, by the names of their assets.
    """
    refer, member = partial(_reference, report, target.path), target.member
    place = outline(ready.plan.grid)
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": list(EXTENSIONS),
        "id": report.output.stem,
        "geometry": place.geometry if place else None,
        **({"bbox": list(place.bbox)} if place else {}),
        "properties": {
            "title": f"{Path(ready.scene.path).name}: classes by {report.model}",
            **properties(target.taken),
            **_projection(ready.plan.grid),
            "processing:level": "L4",
            "processing:lineage": _lineage(report, ready),
            "processing:software": {"segpipe": version("segpipe"), "torch": version("torch")},
            "renders": {"classes": _render(ready)},
            **{
                f"segpipe:{name.removeprefix('SEGPIPE_').lower()}": value
                for name, value in provenance(ready, report.engine, report.run).items()
            },
        },
        **({"collection": member.collection} if member else {}),
        "links": list(_links(refer, ready, member)),
        "assets": _assets(refer, report, ready, beside),
    }


def _projection(grid: Grid) -> dict[str, Any]:
    a, b, c, d, e, f = grid.transform
    x = [a * column + b * row + c for column in (0, grid.width) for row in (0, grid.height)]
    y = [d * column + e * row + f for column in (0, grid.width) for row in (0, grid.height)]
    authority = CRS.from_wkt(grid.crs).to_authority(min_confidence=100) if grid.crs else None
    return {
        "proj:code": ":".join(authority) if authority else None,
        "proj:wkt2": grid.crs,
        "proj:shape": [grid.height, grid.width],
        "proj:transform": list(grid.transform),
        "proj:bbox": [min(x), min(y), max(x), max(y)],
    }


def _lineage(report: Report, ready: Preparation) -> str:
    footprint = ready.model.footprint
    how = "exact tiles" if footprint.exact else f"blended tiles ({'; '.join(footprint.reasons)})"
    return (
        f"Class of every pixel of {Path(ready.scene.path).name} "
        f"(bands {', '.join(ready.scene.band_names)}) by {report.model} "
        f"(sha256 {ready.model.digest}), in {how}"
    )


def _render(ready: Preparation) -> dict[str, Any]:
    legend = ready.legend
    return {
        "title": "Classes",
        "assets": ["map"],
        "nodata": legend.nodata,
        "colormap": {str(entry.value): list(entry.rgba) for entry in legend.entries},
        "resampling": "nearest",
    }


def _links(refer: Refer, ready: Preparation, member: Membership | None) -> Iterator[dict[str, str]]:
    if member:
        href = refer(member.path)
        for relation in ("root", "parent", "collection"):
            yield {"rel": relation, "href": href, "type": JSON}
    if package := ready.model.item:
        title = f"The model, {ready.model.card.name}"
        href = refer(package)
        yield {"rel": "derived_from", "href": href, "type": GEOJSON, "title": title}
    for source in _sources(ready):
        href, name = refer(source), source.rpartition("/")[2]
        if Path(source).suffix.lower() in _ITEMS:
            yield {"rel": "derived_from", "href": href, "type": GEOJSON, "title": f"Scene {name}"}
        else:
            yield {"rel": "via", "href": href, "title": f"Scene {name}"}


def _sources(ready: Preparation) -> tuple[str, ...]:
    """What a scene was read from: itself, its STAC item, or the files of its bands or parts."""
    scene = ready.scene
    if not scene.files or Path(scene.path).suffix.lower() in _ITEMS:
        return (scene.path,)
    return tuple(dict.fromkeys(scene.files))


def _assets(
    refer: Refer, report: Report, ready: Preparation, beside: Mapping[str, Path]
) -> dict[str, Any]:
    output, card = report.output, ready.model.card
    found = {"map": _map(refer, report, ready)}
    for layer, path in ready.certainty.layers(card):
        found[layer.name] = _raster(refer, path, layer, ready.plan.grid)
    legend, style = output.with_name(f"{output.name}.aux.xml"), output.with_suffix(".qml")
    for name, path in {"legend": legend, "style": style, **beside}.items():
        if path.exists():
            title, roles = _ABOUT[name]
            # A page tells how long its run took, so its bytes are another run's alone.
            facts = {} if name == "report" else file_facts(path)
            found[name] = {
                "href": refer(path),
                "type": _TYPES[path.suffix.lower()],
                "title": title,
                "roles": list(roles),
                **facts,
            }
    return found


def _map(refer: Refer, report: Report, ready: Preparation) -> dict[str, Any]:
    package = ready.model.item
    about = {"format": "stac-mlm", "expression": refer(package)} if package else None
    return {
        **_raster(refer, report.output, class_layer(ready.legend), ready.plan.grid),
        "classification:classes": list(_classes(report, ready)),
        **({"processing:expression": about} if about else {}),
    }


def _raster(refer: Refer, path: Path, layer: Layer, grid: Grid) -> dict[str, Any]:
    resolution = _resolution(grid)
    return {
        "href": refer(path),
        "type": _type(path),
        "title": _TITLES[layer.name],
        "roles": ["data"],
        "bands": [{"name": name} for name in (layer.bands.names if layer.bands else [layer.name])],
        "data_type": "uint8",
        "nodata": layer.nodata,
        "raster:sampling": "area",
        **({"raster:spatial_resolution": resolution} if resolution else {}),
        **({"raster:scale": layer.scale, "raster:offset": 0} if layer.scale else {}),
        "processing:level": "L4",
        **file_facts(path),
    }


def _type(output: Path) -> str:
    if output.suffix == ".tif":
        return _TYPES[".tif"]
    return f"application/vnd.zarr; version={3 if (output / 'zarr.json').exists() else 2}"


def _classes(report: Report, ready: Preparation) -> Iterator[dict[str, Any]]:
    """Each class with its pixels; percentages are of the pixels that have a class."""
    totals = {total.value: total for total in report.classes.values()}
    for info in ready.model.card.classes:
        total = totals[info.value]
        share = 100 * total.pixels / max(report.valid_pixels, 1)
        yield {
            **class_object(info),
            "description": info.name,
            "count": total.pixels,
            "percentage": round(share, 6),
            **_area(total.area_m2),
        }
    yield {
        "value": ready.legend.nodata,
        "name": "nodata",
        "title": "(no data)",
        "description": "no measurement, or outside of the area of interest",
        "nodata": True,
        "count": report.pixels - report.valid_pixels,
        **_area(report.nodata_area_m2),
    }


def _area(square_metres: float | None) -> dict[str, float]:
    return {} if square_metres is None else {"segpipe:area_m2": square_metres}


def _resolution(grid: Grid) -> float | None:
    """Side in metres of a square as large as the average pixel."""
    areas = row_areas(grid, 0, grid.height)
    return None if areas is None else round(float(areas.mean()) ** 0.5, 6)


def file_facts(path: Path) -> dict[str, Any]:
    r"""Size and checksum of a file; of a folder, size of its files and checksum of their list.

    The list is what `sha256sum` prints of them in the order of their names, so that
    `find . -type f -printf '%P\n' | LC_ALL=C sort | xargs sha256sum | sha256sum` gives it.

    Raises:
        StorageError: they can't be read.
    """
    with storage.reported("read", path):
        if path.is_file():
            size, digest = _digested(path)
        else:
            names = sorted(
                file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()
            )
            digests = [(name, *_digested(path / name)) for name in names]
            size = sum(size for _, size, _ in digests)
            lines = "".join(f"{digest}  {name}\n" for name, _, digest in digests)
            digest = hashlib.sha256(lines.encode()).hexdigest()
    return {"file:size": size, "file:checksum": _SHA256 + digest}


def _digested(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _reference(report: Report, item: Path, target: str | Path) -> str:
    """What an item calls a file: where it lies, seen from where the item lies."""
    place = target if "://" in str(target) else report.place(Path(target))
    if isinstance(place, Path) and isinstance(report.place(item), Address):
        return place.absolute().as_uri()
    return relative(place if isinstance(place, Path) else str(place), item.parent)


def relative(target: str | Path, folder: Path) -> str:
    """The reference from a document in `folder` to a file (RFC 3986); addresses are as they are."""
    if "://" in str(target):
        return str(target)
    way = Path(os.path.relpath(target, folder)).as_posix()
    steps = way if way.startswith("../") else f"./{way}"
    return quote(steps, safe="/!$&'()*+,;=:@~")
