"""Coarser copies of a map inside its store, so that all of it is seen without reading all of it.

In format 3 they are groups, `ovr_2x`, `ovr_4x` and so on, which the root names (GeoZarr's
multiscales). In format 2 GDAL opens a store only as long as one array in it has two dimensions or
more, so they are a GeoTIFF in the array's folder, where GDAL 3.10 and QGIS look for overviews.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segpipe.pipeline import storage
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.maps.cog import write_cog
from segpipe.pipeline.maps.georeference import multiscale_attributes
from segpipe.pipeline.maps.label_store import ARRAY, LabelStore, ZarrFormat, create
from segpipe.pipeline.maps.layer import Layer
from segpipe.pipeline.plan import CHUNK
from segpipe.pipeline.window import Window

OVERVIEWS = f".zarray.{ARRAY}.ovr"
"""Where GDAL keeps overviews of a map of format 2, in its array's folder; the name is GDAL's."""

_SIDE = 2048
"""Side in pixels of what is made at once, a whole number of chunks and the side of a shard."""

_BANDS = 4
"""Bands of which a window is that large; of more it is smaller, so that memory is the same."""

Pixels = NDArray[np.uint8]


def write_pyramid(
    store: LabelStore, grid: Grid, layer: Layer, scratch: Path, *, cache_bytes: int
) -> None:
    """Adds the pyramid of a finished store to it, down to a level that fits into one chunk.

    Each pixel of a level is made of 2 x 2 pixels of the level before; see `halved`. The bytes
    depend on the layer alone. A call that was killed is made good by another.

    Args:
        store: the pixels, which stay as they are.
        grid: where they lie.
        layer: what they are.
        scratch: a folder for files of about the size of the store, which are removed.
        cache_bytes: how much memory GDAL may use for blocks.

    Raises:
        StorageError: the disk refuses.
        VerificationError: what was written isn't what was computed.
    """
    _remove(store, scratch)
    if max(grid.shape) <= CHUNK:
        return
    if store.zarr_format == 3:
        _add_groups(store, grid, layer)
    else:
        _add_overviews(store, grid, layer, scratch, cache_bytes)


def halved(pixels: Pixels, layer: Layer) -> Pixels:
    """What blocks of 2 x 2 have in common, (..., row, column), rounded up where sides are odd.

    Of classes it is the most frequent one; of those that are equally frequent, the one that reaches
    its number first, row by row. Of numbers it is the mean, halves rounded up. Nodata counts only
    where there is nothing else. Both are what GDAL does.
    """
    rows, columns = pixels.shape[-2:]
    sides = ((0, 0),) * (pixels.ndim - 2) + ((0, rows % 2), (0, columns % 2))
    padded = np.pad(pixels, sides, constant_values=layer.nodata)
    block = [padded[..., row::2, column::2] for row in (0, 1) for column in (0, 1)]
    reduce = _most_frequent if layer.resampling == "MODE" else _mean
    return reduce(block, layer.nodata)


def _most_frequent(block: Sequence[Pixels], nodata: int) -> Pixels:
    found = np.full_like(block[0], nodata)
    for pixels in reversed(block):
        found = np.where(pixels == nodata, found, pixels)
    for number in (3, 2, 1):
        pixels = block[number]
        again = np.logical_or.reduce([pixels == earlier for earlier in block[:number]])
        found = np.where(again & (pixels != nodata), pixels, found)
    return found


def _mean(block: Sequence[Pixels], nodata: int) -> Pixels:
    total, count = np.zeros(block[0].shape, np.uint16), np.zeros(block[0].shape, np.uint16)
    for pixels in block:
        valid = pixels != nodata
        total[valid] += pixels[valid]
        count += valid
    mean = (total + count // 2) // np.maximum(count, 1)
    return np.where(count == 0, nodata, mean).astype(np.uint8)


def coarser(grid: Grid) -> Grid:
    """The grid of pixels twice as long and wide, from the same corner."""
    a, b, c, d, e, f = grid.transform
    transform = (2 * a, 2 * b, c, 2 * d, 2 * e, f)
    return replace(
        grid, height=-(-grid.height // 2), width=-(-grid.width // 2), transform=transform
    )


def _remove(store: LabelStore, scratch: Path) -> None:
    """Removes what an earlier call may have left."""
    for group in store.path.glob("ovr_*"):
        storage.remove(group)
    for path in (_overviews(store), scratch / "ovr.zarr"):
        if path.exists():
            storage.remove(path)


def _overviews(store: LabelStore) -> Path:
    return store.path / store.array / f".zarray.{store.array}.ovr"


def _add_groups(store: LabelStore, grid: Grid, layer: Layer) -> None:
    finer, levels, factor = store, {layer.name: grid}, 1
    while max(grid.shape) > CHUNK:
        grid, factor = coarser(grid), 2 * factor
        name = f"ovr_{factor}x"
        finer = _level(finer, store.path / name, grid, layer, 3, f"_{factor}x")
        levels[f"{name}/{layer.name}"] = grid
    # Last of all: what the root names is there.
    store.adopt(multiscale_attributes(levels, layer.resampling.lower()))


def _add_overviews(
    store: LabelStore, grid: Grid, layer: Layer, scratch: Path, cache_bytes: int
) -> None:
    """The second level and, made by GDAL, all that come after it."""
    grid = coarser(grid)
    storage.make_folder(scratch)
    level = _level(store, scratch / "ovr.zarr", grid, layer, 2, "")
    counts = None
    if layer.legend:
        histogram = np.zeros(256, np.int64)
        for window in grid.window.squares(_SIDE):
            histogram += np.bincount(level.read(window).ravel(), minlength=256)
        counts = {value: int(histogram[value]) for value in layer.legend.values}
    place = _overviews(store)
    write_cog(level, grid, layer, place, scratch, counts=counts, tags={}, cache_bytes=cache_bytes)
    storage.remove(level.path)


def _level(
    finer: LabelStore,
    path: Path,
    grid: Grid,
    layer: Layer,
    zarr_format: ZarrFormat,
    suffix: str,
) -> LabelStore:
    """A store under `path` with half the rows and columns of `finer`, made window by window."""
    side = _SIDE
    while side > CHUNK and layer.count * side**2 > _BANDS * _SIDE**2:
        side //= 2
    store = create(
        path, grid, layer, side=side, attributes={}, zarr_format=zarr_format, suffix=suffix
    )
    height, width = finer.shape
    for window in grid.window.squares(side):
        top, left = 2 * window.top, 2 * window.left
        source = Window(
            top, left, min(2 * window.height, height - top), min(2 * window.width, width - left)
        )
        store.write(window, halved(finer.read(source), layer))
    return store
