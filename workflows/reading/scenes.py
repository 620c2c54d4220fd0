"""Several scenes in one command: which ones are meant, where each map goes, what became of each."""

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from segpipe.pipeline.errors import (
    ClusterError,
    InputRefusedError,
    PipelineError,
    StoppedError,
)
from segpipe.pipeline.scenes.band_files import is_one_scene
from segpipe.pipeline.scenes.location import shown
from segpipe.pipeline.scenes.raster import sniff
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.pipeline.scenes.zarr_scene import is_zarr
from segpipe.workflows.errors import OptionError
from segpipe.workflows.plan import target
from segpipe.workflows.queue import in_turn
from segpipe.workflows.reading.ledger import Entry, note
from segpipe.workflows.reading.series import AlreadyMappedError
from segpipe.workflows.results.report import Report

_OWN = (".classes.tif", ".classes.zarr")
"""How maps are called by default: what an earlier call left in a folder is no scene of the next."""

_SIDE_CARS = (".ovr", ".msk")
"""GeoTIFFs that belong to another raster."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A scene, and where its map goes; None for the default, in the current folder."""

    scene: str
    output: str | Path | None


@dataclass(frozen=True, slots=True)
class Batch:
    """What one command maps.

    Attributes:
        assignments: one a scene, in the order of the command line.
        single: whether one scene was named by its own name, whose report stands alone.
        warnings: lines for the user, on rasters that were left out.
        others: scenes that make one map with the only assignment's.
    """

    assignments: tuple[Assignment, ...]
    single: bool
    warnings: tuple[str, ...]
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """A scene without a map, and why."""

    scene: str
    error: PipelineError

    def to_dict(self) -> dict[str, Any]:
        """The failure as `segpipe run --json` prints it."""
        return {
            "scene": shown(self.scene),
            "error": str(self.error),
            "exit_code": self.error.exit_code,
        }


@dataclass(frozen=True, slots=True)
class Finished:
    """A scene that an earlier call mapped, with the report of that, as JSON has it."""

    scene: str
    report: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """That report."""
        return self.report


Outcome = Report | Finished | Failure


def batch(words: Sequence[str], output: str | Path | None, *, of_files: bool = False) -> Batch:
    """The scenes that are meant by words of a command line, and a place for each map.

    A word is a raster, a glob, or a folder: every raster in it that opens, by name. A Landsat or
    Sentinel-2 product's folder is one scene, and so is every folder where bands are named by their
    files (`of_files`). An output that is a folder takes the maps of all scenes.

    Raises:
        InputRefusedError: a glob or a folder has no scene.
        OptionError: one output is named for several scenes, or two maps would have one name.
    """
    into = _folder(output)
    if len(words) > 1 and output and not into:
        raise OptionError(_one_output(output))
    warnings: list[str] = []
    # A scene that two globs match is one scene.
    found = (scene for word in words for scene in _expanded(word, warnings, of_files))
    scenes = tuple(dict.fromkeys(found))
    single = scenes == tuple(words) and len(scenes) == 1
    if output and not into and not single:
        raise OptionError(_one_output(output))
    outputs = [into / target(scene, None).name if into else output for scene in scenes]
    _check_names(scenes, outputs)
    return Batch(tuple(map(Assignment, scenes, outputs)), single, tuple(warnings))


def together(words: Sequence[str], output: str | Path | None, *, of_files: bool = False) -> Batch:
    """The scenes that are meant by words of a command line, as one; words are those of `batch`.

    By default its map has the first scene's name.

    Raises:
        InputRefusedError: a glob or a folder has no scene.
    """
    warnings: list[str] = []
    found = (scene for word in words for scene in _expanded(word, warnings, of_files))
    first, *others = dict.fromkeys(found)
    into = _folder(output)
    task = Assignment(first, into / target(first, None).name if into else output)
    return Batch((task,), True, tuple(warnings), tuple(others))


def attempt(task: Assignment, run: Callable[[str, str | Path | None], Report]) -> Outcome:
    """What `run` reports of a scene; a scene that fails doesn't stop those that follow."""
    try:
        return run(task.scene, task.output)
    except AlreadyMappedError as found:
        return Finished(task.scene, found.report)
    except PipelineError as error:
        return Failure(task.scene, error)


def attempts(
    tasks: Sequence[Assignment], run: Callable[[int, str, str | Path | None], Report]
) -> Iterator[Outcome]:
    """What `run` reports of each scene and its number, in their order; a few are on their way.

    The ledger beside the maps is told of each as it happens. Where there is nobody left to compute,
    or no time, the scenes that weren't begun fail for the same reason.
    """
    reasons: list[PipelineError] = []
    note(Entry(task.scene, str(target(task.scene, task.output)), "pending") for task in tasks)

    def work(number: int, task: Assignment) -> Outcome:
        if reasons:
            return Failure(task.scene, reasons[0])
        output = str(target(task.scene, task.output))
        note([Entry(task.scene, output, "running")])
        outcome = attempt(task, partial(run, number))
        if isinstance(outcome, Failure) and isinstance(outcome.error, ClusterError | StoppedError):
            reasons.append(outcome.error)
        note([replace(entry(outcome), scene=task.scene, output=output)])
        return outcome

    return in_turn(work, tasks)


