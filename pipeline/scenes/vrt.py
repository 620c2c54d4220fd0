"""Virtual rasters (VRT), rewritten before GDAL sees them.

A VRT is a program: it can fetch addresses, run Python and read any file as raw pixels. GDAL gets
a copy that holds only what is named here, with every source replaced by what the caller accepted.
"""

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from segpipe.pipeline.errors import InputRefusedError

MAX_BYTES = 16 << 20
"""Neither a VRT nor what is put into it is larger."""

_RECT = ("xOff", "yOff", "xSize", "ySize")
_COMMON = ("SourceFilename", "SourceBand", "SourceProperties", "SrcRect", "DstRect")

# For each element: the attributes and the children that it may have.
_ALLOWED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "VRTDataset": (
        ("rasterXSize", "rasterYSize"),
        ("SRS", "GeoTransform", "GCPList", "MaskBand", "VRTRasterBand"),
    ),
    "SRS": (("dataAxisToSRSAxisMapping", "coordinateEpoch"), ()),
    "GeoTransform": ((), ()),
    "GCPList": (("Projection", "dataAxisToSRSAxisMapping"), ("GCP",)),
    "GCP": (("Id", "Info", "Pixel", "Line", "X", "Y", "Z"), ()),
    "MaskBand": ((), ("VRTRasterBand",)),
    "VRTRasterBand": (
        ("dataType", "band", "blockXSize", "blockYSize", "subClass"),
        (
            *("Description", "NoDataValue", "HideNoDataValue", "ColorInterp"),
            *("Offset", "Scale", "UnitType", "MaskBand", "SimpleSource", "ComplexSource"),
        ),
    ),
    "SimpleSource": (("resampling",), _COMMON),
    "ComplexSource": (
        ("resampling",),
        (
            *_COMMON,
            *("NODATA", "ScaleOffset", "ScaleRatio", "Exponent", "Clamp", "LUT"),
            *("SrcMin", "SrcMax", "DstMin", "DstMax", "ColorTableComponent", "UseMaskBand"),
        ),
    ),
    "SourceFilename": (("relativeToVRT", "shared"), ()),
    "SourceProperties": (
        ("RasterXSize", "RasterYSize", "DataType", "BlockXSize", "BlockYSize"),
        (),
    ),
    "SrcRect": (_RECT, ()),
    "DstRect": (_RECT, ()),
}

# Nothing that a map needs hangs on these; metadata can also smuggle sources in.
_DROPPED = {
    *("Metadata", "OverviewList", "Overview", "Histograms", "ColorTable", "CategoryNames"),
    *("GDALRasterAttributeTable", "BlockXSize", "BlockYSize"),
}

# What a window reads with any other method depends on where the window lies.
_RESAMPLING = {"near", "nearest", "nearestneighbour", "bilinear", "cubic"}

_CRS = re.compile(r"\s*([A-Z]+:[0-9]+\s*$|[A-Z][A-Z_0-9]*\s*\[)", re.IGNORECASE)


def rewrite(path: Path, source: Callable[[Path], str]) -> str:
    """The VRT at `path` as XML that refers to nothing but what `source` returned.

    Args:
        path: the file.
        source: takes the absolute path of a source that is a plain local file, vets it, and
            returns what GDAL shall open instead: the path, or rewritten XML.

    Raises:
        InputRefusedError: the file isn't a VRT, or asks for what isn't allowed.
    """
    size = 0

    def counted(file: Path) -> str:
        nonlocal size
        target = source(file)
        size += len(target)
        if size > MAX_BYTES:
            raise InputRefusedError(
                f"{path}: the VRTs inside take more than {MAX_BYTES >> 20} MiB; {_REMEDY}"
            )
        return target

    return ElementTree.tostring(_copy(path, _parse(path), counted), encoding="unicode")


_DEPTH = 32
_REMEDY = "write it as a GeoTIFF first: gdal_translate IN.vrt OUT.tif"


class _Builder(ElementTree.TreeBuilder):
    _depth = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> ElementTree.Element:
        self._depth += 1
        if self._depth > _DEPTH:
            raise ValueError(f"its elements are nested deeper than {_DEPTH}")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ElementTree.Element:
        self._depth -= 1
        return super().end(tag)

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type, and through it entities")


def _parse(path: Path) -> ElementTree.Element:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputRefusedError(f"{path}: a VRT of more than {MAX_BYTES >> 20} MiB; {_REMEDY}")
    try:
        data.decode()
        parser = ElementTree.XMLParser(target=_Builder(), encoding="utf-8")
        parser.feed(data)
        root: ElementTree.Element = parser.close()
    except (ElementTree.ParseError, ValueError) as error:
        raise InputRefusedError(f"{path}: not a VRT that can be trusted: {error}") from error
    if root.tag != "VRTDataset":
        raise InputRefusedError(f"{path}: a VRT's root is VRTDataset, found {root.tag}")
    return root


def _copy(
    path: Path, element: ElementTree.Element, source: Callable[[Path], str]
) -> ElementTree.Element:
    attributes, children = _ALLOWED.get(element.tag, ((), ()))
    _check(path, element, attributes)
    copy = ElementTree.Element(element.tag, dict(element.attrib))
    copy.text = element.text
    if element.tag == "SourceFilename":
        copy.attrib = {"relativeToVRT": "0"}
        copy.text = source(_plain_file(path, element))
    for child in element:
        if child.tag in children:
            copy.append(_copy(path, child, source))
        elif child.tag not in _DROPPED:
            raise InputRefusedError(
                f"{path}: a VRT with {child.tag} in {element.tag} isn't read here; {_REMEDY}"
            )
    return copy


def _check(path: Path, element: ElementTree.Element, attributes: tuple[str, ...]) -> None:
    for name, value in element.attrib.items():
        plain = name != "subClass" or value == "VRTSourcedRasterBand"
        exact = name != "resampling" or value.lower() in _RESAMPLING
        if name not in attributes or not plain or not exact:
            raise InputRefusedError(
                f'{path}: a VRT with {name}="{value}" at {element.tag} isn\'t read here; {_REMEDY}'
            )
    if element.tag == "SRS" and element.text and not _CRS.match(element.text):
        raise InputRefusedError(
            f"{path}: its SRS is neither WKT nor AUTHORITY:CODE: {_short(element.text)}"
        )


def _plain_file(path: Path, element: ElementTree.Element) -> Path:
    name = element.text or ""
    folder = path.parent if element.get("relativeToVRT", "0").strip() == "1" else Path("/")
    found = folder / name
    relative = folder == Path("/") and not name.startswith("/")
    if relative or "\0" in name or str(found).startswith("/vsi") or not found.is_file():
        raise InputRefusedError(
            f"{path}: its source {_short(name)} isn't an existing plain local file; "
            f"only such files, relative to the VRT or absolute, are read through a VRT"
        )
    return found


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 100 else line[:100] + "...")
