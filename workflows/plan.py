"""What a run would do: tiles, margin, memory, disk and time, before anything is started."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from segpipe.models.blend import Blended, TiledNetwork
from segpipe.models.card import ModelCard
from segpipe.models.certainty import gives_shares
from segpipe.models.converted import SlidingWindow
from segpipe.models.engine import Precision
from segpipe.models.footprint import Footprint
from segpipe.models.package import SegmentationModel
from segpipe.models.predictor import choose_engine
from segpipe.pipeline import budget
from segpipe.pipeline.errors import InputRefusedError, StorageError
from segpipe.pipeline.fingerprint import Fields
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.maps.legend import Legend, LegendEntry
from segpipe.pipeline.plan import CHUNK, Margin, Plan
from segpipe.pipeline.scenes.location import Place, is_remote, place_of
from segpipe.pipeline.scenes.mosaic import rivals
from segpipe.pipeline.scenes.raster import RasterSource
from segpipe.pipeline.scenes.scene import Scene
from segpipe.pipeline.staging import begun
from segpipe.pipeline.vectors.aoi import Selection, open_aoi
from segpipe.workflows.catalogue import Model, find
from segpipe.workflows.errors import OptionError
from segpipe.workflows.reading.inputs import Bands, Reading, Scenes, named, open_input
from segpipe.workflows.reading.reflectance import in_stored_units
from segpipe.workflows.resident import Method, Resident, Use
from segpipe.workflows.results.certainty import UNTOLD, Certainty
from segpipe.workflows.results.delivery import on_a_disk, output_address

THREADS = 3
"""Threads of an embedded worker: one reads, one predicts, one writes."""

_PROCESS_BYTES = 700_000_000
"""Python, torch, GDAL with its block cache, and Dask in one process."""

_COPIES = 4.5
"""Memory over live activations: kernels on a CPU hold copies in layouts of their own, and what is
freed is kept. Measured in fp32: 1.6 (FCN-8s), 2.7 (U-Net), 3.2 (compact FCN), 4.2 (SegNet)."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """Everything about a run that is known before it starts."""

    scene: Scene
    model: SegmentationModel
    tiled: TiledNetwork
    selection: Selection
    output: Path
    memory_bytes: int
    disk_bytes: int
    method: Method
    certainty: Certainty = UNTOLD

    @property
    def plan(self) -> Plan:
        """The whole scene in tiles, whatever part of it is mapped."""
        return self.selection.plan

    @property
    def card(self) -> ModelCard:
        """The model's card with mean and deviation in the scene's own numbers."""
        return in_stored_units(self.model.card, self.scene)

    def use(self) -> Use:
        """What tasks are told of the model.

        Whether scores are probabilities is found here, before there are other threads, and only
        where the run has use for it: tracing a network takes about a second.
        """
        shares = None
        if self.certainty.counted or rivals(self.scene):
            shares = gives_shares(self.tiled.network, len(self.card.bands), self.tiled.stride)
        model = self.model
        return Use(model.digest, self.card, model.footprint, self.method, shares)

    @property
    def legend(self) -> Legend:
        """What the map's values mean."""
        card = self.model.card
        entries = (LegendEntry(info.value, info.name, info.color) for info in card.classes)
        return Legend(card.name, tuple(entries))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines for the user."""
        _, b, _, d, _, _ = self.plan.grid.transform
        if self.output.suffix != ".zarr" or (b == 0 and d == 0):
            return self.scene.warnings
        rotated = (
            f"{Path(self.scene.path).name} is rotated: GDAL before 3.13 and QGIS before 3.44 don't "
            "see where a Zarr map of it lies; an output that ends in .tif keeps it"
        )
        return (*self.scene.warnings, rotated)


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What `segpipe plan` prints."""

    tiles: int
    tile: int
    read: tuple[int, int]
    margin: Margin
    extra_work: float
    memory_bytes: int
    disk_bytes: int
    seconds: float
    footprint: Footprint
    output: Place
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The plan as `segpipe plan --json` prints it."""
        margin = self.margin
        return {
            "tiles": self.tiles,
            "tile": self.tile,
            "read": list(self.read),
            "margin": [margin.top, margin.left, margin.bottom, margin.right],
            "extra_work": self.extra_work,
            "memory_bytes": self.memory_bytes,
            "disk_bytes": self.disk_bytes,
            "seconds": self.seconds,
            "footprint": self.footprint.to_dict(),
            "output": str(self.output),
            "warnings": list(self.warnings),
        }


def plan(
    scene: Scenes,
    *,
    model: Model | None = None,
    trust_model: str | None = None,
    output: str | Path | None = None,
    bands: Bands | None = None,
    scale: float | None = None,
    offset: float | None = None,
    variable: str | None = None,
    time: str | None = None,
    resolution: str | float = "auto",
    mosaic: str | None = None,
    tile: str | int = "auto",
    device: str = "auto",
    precision: Precision | Literal["auto"] = "auto",
    engine: str = "auto",
    memory: str | None = None,
    aoi: str | Path | None = None,
) -> PlanReport:
    """What `run` with the same options would do; writes nothing.

    The time is that of a small window on this machine, scaled to the scene.

    Raises:
        PipelineError, ModelError, DeviceError: what `run` would refuse.
    """
    scene, others = named(scene, mosaic)
    found = find(model, trust_model)
    sent = output_address("output", str(output)) if output and is_remote(output) else None
    ready = prepare(
        scene,
        model=found,
        # Nothing is written, so that no outbox is needed.
        output=sent.name if sent else output,
        reading=Reading(bands, resolution, scale, offset, mosaic, others, variable, time),
        tile=tile,
        memory=memory,
        aoi=aoi,
    )
    return PlanReport(
        tiles=len(ready.selection),
        tile=ready.plan.side,
        read=ready.plan.read_shape,
        margin=ready.plan.margin,
        extra_work=ready.selection.extra_work,
        memory_bytes=ready.memory_bytes,
        disk_bytes=ready.disk_bytes,
        seconds=_expected_seconds(ready, device, precision, engine),
        footprint=ready.model.footprint,
        output=sent or ready.output,
        warnings=ready.warnings,
    )


def prepare(
    scene: str | Path,
    *,
    model: Model | None,
    output: str | Path | None,
    reading: Reading,
    tile: str | int,
    memory: str | None,
    method: Method = "one-pass",
    aoi: str | Path | None = None,
    certainty: Certainty = UNTOLD,
) -> Preparation:
    """A run, prepared as far as it goes without a worker; refuses whatever can be refused.

    Raises:
        InputRefusedError: the scene, its bands or the memory don't fit the model, or the area of
            interest doesn't fit the scene.
        ModelError: the model is refused.
        StorageError: the output can't be written, or its disk is too small.
        OptionError: an option makes no sense.
    """
    found = find(model)
    card = found.card
    source = open_input(scene, reading, card)
    _require_method(method)
    tiled = Use(found.digest, card, found.footprint, method).tiled(found.network)
    layers = tuple(certainty.layers(card))
    costs = _costs(found, tiled, source)
    costs = replace(costs, held=costs.held + sum(layer.count for layer, _ in layers))
    path = _output(scene, output)
    certainty.refuse_places(Path(scene), path)
    before = begun(path)
    cut = _cut(source.grid, tiled, costs, _resumed(tile, before), memory)
    selection = Selection.of(cut, None if aoi is None else open_aoi(aoi, source.grid))
    disk = budget.disk_bytes(cut, cog=path.suffix == ".tif")
    disk += sum(budget.layer_bytes(cut, layer, cog=to.suffix == ".tif") for layer, to in layers)
    disk = int(disk * selection.share)
    if before is None:
        # A run that was begun has taken its part already; publishing asks for the rest.
        file = Path(source.path) if isinstance(source.source, RasterSource) else None
        budget.require_space(cut, file, source.bytes_per_pixel, path, disk)
    return Preparation(
        source, found, tiled, selection, path, costs.of(cut), disk, method, certainty
    )


def _require_method(method: str) -> None:
    if method not in get_args(Method):
        raise OptionError(f"the methods are {' and '.join(get_args(Method))}, got {method!r:.80}")


def _resumed(tile: str | int, before: Fields | None) -> str | int:
    """The side that is asked for; `auto` is that of the run that was begun, if there is one.

    What is free changes from one hour to the next, and a resumed run must have the same tiles.
    """
    return tile if before is None or tile != "auto" else int(before["options"]["tile"])


def _cut(
    grid: Grid, tiled: TiledNetwork, costs: budget.Costs, tile: str | int, memory: str | None
) -> Plan:
    """The plan for tiles of this side, or of the one that suits the memory.

    Raises:
        InputRefusedError: the tiles don't fit into the memory.
        OptionError: the side or the memory makes no sense.
    """
    margin = Margin(tiled.top, tiled.left, tiled.bottom, tiled.right)
    try:
        limit = budget.memory_limit(memory)
        cut = Plan(grid, CHUNK if tile == "auto" else int(tile), tiled.stride, margin)
    except ValueError as error:
        raise OptionError(str(error)) from error
    if tile == "auto":
        return budget.choose_plan(cut, costs, limit)
    if memory is not None and costs.of(cut) > limit:
        raise InputRefusedError(
            f"tiles of {tile} need {budget.readable(costs.of(cut))} of memory and --memory allows "
            f"{budget.readable(limit)}; leave out --tile or lower it, and add --new-run if a run "
            "was begun with it"
        )
    return cut


def _output(scene: str | Path, output: str | Path | None) -> Path:
    """Where the map goes.

    Raises:
        OptionError: the name tells no format.
        StorageError: there is no such folder.
    """
    path = target(scene, output)
    if path.suffix not in (".tif", ".zarr"):
        raise OptionError(f"an output ends in .tif (COG) or .zarr, got {path.name}")
    if not path.parent.is_dir():
        raise StorageError(f"there is no folder {path.parent}; make it, or choose another with -o")
    return path


def target(scene: str | Path, output: str | Path | None, staging: str | Path | None = None) -> Path:
    """Where a map of the scene goes on a disk, absolute, whether or not it can.

    One for an object store is finished in an outbox, in the folder `staging`.
    """
    output = on_a_disk(output, staging)
    stem = (place_of(scene) if is_remote(scene) else Path(scene)).stem or Path.cwd().name
    return Path(f"{stem}.classes.tif" if output is None else output).absolute()


def _costs(model: SegmentationModel, tiled: TiledNetwork, scene: Scene) -> budget.Costs:
    bands, classes = len(model.card.bands), len(model.card.classes)
    network = tiled.network
    activations = _COPIES * model.activation_bytes
    # The device holds a second copy of the weights, in its own precision and layout.
    fixed = _PROCESS_BYTES + 2 * model.weight_bytes
    if isinstance(network, Blended):
        # Its windows come one by one; only the blended scores cover the tile.
        fixed += int(activations * network.window**2)
        activations = 8.0 * classes
    if isinstance(network, SlidingWindow):
        fixed += int(activations * network.pixels_at_once)
        activations = 8.0 * classes
    return budget.Costs(
        fixed=fixed,
        # Normalised bands and the mask stand beside the activations.
        computed=activations + 8 * bands + 1,
        held=scene.bytes_per_pixel + 2,
        threads=THREADS,
    )


def _expected_seconds(
    ready: Preparation, device: str, precision: Precision | Literal["auto"], engine: str
) -> float:
    side = -(-CHUNK // ready.tiled.stride) * ready.tiled.stride
    pixels = np.ones((len(ready.scene.band_indexes), side, side), ready.scene.dtype)
    valid = np.ones((side, side), np.bool_)
    use = ready.use()
    chosen = choose_engine(
        ready.tiled.network,
        use.card,
        ready.tiled.stride,
        pixels,
        valid,
        device=device,
        precision=precision,
        engine=engine,
    )
    seconds = Resident(ready.model).predictor(use, chosen).forward_seconds(side, side)
    return seconds * ready.selection.extra_work * ready.selection.pixels / side**2
