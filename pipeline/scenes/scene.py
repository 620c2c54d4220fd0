"""The scene that is mapped: its chosen bands, and which of its pixels are measurements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.scenes.band_choice import choose, title
from segpipe.pipeline.scenes.band_files import known_files, named_files
from segpipe.pipeline.scenes.container import open_container
from segpipe.pipeline.scenes.location import Place, place_of
from segpipe.pipeline.scenes.resampled import Resampling
from segpipe.pipeline.scenes.source import DTYPES, Band, Contents, Source, common_dtype
from segpipe.pipeline.scenes.stack import BandFile, on_grid, open_stack
from segpipe.pipeline.scenes.zarr_variables import ANY, Choice
from segpipe.pipeline.window import Window


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
        bands: the chosen ones as the file states them.
        files: where the bands lie, if not at `path`.
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
    bands: tuple[Band, ...] = ()
    files: tuple[str, ...] = ()

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

    def on_grid(self, grid: Grid, resampling: Resampling = "auto") -> "Scene":
        """The scene on another grid of its crs, as `resampled.on_grid` has it.

        Raises:
            InputRefusedError: the grids don't fit together.
        """
        bands = [Band("", self.dtype, None)] * max(self.band_indexes)
        for index, band in zip(self.band_indexes, self.bands, strict=True):
            bands[index - 1] = band
        own = Contents(self.grid, tuple(bands), self.block_shape, self.warnings, self.source)
        try:
            there = on_grid(own, grid, resampling)
        except InputRefusedError as error:
            raise InputRefusedError(f"{self.path}: {error}") from error
        if there is own:
            return self
        moved = tuple(there.bands[index - 1] for index in self.band_indexes)
        return replace(
            self,
            grid=there.grid,
            nodata=tuple(band.marker for band in moved),
            block_shape=there.block_shape,
            source=there.source,
            bands=moved,
        )

    def identity(self, full: bool = False) -> dict[str, Any]:
        """What tells this scene from any other, for a run's fingerprint; JSON, without its path.

        Sizes, modification times and hashes of the directory and of samples; with `full` the
        hashes of all bytes, and no times.

        Raises:
            InputRefusedError: it's gone or changed into something else.
        """
        return {"bands": list(self.band_indexes), **self.source.identity(full)}


def open_scene(
    path: str | Path,
    bands: Sequence[str] | Mapping[str, str | Path] | None = None,
    wanted: Sequence[str] = (),
    choice: Choice = ANY,
) -> Scene:
    """The scene at `path` with the bands that are asked for.

    Args:
        path: a GeoTIFF, JPEG 2000 or VRT file, a folder that is Zarr, a STAC item, or the folder of
            a Landsat or Sentinel-2 product; or an address, see `location`.
        bands: the user's choice, numbers counted from 1 ("4") or names, or a file for each of the
            model's bands; None for none.
        wanted: the model's names of its bands, which decide where the user doesn't. A scene
            without such names, but with as many bands, is taken in its own order, if it's one file.
        choice: a variable and a step of time, of a Zarr store that has several.

    Raises:
        InputRefusedError: it's missing, damaged, of a kind that can't be mapped, or lacks bands.
    """
    place = place_of(path)
    if isinstance(bands, Mapping):
        return _of_files(place, named_files(place, bands, wanted), choice)
    files = known_files(place)
    if files is not None:
        chosen, _ = choose(place, files, bands, wanted, ordered=False)
        return _of_files(place, [files[index - 1] for index in chosen], choice)
    contents = open_container(place, choice)
    indexes, remarks = choose(place, contents.bands, bands, wanted)
    return _scene(str(place), contents, indexes, remarks)


def _of_files(place: Place, files: Sequence[BandFile], choice: Choice) -> Scene:
    """The scene whose bands lie in these files, in their order."""
    indexes = tuple(range(1, len(files) + 1))
    scene = _scene(str(place), open_stack(files, choice), indexes, ())
    return replace(scene, files=tuple(dict.fromkeys(str(file.place) for file in files)))


def _scene(
    place: str, contents: Contents, indexes: tuple[int, ...], remarks: tuple[str, ...]
) -> Scene:
    """The scene of these bands, counted from 1."""
    chosen = tuple(contents.bands[index - 1] for index in indexes)
    for index, band in zip(indexes, chosen, strict=True):
        if band.dtype not in DTYPES:
            raise InputRefusedError(
                f"{place}: {title(band, index)} is {band.dtype}; a network takes one of "
                f"{', '.join(DTYPES)}; convert it to one of them first"
            )
    nodata = tuple(band.marker for band in chosen)
    remarks += tuple(
        f"{title(band, index)} of {Path(place).name} says nodata is {band.nodata:g}, "
        f"which {band.dtype} can't hold: ignored"
        for index, band, value in zip(indexes, chosen, nodata, strict=True)
        if band.nodata is not None and np.isfinite(band.nodata) and value is None
    )
    return Scene(
        path=place,
        grid=contents.grid,
        dtype=common_dtype(band.dtype for band in chosen),
        band_indexes=indexes,
        band_names=tuple(map(title, chosen, indexes)),
        nodata=nodata,
        block_shape=contents.block_shape,
        warnings=contents.warnings + remarks,
        source=contents.source,
        bands=chosen,
    )
