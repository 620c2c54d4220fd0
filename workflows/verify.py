"""Whether a map holds what the network says."""

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segpipe.models.card import NODATA
from segpipe.models.engine import Engine, Precision
from segpipe.pipeline.errors import InputRefusedError, VerificationError
from segpipe.pipeline.execution.serial import Serial
from segpipe.pipeline.plan import CHUNK
from segpipe.pipeline.scenes.location import Address, Place, place_of
from segpipe.pipeline.scenes.scene import Scene, open_scene
from segpipe.pipeline.vectors.aoi import Selection
from segpipe.pipeline.window import Window
from segpipe.workflows.catalogue import Model, find
from segpipe.workflows.plan import prepare
from segpipe.workflows.reading.inputs import Bands, Reading, Scenes, named
from segpipe.workflows.resident import Method, Resident, Use, decide_engine, recompute
from segpipe.workflows.results.edit import edits

_GPU_TOLERANCE = 1e-3
"""Share of labels that a GPU may round differently in windows of another shape."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was compared and what differed; `absent` of what differs is nodata in the map."""

    output: Place
    windows: int
    pixels: int
    differing: int
    absent: int
    tolerance: float
    first: str | None

    @property
    def holds(self) -> bool:
        """Whether no more labels differ than may."""
        return self.differing <= self.tolerance * self.pixels

    def to_dict(self) -> dict[str, Any]:
        """The result as `segpipe verify --json` prints it."""
        return {**asdict(self), "output": str(self.output), "holds": self.holds}

    def require(self) -> None:
        """Passes if the map holds.

        Raises:
            VerificationError: it doesn't.
        """
        if not self.holds:
            remedy = "map the scene again with --overwrite"
            if self.absent == self.differing:
                remedy = "all of them are nodata, so name the --aoi if the map has one"
            raise VerificationError(
                f"{self.differing} of {self.pixels} labels of {self.output} aren't what the "
                f"network says, the first around {self.first}; at most "
                f"{self.tolerance:.1%} may differ: {remedy}"
            )


def verify(
    scene: Scenes,
    output: str | Path,
    *,
    model: Model | None = None,
    trust_model: str | None = None,
    bands: Bands | None = None,
    scale: float | None = None,
    offset: float | None = None,
    variable: str | None = None,
    time: str | None = None,
    resolution: str | float = "auto",
    mosaic: str | None = None,
    device: str = "auto",
    precision: Precision | Literal["auto"] = "auto",
    engine: str = "auto",
    aoi: str | Path | None = None,
    method: Method = "one-pass",
    windows: int | None = 16,
    tolerance: float | None = None,
    seed: int = 0,
) -> Verification:
    """Compares windows of a map with the network's answer on the same pixels of the scene.

    Each window is computed with twice the margin that the plan asks for, so that a margin which
    is too small shows as well.

    Args:
        scene: the raster that was mapped, or the scenes of a mosaic.
        output: the map, a GeoTIFF or a Zarr store, on a disk or in an object store.
        model, trust_model, bands, scale, offset, variable, time, resolution, mosaic, device,
            precision, engine, aoi, method: as `run` had them; outside of the area of interest a map
            has to be nodata.
        windows: how many windows of 256 pixels, drawn by `seed`; None for all.
        tolerance: share of labels that may differ; 0 on a CPU and 0.001 elsewhere by default.
        seed: decides which windows are drawn.

    Raises:
        InputRefusedError: the map isn't on the scene's pixels.
    """
    scene, others = named(scene, mosaic)
    found = find(model, trust_model)
    place = place_of(output)
    ready = prepare(
        scene,
        model=found,
        output=place.name if isinstance(place, Address) else output,
        reading=Reading(bands, resolution, scale, offset, mosaic, others, variable, time),
        tile=CHUNK,
        memory=None,
        aoi=aoi,
        method=method,
    )
    labels = open_scene(output, ["1"])
    _require_own(output, labels, ready.scene)
    local, use = Serial(Resident(ready.model)), ready.use()
    decide = partial(decide_engine, ready.scene, ready.plan, device, precision, engine, use)
    chosen = local.call(decide)
    usual = 0.0 if chosen.device == "cpu" else _GPU_TOLERANCE
    cores = list(_drawn(ready.selection, windows, seed))
    compare = partial(_count, ready.scene, labels, ready.selection, use, chosen)
    counts = list(local.map(compare, cores))
    wrong = next((core for core, (count, _) in zip(cores, counts, strict=True) if count), None)
    return Verification(
        output=place if isinstance(place, Address) else Path(output),
        windows=len(cores),
        pixels=sum(core.pixels for core in cores),
        differing=sum(differing for differing, _ in counts),
        absent=sum(absent for _, absent in counts),
        tolerance=usual if tolerance is None else tolerance,
        first=None if wrong is None else f"row {wrong.top}, column {wrong.left}",
    )


def _require_own(output: str | Path, labels: Scene, scene: Scene) -> None:
    """Passes if a map is of the scene's size, and as the network made it.

    Raises:
        InputRefusedError: it isn't.
    """
    if edits(place_of(output)):
        raise InputRefusedError(
            f"{output} was changed by segpipe export, so it isn't what the network says; name the "
            "map that it was made from"
        )
    if labels.grid.shape != scene.grid.shape:
        raise InputRefusedError(
            f"{output} has {labels.grid.shape} pixels and {scene.path} has {scene.grid.shape}; "
            "name the scene that was mapped"
        )


def _drawn(selection: Selection, windows: int | None, seed: int) -> Iterator[Window]:
    """Windows with something to compute; all of the map where all windows are asked for."""
    if windows is None:
        yield from (tile.core for tile in selection.plan.tiles())
        return
    count = min(windows, len(selection))
    chosen = set(random.Random(seed).sample(range(len(selection)), count))
    yield from (tile.core for index, tile in enumerate(selection.tiles()) if index in chosen)


def _count(
    scene: Scene,
    labels: Scene,
    selection: Selection,
    use: Use,
    engine: Engine,
    resident: Resident,
    core: Window,
) -> tuple[int, int]:
    """How many labels of a window differ, and how many of these are nodata in the map."""
    (stored,), _ = labels.read(core)
    wanted = selection.wanted(core)
    expected = recompute(scene, selection.plan, use, engine, resident, core, wanted)
    differs = stored != expected
    return int(np.count_nonzero(differs)), int(np.count_nonzero(differs & (stored == NODATA)))
