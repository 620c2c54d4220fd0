"""Rasters in files: GeoTIFF (COG, BigTIFF), JPEG 2000 and VRT. The only module that opens them.

Nothing that a file says makes this module reach beyond local files, or beyond the one object that
was named: the driver follows from the file's first bytes, a VRT is rewritten (`vrt`), side-cars are
vetted, and GDAL's network is shut. An object's bytes are fetched by `remote`.
"""

import atexit
import itertools
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.abc import MultiByteRangeResourceContainer
from rasterio.enums import ColorInterp, MaskFlags, WktVersion
from rasterio.env import set_gdal_config
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.session import DummySession
from rasterio.windows import Window as RasterioWindow

from segpipe.pipeline.errors import CorruptInputError, DamagedError, InputRefusedError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.scenes import vrt
from segpipe.pipeline.scenes.location import Address, Place
from segpipe.pipeline.scenes.remote import RangeFile, RemoteError, RemoteObject, Troubles
from segpipe.pipeline.scenes.source import Band, Contents, check_block, file_identity
from segpipe.pipeline.window import Window

CACHE_BYTES = 64 << 20
"""GDAL's decoded blocks a process. Threads have datasets of their own, so that a tile finds few of
its neighbour's; what a cache takes, every long run takes, and a short one doesn't."""

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

_REMOTE_OPTIONS = {
    **OPTIONS,
    # An object has no side-cars.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # All blocks of a window are asked for at once, not in parts of 10 MB and then one by one.
    "GDAL_MAX_RAW_BLOCK_CACHE_SIZE": str(256 << 20),
}

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
_OPEN = 16
_SAMPLED = 1 << 16
_SAMPLED_REMOTE = 16

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
    return _driver(path, head)


