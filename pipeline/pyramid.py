"""Coarser copies of a map inside its store, so that all of it is seen without reading all of it.

In format 3 they are groups, `ovr_2x`, `ovr_4x` and so on, which the root names (GeoZarr's
multiscales). In format 2 GDAL opens a store only as long as one array of two dimensions is in it,
so they are a GeoTIFF in the array's folder, where GDAL 3.10 and QGIS look for overviews.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segpipe.pipeline import storage
from segpipe.pipeline.cog import write_cog
from segpipe.pipeline.georeference import multiscale_attributes
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.label_store import ARRAY, LabelStore, ZarrFormat, create
from segpipe.pipeline.layer import class_layer
from segpipe.pipeline.legend import Legend
from segpipe.pipeline.plan import CHUNK
from segpipe.pipeline.window import Window

OVERVIEWS = f".zarray.{ARRAY}.ovr"
"""Where GDAL keeps overviews of an array of format 2; the name is GDAL's own."""

_SIDE = 2048
"""Side in pixels of what is made at once, a whole number of chunks and the side of a shard."""


def write_pyramid(
    store: LabelStore, grid: Grid, legend: Legend, scratch: Path, *, cache_bytes: int
) -> None:
    """Adds the pyramid of a finished store to it, down to a level that fits into one chunk.

    Each pixel of a level is the most frequent label of 2 x 2 pixels of the level before; see
    `halved`. The bytes depend on the map alone. A call that was killed is made good by another.

    Args:
        store: the labels, which stay as they are.
        grid: where they lie.
        legend: what they mean.
        scratch: a folder for files of about half the size of the store, which are removed.
        cache_bytes: how much memory GDAL may use for blocks.

    Raises:
        StorageError: the disk refuses.
        VerificationError: what was written isn't what was computed.
    """
    _remove(store, scratch)
    if max(grid.shape) <= CHUNK:
        return
    if store.zarr_format == 3:
        _add_groups(store, grid, legend)
    else:
        _add_overviews(store, grid, legend, scratch, cache_bytes)


def halved(labels: NDArray[np.uint8], nodata: int) -> NDArray[np.uint8]:
    """The most frequent label of each block of 2 x 2, (row, column), rounded up where odd.

    Nodata counts only where there is nothing else. Of labels that are equally frequent it is the
    one that reaches its number first, row by row, which is also GDAL's rule.
    """
    rows, columns = labels.shape
    padded = np.pad(labels, ((0, rows % 2), (0, columns % 2)), constant_values=nodata)
    block = [padded[row::2, column::2] for row in (0, 1) for column in (0, 1)]
    found = np.full_like(block[0], nodata)
    for pixels in reversed(block):
        found = np.where(pixels == nodata, found, pixels)
    for number in (3, 2, 1):
        pixels = block[number]
        again = np.logical_or.reduce([pixels == earlier for earlier in block[:number]])
        found = np.where(again & (pixels != nodata), pixels, found)
    return found


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
    for path in (store.path / ARRAY / OVERVIEWS, scratch / "ovr.zarr"):
        if path.exists():
            storage.remove(path)


def _add_groups(store: LabelStore, grid: Grid, legend: Legend) -> None:
    finer, levels, factor = store, {ARRAY: grid}, 1
    while max(grid.shape) > CHUNK:
        grid, factor = coarser(grid), 2 * factor
        name = f"ovr_{factor}x"
        finer = _level(finer, store.path / name, grid, legend, 3, f"_{factor}x")
        levels[f"{name}/{ARRAY}"] = grid
    # Last of all: what the root names is there.
    store.adopt(multiscale_attributes(levels, "mode"))


def _add_overviews(
    store: LabelStore, grid: Grid, legend: Legend, scratch: Path, cache_bytes: int
) -> None:
    """The second level and, made by GDAL, all that come after it."""
    grid = coarser(grid)
    storage.make_folder(scratch)
    level = _level(store, scratch / "ovr.zarr", grid, legend, 2, "")
    histogram = np.zeros(256, np.int64)
    for window in _windows(grid):
        histogram += np.bincount(level.read(window).ravel(), minlength=256)
    counts = {value: int(histogram[value]) for value in legend.values}
    place = store.path / ARRAY / OVERVIEWS
    write_cog(
        level,
        grid,
        class_layer(legend),
        place,
        scratch,
        counts=counts,
        tags={},
        cache_bytes=cache_bytes,
    )
    storage.remove(level.path)


def _level(
    finer: LabelStore,
    path: Path,
    grid: Grid,
    legend: Legend,
    zarr_format: ZarrFormat,
    suffix: str,
) -> LabelStore:
    """A store under `path` with every other row and column of `finer`, at most a window at once."""
    store = create(
        path,
        grid,
        class_layer(legend),
        side=_SIDE,
        attributes={},
        zarr_format=zarr_format,
        suffix=suffix,
    )
    height, width = finer.shape
    for window in _windows(grid):
        top, left = 2 * window.top, 2 * window.left
        source = Window(
            top, left, min(2 * window.height, height - top), min(2 * window.width, width - left)
        )
        store.write(window, halved(finer.read(source), legend.nodata))
    return store


def _windows(grid: Grid) -> Iterator[Window]:
    for top in range(0, grid.height, _SIDE):
        for left in range(0, grid.width, _SIDE):
            yield Window(top, left, min(_SIDE, grid.height - top), min(_SIDE, grid.width - left))
