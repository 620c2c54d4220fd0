"""How close a run comes to the limits of the machine, as ratios measured side by side."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segpipe.models.bandwidth import Bandwidth, bandwidth
from segpipe.models.engine import Precision, default_threads
from segpipe.models.predictor import TorchPredictor
from segpipe.pipeline.execution.embedded import embedded
from segpipe.pipeline.plan import Plan
from segpipe.pipeline.scenes.scene import Scene
from segpipe.workflows import limits
from segpipe.workflows.limits import FORWARD, MEMORY, Limit
from segpipe.workflows.machine import Machine, machine
from segpipe.workflows.measured import Measured, Shape, Stand, stand
from segpipe.workflows.memory import THREADS
from segpipe.workflows.plan import Preparation, prepare
from segpipe.workflows.reading.inputs import Reading, open_input
from segpipe.workflows.resident import Resident, decide_engine

STAGES = ("read", "predict", "write", "publish")
"""The parts of a run's time that its report names; all but the last overlap."""

_TASKS = 500
"""Empty tasks from which the cost of scheduling one is taken."""

Watcher = Callable[[str], None]
"""Is told what is measured next."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One run, beside what its parts take alone; all times are seconds.

    Attributes:
        scene: what was mapped.
        shape: its rows and columns.
        model: the network's name.
        machine: where it was mapped.
        run: the run, a process of its own.
        limits: of its parts alone, for all of the scene.
        bandwidth: of the device's memory, and of the bus to it.
        extra_work: pixels computed over pixels of the scene.
        busy: in which the device computed for the run.
        scheduling: of as many empty tasks as there were tiles.
    """

    scene: str
    shape: Shape
    model: str
    machine: Machine
    run: Measured
    limits: tuple[Limit, ...]
    bandwidth: Bandwidth
    extra_work: float
    busy: float
    scheduling: float

    @property
    def slowest(self) -> Limit:
        """The limit that a run can't beat, whatever overlaps; memory is none, see `limits`."""
        bounds = (limit for limit in self.limits if limit.name != MEMORY)
        return max(bounds, key=lambda limit: limit.seconds)

    @property
    def forward(self) -> float:
        """Seconds of bare forward passes over as many pixels as the run computed."""
        (found,) = (limit.seconds for limit in self.limits if limit.name == FORWARD)
        return found

    @property
    def ratios(self) -> dict[str, float]:
        """What is compared from one change to the next, all without a unit.

        Over network: the run's time over that of bare forward passes, on the pixels of all windows,
        and on those of the scene alone, which is what margins cost too.
        """
        total = self.run.seconds
        return {
            "over_forward": total / self.forward,
            "over_forward_without_margins": total / self.forward * self.extra_work,
            "over_slowest_limit": total / self.slowest.seconds,
            "extra_work": self.extra_work,
            "device_busy": self.busy / total,
            "scheduling_share": self.scheduling / total,
        }

    @property
    def shares(self) -> dict[str, float]:
        """Each stage's time over the run's; stages overlap, and tiles wait for the device."""
        return {name: self.run.report["seconds"][name] / self.run.seconds for name in STAGES}

    def to_dict(self) -> dict[str, Any]:
        """The figures as `segpipe bench --json` prints them."""
        total = self.run.seconds
        return {
            "scene": self.scene,
            "shape": list(self.shape),
            "model": self.model,
            "machine": self.machine.to_dict(),
            "limits": {
                limit.name: {
                    "seconds": limit.seconds,
                    "megapixels_per_second": self.run.pixels / 1e6 / limit.seconds,
                    "share": limit.seconds / total,
                }
                for limit in self.limits
            },
            "slowest_limit": self.slowest.name,
            "bandwidth": asdict(self.bandwidth),
            "run": self.run.to_dict(),
            "shares": self.shares,
            "ratios": self.ratios,
        }