def _driver(place: Place, head: bytes) -> str:
    for signature, driver in _SIGNATURES.items():
        if head.startswith(signature):
            return driver
    if b"<VRTDataset" in head[:1024]:
        return "VRT"
    raise InputRefusedError(
        f"{place}: not a raster that is read here (GeoTIFF, COG, BigTIFF, JPEG 2000, VRT, or a "
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
        with _refusing(file), _opened(str(file), sniff(file)) as dataset:
            _inspect(file, dataset, file.stat().st_size, _SAMPLED)
    with _refusing(path), _opened(target, sniff(path)) as dataset:
        return _contents(path, dataset, LocalFile(str(path), _stamp(path)))


def open_remote(address: Address) -> Contents:
    """What the object at `address` holds: a GeoTIFF (COG, BigTIFF) or JPEG 2000.

    Raises:
        InputRefusedError: it can't be mapped.
        RemoteError: it can't be read.
    """
    file = RemoteFile(RemoteObject.at(address))
    with _refusing(address), file.opened() as dataset:
        _inspect(address, dataset, file.remote.facts.size, _SAMPLED_REMOTE)
        return _contents(address, dataset, file)


def _contents(place: Place, dataset: Any, file: "File") -> Contents:
    return Contents(
        grid=_grid(place, dataset),
        bands=_bands(dataset),
        block_shape=_block_shape(place, dataset),
        warnings=_remarks(place, dataset),
        source=RasterSource(file, _masks(dataset), _alpha(dataset)),
    )


def read_tags(place: Place) -> dict[str, str]:
    """What the file at `place` says of itself, by name.

    Raises:
        InputRefusedError: it can't be opened.
        RemoteError: it can't be read.
    """
    if isinstance(place, Address):
        with _refusing(place), RemoteFile(RemoteObject.at(place)).opened() as dataset:
            return dict(dataset.tags())
    with _refusing(place), _opened(_Vetting().vet(place), sniff(place)) as dataset:
        return dict(dataset.tags())


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A raster file: its absolute path, and its size and time of change when it was accepted."""

    path: str
    stamp: tuple[int, int]

    def __str__(self) -> str:
        return self.path

    def open(self) -> "_Opened":
        """The file with everything that it refers to, vetted.

        Raises:
            InputRefusedError, OSError: it isn't what was accepted.
        """
        path = Path(self.path)
        if _stamp(path) != self.stamp:
            raise OSError("the file was changed after the run began")
        return _Opened(_open(_Vetting().vet(path), sniff(path)), Troubles(), copy_context())

    def identity(self, full: bool) -> dict[str, Any]:
        """See `Source.identity`: one entry a file, for a VRT its sources too."""
        vetting = _Vetting()
        with _refusing(Path(self.path)):
            vetting.vet(Path(self.path))
        return {"files": [file_identity(file, full) for file in vetting.files]}


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A raster in an object, which GDAL sees as the only file of a folder."""

    remote: RemoteObject

    def __str__(self) -> str:
        return str(self.remote.address)

    def open(self) -> "_Opened":
        """The object; a VRT isn't one, as it would lead to others.

        Raises:
            InputRefusedError: it's no raster that is read from afar.
            RemoteError: it can't be read.
        """
        place = self.remote.address
        driver = _driver(place, self.remote.head)
        if driver == "VRT":
            raise InputRefusedError(
                f"{place}: a VRT is read from this machine only; download it, or name the raster "
                f"in it"
            )
        troubles = Troubles()
        context = copy_context()
        # rasterio knows openers by name, and wants another name for each.
        name = f"{next(_numbers)}-{self.remote.address.name}"
        try:
            dataset = context.run(_open, name, driver, _Folder(name, self.remote, troubles))
        except _FAILURES:
            troubles.check()
            raise
        opened = _Opened(dataset, troubles, context)
        _from_afar.add(opened)
        return opened

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """The dataset, closed afterwards.

        Raises:
            RemoteError: it couldn't be read.
        """
        with _environment(self), np.errstate(over="ignore"):
            opened = self.open()
            with closing(opened), opened.checked():
                yield opened.dataset

    def identity(self, full: bool) -> dict[str, Any]:
        """See `Source.identity`."""
        try:
            return {"files": [self.remote.identity(full)]}
        except RemoteError as error:
            raise error.refusal() from error


File = LocalFile | RemoteFile


@dataclass(frozen=True, slots=True)
class RasterSource:
    """A raster, opened once a thread.

    Attributes:
        file: where it is, and how it was when it was accepted.
        masks: for every band the number of the band whose mask hides its pixels, or 0.
        alpha: number of the alpha band, or 0.
    """

    file: File
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
            with _environment(self.file), _handles.lent(self.file) as dataset:
                pixels = dataset.read(
                    wanted, window=area, out_dtype=dtype, out_shape=(len(wanted), *size)
                )
                valid = np.ones(size, dtype=np.bool_)
                for index in masks:
                    valid &= dataset.read_masks(index, window=area, out_shape=size) != 0
        except RemoteError as error:
            _handles.forget(self.file)
            raise error.interruption() from error
        except (*_FAILURES, InputRefusedError) as error:
            _handles.forget(self.file)
            block = isinstance(error, RasterioError | CPLE_BaseError)
            raise (DamagedError if block else CorruptInputError)(
                f"{self.file}: rows {window.top} to {window.bottom}, columns {window.left} to "
                f"{window.right} can't be read ({_reason(error)}); "
                f"the file is damaged or incomplete: get it again, then run the same command"
            ) from error
        if self.alpha:
            valid &= pixels[-1] != 0
        return pixels[: len(indexes)], valid

    def identity(self, full: bool) -> dict[str, Any]:
        """See `Source.identity`."""
        return self.file.identity(full)


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


def _inspect(place: Place, dataset: Any, size: int, sampled: int) -> None:
    """Refuses a file whose blocks don't fit in memory, or whose metadata point elsewhere."""
    overview = dataset.tags(ns="OVERVIEWS").get("OVERVIEW_FILE")
    if overview is not None:
        raise InputRefusedError(
            f"{place}: its metadata name another file as overview ({overview[:100]!r}); "
            f"remove that from {place.name}.aux.xml, or write the raster anew: gdal_translate"
        )
    _block_shape(place, dataset)
    _check_extent(place, dataset, size, sampled)


def _check_extent(place: Place, dataset: Any, size: int, sampled: int) -> None:
    """Refuses a TIFF with blocks beyond the file's end: its copy or its writer was cut off."""
    if dataset.driver != "GTiff":
        return
    height, width = dataset.block_shapes[0]
    across, down = -(-dataset.width // width), -(-dataset.height // height)
    blocks = across * down
    count = min(blocks, sampled)
    for index in {blocks - 1 - sample * blocks // count for sample in range(count)}:
        block = f"{index % across}_{index // across}"
        start = dataset.get_tag_item(f"BLOCK_OFFSET_{block}", "TIFF", bidx=dataset.count)
        length = dataset.get_tag_item(f"BLOCK_SIZE_{block}", "TIFF", bidx=dataset.count)
        if start and length and int(start) + int(length) > size:
            raise InputRefusedError(
                f"{place}: cut off: it has {size} bytes, and a block of it ends at byte "
                f"{int(start) + int(length)}; get it again"
            )


def _grid(place: Place, dataset: Any) -> Grid:
    a, b, c, d, e, f = map(float, dataset.transform[:6])
    points, _ = dataset.gcps
    if points and dataset.crs is None:
        raise InputRefusedError(
            f"{place}: has {len(points)} ground control points and no transform, so its pixels "
            f"have no place yet; warp it first: gdalwarp {place.name} warped.tif"
        )
    crs = dataset.crs.to_wkt(version=WktVersion.WKT2_2019) if dataset.crs else None
    return Grid(dataset.height, dataset.width, (a, b, c, d, e, f), crs)


def _bands(dataset: Any) -> tuple[Band, ...]:
    return tuple(
        Band(name or "", dtype, nodata, color == ColorInterp.alpha, scale, offset)
        for name, dtype, nodata, color, scale, offset in zip(
            dataset.descriptions,
            dataset.dtypes,
            dataset.nodatavals,
            dataset.colorinterp,
            dataset.scales,
            dataset.offsets,
            strict=True,
        )
    )


def _block_shape(place: Place, dataset: Any) -> tuple[int, int]:
    heights, widths = zip(*dataset.block_shapes, strict=True)
    interleave = dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE")
    together = dataset.count if interleave == "PIXEL" else 1
    # Complex integers have a dtype that numpy doesn't know; no pixel takes more than 16 bytes.
    sizes = [np.dtype(name).itemsize if name in np.sctypeDict else 16 for name in dataset.dtypes]
    check_block(str(place), (together, max(heights), max(widths)), max(sizes))
    return max(heights), max(widths)


def _remarks(place: Place, dataset: Any) -> tuple[str, ...]:
    if dataset.crs is not None:
        return ()
    if dataset.rpcs is not None:
        return (
            f"{place.name} has no crs, only RPCs: its map won't be placed on the Earth; "
            f"gdalwarp -rpc places it",
        )
    return (f"{place.name} has no crs: its map won't have one either",)


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


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class _Opened:
    """A dataset, what went wrong beneath it, and the context in which it was opened.

    rasterio knows openers by context: a dataset that is closed in another one, as when a thread
    ends, complains about it.
    """

    dataset: Any
    troubles: Troubles
    context: Context

    def close(self) -> None:
        """Closes the dataset."""
        self.context.run(self.dataset.close)

    def __del__(self) -> None:
        self.close()

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Raises what the network did, whatever GDAL made of it."""
        try:
            yield
        finally:
            self.troubles.check()


@dataclass(frozen=True, slots=True)
class _Folder:
    """What rasterio asks of a file system, with one file in it."""

    name: str
    remote: RemoteObject
    troubles: Troubles

    def open(self, path: str, mode: str = "r", **_: object) -> RangeFile:
        if path != self.name or "w" in mode:
            raise FileNotFoundError(path)
        return RangeFile(self.remote, self.troubles)

    def isfile(self, path: str) -> bool:
        return path == self.name

    def isdir(self, path: str) -> bool:
        return False

    def ls(self, path: str) -> list[str]:
        return [self.name]

    def mtime(self, path: str) -> int:
        return 0

    def size(self, path: str) -> int:
        return self.remote.facts.size

    def rm(self, path: str) -> None:
        raise PermissionError(path)


MultiByteRangeResourceContainer.register(_Folder)
_numbers = itertools.count()
_from_afar: WeakSet[_Opened] = WeakSet()


@atexit.register
def _close_all() -> None:
    # GDAL closes what is open at the very end, when Python can't answer it any more, and says so.
    for opened in list(_from_afar):
        opened.close()


class _Handles(threading.local):
    """Open datasets of one thread, the last few that it used."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[int, File], _Opened] = OrderedDict()

    @contextmanager
    def lent(self, file: File) -> Iterator[Any]:
        """The dataset, opened where it isn't.

        Raises:
            RemoteError: while it was lent, the object couldn't be read.
        """
        # A forked process shares the file's position with its parent.
        key = os.getpid(), file
        if key not in self._open:
            self._open[key] = file.open()
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(key)
        with self._open[key].checked():
            yield self._open[key].dataset

    def forget(self, file: File) -> None:
        """Closes the dataset: after an error GDAL may keep half a block."""
        opened = self._open.pop((os.getpid(), file), None)
        if opened is not None:
            opened.close()


_handles = _Handles()
_opening = threading.Lock()


def _stamp(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def _open(target: str, driver: str, folder: _Folder | None = None) -> Any:
    if "GDAL_CACHEMAX" not in os.environ:
        # As an option of the environment it would be undone by whichever thread leaves it first.
        set_gdal_config("GDAL_CACHEMAX", CACHE_BYTES)
    # A missing transform is told by the scene's own warnings; the lock because filters are global.
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        if folder is not None:
            return rasterio.open(target, driver=driver, sharing=False, opener=folder)
        # A Path is taken as it is, a text might be an address.
        name = target if driver == "VRT" else Path(target)
        return rasterio.open(name, driver=driver, sharing=False)


@contextmanager
def _opened(target: str, driver: str) -> Iterator[Any]:
    # rasterio tries whether nodata fits the dtype by an overflowing cast.
    with _environment(None), _open(target, driver) as dataset, np.errstate(over="ignore"):
        yield dataset


def _environment(file: File | None) -> Any:
    options = _REMOTE_OPTIONS if isinstance(file, RemoteFile) else OPTIONS
    return rasterio.Env(session=DummySession(), **options)


@contextmanager
def _refusing(path: Place) -> Iterator[None]:
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
