"""A map, or another layer, as a Cloud Optimized GeoTIFF, copied from its store and compared."""

import contextlib
import errno
import glob
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import rasterio.windows
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # what rasterio lets through has no public name
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine

from segpipe.pipeline import storage
from segpipe.pipeline.errors import StorageError, VerificationError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.maps.checksums import BLANK, BLOCKS, HASH, BlockSums, put_checksum
from segpipe.pipeline.maps.label_store import LabelStore
from segpipe.pipeline.maps.layer import Layer
from segpipe.pipeline.maps.legend import Legend
from segpipe.pipeline.maps.pam import Counts
from segpipe.pipeline.window import Window

_BLOCK = 512
# A whole number of blocks and of most shards; of one band, 4 MB are in memory at a time.
_STRIPE = 2048
# With less space than this, in bytes, a disk counts as full.
_FULL = 2**20

_COG = {
    "COMPRESS": "ZSTD",
    "LEVEL": "9",
    "BLOCKSIZE": str(_BLOCK),
    "OVERVIEWS": "IGNORE_EXISTING",
    "NUM_THREADS": "ALL_CPUS",
    "BIGTIFF": "IF_SAFER",
    "SPARSE_OK": "YES",
    "STATISTICS": "YES",
    "GEOTIFF_VERSION": "1.1",
}


def write_cog(
    store: LabelStore,
    grid: Grid,
    layer: Layer,
    destination: Path,
    scratch: Path,
    *,
    counts: Counts | None,
    tags: Mapping[str, str],
    cache_bytes: int,
) -> None:
    """Puts the map in `store` at `destination`, which holds it whole and compared, or isn't there.

    The bytes depend on the arguments alone: not on the number of processors, nor on the time.

    Args:
        store: the labels.
        grid: where they lie.
        layer: what they are.
        destination: the GeoTIFF, in a folder of this run's own; replaced if it is there.
        scratch: a folder for a file of about the size of the store, which is removed.
        counts: pixels of each class, which must be what the store holds; None where the layer
            has no classes.
        tags: what the file says of its origin; with them it holds its checksum.
        cache_bytes: how much memory GDAL may use for blocks.

    Raises:
        StorageError: the disk refuses.
        VerificationError: what was written, or what `counts` says, isn't what the store holds.
    """
    partial = destination.with_name(f".{destination.name}.part")
    plain = scratch / f".{destination.name}.plain.part"
    _remove(partial, plain)
    try:
        with _reported(destination, scratch), rasterio.Env(GDAL_CACHEMAX=cache_bytes):
            storage.step("write", plain)
            _write_plain(store, grid, layer, plain, tags)
            storage.step("write", partial)
            rasterio.shutil.copy(plain, partial, driver="COG", **_COG, **_coding(layer))
            if tags:
                put_checksum(partial)
            found = _compared(store, grid, partial)
            if layer.legend and counts is not None:
                _verify(found, grid, layer.legend, partial, counts)
        storage.sync(partial)
        storage.rename(partial, destination)
    finally:
        _remove(partial, plain)


def _coding(layer: Layer) -> dict[str, str]:
    """How pixels are packed and seen from further away."""
    # Neighbours' probabilities are alike, which differences make small; classes are or aren't.
    predictor = "STANDARD" if layer.scale else "NO"
    return {"PREDICTOR": predictor, "OVERVIEW_RESAMPLING": layer.resampling}


