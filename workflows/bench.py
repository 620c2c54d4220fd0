"""How close a run comes to the limits of the machine, as ratios measured side by side."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

from segpipe.models.engine import Precision
from segpipe.pipeline.execution import embedded
from segpipe.pipeline.plan import window_pixels
from segpipe.workflows.catalogue import find_or_build
from segpipe.workflows.memory import THREADS
from segpipe.workflows.plan import prepare
from segpipe.workflows.reading.inputs import Reading
from segpipe.workflows.resident import Resident
from segpipe.workflows.run import run

_TASKS = 500
"""Empty tasks from which the cost of scheduling one is taken."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One run, beside what its parts take alone; all times are seconds.

    Attributes:
        end_to_end: from the call to the published map.
        forward: of the bare network on as many pixels as the run computed, resident on the device.
        read, predict, write, publish: as in the run; predicting includes waiting for the device.
        scheduling: of as many empty tasks as there were tiles.
        extra_work: pixels computed over pixels of the scene.
    """

    scene: Path
    model: str
    pixels: int
    tiles: int
    tile: int
    device: str
    precision: str
    extra_work: float
    end_to_end: float
    forward: float
    read: float
    predict: float
    write: float
    publish: float
    scheduling: float
    peak_rss_bytes: int

    @property
    def over_forward(self) -> float:
        """End-to-end time over the network's own, on the same pixels."""
        return self.end_to_end / self.forward

    @property
    def scheduling_share(self) -> float:
        """Share of the end-to-end time that scheduling takes."""
        return self.scheduling / self.end_to_end

    @property
    def megapixels_per_second(self) -> float:
        """Pixels of the scene over end-to-end time."""
        return self.pixels / 1e6 / self.end_to_end

    def to_dict(self) -> dict[str, Any]:
        """The figures as `segpipe bench --json` prints them."""
        return {
            **asdict(self),
            "scene": str(self.scene),
            "over_forward": self.over_forward,
            "scheduling_share": self.scheduling_share,
            "megapixels_per_second": self.megapixels_per_second,
        }


def bench(
    scene: str | Path,
    *,
    model: str | None = None,
    trust_model: str | None = None,
    bands: Sequence[str | int] | None = None,
    tile: str | int = "auto",
    device: str = "auto",
    precision: Precision | Literal["auto"] = "auto",
    memory: str | None = None,
) -> Benchmark:
    """Maps the scene into a folder that is thrown away, and times the parts alone after it.

    Args:
        scene: a raster; large enough that the seconds of starting don't decide.
        model: a package's folder, a bundled model, or an architecture with random weights.
        trust_model: as `run` takes it.
        bands, tile, device, precision, memory: as `run` takes them.
    """
    found = find_or_build(model, trust_model)
    with _thrown_away(Path(scene)) as output:
        reading = Reading(bands)
        ready = prepare(
            scene, model=found, output=output, reading=reading, tile=tile, memory=memory
        )
        report = run(
            scene,
            model=found,
            output=output,
            bands=bands,
            tile=tile,
            memory=memory,
            device=device,
            precision=precision,
        )
    cut = replace(ready.plan, side=report.tile)
    predictor = Resident(ready.model).predictor(ready.use(), report.engine)
    shape = cut.read_shape
    pixel = predictor.forward_seconds(*shape) / prod(shape)
    return Benchmark(
        scene=Path(scene),
        model=found.card.name,
        pixels=report.pixels,
        tiles=report.tiles,
        tile=report.tile,
        device=report.engine.device,
        precision=report.engine.precision,
        extra_work=cut.extra_work,
        end_to_end=report.seconds.total,
        forward=pixel * window_pixels(cut.extents),
        read=report.seconds.read,
        predict=report.seconds.predict,
        write=report.seconds.write,
        publish=report.seconds.publish,
        scheduling=_scheduling(report.tiles),
        peak_rss_bytes=report.peak_rss_bytes,
    )


@contextmanager
def _thrown_away(scene: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="segpipe-bench-") as folder:
        yield Path(folder) / f"{scene.stem}.tif"


def _scheduling(tiles: int) -> float:
    with embedded(0, threads=THREADS) as runner:
        start = time.perf_counter()
        for _ in runner.map(_nothing, range(_TASKS)):
            pass
        return (time.perf_counter() - start) / _TASKS * tiles


def _nothing(resident: int, item: int) -> int:
    return resident + item
