"""Rasters in files: GeoTIFF (COG, BigTIFF), JPEG 2000 and VRT. The only module that opens them.

Nothing that a file says makes this module reach beyond local files: the driver follows from the
file's first bytes, a VRT is rewritten (`vrt`), side-cars are vetted, and GDAL's network is shut.
"""

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags, WktVersion
from rasterio.env import set_gdal_config
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.session import DummySession
from rasterio.windows import Window as RasterioWindow

from segpipe.pipeline import vrt
from segpipe.pipeline.errors import CorruptInputError, InputRefusedError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.source import Band, Contents, check_block, file_identity
from segpipe.pipeline.window import Window

CACHE_BYTES = 256 << 20
"""GDAL's decoded blocks a process: what a row of 2048-pixel tiles of a Landsat scene shares."""

OPTIONS = {
    # Side-cars hold masks and nodata: they have to be seen.
    "GDAL_DISABLE_READDIR_ON_OPEN": "FALSE",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "VRT_ALLOW_MEM_DRIVER": "NO",
    "GTIFF_IGNORE_READ_ERRORS": "NO",
    # Second line of defence: no file has this name, and nothing listens on the discard port.
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
    "GDAL_HTTP_PROXY": "127.0.0.1:9",
    "GDAL_HTTP_MAX_RETRY": "0",
}
"""GDAL's settings while a local raster is opened or read."""

WORKER_ENVIRONMENT = {
    "GDAL_CACHEMAX": str(CACHE_BYTES),
    "GDAL_SKIP": "HTTP WMS WMTS WCS WFS OAPIF EEDA EEDAI DAAS PLMOSAIC STACTA STACIT GTI NGW",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "PROJ_NETWORK": "OFF",
}
"""What a process that segpipe starts should have before it imports rasterio: drivers can't be
forgotten later."""

_SIGNATURES = {
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0+": "GTiff",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JP2OpenJPEG",
    b"\xff\x4f\xff\x51": "JP2OpenJPEG",
}
_VRT_DEPTH = 4
_OPEN = 4
_SAMPLED = 1 << 16

# What rasterio raises for files that GDAL dislikes; ValueError and KeyError for metadata that it
# can't decode or translate.
_FAILURES = (RasterioError, CPLE_BaseError, OSError, ValueError, KeyError, OverflowError)


