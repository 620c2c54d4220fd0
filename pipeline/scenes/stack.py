"""Bands that lie in files of their own, as one scene: on one grid, and read together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.scenes import resampled
from segpipe.pipeline.scenes.container import open_container
from segpipe.pipeline.scenes.location import Place
from segpipe.pipeline.scenes.resampled import Resampling
from segpipe.pipeline.scenes.source import DTYPES, Band, Contents, Source
from segpipe.pipeline.scenes.zarr_variables import ANY, Choice
from segpipe.pipeline.window import Window

Scaling = tuple[float, float]
"""Scale and offset: a stored number x means `scale * x + offset`."""


@dataclass(frozen=True, slots=True)
class BandFile:
    """A band of a scene and the file that holds it, before anything is opened.

    Attributes:
        name: what it's called.
        place: its file; None where it won't be opened, for the reason in `refusal`.
        index: its number in the file, from 1.
        aliases: what else it's called.
        nodata: what marks missing measurements, where the file doesn't say.
        scaling: goes before what the file says; None for what it says.
        usual: the product's scaling of whole numbers, where nobody says anything.
        refusal: one line for the user.
    """

    name: str
    place: Place | None
    index: int = 1
    aliases: tuple[str, ...] = ()
    nodata: float | None = None
    scaling: Scaling | None = None
    usual: Scaling | None = None
    refusal: str = ""

    @property
    def alpha(self) -> bool:
        """No file of its own holds one."""
        return False


def open_stack(files: Sequence[BandFile], choice: Choice = ANY) -> Contents:
    """The bands of these files in their order, on the grid with the smallest pixels.

    Of several such grids it's the first. Bands on others are resampled, as `resampled.on_grid` does
    it. `choice` is that of `open_container`, in each of the files.

    Raises:
        InputRefusedError: a file can't be opened or lacks the band, or the files don't lie on
            common ground.
    """
    opened = {place: open_container(place, choice) for place in dict.fromkeys(map(_place, files))}
    bands = {(_place(file), file.index): _band(file, opened[_place(file)]) for file in files}
    places = list(opened)
    finest = min(places, key=lambda place: opened[place].grid.pixel_area)
    for place in places:
        _check_ground(place, opened[place], opened[finest].grid)
    # Nodata may be the product's to tell, and decides what resampling takes for a measurement.
    parts = tuple(
        replace(
            contents,
            bands=tuple(
                bands.get((place, number), band)
                for number, band in enumerate(contents.bands, start=1)
            ),
        )
        for place, contents in opened.items()
    )
    numbers = tuple((places.index(_place(file)), file.index) for file in files)
    stack = _stacked(parts, numbers, opened[finest].grid, "auto")
    named = zip(stack.bands, files, strict=True)
    lines = (line for part in parts for line in part.warnings)
    return replace(
        stack,
        bands=tuple(replace(band, name=file.name, aliases=file.aliases) for band, file in named),
        warnings=(*dict.fromkeys(lines), *_moved(opened, finest)),
    )


def on_grid(contents: Contents, grid: Grid, resampling: Resampling = "auto") -> Contents:
    """As `resampled.on_grid`; every band of a stack is resampled once, from its own grid.

    Raises:
        InputRefusedError: as there.
    """
    source = contents.source
    if not isinstance(source, StackSource):
        return resampled.on_grid(contents, grid, resampling)
    if (grid.shape, grid.transform) == (contents.grid.shape, contents.grid.transform):
        return contents
    stack = _stacked(source.parts, source.numbers, grid, resampling)
    pairs = zip(contents.bands, stack.bands, strict=True)
    return replace(
        stack,
        bands=tuple(replace(band, nodata=moved.nodata) for band, moved in pairs),
        warnings=contents.warnings,
    )


@dataclass(frozen=True, slots=True)
class StackSource:
    """Bands out of several sources on one grid.

    Attributes:
        parts: the containers as they are.
        sources: of each of them, on the stack's grid.
        numbers: for each band the position of its part, from 0, and its number there, from 1.
    """

    parts: tuple[Contents, ...]
    sources: tuple[Source, ...]
    numbers: tuple[tuple[int, int], ...]

    def read(
        self, window: Window, indexes: tuple[int, ...], dtype: str
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """See `Source.read`; every source is read once."""
        pixels = np.empty((len(indexes), *window.shape), dtype)
        valid = np.ones(window.shape, np.bool_)
        wanted = [self.numbers[index - 1] for index in indexes]
        for number, source in enumerate(self.sources):
            planes = [plane for plane, (own, _) in enumerate(wanted) if own == number]
            if planes:
                bands = tuple(wanted[plane][1] for plane in planes)
                pixels[planes], seen = source.read(window, bands, dtype)
                valid &= seen
        return pixels, valid

    def identity(self, full: bool) -> dict[str, Any]:
        """See `Source.identity`: one entry a file, and where each band is, and its nodata."""
        return {
            "parts": [source.identity(full) for source in self.sources],
            "bands": [
                [number, index, self.parts[number].bands[index - 1].marker]
                for number, index in self.numbers
            ],
        }


def _stacked(
    parts: tuple[Contents, ...],
    numbers: tuple[tuple[int, int], ...],
    grid: Grid,
    resampling: Resampling,
) -> Contents:
    moved = [resampled.on_grid(part, grid, resampling) for part in parts]
    heights, widths = zip(*(part.block_shape for part in moved), strict=True)
    return Contents(
        grid=grid,
        bands=tuple(moved[number].bands[index - 1] for number, index in numbers),
        block_shape=(max(heights), max(widths)),
        warnings=(),
        source=StackSource(parts, tuple(part.source for part in moved), numbers),
    )


def _place(file: BandFile) -> Place:
    if file.place is None:
        raise InputRefusedError(file.refusal)
    return file.place


def _band(file: BandFile, contents: Contents) -> Band:
    """The band as its file and its product state it."""
    count = len(contents.bands)
    if not 1 <= file.index <= count:
        raise InputRefusedError(
            f"{file.place}: has {count} band{'s' * (count != 1)}, and {file.name} is its band "
            f"{file.index}; name another"
        )
    band = contents.bands[file.index - 1]
    nodata = file.nodata if band.nodata is None else band.nodata
    # A product's own files hold whole numbers; fractions under its names are reflectances already.
    whole = np.issubdtype(np.dtype(band.dtype), np.integer) if band.dtype in DTYPES else False
    usual = file.usual if whole else None
    scale, offset = file.scaling or _stated(band) or usual or (1.0, 0.0)
    return replace(band, nodata=nodata, scale=scale, offset=offset)


def _stated(band: Band) -> Scaling | None:
    found = band.scale, band.offset
    return None if found == (1.0, 0.0) else found


def _check_ground(place: Place, contents: Contents, grid: Grid) -> None:
    """Refuses a file that can't be seen on this grid, or shows nothing of its ground."""
    own = contents.grid
    if not resampled.same_crs(own, grid):
        raise InputRefusedError(
            f"{place}: has another crs than the other bands; warp it to theirs: gdalwarp -t_srs"
        )
    try:
        resampled.on_grid(contents, grid)
        lines = resampled.between(grid, own)
    except InputRefusedError as error:
        raise InputRefusedError(f"{place}: doesn't fit the other bands: {error}") from error
    for line, length, side in zip(lines, reversed(grid.shape), reversed(own.shape), strict=True):
        ends = line.offset, line.scale * length + line.offset
        if max(ends) <= 0 or min(ends) >= side:
            raise InputRefusedError(
                f"{place}: shows other ground than the other bands; name files of one scene"
            )


def _moved(opened: dict[Place, Contents], finest: Place) -> tuple[str, ...]:
    """A line on the files whose pixels are others."""
    grid = opened[finest].grid
    names = [
        place.name
        for place, contents in opened.items()
        if (contents.grid.shape, contents.grid.transform) != (grid.shape, grid.transform)
    ]
    if not names:
        return ()
    return (
        f"{', '.join(names)}: resampled onto the pixels of {finest.name}; --resolution asks for "
        "others",
    )
