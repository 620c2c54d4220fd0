"""What a map by segpipe says of itself, read back: its legend, and where it came from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.maps.checksums import BLOCKS, HASH
from segpipe.pipeline.maps.class_names import side_cars
from segpipe.pipeline.maps.legend import Legend, LegendEntry
from segpipe.pipeline.scenes.location import Address, Place
from segpipe.pipeline.scenes.raster import read_tags
from segpipe.pipeline.scenes.remote import RemoteError
from segpipe.pipeline.scenes.zarr_scene import read_attributes

_LARGEST = 1 << 20
_PROVENANCE = "SEGPIPE_"


@dataclass(frozen=True, slots=True)
class MapFacts:
    """A map's legend, and its tags about model and method."""

    legend: Legend
    tags: Mapping[str, str]


def read_facts(path: Path) -> MapFacts:
    """What the map at `path` says of itself.

    Args:
        path: a GeoTIFF, or a folder that is Zarr.

    Raises:
        InputRefusedError: it can't be opened, or has no legend with names and colours.
    """
    if legend := read_legend(path):
        return MapFacts(legend, read_provenance(path))
    raise InputRefusedError(
        f"{path}: has no legend (a raster attribute table with Value, Class, Red, Green and Blue, "
        "such as segpipe puts beside its maps); name a map by segpipe with its side-cars"
    )


def read_provenance(place: Place) -> dict[str, str]:
    """The tags about model and method of the map at `place`; none where segpipe didn't make it.

    Raises:
        InputRefusedError: it can't be opened.
    """
    is_store = place.is_folder if isinstance(place, Address) else place.is_dir()
    try:
        told = read_attributes(place) if is_store else read_tags(place)
    except RemoteError as error:
        raise error.refusal() from None
    return {
        name: value
        for name, value in told.items()
        if name.startswith(_PROVENANCE) and name not in (HASH, BLOCKS) and isinstance(value, str)
    }


def read_legend(path: Path) -> Legend | None:
    """The legend in a side-car of the map at `path`; None where there is none that is sound."""
    return next(filter(None, map(_legend, side_cars(path))), None)


def read_counts(path: Path) -> dict[int, int] | None:
    """Pixels by class value in a side-car of the map at `path`; None where none tells them."""
    return next(filter(None, map(_counts, side_cars(path))), None)


def _legend(side_car: Path) -> Legend | None:
    try:
        band = _band(side_car)
        if band is None:
            return None
        return Legend(band.findtext("Description", ""), tuple(map(_entry, _rows(band))))
    except (OSError, ElementTree.ParseError, KeyError, ValueError):
        return None


def _counts(side_car: Path) -> dict[int, int] | None:
    try:
        band = _band(side_car)
        if band is None:
            return None
        counts = {int(row["Value"]): int(float(row["Count"])) for row in _rows(band)}
    except (OSError, ElementTree.ParseError, KeyError, ValueError, OverflowError):
        return None
    return counts if all(count >= 0 for count in counts.values()) else None


def _band(side_car: Path) -> ElementTree.Element | None:
    data = side_car.read_bytes()[:_LARGEST]
    # A document type could declare entities that grow without end.
    root = None if b"<!DOCTYPE" in data else ElementTree.fromstring(data)
    return None if root is None else root.find(".//PAMRasterBand")


def _rows(band: ElementTree.Element) -> list[dict[str, str]]:
    """The attribute table's rows, by name of the field."""
    fields = [field.findtext("Name", "") for field in band.iter("FieldDefn")]
    return [
        dict(zip(fields, (cell.text or "" for cell in row.iter("F")), strict=True))
        for row in band.iter("Row")
    ]


def _entry(row: Mapping[str, str]) -> LegendEntry:
    color = bytes(int(row[name]) for name in ("Red", "Green", "Blue"))
    return LegendEntry(int(row["Value"]), row["Class"], f"#{color.hex()}")