def sniff(path: Path) -> str:
    """GDAL's name of the driver for this file, found in its first bytes, whatever its name.

    Raises:
        InputRefusedError: it's no GeoTIFF, JPEG 2000 or VRT, or can't be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise InputRefusedError(f"{path}: can't be read: {error.strerror}") from error
    for signature, driver in _SIGNATURES.items():
        if head.startswith(signature):
            return driver
    if b"<VRTDataset" in head:
        return "VRT"
    raise InputRefusedError(
        f"{path}: not a raster that is read here (GeoTIFF, COG, BigTIFF, JPEG 2000, VRT, or a "
        f"folder that is Zarr); convert it first: gdal_translate IN OUT.tif"
    )


def open_raster(path: Path) -> Contents:
    """What the file at `path` holds; every file that it refers to was vetted.

    Raises:
        InputRefusedError: it can't be mapped.
    """
    vetting = _Vetting()
    target = vetting.vet(path)
    for file in vetting.rasters:
        _inspect(file)
    with _refusing(path), _opened(target, sniff(path)) as dataset:
        return Contents(
            grid=_grid(path, dataset),
            bands=_bands(dataset),
            block_shape=_block_shape(path, dataset),
            warnings=_remarks(path, dataset),
            source=RasterSource(str(path), _stamp(path), _masks(dataset), _alpha(dataset)),
        )


def read_tags(path: Path) -> dict[str, str]:
    """What the file at `path` says of itself, by name.

    Raises:
        InputRefusedError: it can't be opened.
    """
    with _refusing(path), _opened(_Vetting().vet(path), sniff(path)) as dataset:
        return dict(dataset.tags())


@dataclass(frozen=True, slots=True)
class RasterSource:
    """A raster file, opened once a thread.

    Attributes:
        path: the file, absolute.
        stamp: its size and modification time when it was accepted.
        masks: for every band the number of the band whose mask hides its pixels, or 0.
        alpha: number of the alpha band, or 0.
    """

    path: str
    stamp: tuple[int, int]
    masks: tuple[int, ...]
    alpha: int

    def read(
        self,
        window: Window,
        indexes: tuple[int, ...],
        dtype: str,
        shape: tuple[int, int] | None = None,
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """See `Source.read`; with `shape` as many rows and columns, out of overviews if it can."""
        size = window.shape if shape is None else shape
        area = RasterioWindow(window.left, window.top, window.width, window.height)
        wanted = [*indexes, self.alpha] if self.alpha else list(indexes)
        masks = sorted({self.masks[index - 1] for index in indexes} - {0})
        try:
            with _environment():
                dataset = _handles.get(self)
                pixels = dataset.read(
                    wanted, window=area, out_dtype=dtype, out_shape=(len(wanted), *size)
                )
                valid = np.ones(size, dtype=np.bool_)
                for index in masks:
                    valid &= dataset.read_masks(index, window=area, out_shape=size) != 0
        except (*_FAILURES, InputRefusedError) as error:
            _handles.forget(self)
            raise CorruptInputError(
                f"{self.path}: rows {window.top} to {window.bottom}, columns {window.left} to "
                f"{window.right} can't be read ({_reason(error)}); "
                f"the file is damaged or incomplete: get it again, then run the same command"
            ) from error
        if self.alpha:
            valid &= pixels[-1] != 0
        return pixels[: len(indexes)], valid

    def identity(self, full: bool) -> dict[str, Any]:
        """See `Source.identity`: one entry a file, for a VRT its sources too."""
        vetting = _Vetting()
        with _refusing(Path(self.path)):
            vetting.vet(Path(self.path))
        return {"files": [file_identity(file, full) for file in vetting.files]}


@dataclass(slots=True)
class _Vetting:
    """Follows a raster to every file that GDAL would open with it."""

    rasters: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    _targets: dict[Path, str] = field(default_factory=dict)
    _folders: dict[Path, dict[str, list[Path]]] = field(default_factory=dict)

    def vet(self, path: Path, depth: int = 0) -> str:
        """What GDAL shall open in place of `path`: the same, or for a VRT its rewritten XML."""
        if path in self._targets:
            return self._targets[path]
        self.files.append(path)
        if sniff(path) == "VRT":
            if depth >= _VRT_DEPTH:
                raise InputRefusedError(
                    f"{path}: VRTs are nested deeper than {_VRT_DEPTH}, or in a circle; "
                    f"write the inner ones as GeoTIFF: gdal_translate IN.vrt OUT.tif"
                )
            target = vrt.rewrite(path, lambda source: self.vet(source, depth + 1))
        else:
            target = str(path)
            self.rasters.append(path)
            self._vet_sidecars(path)
        self._targets[path] = target
        return target

    def _vet_sidecars(self, path: Path) -> None:
        # GDAL opens masks and overviews with any driver, and compares names without case.
        for suffix in (".msk", ".ovr"):
            for sidecar in self._siblings(path, suffix):
                if sniff(sidecar) != "GTiff":
                    raise InputRefusedError(
                        f"{path}: its side-car {sidecar.name} isn't a TIFF; move it away"
                    )
                self.vet(sidecar)
        self.files.extend(self._siblings(path, ".aux.xml"))

    def _siblings(self, path: Path, suffix: str) -> list[Path]:
        if path.parent not in self._folders:
            names: dict[str, list[Path]] = {}
            for sibling in path.parent.iterdir():
                names.setdefault(sibling.name.lower(), []).append(sibling)
            self._folders[path.parent] = names
        found = self._folders[path.parent].get(path.name.lower() + suffix, [])
        return sorted(sibling for sibling in found if sibling.is_file())


def _inspect(path: Path) -> None:
    """Refuses a file whose blocks don't fit in memory, or whose metadata point elsewhere."""
    with _refusing(path), _opened(str(path), sniff(path)) as dataset:
        overview = dataset.tags(ns="OVERVIEWS").get("OVERVIEW_FILE")
        if overview is not None:
            raise InputRefusedError(
                f"{path}: its metadata name another file as overview ({overview[:100]!r}); "
                f"remove that from {path.name}.aux.xml, or write the raster anew: gdal_translate"
            )
        _block_shape(path, dataset)
        _check_extent(path, dataset)


