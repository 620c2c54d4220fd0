"""Scenes whose bands lie in files of their own: which ones the user, an item or a folder names."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.scenes.location import Address, Place, place_of
from segpipe.pipeline.scenes.product import FILL, product_bands, usual_scaling
from segpipe.pipeline.scenes.stac_item import beside, is_item, item_bands
from segpipe.pipeline.scenes.stack import BandFile
from segpipe.pipeline.scenes.zarr_scene import is_zarr

_NUMBERED = re.compile(r"(?P<file>.+):(?P<band>[1-9][0-9]{0,4})")


def named_files(
    place: Place, files: Mapping[str, str | Path], wanted: Sequence[str]
) -> tuple[BandFile, ...]:
    """The files that the user names, in the model's order.

    Args:
        place: the scene. Files lie in it, where it's a folder, or beside it, where it's an address;
            otherwise in the current folder.
        files: by the model's names of its bands, or their numbers (from 1); "B4.tif:2" is the
            second band of a file.
        wanted: the model's names; without them, the files are taken as they come.

    Raises:
        InputRefusedError: the scene isn't there, a band has no file, or a file no band.
    """
    if isinstance(place, Path) and not place.exists():
        raise InputRefusedError(f"{place}: doesn't exist; name the folder of the bands' files")
    names = {_meant(name, wanted): str(file) for name, file in files.items()}
    if (wanted and set(names) != set(wanted)) or len(names) != len(files):
        raise InputRefusedError(
            f"{place}: files are named for {', '.join(files)}, and the model's bands are "
            f"{', '.join(wanted)}; name one for each: --bands "
            f"{','.join(f'{name}=FILE' for name in wanted)}"
        )
    return tuple(_file(place, name, names[name]) for name in wanted or names)


def known_files(place: Place) -> tuple[BandFile, ...] | None:
    """The bands that a STAC item or a product's folder has in files; None for any other place.

    Raises:
        InputRefusedError: the item can't be read.
    """
    if is_item(place):
        return item_bands(place)
    if isinstance(place, Address) or not place.is_dir() or is_zarr(place):
        return None
    return product_bands(place)


def is_one_scene(folder: Path) -> bool:
    """Whether a folder is one scene of many files."""
    return folder.is_dir() and known_files(folder.absolute()) is not None


def _meant(name: str, wanted: Sequence[str]) -> str:
    """The model's own word for a band."""
    word = name.strip()
    own = [band.strip().casefold() for band in wanted]
    if word.casefold() in own:
        return wanted[own.index(word.casefold())]
    if word.isascii() and word.isdigit() and 1 <= int(word) <= len(wanted):
        return wanted[int(word) - 1]
    return word


def _file(place: Place, name: str, text: str) -> BandFile:
    match = _NUMBERED.fullmatch(text)
    numbered = match is not None and not _located(place, text).exists()
    path, index = (match["file"], int(match["band"])) if match and numbered else (text, 1)
    found = place_of(path)
    if not isinstance(found, Address):
        found = beside(place, path) if isinstance(place, Address) else _located(place, path)
    usual = usual_scaling(str(found))
    return BandFile(name, found, index, nodata=FILL if usual else None, usual=usual)


def _located(place: Place, text: str) -> Path:
    base = place if isinstance(place, Path) and place.is_dir() else Path.cwd()
    return Path(os.path.normpath(base / text))