def bench(
    scene: str | Path,
    *,
    model: str | None = None,
    trust_model: str | None = None,
    bands: Sequence[str | int] | None = None,
    size: Shape | None = None,
    tile: str | int = "auto",
    device: str = "auto",
    precision: Precision | Literal["auto"] = "auto",
    engine: str = "auto",
    memory: str | None = None,
    workers: int | None = None,
    watch: Watcher = lambda line: None,
) -> Benchmark:
    """Maps the scene in a process of its own, and times its parts alone in this one after it.

    The map is thrown away.

    Args:
        scene: a raster.
        model: a package's folder, a bundled model, or an architecture with random weights.
        trust_model: as `run` takes it.
        size: rows and columns to which the scene is repeated; None for its own.
        bands, tile, device, precision, engine, memory, workers: as `run` takes them.
        watch: is told what is measured next.

    Raises:
        RunFailedError: the run ended with an error.
        PipelineError, ModelError, DeviceError, OptionError: as from `run`.
    """
    options = {
        "bands": bands,
        "tile": tile,
        "device": device,
        "precision": precision,
        "engine": engine,
        "memory": memory,
        "workers": workers,
    }
    with stand(scene, model, trust_model, size) as at:
        ready = prepared(at, options)
        watch(f"a run over {ready.plan.grid.height} x {ready.plan.grid.width} pixels")
        done = at.run(options)
        plan = replace(ready.plan, side=int(done.report["tile"]))
        predictor = predictor_of(ready, done)
        name = predictor.engine.device
        watch("the limits")
        found = bandwidth(name, default_threads())
        return Benchmark(
            scene=str(scene),
            shape=plan.grid.shape,
            model=at.model.card.name,
            machine=machine(),
            run=done,
            limits=_limits(at, ready, plan, predictor, found, bands),
            bandwidth=found,
            extra_work=predictor.pixels_computed(plan.extents.items()) / plan.grid.pixels,
            busy=done.busy if name == "cpu" else _busy(predictor, ready.scene, plan),
            scheduling=_scheduling(int(done.report["tiles"])),
        )


def prepared(at: Stand, options: Mapping[str, Any]) -> Preparation:
    """The run with these options of `run`, refused here if it would be refused there.

    Raises:
        PipelineError, OptionError: as from `run`.
    """
    return prepare(
        at.scene,
        model=at.model,
        output=at.folder / "map.tif",
        reading=Reading(options["bands"]),
        tile=options["tile"] if options["tile"] == "auto" else int(options["tile"]),
        memory=options["memory"],
    )


def predictor_of(ready: Preparation, done: Measured) -> TorchPredictor:
    """What computed the run, here."""
    report: Mapping[str, Any] = done.report
    resident, use = Resident(ready.model), ready.use()
    engine = decide_engine(
        ready.scene,
        ready.plan,
        report["device"],
        report["precision"],
        report["engine"],
        use,
        resident,
    )
    return resident.predictor(use, engine)


def _limits(
    at: Stand,
    ready: Preparation,
    plan: Plan,
    predictor: TorchPredictor,
    found: Bandwidth,
    bands: Sequence[str | int] | None,
) -> tuple[Limit, ...]:
    cores = default_threads()
    # A repeated scene's blocks would be decoded once and found in memory after that.
    file = open_input(at.original, Reading(bands), ready.model.card)
    measured = (
        limits.forward(predictor, plan),
        limits.decoding(file, plan, cores),
        limits.encoding(at.map, plan, ready.legend, at.folder, cores),
        limits.memory(predictor, ready.scene, plan, found),
        limits.transfer(ready.scene, plan, found),
    )
    return tuple(limit for limit in measured if limit is not None)


def _busy(predictor: TorchPredictor, scene: Scene, plan: Plan) -> float:
    """Seconds of a GPU for all windows: those of one by its own events, scaled to their pixels."""
    shape = plan.read_shape
    pixels = np.zeros((len(scene.band_indexes), *shape), scene.dtype)
    seconds = predictor.busy_seconds(pixels, np.ones(shape, np.bool_))
    return seconds / prod(shape) * predictor.pixels_computed(plan.extents.items())


def _scheduling(tiles: int) -> float:
    with embedded(0, threads=THREADS) as runner:
        start = time.perf_counter()
        for _ in runner.map(_nothing, range(_TASKS)):
            pass
        return (time.perf_counter() - start) / _TASKS * tiles


def _nothing(resident: int, item: int) -> int:
    return resident + item