def _check_extent(path: Path, dataset: Any) -> None:
    """Refuses a TIFF with blocks beyond the file's end: its copy or its writer was cut off."""
    if dataset.driver != "GTiff":
        return
    size = path.stat().st_size
    height, width = dataset.block_shapes[0]
    across, down = -(-dataset.width // width), -(-dataset.height // height)
    blocks = across * down
    count = min(blocks, _SAMPLED)
    for index in {blocks - 1 - sample * blocks // count for sample in range(count)}:
        place = f"{index % across}_{index // across}"
        start = dataset.get_tag_item(f"BLOCK_OFFSET_{place}", "TIFF", bidx=dataset.count)
        length = dataset.get_tag_item(f"BLOCK_SIZE_{place}", "TIFF", bidx=dataset.count)
        if start and length and int(start) + int(length) > size:
            raise InputRefusedError(
                f"{path}: cut off: it has {size} bytes, and a block of it ends at byte "
                f"{int(start) + int(length)}; get it again"
            )


def _grid(path: Path, dataset: Any) -> Grid:
    a, b, c, d, e, f = map(float, dataset.transform[:6])
    points, _ = dataset.gcps
    if points and dataset.crs is None:
        raise InputRefusedError(
            f"{path}: has {len(points)} ground control points and no transform, so its pixels have "
            f"no place yet; warp it first: gdalwarp {path.name} warped.tif"
        )
    crs = dataset.crs.to_wkt(version=WktVersion.WKT2_2019) if dataset.crs else None
    return Grid(dataset.height, dataset.width, (a, b, c, d, e, f), crs)


def _bands(dataset: Any) -> tuple[Band, ...]:
    return tuple(
        Band(name or "", dtype, nodata, color == ColorInterp.alpha)
        for name, dtype, nodata, color in zip(
            dataset.descriptions,
            dataset.dtypes,
            dataset.nodatavals,
            dataset.colorinterp,
            strict=True,
        )
    )


def _block_shape(path: Path, dataset: Any) -> tuple[int, int]:
    heights, widths = zip(*dataset.block_shapes, strict=True)
    interleave = dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE")
    together = dataset.count if interleave == "PIXEL" else 1
    # Complex integers have a dtype that numpy doesn't know; no pixel takes more than 16 bytes.
    sizes = [np.dtype(name).itemsize if name in np.sctypeDict else 16 for name in dataset.dtypes]
    check_block(path, (together, max(heights), max(widths)), max(sizes))
    return max(heights), max(widths)


def _remarks(path: Path, dataset: Any) -> tuple[str, ...]:
    if dataset.crs is not None:
        return ()
    if dataset.rpcs is not None:
        return (
            f"{path.name} has no crs, only RPCs: its map won't be placed on the Earth; "
            f"gdalwarp -rpc places it",
        )
    return (f"{path.name} has no crs: its map won't have one either",)


def _masks(dataset: Any) -> tuple[int, ...]:
    """For every band the number of the band whose mask is read, or 0 where values tell."""
    shared = 0
    masks = []
    for index, flags in enumerate(dataset.mask_flag_enums, start=1):
        mask = 0
        if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
            mask = shared = shared or index
        elif not flags:
            mask = index
        masks.append(mask)
    return tuple(masks)


def _alpha(dataset: Any) -> int:
    colors: list[ColorInterp] = list(dataset.colorinterp)
    return colors.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in colors else 0


class _Handles(threading.local):
    """Open datasets of one thread, the last few that it used."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[int, RasterSource], Any] = OrderedDict()

    def get(self, source: RasterSource) -> Any:
        """The dataset, opened where it isn't."""
        # A forked process shares the file's position with its parent.
        key = os.getpid(), source
        if key not in self._open:
            path = Path(source.path)
            if _stamp(path) != source.stamp:
                raise OSError("the file was changed after the run began")
            self._open[key] = _open(_Vetting().vet(path), sniff(path))
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(key)
        return self._open[key]

    def forget(self, source: RasterSource) -> None:
        """Closes the dataset: after an error GDAL may keep half a block."""
        dataset = self._open.pop((os.getpid(), source), None)
        if dataset is not None:
            dataset.close()


_handles = _Handles()
_opening = threading.Lock()


def _stamp(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def _open(target: str, driver: str) -> Any:
    if "GDAL_CACHEMAX" not in os.environ:
        # As an option of the environment it would be undone by whichever thread leaves it first.
        set_gdal_config("GDAL_CACHEMAX", CACHE_BYTES)
    # A missing transform is told by the scene's own warnings; the lock because filters are global.
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        # A Path is taken as it is, a text might be an address.
        name = target if driver == "VRT" else Path(target)
        return rasterio.open(name, driver=driver, sharing=False)


@contextmanager
def _opened(target: str, driver: str) -> Iterator[Any]:
    # rasterio tries whether nodata fits the dtype by an overflowing cast.
    with _environment(), _open(target, driver) as dataset, np.errstate(over="ignore"):
        yield dataset


def _environment() -> Any:
    return rasterio.Env(session=DummySession(), **OPTIONS)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        raise InputRefusedError(
            f"{path}: GDAL can't open it ({_reason(error)}); it may be damaged: get it again"
        ) from error


def _reason(error: BaseException) -> str:
    """One short line: what GDAL said first."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "..."
