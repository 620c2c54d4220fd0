"""The scene that is mapped: its chosen bands, and which of its pixels are measurements."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.raster import open_raster
from segpipe.pipeline.source import DTYPES, Band, Contents, Source
from segpipe.pipeline.window import Window
from segpipe.pipeline.zarr_scene import open_zarr


@dataclass(frozen=True, slots=True)
class Scene:
    """A raster's grid and chosen bands: names and facts, no handle, so that any process reads it.

    Attributes:
        path: where it lies, absolute.
        grid: of all bands.
        dtype: in which the bands are read, the smallest that holds all of them.
        band_indexes: the chosen bands, counted from 1, in the network's order.
        band_names: as the scene names them; `band 4` where it doesn't.
        nodata: for each chosen band the finite value that marks a missing measurement, or None.
            NaN and infinities always do.
        block_shape: height and width of what is decoded at once.
        warnings: lines for the user.
        source: reads the pixels.
    """

    path: str
    grid: Grid
    dtype: str
    band_indexes: tuple[int, ...]
    band_names: tuple[str, ...]
    nodata: tuple[float | None, ...]
    block_shape: tuple[int, int]
    warnings: tuple[str, ...]
    source: Source

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes that `read` returns for a pixel: its bands, and one for whether it's valid."""
        return len(self.band_indexes) * np.dtype(self.dtype).itemsize + 1

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """The raster's own numbers, (band, row, column), and where they're valid, (row, column).

        A pixel is invalid where any chosen band is nodata, masked, NaN or infinite.

        Raises:
            ValueError: the window leaves the grid.
            CorruptInputError: the pixels can't be read.
            MemoryError: they don't fit.
        """
        if not self.grid.window.contains(window):
            raise ValueError(f"{window} leaves a grid of {self.grid.height} x {self.grid.width}")
        pixels, valid = self.source.read(window, self.band_indexes, self.dtype)
        floating = np.issubdtype(pixels.dtype, np.floating)
        for band, nodata in zip(pixels, self.nodata, strict=True):
            if nodata is not None:
                valid &= band != pixels.dtype.type(nodata)
            if floating:
                valid &= np.isfinite(band)
        return pixels, valid

    def identity(self, full: bool = False) -> dict[str, Any]:
        """What tells this scene from any other, for a run's fingerprint; JSON, without its path.

        Sizes, modification times and hashes of the directory and of samples; with `full` the
        hashes of all bytes, and no times.

        Raises:
            InputRefusedError: it's gone or changed into something else.
        """
        return {"bands": list(self.band_indexes), **self.source.identity(full)}


def open_scene(
    path: str | Path, bands: Sequence[str] | None = None, wanted: Sequence[str] = ()
) -> Scene:
    """The scene at `path` with the bands that are asked for.

    Args:
        path: a GeoTIFF, JPEG 2000 or VRT file, or a folder that is Zarr.
        bands: the user's choice, numbers counted from 1 ("4") or names; None for none.
        wanted: the model's names of its bands, which decide where the user doesn't. A scene
            without such names, but with as many bands, is taken in its own order.

    Raises:
        InputRefusedError: it's missing, damaged, of a kind that can't be mapped, or lacks bands.
    """
    place = Path(path).absolute()
    contents = _open(place)
    indexes, remarks = _choose(place, contents.bands, bands, tuple(wanted))
    chosen = [contents.bands[index - 1] for index in indexes]
    for index, band in zip(indexes, chosen, strict=True):
        if band.dtype not in DTYPES:
            raise InputRefusedError(
                f"{place}: {_title(band, index)} is {band.dtype}; a network takes one of "
                f"{', '.join(DTYPES)}; convert it to one of them first"
            )
    nodata = [_representable(band) for band in chosen]
    remarks += tuple(
        f"{_title(band, index)} of {place.name} says nodata is {band.nodata:g}, "
        f"which {band.dtype} can't hold: ignored"
        for index, band, value in zip(indexes, chosen, nodata, strict=True)
        if band.nodata is not None and np.isfinite(band.nodata) and value is None
    )
    return Scene(
        path=str(place),
        grid=contents.grid,
        dtype=_common([band.dtype for band in chosen]),
        band_indexes=indexes,
        band_names=tuple(map(_title, chosen, indexes)),
        nodata=tuple(nodata),
        block_shape=contents.block_shape,
        warnings=contents.warnings + remarks,
        source=contents.source,
    )