def _write_plain(
    store: LabelStore, grid: Grid, layer: Layer, path: Path, tags: Mapping[str, str]
) -> None:
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": grid.height,
        "width": grid.width,
        "count": layer.count,
        "dtype": "uint8",
        "crs": grid.crs,
        "transform": Affine(*grid.transform),
        "nodata": layer.nodata,
        "tiled": True,
        "blockxsize": _BLOCK,
        "blockysize": _BLOCK,
        "compress": "zstd",
        "zstd_level": 1,
        "sparse_ok": True,
        "bigtiff": "if_safer",
    }
    if layer.legend is None:
        # GDAL would take three bands for red, green and blue, and a fourth for a mask.
        profile["photometric"] = "minisblack"
    with rasterio.open(path, "w", **profile) as file:
        if layer.legend:
            file.write_colormap(1, dict(enumerate(layer.legend.palette)))
        file.descriptions = layer.bands.names if layer.bands else (layer.title,)
        if layer.scale:
            file.scales, file.offsets = (layer.scale,) * layer.count, (0.0,) * layer.count
        software = f"segpipe {version('segpipe')}"
        file.update_tags(**{"TIFFTAG_SOFTWARE": software, "AREA_OR_POINT": "Area", **tags})
        sums = BlockSums(_BLOCK)
        for window in _windows(grid, layer.count):
            pixels = store.read(window)
            file.write(pixels if pixels.ndim == 3 else pixels[None], window=_rasterio(window))
            sums.add(window, pixels)
        if tags:
            file.update_tags(**{BLOCKS: str(sums), HASH: BLANK})


def _compared(store: LabelStore, grid: Grid, path: Path) -> NDArray[np.int64]:
    """Compares every block of `path` with the store; how often each value stands there."""
    histogram = np.zeros(256, dtype=np.int64)
    with rasterio.open(path) as file:
        if file.shape != grid.shape or tuple(file.transform)[:6] != grid.transform:
            raise VerificationError(
                f"{path} was written with the grid {file.shape} {tuple(file.transform)[:6]} "
                f"instead of {grid.shape} {grid.transform}; please report this"
            )
        for window in _windows(grid, file.count):
            stored = store.read(window)
            written: NDArray[np.uint8] = file.read(window=_rasterio(window))
            if not np.array_equal(stored, written if stored.ndim == 3 else written[0]):
                raise VerificationError(
                    f"{path} doesn't hold the labels that were computed at {window}; check the "
                    "disk and type the same command again"
                )
            histogram += np.bincount(stored.ravel(), minlength=256)
    return histogram


def _verify(
    histogram: NDArray[np.int64], grid: Grid, legend: Legend, path: Path, counts: Counts
) -> None:
    """Compares the pixels of each value with `counts`."""
    found = {value: int(histogram[value]) for value in legend.values}
    unknown = grid.pixels - sum(found.values()) - int(histogram[legend.nodata])
    expected = {value: counts.get(value, 0) for value in legend.values}
    if unknown or found != expected:
        raise VerificationError(
            f"the labels for {path} hold the classes {found} and {unknown} pixels of none, the "
            f"receipts say {expected}; start anew with --new-run"
        )


def _windows(grid: Grid, bands: int = 1) -> Iterator[Window]:
    """Windows that cover the grid, of whole blocks, the smaller the more bands there are."""
    side = max(_BLOCK, _STRIPE // math.isqrt(bands) // _BLOCK * _BLOCK)
    return grid.window.squares(side)


def _rasterio(window: Window) -> rasterio.windows.Window:
    return rasterio.windows.Window(window.left, window.top, window.width, window.height)


@contextlib.contextmanager
def _reported(destination: Path, scratch: Path) -> Iterator[None]:
    """Turns what GDAL says when it can't write into a line for the user."""
    with storage.reported("write", destination), warnings.catch_warnings():
        # Whoever opened the scene has said that it has no georeference.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            yield
        except (RasterioError, CPLE_BaseError) as error:
            # GDAL doesn't say why it can't write.
            folders = (destination.parent, scratch)
            if min(map(storage.free_bytes, folders)) < _FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            reason = " ".join(str(error.__cause__ or error).split())
            raise StorageError(
                f"can't write {destination}: {reason}; check the disk and type the same command "
                "again"
            ) from error


def _remove(*files: Path) -> None:
    """Removes files and what GDAL may have put beside them."""
    for file in files:
        for path in file.parent.glob(f"{glob.escape(file.name)}*"):
            storage.remove(path)
