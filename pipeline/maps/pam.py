"""The side-car in which GDAL keeps class names and the raster attribute table.

GDAL calls it PAM (persistent auxiliary metadata); QGIS, GRASS and ArcGIS take a legend from it.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from xml.etree import ElementTree as ET

from segpipe.pipeline.maps.legend import Legend, LegendEntry

Counts = Mapping[int, int]
"""Pixels by class value; a class that isn't there has none."""


class _Type(IntEnum):
    """GDAL's `GDALRATFieldType`."""

    INTEGER = 0
    REAL = 1
    STRING = 2


class _Usage(IntEnum):
    """GDAL's `GDALRATFieldUsage`."""

    PIXEL_COUNT = 1
    NAME = 2
    MIN_MAX = 5
    RED = 6
    GREEN = 7
    BLUE = 8
    ALPHA = 9


# A count is real because GDAL's integers end at 2**31.
_FIELDS = (
    ("Value", _Type.INTEGER, _Usage.MIN_MAX),
    ("Class", _Type.STRING, _Usage.NAME),
    ("Count", _Type.REAL, _Usage.PIXEL_COUNT),
    ("Red", _Type.INTEGER, _Usage.RED),
    ("Green", _Type.INTEGER, _Usage.GREEN),
    ("Blue", _Type.INTEGER, _Usage.BLUE),
    ("Alpha", _Type.INTEGER, _Usage.ALPHA),
)


def geotiff_pam(legend: Legend, counts: Counts) -> bytes:
    """What belongs into `NAME.tif.aux.xml` beside a GeoTIFF, which holds its palette itself."""
    root = ET.Element("PAMDataset")
    _add_band(root, legend, counts)
    return _text(root)


def zarr_pam(legend: Legend, counts: Counts, array: str) -> bytes:
    """What belongs into an array's folder: `.zarray.aux.xml` or `zarr.json.aux.xml`.

    GDAL 3.8 and later look for it there, under a name that is their own affair: a test reads it
    back.
    """
    root, inner = _view(array, "1,0")
    band = _add_band(inner, legend, counts)
    _add(band, "ColorInterp", "Palette")
    colors = ET.SubElement(band, "ColorTable")
    for color in legend.palette:
        ET.SubElement(
            colors, "Entry", {f"c{number}": str(part) for number, part in enumerate(color, 1)}
        )
    return _text(root)


def zarr_names_pam(names: Sequence[str], array: str) -> bytes:
    """The same for an array (band, y, x) whose bands have names; see `zarr_pam`."""
    root, inner = _view(array, "2,1")
    for number, name in enumerate(names, 1):
        _add(ET.SubElement(inner, "PAMRasterBand", band=str(number)), "Description", name)
    return _text(root)


def _view(array: str, axes: str) -> tuple[ET.Element, ET.Element]:
    """A file's root, and what is inside of GDAL's name for a raster of the array's x and y axes."""
    root = ET.Element("PAMDataset")
    view = f"AsClassicDataset({axes}) view of /{array}"
    derived = ET.SubElement(root, "DerivedDataset", name=view)
    return root, ET.SubElement(derived, "PAMDataset")


def _add_band(parent: ET.Element, legend: Legend, counts: Counts) -> ET.Element:
    band = ET.SubElement(parent, "PAMRasterBand", band="1")
    _add(band, "Description", legend.title)
    names = ET.SubElement(band, "CategoryNames")
    for name in legend.names:
        _add(names, "Category", name)
    table = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(_FIELDS):
        field = ET.SubElement(table, "FieldDefn", index=str(index))
        _add(field, "Name", name)
        _add(field, "Type", str(kind.value))
        _add(field, "Usage", str(usage.value))
    for index, entry in enumerate(legend.entries):
        row = ET.SubElement(table, "Row", index=str(index))
        for value in _row(entry, counts):
            _add(row, "F", str(value))
    return band


def _row(entry: LegendEntry, counts: Counts) -> tuple[int | str, ...]:
    return entry.value, entry.name, counts.get(entry.value, 0), *entry.rgba


def _add(parent: ET.Element, tag: str, text: str) -> None:
    ET.SubElement(parent, tag).text = text


def _text(root: ET.Element) -> bytes:
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8")
    return text + b"\n"
