"""What a run says of itself when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segpipe.models.engine import Engine
from segpipe.models.footprint import Footprint
from segpipe.pipeline.failure import Failure
from segpipe.pipeline.maps.legend import Legend, LegendEntry
from segpipe.pipeline.scenes.location import Address, Place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import DataArray

    from segpipe.workflows.polygons import PolygonFile


@dataclass(frozen=True, slots=True)
class ClassTotal:
    """A class in the published map: value, pixels, area where a crs gives one, and `#rrggbb`."""

    value: int
    pixels: int
    area_m2: float | None
    color: str


@dataclass(frozen=True, slots=True)
class Seconds:
    """Where the time went; reading, predicting and writing overlap, so they can exceed `total`."""

    total: float
    read: float
    predict: float
    write: float
    publish: float


@dataclass(frozen=True, slots=True)
class SeamCheck:
    """Pixels around a corner of tiles that were computed again as one window."""

    pixels: int
    differing: int


@dataclass(frozen=True, slots=True)
class Canaries:
    """Tiles that an earlier process stored and that were computed again."""

    tiles: int
    pixels: int
    differing: int


@dataclass(frozen=True, slots=True)
class Report:
    """A published map and how it came about.

    `pixels` are those of the scene, `aoi_pixels` those of the area of interest if there is one.
    `sureness` are pixels by the network's greatest probability, in bins of one width from 0 to 1,
    if they were counted. `area_m2` is that of the whole raster, where a crs gives one. `run` names
    the run in its logs and in its map. `addresses` are those of files that go to an object store:
    they are made on a disk, and `place` says where they lie in the end. `failed` are tiles that are
    nodata because they couldn't be mapped.
    """

    output: Path
    scene: Place
    model: str
    tiles: int
    tiles_resumed: int
    pixels: int
    aoi_pixels: int | None
    classes: Mapping[str, ClassTotal]
    footprint: Footprint
    tile: int
    engine: Engine
    seam: SeamCheck | None
    seconds: Seconds
    peak_rss_bytes: int
    warnings: tuple[str, ...]
    area_m2: float | None = None
    stac: Path | None = None
    polygons: PolygonFile | None = None
    probabilities: Path | None = None
    confidence: Path | None = None
    sureness: tuple[int, ...] | None = None
    page: Path | None = None
    run: str = ""
    canaries: Canaries | None = None
    failed: tuple[Failure, ...] = ()
    addresses: Mapping[Path, Address] = field(default_factory=dict)

    def place(self, path: Path) -> Place:
        """Where a file that the run made lies: on the disk, or in the store that it is sent to.

        Its side-cars go with a map.
        """
        for sent, address in self.addresses.items():
            if path.parent == sent.parent:
                return address.beside(path.name)
        return path

    @property
    def valid_pixels(self) -> int:
        """Pixels that have a label."""
        return sum(count.pixels for count in self.classes.values())

    @property
    def nodata_area_m2(self) -> float | None:
        """Area of the pixels without a label, where a crs gives one; with the classes' it's all."""
        areas = [count.area_m2 for count in self.classes.values() if count.area_m2 is not None]
        if self.area_m2 is None or len(areas) < len(self.classes):
            return None
        return max(self.area_m2 - sum(areas), 0.0) if self.valid_pixels < self.pixels else 0.0

    @property
    def legend(self) -> Legend:
        """What the map's values mean."""
        entries = (
            LegendEntry(count.value, name, count.color) for name, count in self.classes.items()
        )
        return Legend(self.model, tuple(entries))

    @property
    def megapixels_per_second(self) -> float:
        """Pixels that were asked for over seconds of the whole run."""
        pixels = self.pixels if self.aoi_pixels is None else self.aoi_pixels
        return pixels / 1e6 / max(self.seconds.total, 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """The report as `segpipe run --json` prints it."""
        return {
            "run": self.run,
            "output": str(self.place(self.output)),
            "scene": str(self.scene),
            "model": self.model,
            "tiles": self.tiles,
            "tiles_resumed": self.tiles_resumed,
            "tiles_failed": len(self.failed),
            "failed": [asdict(failure) for failure in self.failed],
            "pixels": self.pixels,
            "aoi_pixels": self.aoi_pixels,
            "valid_pixels": self.valid_pixels,
            "classes": {name: asdict(count) for name, count in self.classes.items()},
            "nodata": {
                "value": self.legend.nodata,
                "pixels": self.pixels - self.valid_pixels,
                "area_m2": self.nodata_area_m2,
            },
            "area_m2": self.area_m2,
            "stac": self._told(self.stac),
            "report": self._told(self.page),
            "footprint": self.footprint.to_dict(),
            "tile": self.tile,
            "device": self.engine.device,
            "engine": self.engine.name,
            "precision": self.engine.precision,
            "agreement": self.engine.agreement,
            "seam": asdict(self.seam) if self.seam else None,
            "canaries": asdict(self.canaries) if self.canaries else None,
            "seconds": asdict(self.seconds),
            "megapixels_per_second": self.megapixels_per_second,
            "peak_rss_bytes": self.peak_rss_bytes,
            "warnings": list(self.warnings),
            "polygons": self._polygons(),
            "probabilities": self._told(self.probabilities),
            "confidence": self._told(self.confidence),
        }

    def _told(self, path: Path | None) -> str | None:
        return None if path is None else str(self.place(path))

    def _polygons(self) -> dict[str, Any] | None:
        if self.polygons is None:
            return None
        places = {"output": self._told(self.polygons.output), "map": self._told(self.output)}
        return {**self.polygons.to_dict(), **places}

    def open(self) -> DataArray:
        """The map (y, x) as uint8, read when it is used, with crs, nodata and CF flags.

        Raises:
            OptionError: xarray or rioxarray isn't installed.
            OSError: the map isn't there any more.
        """
        from segpipe.workflows.results.notebook import open_map

        return open_map(self)

    def plot(self, ax: Axes | None = None) -> Axes:
        """The axes with the map in its colours and its legend; new ones where none are given.

        Raises:
            OptionError: matplotlib isn't installed.
            PipelineError: the map can't be read any more.
        """
        from segpipe.workflows.results.notebook import plot_map

        return plot_map(self, ax)

    def _repr_html_(self) -> str:
        """The legend with areas, for notebooks."""
        from segpipe.workflows.results.notebook import as_html

        return as_html(self)
