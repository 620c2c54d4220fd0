"""A scene or a map as one small picture, in a format that browsers show."""

import base64
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from segpipe.pipeline.maps.legend import Legend
from segpipe.pipeline.maps.thinned import pick
from segpipe.pipeline.scenes.scene import Scene
from segpipe.pipeline.window import Window

_PERCENTILES = (2.0, 98.0)

Limits = tuple[float, float]
"""The values of a band that are shown as 0 and as 255."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture: its bytes, their media type, and its height and width in pixels."""

    data: bytes
    media_type: str
    height: int
    width: int

    @property
    def uri(self) -> str:
        """The picture as an address that holds it."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"


def reduced(scene: Scene, longest: int) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """The scene in `longest` rows or columns at most: (band, row, column), and where it's valid.

    Pixels are picked, never mixed, so that classes stay classes; out of overviews where the file
    has them.

    Raises:
        CorruptInputError: they can't be read.
    """
    most = max(scene.grid.shape)
    height, width = (
        side if most <= longest else max(1, round(side * longest / most))
        for side in scene.grid.shape
    )
    a, b, c, d, e, f = scene.grid.transform
    down, across = scene.grid.height / height, scene.grid.width / width
    grid = replace(
        scene.grid,
        height=height,
        width=width,
        transform=(a * across, b * down, c, d * across, e * down, f),
    )
    small = replace(scene, grid=grid, source=_Picked(scene, (height, width)))
    return small.read(grid.window)


@dataclass(frozen=True, slots=True)
class _Picked:
    """A source with so many rows and columns of a scene's, spread evenly."""

    scene: Scene
    shape: tuple[int, int]

    def read(
        self, window: Window, indexes: tuple[int, ...], dtype: str
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """See `Source.read`."""
        whole = self.scene.grid.window
        pixels, valid = pick(self.scene.source, whole, self.shape, indexes, dtype)
        return pixels[:, window.slices[0], window.slices[1]], valid[window.slices]

    def identity(self, full: bool) -> dict[str, Any]:
        """See `Source.identity`."""
        return self.scene.source.identity(full)


def composite(scene: Scene, bands: Sequence[int], longest: int) -> Picture:
    """One band in grey or three in red, green and blue; transparent where the scene is invalid.

    Each band is stretched from the 2nd to the 98th percentile of its valid pixels.

    Args:
        scene: what is shown.
        bands: places in the scene's choice of bands, from 0; one or three.
        longest: the most rows or columns that the picture may have.

    Raises:
        CorruptInputError: the pixels can't be read.
    """
    chosen = replace(
        scene,
        band_indexes=tuple(scene.band_indexes[band] for band in bands),
        band_names=tuple(scene.band_names[band] for band in bands),
        nodata=tuple(scene.nodata[band] for band in bands),
    )
    pixels, valid = reduced(chosen, longest)
    colors = [stretched(band, valid, limits(band, valid)) for band in pixels]
    alpha = np.where(valid, np.uint8(255), np.uint8(0))
    return _encoded(np.stack([*(colors * 3)[:3], alpha]), "WEBP", {"QUALITY": "88"})


def painted(scene: Scene, legend: Legend, longest: int) -> Picture:
    """A map in its legend's colours; transparent where it has no class.

    Raises:
        CorruptInputError: the pixels can't be read.
    """
    return _encoded(np.moveaxis(paint(scene, legend, longest), 2, 0), "PNG", {"ZLEVEL": "9"})


def paint(scene: Scene, legend: Legend, longest: int) -> NDArray[np.uint8]:
    """A map in its legend's colours: (row, column, red green blue alpha).

    Raises:
        CorruptInputError: the pixels can't be read.
    """
    pixels, valid = reduced(scene, longest)
    labels = np.where(valid, pixels[0], legend.nodata).astype(np.uint8)
    colors: NDArray[np.uint8] = np.array(legend.palette, np.uint8)[labels]
    return colors


def limits(band: NDArray[np.generic], valid: NDArray[np.bool_]) -> Limits:
    """The 2nd and the 98th percentile of a band's valid pixels; 0 and 0 where there are none."""
    if not valid.any():
        return 0.0, 0.0
    low, high = np.percentile(band[valid].astype(np.float64), _PERCENTILES)
    return float(low), float(high)


def stretched(
    band: NDArray[np.generic], valid: NDArray[np.bool_], ends: Limits
) -> NDArray[np.uint8]:
    """A band with these limits at 0 and 255; 0 where it is invalid, grey where they are one."""
    low, high = ends
    values = np.where(valid, band, 0).astype(np.float64)
    spread = high - low
    share = (values - low) / spread if spread > 0 else np.full(band.shape, 0.5)
    shown: NDArray[np.uint8] = np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
    return np.where(valid, shown, np.uint8(0))


def _encoded(pixels: NDArray[np.uint8], driver: str, options: dict[str, str]) -> Picture:
    """The bands (band, row, column) as a file; PNG where this GDAL lacks the driver."""
    count, height, width = pixels.shape
    with rasterio.Env() as environment, MemoryFile() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        kind, more = (driver, options) if driver in environment.drivers() else ("PNG", {})
        with memory.open(
            driver=kind, height=height, width=width, count=count, dtype="uint8", **more
        ) as file:
            file.write(pixels)
        memory.seek(0)
        return Picture(bytes(memory.read()), f"image/{kind.lower()}", height, width)
