"""How a run changes with one thing at a time: tiles, precision, engine, cores, workers, size."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from segpipe.models.engine import Precision, default_threads
from segpipe.models.predictor import ENGINES
from segpipe.pipeline import storage
from segpipe.pipeline.errors import PipelineError
from segpipe.pipeline.plan import CHUNK, Plan
from segpipe.pipeline.scenes.raster import open_raster
from segpipe.workflows.bench import Watcher, predictor_of, prepared
from segpipe.workflows.errors import OptionError
from segpipe.workflows.machine import Machine, machine
from segpipe.workflows.measured import Measured, RunFailedError, Shape, Stand, stand

SECONDS = 600.0
"""How long a sweep takes at most, unless someone says otherwise."""

_REFUSED = (2, 3, 4)
"""Exit codes of runs that this machine, scene or model can't do; others may go on."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a value of an axis means: options of `run`, cores to use, or the scene's shape."""

    value: str
    options: Mapping[str, str] = field(default_factory=dict)
    cores: int | None = None
    shape: Shape | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """What is varied: how its values are read, which ones by default, and what is expected."""

    reads: Callable[[str], Setting]
    values: Callable[[], Iterable[str]]
    expected: str


@dataclass(frozen=True, slots=True)
class Row:
    """One value of the axis.

    Attributes:
        value: as it was typed.
        run: what was measured, None where nothing was.
        extra_work: pixels computed over pixels of the scene.
        differing: labels that aren't those of the first row's map; None for scenes of another size.
        left_out: why nothing was measured.
    """

    value: str
    run: Measured | None = None
    extra_work: float | None = None
    differing: int | None = None
    left_out: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON takes it."""
        if self.run is None:
            return {"value": self.value, "left_out": self.left_out}
        return {
            "value": self.value,
            **self.run.to_dict(),
            "extra_work": self.extra_work,
            "labels_differing": self.differing,
        }


@dataclass(frozen=True, slots=True)
class Ratios:
    """A row over the first one that was measured.

    Attributes:
        speed: of megapixels a second.
        memory: of the most memory held.
        pixels: of the scene.
    """

    speed: float
    memory: float
    pixels: float

    def to_dict(self) -> dict[str, float]:
        """The ratios as JSON takes them."""
        return {"speed": self.speed, "memory": self.memory, "pixels": self.pixels}


@dataclass(frozen=True, slots=True)
class Sweep:
    """Runs that differ in one thing, each a process of its own, one after the other."""

    scene: str
    model: str
    axis: str
    machine: Machine
    rows: tuple[Row, ...]

    @property
    def measured(self) -> tuple[tuple[Row, Measured, Ratios], ...]:
        """The rows that were measured, with their ratios to the first of them."""
        rows = [(row, row.run) for row in self.rows if row.run is not None]
        return tuple((row, run, _ratios(run, rows[0][1])) for row, run in rows)

    def to_dict(self) -> dict[str, Any]:
        """The figures as `segpipe bench sweep --json` prints them."""
        ratios = {row.value: ratios.to_dict() for row, _, ratios in self.measured}
        return {
            "scene": self.scene,
            "model": self.model,
            "over": self.axis,
            "machine": self.machine.to_dict(),
            "rows": [{**row.to_dict(), "ratios": ratios.get(row.value)} for row in self.rows],
        }


def sweep(
    scene: str | Path,
    over: str,
    values: Sequence[str] | None = None,
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
    repeats: int = 1,
    seconds: float = SECONDS,
    watch: Watcher = lambda line: None,
) -> Sweep:
    """Maps the scene once for each value, and compares times, memory and labels.

    Args:
        scene: a raster in a file.
        over: what is varied, one of `AXES`.
        values: as they are typed; by default those that suit this machine.
        model: a package's folder, a bundled model, or an architecture with random weights.
        trust_model: as `run` takes it.
        size: rows and columns to which the scene is repeated; None for its own.
        bands, tile, device, precision, engine, memory, workers: as `run` takes them.
        repeats: runs for each value, of which the fastest counts.
        seconds: what would take longer than is left of this is left out.
        watch: is told what is measured next.

    Raises:
        OptionError: there is no such axis, or a value makes no sense.
        RunFailedError: a run failed; refusals of single values are told in their rows.
        PipelineError, ModelError: nothing could be measured.
    """
    settings = settings_for(over, values)
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
        bench = _Bench(at, over, options, repeats, time.monotonic() + seconds)
        rows = []
        for setting in settings:
            watch(f"{over} {setting.value}")
            rows.append(bench.row(setting))
        if not any(row.run for row in rows):
            raise OptionError(f"no value of {over} could be measured: {rows[0].left_out}")
        return Sweep(str(scene), at.model.card.name, over, machine(), tuple(rows))


def settings_for(over: str, values: Sequence[str] | None) -> tuple[Setting, ...]:
    """What the values of an axis mean; by default those that suit this machine.

    Raises:
        OptionError: there is no such axis, or a value makes no sense or comes twice.
    """
    if over not in AXES:
        raise OptionError(f"a sweep goes over {', '.join(AXES)}, got {over!r:.80}")
    axis = AXES[over]
    words = [word.strip() for word in (axis.values() if values is None else values)]
    try:
        settings = tuple(axis.reads(word) for word in words)
    except ValueError as error:
        raise OptionError(f"{over} takes {axis.expected}; {error}") from error
    if not words or len(set(words)) < len(words):
        raise OptionError(f"{over} takes values that differ, got {','.join(words) or 'none'}")
    return settings


