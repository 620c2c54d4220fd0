"""What a run says of itself when it is done."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segpipe.models.engine import Engine
from segpipe.models.footprint import Footprint


@dataclass(frozen=True, slots=True)
class ClassTotal:
    """A class in the published map: its value, its pixels, and its area where a crs gives one."""

    value: int
    pixels: int
    area_m2: float | None


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
class Report:
    """A published map and how it came about.

    `pixels` are those of the scene, `aoi_pixels` those of the area of interest if there is one.
    """

    output: Path
    scene: Path
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

    @property
    def valid_pixels(self) -> int:
        """Pixels that have a label."""
        return sum(count.pixels for count in self.classes.values())

    @property
    def megapixels_per_second(self) -> float:
        """Pixels that were asked for over seconds of the whole run."""
        pixels = self.pixels if self.aoi_pixels is None else self.aoi_pixels
        return pixels / 1e6 / max(self.seconds.total, 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """The report as `segpipe run --json` prints it."""
        return {
            "output": str(self.output),
            "scene": str(self.scene),
            "model": self.model,
            "tiles": self.tiles,
            "tiles_resumed": self.tiles_resumed,
            "pixels": self.pixels,
            "aoi_pixels": self.aoi_pixels,
            "valid_pixels": self.valid_pixels,
            "classes": {name: asdict(count) for name, count in self.classes.items()},
            "footprint": self.footprint.to_dict(),
            "tile": self.tile,
            "device": self.engine.device,
            "engine": self.engine.name,
            "precision": self.engine.precision,
            "agreement": self.engine.agreement,
            "seam": asdict(self.seam) if self.seam else None,
            "seconds": asdict(self.seconds),
            "megapixels_per_second": self.megapixels_per_second,
            "peak_rss_bytes": self.peak_rss_bytes,
            "warnings": list(self.warnings),
        }
