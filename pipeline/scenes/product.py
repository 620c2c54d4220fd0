"""Landsat and Sentinel-2 products as their agencies deliver them: which file holds which band.

Names and numbers: USGS LSDS-1619 and LSDS-1618 (Landsat Collection 2, Level 2), ESA
S2-PDGS-TAS-DI-PSD (Sentinel-2 Products Specification Document).
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from segpipe.pipeline.scenes.stack import BandFile, Scaling

FILL = 0.0
"""What no measurement is, in all of these products."""

LANDSAT_SCALING = (0.0000275, -0.2)
"""Surface reflectance, Collection 2, Level 2."""

_QUANTIFICATION = 10000
_RADIOMETRIC_OFFSET = -1000
_OFFSET_SINCE = 400
_LARGEST = 16 << 20

# Common names of the STAC extension `eo`, then what else the band is called.
_OLI = {
    "B1": ("coastal",),
    "B2": ("blue",),
    "B3": ("green",),
    "B4": ("red",),
    "B5": ("nir08", "nir"),
    "B6": ("swir16", "swir1"),
    "B7": ("swir22", "swir2"),
    "B8": ("pan",),
    "B9": ("cirrus",),
}
_TM = {
    "B1": ("blue",),
    "B2": ("green",),
    "B3": ("red",),
    "B4": ("nir08", "nir"),
    "B5": ("swir16", "swir1"),
    "B7": ("swir22", "swir2"),
    "B8": ("pan",),
}
_MSI = {
    "B01": ("coastal",),
    "B02": ("blue",),
    "B03": ("green",),
    "B04": ("red",),
    "B05": ("rededge071", "rededge1"),
    "B06": ("rededge075", "rededge2"),
    "B07": ("rededge078", "rededge3"),
    "B08": ("nir",),
    "B8A": ("nir08",),
    "B09": ("nir09",),
    "B10": ("cirrus",),
    "B11": ("swir16", "swir1"),
    "B12": ("swir22", "swir2"),
}

_LANDSAT = re.compile(
    r"(?P<product>L(?P<sensor>[COTE])0(?P<mission>[45789])_(?P<level>L[12][A-Z]{2})_\d{6}_\d{8}_"
    r"\d{8}_02_(?:T1|T2|RT))_(?P<surface>SR_)?(?P<band>B[1-9])\.TIFF?",
    re.IGNORECASE,
)
_SENTINEL = re.compile(
    r"(?P<product>(?:L2A_)?T\d{2}[A-Z]{3}_\d{8}T\d{6})_(?P<band>B\d[0-9A])"
    r"(?:_(?P<metres>[126]0)m)?\.(?:jp2|tiff?)",
    re.IGNORECASE,
)
_SAFE = re.compile(
    r"S2[A-D]_MSIL(?:1C|2A)_\d{8}T\d{6}_N(?P<baseline>\d{4})_R\d{3}_T", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class _File:
    """What a file's name tells: its product, band and pixel side in metres (0: it doesn't say)."""

    product: str
    band: str
    names: tuple[str, ...]
    metres: int
    scaling: Scaling | None


def usual_scaling(name: str) -> Scaling | None:
    """Scale and offset of reflectances in a band's file, told by its path or address.

    None where the names tell no product, or one whose numbers are no reflectances.
    """
    found = _told(name.replace("\\", "/"))
    return None if found is None else found.scaling


def sentinel_scaling(baseline: str) -> Scaling | None:
    """That of Sentinel-2 products of a processing baseline such as "04.00" or "0400"."""
    digits = baseline.replace(".", "").strip()
    if not re.fullmatch(r"\d{4}", digits, re.ASCII):
        return None
    offset = _RADIOMETRIC_OFFSET if int(digits) >= _OFFSET_SINCE else 0
    return 1 / _QUANTIFICATION, offset / _QUANTIFICATION


def sentinel_names(band: str) -> tuple[str, ...]:
    """The names of a band of Sentinel-2's instrument, the common one first."""
    return _MSI.get(band.upper(), ())


def product_bands(folder: Path) -> tuple[BandFile, ...] | None:
    """The bands of the product in a folder, by their numbers; None where it isn't one product.

    Of a band at several resolutions the finest is taken.
    """
    try:
        files = {path: _told(str(path)) for path in _candidates(folder)}
    except OSError:
        return None
    found = {path: file for path, file in files.items() if file is not None}
    if len({file.product.upper() for file in found.values()}) != 1:
        return None
    finest: dict[str, tuple[Path, _File]] = {}
    for path, file in sorted(found.items(), key=lambda pair: (pair[1].metres, pair[0])):
        finest.setdefault(file.band, (path, file))
    stated = _metadata(folder)
    return tuple(
        BandFile(
            band,
            path,
            aliases=file.names,
            nodata=FILL,
            usual=stated.get(band, file.scaling),
        )
        for band, (path, file) in sorted(finest.items(), key=lambda pair: _order(pair[0]))
    )


def _told(path: str) -> _File | None:
    folder, _, name = path.rpartition("/")
    if match := _LANDSAT.fullmatch(name):
        band = match["band"].upper()
        names = (_OLI if int(match["mission"]) >= 8 else _TM).get(band)
        reflectance = match["level"].upper().startswith("L2") and match["surface"]
        scaling = LANDSAT_SCALING if reflectance else None
        return None if names is None else _File(match["product"], band, names, 0, scaling)
    if match := _SENTINEL.fullmatch(name):
        band = match["band"].upper()
        names = _MSI.get(band)
        safe = _SAFE.search(folder)
        scaling = None if safe is None else sentinel_scaling(safe["baseline"])
        metres = int(match["metres"] or 0)
        return None if names is None else _File(match["product"], band, names, metres, scaling)
    return None


def _candidates(folder: Path) -> Iterator[Path]:
    """The files in a folder, and where a Sentinel-2 product keeps its images."""
    for pattern in ("*", "GRANULE/*/IMG_DATA/*", "GRANULE/*/IMG_DATA/R[126]0m/*"):
        yield from (path for path in sorted(folder.glob(pattern)) if path.is_file())


def _order(band: str) -> tuple[float, str]:
    """B8A comes after B08."""
    digits = re.sub(r"\D", "", band)
    return float(digits) + (0.5 if band.endswith("A") else 0.0), band


def _metadata(folder: Path) -> Mapping[str, Scaling]:
    """What a Sentinel-2 product's own metadata say of its bands; nothing where they say nothing."""
    for name in ("MTD_MSIL2A.xml", "MTD_MSIL1C.xml"):
        root = _parsed(folder / name)
        if root is None:
            continue
        level = "BOA_" if "L2A" in name else ""
        divisor = _number(root.findtext(f".//{level}QUANTIFICATION_VALUE"))
        added = "BOA_ADD_OFFSET" if "L2A" in name else "RADIO_ADD_OFFSET"
        offsets = {item.get("band_id"): _number(item.text) for item in root.iter(added)}
        if divisor is not None and divisor > 0:
            return {
                band: (1 / divisor, (offsets.get(str(number)) or 0.0) / divisor)
                for number, band in enumerate(sorted(_MSI, key=_order))
            }
    return {}


def _parsed(path: Path) -> ElementTree.Element | None:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST)
        # A document type could declare entities that grow without end.
        return None if b"<!DOCTYPE" in data else ElementTree.fromstring(data)
    except (OSError, ElementTree.ParseError, ValueError):
        return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
