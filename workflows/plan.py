"""What a run would do: tiles, margin, memory, disk and time, before anything is started."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from segpipe.models.blend import TiledNetwork
from segpipe.models.card import ModelCard
from segpipe.models.certainty import gives_shares
from segpipe.models.engine import Engine, Precision
from segpipe.models.footprint import Footprint
from segpipe.models.package import SegmentationModel
from segpipe.models.predictor import TorchPredictor
from segpipe.models.workspace import Workspace
from segpipe.pipeline import budget
from segpipe.pipeline.errors import InputRefusedError, StorageError
from segpipe.pipeline.fingerprint import Fields
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.maps.layer import CLASSES, CONFIDENCE, MEASURES, PROBABILITIES
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
from segpipe.workflows.memory import costs, workspace
from segpipe.workflows.reading.inputs import Bands, Reading, Scenes, named, open_input
from segpipe.workflows.reading.reflectance import in_stored_units
from segpipe.workflows.resident import Method, Resident, Use, decide_engine
from segpipe.workflows.results.addresses import on_a_disk, output_address
from segpipe.workflows.results.certainty import UNTOLD, Certainty


@dataclass(frozen=True, slots=True)
class Preparation:
    """Everything about a run that is known before it starts."""

    scene: Scene
    model: SegmentationModel
    tiled: TiledNetwork
    selection: Selection
    output: Path
    disk_bytes: int
    method: Method
    certainty: Certainty
    tile: str | int
    memory: str | None

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of what is asked of the network."""
        layers = [layer.name for layer, _ in self.certainty.layers(self.model.card)]
        counted = self.certainty.counted and not layers
        sure = (CONFIDENCE,) if counted or rivals(self.scene) else ()
        return tuple(dict.fromkeys((CLASSES, *layers, *sure)))

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

    def costs(self, engine: Engine, found: Workspace) -> budget.Costs:
        """What a worker takes that computes so."""
        card = self.model.card
        counts = {PROBABILITIES: len(card.classes), CONFIDENCE: len(MEASURES)}
        bands = sum(counts.get(name, 0) for name in self.wanted)
        return costs(self.model, self.scene, self.plan, engine, found, bands)

    def extra_work(self, predictor: TorchPredictor) -> float:
        """Pixels computed over pixels that are wanted.

        Where a decoder computes less than its window, its multiplications count: as many pixels as
        a plain pass would take them for.
        """
        return predictor.pixels_computed(self.selection.extents.items()) / self.selection.pixels

    def fitted(self, costs: budget.Costs, workers: int = 1) -> "Preparation":
        """The same run in tiles that suit the memory, unless their side was asked for.

        Raises:
            InputRefusedError: the tiles don't fit into the memory.
        """
        limit = budget.memory_limit(self.memory, workers)
        if self.tile == "auto":
            cut = budget.choose_plan(self.plan, costs, limit, workers)
            return replace(self, selection=Selection.of(cut, self.selection.aoi))
        need = costs.of(self.plan)
        if self.memory is not None and need > limit:
            raise InputRefusedError(
                f"tiles of {self.tile} need {budget.readable(need)} of memory and --memory allows "
                f"{budget.readable(limit)}; leave out --tile or lower it, and add --new-run if a "
                "run was begun with it"
            )
        return self

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
    precision: Precision
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
            "precision": self.precision,
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
    probabilities: str | Path | None = None,
    confidence: str | Path | None = None,
) -> PlanReport:
    """What `run` with the same options would do; writes nothing.

    Precision and tiles are chosen as `run` does, on samples of the scene. The memory is that of the
    process that is started and of each worker; a scheduler that exists holds the model's weights
    too, packed, while the run is there. The time is that of a small window on this machine, scaled
    to the scene.

    Raises:
        PipelineError, ModelError, DeviceError: what `run` would refuse.
    """
    scene, others = named(scene, mosaic)
    found = find(model, trust_model)
    sent = output_address("output", str(output)) if output and is_remote(output) else None
    certainty = Certainty.of(
        _unsent("probabilities", probabilities), _unsent("confidence", confidence), counted=False
    )
    ready = prepare(
        scene,
        model=found,
        # Nothing is written, so that no outbox is needed.
        output=sent.name if sent else output,
        reading=Reading(bands, resolution, scale, offset, mosaic, others, variable, time),
        tile=tile,
        memory=memory,
        aoi=aoi,
        certainty=certainty,
    )
    resident, use = Resident(ready.model), ready.use()
    chosen = decide_engine(ready.scene, ready.plan, device, precision, engine, use, resident)
    taken = ready.costs(chosen, workspace(chosen, use, ready.scene.dtype, ready.wanted, resident))
    ready = ready.fitted(taken)
    side = -(-CHUNK // ready.tiled.stride) * ready.tiled.stride
    predictor = resident.predictor(use, chosen)
    seconds = predictor.forward_seconds(side, side) / side**2
    extra_work = ready.extra_work(predictor)
    return PlanReport(
        tiles=len(ready.selection),
        tile=ready.plan.side,
        read=ready.plan.read_shape,
        margin=ready.plan.margin,
        extra_work=extra_work,
        precision=chosen.precision,
        memory_bytes=taken.of(ready.plan),
        disk_bytes=ready.disk_bytes,
        seconds=seconds * extra_work * ready.selection.pixels,
        footprint=ready.model.footprint,
        output=sent or ready.output,
        warnings=ready.warnings,
    )


def _unsent(option: str, name: str | Path | None) -> str | Path | None:
    """The name on a disk of what would go to an object store; others are as they are."""
    if not isinstance(name, str) or not is_remote(name):
        return name
    return f"{option}-{output_address(option, name).name}"


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
    new_run: bool = False,
) -> Preparation:
    """A run, prepared as far as it goes without a worker; refuses whatever can be refused.

    Tiles that are to be chosen are the smallest ones, until the engine is known: see `fitted`.

    Raises:
        InputRefusedError: the scene or its bands don't fit the model, or the area of interest
            doesn't fit the scene.
        ModelError: the model is refused.
        StorageError: the output can't be written, or its disk is too small.
        OptionError: an option makes no sense.
    """
    found = find(model)
    card = found.card
    source = open_input(scene, reading, card)
    _require_method(method)
    tiled = Use(found.digest, card, found.footprint, method).tiled(found.network)
    path = _output(scene, output)
    certainty.refuse_places(Path(scene), path)
    before = begun(path)
    side = tile if new_run else _resumed(tile, before)
    cut = _cut(source.grid, tiled, side, memory)
    selection = Selection.of(cut, None if aoi is None else open_aoi(aoi, source.grid))
    disk = budget.disk_bytes(cut, cog=path.suffix == ".tif")
    layers = certainty.layers(card)
    disk += sum(budget.layer_bytes(cut, layer, cog=to.suffix == ".tif") for layer, to in layers)
    disk = int(disk * selection.share)
    if before is None:
        # A run that was begun has taken its part already; publishing asks for the rest.
        file = Path(source.path) if isinstance(source.source, RasterSource) else None
        budget.require_space(cut, file, source.bytes_per_pixel, path, disk)
    return Preparation(source, found, tiled, selection, path, disk, method, certainty, side, memory)


def _require_method(method: str) -> None:
    if method not in get_args(Method):
        raise OptionError(f"the methods are {' and '.join(get_args(Method))}, got {method!r:.80}")


def _resumed(tile: str | int, before: Fields | None) -> str | int:
    """The side that is asked for; `auto` is that of the run that was begun, if there is one.

    What is free changes from one hour to the next, and a resumed run must have the same tiles.
    """
    return tile if before is None or tile != "auto" else int(before["options"]["tile"])


def _cut(grid: Grid, tiled: TiledNetwork, tile: str | int, memory: str | None) -> Plan:
    """The plan for tiles of this side; for `auto`, for the smallest ones.

    Raises:
        OptionError: the side or the memory makes no sense.
    """
    margin = Margin(tiled.top, tiled.left, tiled.bottom, tiled.right)
    try:
        budget.memory_limit(memory)
        return Plan(grid, CHUNK if tile == "auto" else int(tile), tiled.stride, margin)
    except ValueError as error:
        raise OptionError(str(error)) from error


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
