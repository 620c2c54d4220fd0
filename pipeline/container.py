"""One file, folder or object of pixels, whatever its format."""

from pathlib import Path

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.location import Address, Place
from segpipe.pipeline.raster import open_raster, open_remote
from segpipe.pipeline.remote import RemoteError
from segpipe.pipeline.source import Contents
from segpipe.pipeline.zarr_scene import open_zarr


def open_container(place: Place) -> Contents:
    """What the GeoTIFF, JPEG 2000, VRT or Zarr at `place` holds.

    Raises:
        InputRefusedError: it's missing, damaged, or of a kind that isn't read here.
    """
    return _open_remote(place) if isinstance(place, Address) else _open_local(place)


def _open_local(path: Path) -> Contents:
    try:
        if path.is_dir():
            return open_zarr(path)
        if path.is_file():
            return open_raster(path)
    except OSError as error:
        raise InputRefusedError(f"{path}: can't be read: {error.strerror or error}") from error
    found = "is neither a file nor a folder" if path.exists() else "doesn't exist"
    raise InputRefusedError(f"{path}: {found}; name a GeoTIFF, JPEG 2000, VRT or Zarr scene")


def _open_remote(address: Address) -> Contents:
    try:
        return open_remote(address)
    except RemoteError as error:
        raise error.refusal() from None
