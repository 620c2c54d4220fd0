"""The names that a map carries for its values, whoever wrote it."""

from pathlib import Path
from xml.etree import ElementTree

_LARGEST = 1 << 20
_SIDECARS = ("classes/.zarray.aux.xml", "classes/zarr.json.aux.xml", ".zarray.aux.xml")


def class_names(path: str | Path) -> dict[int, str]:
    """Value to name out of GDAL's side-car; nothing where there is none, or none that is sound.

    Args:
        path: a raster file, or a folder that is Zarr.
    """
    for sidecar in side_cars(path):
        if names := _categories(sidecar):
            return names
    return {}


def side_cars(path: str | Path) -> list[Path]:
    """The files that GDAL keeps beside a raster, or in a folder that is Zarr."""
    place = Path(path)
    if place.is_dir():
        found = [place / name for name in _SIDECARS]
    else:
        found = [place.with_name(f"{place.name}.aux.xml")]
    return list(filter(Path.is_file, found))


def _categories(sidecar: Path) -> dict[int, str]:
    try:
        data = sidecar.read_bytes()[:_LARGEST]
        # A document type could declare entities that grow without end.
        root = None if b"<!DOCTYPE" in data else ElementTree.fromstring(data)
    except (OSError, ElementTree.ParseError):
        return {}
    found = None if root is None else root.find(".//CategoryNames")
    if found is None:
        return {}
    texts = ((category.text or "").strip() for category in found.iter("Category"))
    return {value: text for value, text in enumerate(texts) if text}