def _open(path: Path) -> Contents:
    try:
        if path.is_dir():
            return open_zarr(path)
        if path.is_file():
            return open_raster(path)
    except OSError as error:
        raise InputRefusedError(f"{path}: can't be read: {error.strerror or error}") from error
    found = "is neither a file nor a folder" if path.exists() else "doesn't exist"
    raise InputRefusedError(f"{path}: {found}; name a GeoTIFF, JPEG 2000, VRT or Zarr scene")


def _choose(
    path: Path, bands: tuple[Band, ...], asked: Sequence[str] | None, wanted: tuple[str, ...]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Numbers of the bands to read, and remarks."""
    has = f"it has {_list(bands)}"
    if asked is not None:
        indexes = tuple(_find(path, bands, name, has) for name in asked)
        if not indexes or (wanted and len(indexes) != len(wanted)):
            raise InputRefusedError(
                f"{path}: {len(indexes)} bands were named, the model wants {len(wanted) or 'some'}"
                f"{_names(wanted)}; {has}; name as many with --bands"
            )
        return indexes, ()
    own = tuple(index for index, band in enumerate(bands, start=1) if not band.alpha)
    if not wanted:
        return own, ()
    matches = [_named(bands, name) for name in wanted]
    if all(len(match) == 1 for match in matches):
        return tuple(match[0] for match in matches), ()
    if any(matches) or len(own) != len(wanted):
        raise InputRefusedError(
            f"{path}: {has}, the model wants {len(wanted)}{_names(wanted)}; "
            f"say which are which with --bands, such as --bands "
            f"{','.join(str(index) for index in range(1, len(wanted) + 1))}"
        )
    if not any(bands[index - 1].name for index in own):
        return own, ()
    return own, (
        f"the bands of {path.name} aren't named {', '.join(wanted)}: taken in their order, "
        f"{', '.join(_title(bands[index - 1], index) for index in own)}; --bands changes it",
    )


def _find(path: Path, bands: tuple[Band, ...], asked: str, has: str) -> int:
    name = asked.strip()
    if name.isascii() and name.isdigit():
        if not 1 <= int(name) <= len(bands):
            raise InputRefusedError(f"{path}: there's no band {name}: {has}, counted from 1")
        return int(name)
    matches = _named(bands, name)
    if len(matches) != 1:
        found = "several bands are" if matches else "no band is"
        raise InputRefusedError(f"{path}: {found} named {name!r}: {has}; choose by number")
    return matches[0]


def _named(bands: tuple[Band, ...], name: str) -> list[int]:
    wanted = name.strip().casefold()
    return [i for i, band in enumerate(bands, start=1) if band.name.strip().casefold() == wanted]


def _title(band: Band, index: int) -> str:
    return band.name or f"band {index}"


def _names(names: tuple[str, ...]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _list(bands: tuple[Band, ...]) -> str:
    shown = [
        f"{index} {band.name or ('alpha' if band.alpha else '(unnamed)')}"
        for index, band in enumerate(bands[:16], start=1)
    ]
    more = ", ..." if len(bands) > len(shown) else ""
    return f"{len(bands)} band{'s' * (len(bands) != 1)}: {', '.join(shown)}{more}"


def _common(dtypes: list[str]) -> str:
    """The smallest dtype that holds all of them: float64 holds every 32-bit integer."""
    name = np.result_type(*map(np.dtype, dtypes)).name
    return name if name in DTYPES else "float64"


def _representable(band: Band) -> float | None:
    """The band's nodata as its dtype holds it; None where it has none, or never can be equal."""
    if band.nodata is None or not np.isfinite(band.nodata):
        return None
    dtype = np.dtype(band.dtype)
    if np.issubdtype(dtype, np.floating):
        with np.errstate(over="ignore"):
            value = float(dtype.type(band.nodata))
        return value if np.isfinite(value) else None
    limits = np.iinfo(dtype)
    inside = limits.min <= band.nodata <= limits.max and float(band.nodata).is_integer()
    return float(band.nodata) if inside else None
