"""One file, folder or object of pixels, whatever its format."""

from pathlib import Path

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.scenes.location import Address, Place
from segpipe.pipeline.scenes.raster import open_raster, open_remote
from segpipe.pipeline.scenes.remote import RemoteError, translated
from segpipe.pipeline.scenes.source import Contents
from segpipe.pipeline.scenes.zarr_scene import open_zarr
from segpipe.pipeline.scenes.zarr_variables import ANY, Choice


def open_container(place: Place, choice: Choice = ANY) -> Contents:
    """What the GeoTIFF, JPEG 2000, VRT or Zarr at `place` holds.

    Raises:
        InputRefusedError: it's missing, damaged, of a kind that isn't read here, or a file where a
            variable or a time was chosen.
    """
    if isinstance(place, Address):
        return _open_remote(place, choice)
    try:
        if place.is_dir():
            return open_zarr(place, choice)
        if place.is_file():
            _refuse_choice(place, choice)
            return open_raster(place)
    except OSError as error:
        raise InputRefusedError(f"{place}: can't be read: {error.strerror or error}") from error
    found = "is neither a file nor a folder" if place.exists() else "doesn't exist"
    raise InputRefusedError(f"{place}: {found}; name a GeoTIFF, JPEG 2000, VRT or Zarr scene")


def _open_remote(address: Address, choice: Choice) -> Contents:
    try:
        if address.is_folder or choice != ANY:
            with translated(address):
                return open_zarr(address, choice)
        try:
            return open_remote(address)
        except RemoteError as error:
            if not error.absent:
                raise
        with translated(address):
            return open_zarr(address)
    except RemoteError as error:
        raise error.refusal() from None


def _refuse_choice(path: Path, choice: Choice) -> None:
    if choice != ANY:
        raise InputRefusedError(
            f"{path}: a file without variables and time steps; leave --variable and --time out"
        )