def entry(outcome: Outcome) -> Entry:
    """What the ledger tells of a scene that is over."""
    if isinstance(outcome, Failure):
        error = outcome.error
        return Entry(
            shown(outcome.scene), "", "failed", exit_code=error.exit_code, error=str(error)
        )
    told = outcome.to_dict()
    return Entry(
        shown(str(told["scene"])),
        str(told["output"]),
        "mapped",
        pixels=told["pixels"],
        seconds=told["seconds"]["total"],
        exit_code=0,
    )


def to_dict(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Many scenes as `segpipe run --json` prints them."""
    done = list(outcomes)
    return {
        "runs": [outcome.to_dict() for outcome in done if isinstance(outcome, Report)],
        "already_mapped": [outcome.to_dict() for outcome in done if isinstance(outcome, Finished)],
        "failed": [outcome.to_dict() for outcome in done if isinstance(outcome, Failure)],
        "scenes": [entry(outcome).to_dict() for outcome in done],
    }


def outputs(outcomes: Iterable[Outcome]) -> Iterator[Path]:
    """The maps that are there, in the order of their scenes."""
    for outcome in outcomes:
        if isinstance(outcome, Report):
            yield outcome.output
        elif isinstance(outcome, Finished):
            yield Path(outcome.report["output"])


def summary(outcome: Outcome) -> str:
    """What became of a scene, in one line."""
    if isinstance(outcome, Report):
        return f"{outcome.scene}: mapped to {outcome.output}"
    if isinstance(outcome, Finished):
        return f"{shown(outcome.scene)}: already mapped to {outcome.report['output']}"
    return f"{shown(outcome.scene)}: failed ({outcome.error.exit_code}): {outcome.error}"


def _expanded(word: str, warnings: list[str], of_files: bool) -> Sequence[str]:
    """The scenes that a word means; what doesn't exist is left for `run` to refuse."""
    path = Path(word)
    try:
        there, folder = path.exists(), path.is_dir() and not is_zarr(path)
    except OSError:  # `run` has words for it
        there, folder = True, False
    if folder:
        return [word] if of_files or is_one_scene(path) else _in_folder(path, warnings)
    if glob.has_magic(word) and not there and "://" not in word:
        return _matching(word, of_files)
    return [word]


def _in_folder(folder: Path, warnings: list[str]) -> list[str]:
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise InputRefusedError(f"{folder}: can't be read: {error.strerror}") from error
    found = []
    for path in paths:
        if _is_candidate(path) and _is_raster(path):
            try:
                open_scene(path)
            except InputRefusedError as error:
                warnings.append(f"left out: {error}")
            else:
                found.append(str(path))
    if not found:
        raise InputRefusedError(
            f"{folder}: a folder that isn't Zarr, and no raster in it can be opened; "
            "name a folder with scenes, or the scenes themselves"
        )
    return found


def _matching(pattern: str, of_files: bool) -> list[str]:
    names = glob.glob(pattern, recursive=True)  # noqa: PTH207  # Path.glob takes none from the root
    matches = map(Path, sorted(names))
    found = [str(path) for path in matches if _is_candidate(path) and _is_scene(path, of_files)]
    if not found:
        raise InputRefusedError(f"{pattern}: no scene has such a name; check the folder's name")
    return found


def _is_scene(path: Path, of_files: bool) -> bool:
    return path.is_file() or (path.is_dir() and (of_files or is_zarr(path) or is_one_scene(path)))


def _is_candidate(path: Path) -> bool:
    return not path.name.startswith(".") and not path.name.endswith((*_OWN, *_SIDE_CARS))


def _is_raster(path: Path) -> bool:
    """Whether this is a raster of a kind that is read here, be it sound or not."""
    if path.is_dir():
        return is_zarr(path)
    try:
        sniff(path)
    except InputRefusedError:
        return False
    return True


def _check_names(scenes: Sequence[str], outputs: Sequence[str | Path | None]) -> None:
    """Refuses scenes whose maps would have one name."""
    taken: dict[Path, str] = {}
    for scene, output in zip(scenes, outputs, strict=True):
        path = target(scene, output)
        if path in taken:
            raise OptionError(
                f"{taken[path]} and {shown(scene)} would both become {path}; map them one by one, "
                "each with its own -o"
            )
        taken[path] = shown(scene)


def _folder(output: str | Path | None) -> Path | None:
    """The output, if it is a folder that takes maps."""
    if isinstance(output, str):
        return None
    return output if output and output.suffix not in (".tif", ".zarr") and output.is_dir() else None


def _one_output(output: str | Path) -> str:
    return (
        "-o names one output and there are several scenes; leave it out, name a folder that "
        f"exists, or make one map with --mosaic, got {output}"
    )