def as_shape(text: str) -> Shape:
    """Rows and columns: `4096x4096`, or of a square with so many pixels, `1e8`.

    Raises:
        ValueError: the text is neither.
    """
    words = text.lower().split("x")
    if len(words) == 2 and all(word.strip().isdecimal() for word in words):
        rows, columns = map(int, words)
    elif len(words) == 1:
        rows = columns = round(float(text) ** 0.5) if 0 < float(text) < 1e15 else 0
    else:
        rows = columns = 0
    if not (0 < rows < 1 << 31 and 0 < columns < 1 << 31):
        raise ValueError(f"{text!r:.80} is neither pixels, as 1e8, nor rows and columns")
    return rows, columns


@dataclass(slots=True)
class _Bench:
    """Measures one value after the other, as long as there is time."""

    stand: Stand
    over: str
    options: Mapping[str, Any]
    repeats: int
    end: float
    _last: Measured | None = None

    def row(self, setting: Setting) -> Row:
        """The row of a value.

        Raises:
            RunFailedError: a run failed for another reason than that it can't be.
        """
        place = self.stand.resized(setting.shape)
        options = {**self.options, **setting.options}
        try:
            ready = prepared(place, options)
            if late := self._lateness(ready.plan.grid.pixels):
                return Row(setting.value, left_out=late)
            runs = [place.run(options, setting.cores) for _ in range(self.repeats)]
        except PipelineError as error:
            if isinstance(error, RunFailedError) and error.exit_code not in _REFUSED:
                raise
            return Row(setting.value, left_out=str(error))
        self._last = run = min(runs, key=lambda run: run.seconds)
        plan = replace(ready.plan, side=int(run.report["tile"]))
        computed = predictor_of(ready, run).pixels_computed(plan.extents.items())
        return Row(setting.value, run, computed / plan.grid.pixels, self._differing(plan))

    def _lateness(self, pixels: int) -> str:
        """Why a run over so many pixels isn't begun, judged by the one before; else nothing."""
        if self._last is None:
            return ""
        growth = max(pixels / self._last.pixels, 1.0)
        needed = self.repeats * (self._last.wall + (growth - 1) * self._last.seconds)
        left = max(self.end - time.monotonic(), 0.0)
        if needed <= left:
            return ""
        return f"would take about {needed:.0f} s, and {left:.0f} s are left; raise --seconds"

    def _differing(self, plan: Plan) -> int | None:
        """Labels of the latest map that aren't those of the first one."""
        if self.over == "size":
            return None
        first = self.stand.folder / "first.tif"
        if not first.exists():
            storage.rename(self.stand.map, first)
            return 0
        return count_differing(first, self.stand.map, plan)


def count_differing(first: Path, second: Path, plan: Plan) -> int:
    """Labels at which two maps of one size differ."""
    maps = [open_raster(path).source for path in (first, second)]
    differing = 0
    for tile in replace(plan, side=8 * CHUNK).tiles():
        one, other = (source.read(tile.core, (1,), "uint8")[0] for source in maps)
        differing += int(np.count_nonzero(one != other))
    return differing


def _ratios(run: Measured, first: Measured) -> Ratios:
    return Ratios(
        run.megapixels_per_second / first.megapixels_per_second,
        run.peak_rss_bytes / first.peak_rss_bytes,
        run.pixels / first.pixels,
    )


def _tile(text: str) -> Setting:
    if text != "auto" and (not text.isdecimal() or int(text) < CHUNK or int(text) % CHUNK):
        raise ValueError(f"got {text!r:.80}")
    return Setting(text, {"tile": text})


def _one_of(option: str, words: Iterable[str]) -> Callable[[str], Setting]:
    allowed = tuple(words)

    def reads(text: str) -> Setting:
        if text not in allowed:
            raise ValueError(f"got {text!r:.80}")
        return Setting(text, {option: text})

    return reads


def _threads(text: str) -> Setting:
    if not text.isdecimal() or not 1 <= int(text) <= default_threads():
        raise ValueError(f"got {text!r:.80}; there are {default_threads()} cores")
    return Setting(text, cores=int(text))


def _workers(text: str) -> Setting:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"got {text!r:.80}")
    return Setting(text, {"workers": text})


def _size(text: str) -> Setting:
    return Setting(text, shape=as_shape(text))


def _doubling() -> Iterable[str]:
    """1, 2, 4 and so on, and the number of cores."""
    cores = default_threads()
    return [*(str(1 << n) for n in range(cores.bit_length()) if 1 << n < cores), str(cores)]


AXES: dict[str, Axis] = {
    "tile": Axis(
        _tile, lambda: ("512", "1024", "2048", "4096", "auto"), f"auto or multiples of {CHUNK}"
    ),
    "precision": Axis(
        _one_of("precision", get_args(Precision)),
        lambda: get_args(Precision),
        " and ".join(get_args(Precision)),
    ),
    "engine": Axis(_one_of("engine", ENGINES), lambda: ENGINES[1:], ", ".join(ENGINES)),
    "threads": Axis(_threads, _doubling, "numbers of cores"),
    "workers": Axis(_workers, _doubling, "numbers of processes, 1 or more"),
    "size": Axis(
        _size,
        lambda: ("1e6", "1e7", "1e8", "1e9"),
        "pixels, as 1e8, or rows and columns, as 4096x4096",
    ),
}
"""What a sweep can go over."""
