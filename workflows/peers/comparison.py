"""segpipe beside other tools: the same network, scene and machine, as ratios in one run."""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.models.converted import ConvertedClassifier
from segpipe.models.errors import ModelError
from segpipe.workflows.catalogue import find_or_build
from segpipe.workflows.peers.environment import Environment, InstallError
from segpipe.workflows.peers.known import Peer, Setting, chosen
from segpipe.workflows.peers.process import AdapterError, Figures, measure, prepare
from segpipe.workflows.peers.subject import Labels, Subject
from segpipe.workflows.reading.inputs import Reading, open_input

WHOLE, OWN = "whole image", "segpipe"
_WHOLE = Peer(WHOLE, "whole_pass", (Setting("one pass, fp32", {}),))
FP32, DEFAULT = "fp32", "default"


@dataclass(frozen=True, slots=True)
class Row:
    """One tool at one setting.

    Attributes:
        tool, setting: as people call them.
        figures: what it took, or None where it couldn't be measured.
        differing: valid pixels with another label than in the whole image; None where one of the
            two is missing.
        reason: why there are no figures.
    """

    tool: str
    setting: str
    figures: Figures | None = None
    differing: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """All tools on one scene, the whole image and segpipe's own runs first."""

    scene: str
    model: str
    pixels: int
    valid_pixels: int
    rows: tuple[Row, ...]

    @cached_property
    def _own(self) -> dict[str, float | None]:
        """Seconds of segpipe's runs by their settings."""
        return {row.setting: _seconds(row) for row in self.rows if row.tool == OWN}

    def speed(self, row: Row) -> float | None:
        """Megapixels of the scene in a second."""
        seconds = _seconds(row)
        return self.pixels / 1e6 / seconds if seconds else None

    def times(self, row: Row, setting: str) -> float | None:
        """How many times as fast segpipe is at this setting."""
        seconds, own = _seconds(row), self._own.get(setting)
        return seconds / own if seconds and own else None

    def share(self, row: Row) -> float | None:
        """Share of valid labels that aren't those of the whole image."""
        if row.differing is None or not self.valid_pixels:
            return None
        return row.differing / self.valid_pixels

    def to_dict(self) -> dict[str, Any]:
        """The figures as `segpipe bench peers --json` writes them."""
        return {
            "scene": self.scene,
            "model": self.model,
            "pixels": self.pixels,
            "valid_pixels": self.valid_pixels,
            "rows": [self._row(row) for row in self.rows],
        }

    def _row(self, row: Row) -> dict[str, Any]:
        told: dict[str, Any] = {"tool": row.tool, "setting": row.setting}
        if row.figures is None:
            return {**told, "reason": row.reason}
        return {
            **told,
            "patch": row.figures.patch,
            "note": row.figures.note,
            "seconds": row.figures.seconds,
            "cpu_seconds": row.figures.cpu_seconds,
            "megapixels_per_second": self.speed(row),
            "peak_rss_bytes": row.figures.peak_rss_bytes,
            "labels_differing": row.differing,
            "labels_differing_share": self.share(row),
            "segpipe_fp32_times_as_fast": self.times(row, FP32),
            "segpipe_default_times_as_fast": self.times(row, DEFAULT),
        }


def _own_settings(tile: str | int, engine: str) -> tuple[Setting, ...]:
    """How segpipe runs: by torch in fp32, by another engine in fp32, and by default."""
    exact = Setting(FP32, {"precision": "fp32", "engine": "torch", "tile": tile})
    same = Setting(f"{FP32}, engine {engine}", {**exact.options, "engine": engine})
    usual = Setting(DEFAULT, {"precision": "auto", "engine": engine, "tile": tile})
    return (exact, usual) if engine in ("auto", "torch") else (exact, same, usual)


def _seconds(row: Row) -> float | None:
    return row.figures.seconds if row.figures else None


def _unwatched(row: Row) -> None:
    """Nobody looks."""


def compare(
    scene: str | Path,
    *,
    model: str | None = None,
    trust_model: str | None = None,
    peers: Sequence[str] = (),
    environment: str | Path | None = None,
    tile: str | int = "auto",
    engine: str = "auto",
    watch: Callable[[Row], None] = _unwatched,
) -> Comparison:
    """Maps the scene by every tool, each in a process of its own, and counts what differs.

    All begin with the scene's file and end with labels. segpipe's own time includes starting,
    checking and publishing; of the others, what comes after importing them. Differences are counted
    against one pass over the whole scene in fp32.

    Args:
        scene: a raster that fits into memory whole.
        model: a package's folder, a bundled model, or an architecture with random weights.
        trust_model: as `run` takes it.
        peers: names of tools; all of them by default.
        environment: the folder of the environment in which they are, or will be, installed; by
            default one that is thrown away.
        tile: side of segpipe's tiles, and of the others' patches at equal settings.
        engine: what computes segpipe's run at its default, as `run` takes it.
        watch: is told of every tool.

    Raises:
        OptionError: there is no such tool, or the environment's folder is something else.
        ModelError: tiles of this network are approximate, so nobody has the right labels.
    """
    wanted = chosen(tuple(peers))
    found = find_or_build(model, trust_model)
    if not found.footprint.exact:
        raise ModelError(
            f"{found.card.name} has no labels to compare with: its tiles are approximate, for "
            f"{'; '.join(found.footprint.reasons)}; choose a network without global operations"
        )
    if not peers and not isinstance(found.network, ConvertedClassifier):
        del wanted["window"]
    subject = Subject(found, open_input(scene, Reading(resolution="native"), found.card))
    _, valid = subject.pixels()
    with tempfile.TemporaryDirectory(prefix="segpipe-peers-") as folder:
        bench = _Bench(subject, valid, Path(folder), environment)
        rows = []
        for row in bench.rows(wanted, tile, engine):
            watch(row)
            rows.append(row)
    return Comparison(
        str(scene), found.card.name, valid.size, int(np.count_nonzero(valid)), tuple(rows)
    )


class _Bench:
    """Measures one tool after the other on a subject in a folder."""

    def __init__(
        self,
        subject: Subject,
        valid: NDArray[np.bool_],
        folder: Path,
        environment: str | Path | None,
    ) -> None:
        prepare(subject, folder)
        self._valid, self._folder = valid, folder
        self._place = Path(environment or folder / "environment")
        self._environment: Environment | None = None
        self._whole: Labels | None = None

    def rows(self, peers: dict[str, Peer], tile: str | int, engine: str) -> Iterator[Row]:
        """The whole image, segpipe itself, and then the others."""
        yield from self._of(_WHOLE, _WHOLE.settings)
        settings = _own_settings(tile, engine)
        side = 0
        for row in self._of(Peer(OWN, "own_run", settings), settings):
            side = side or (row.figures.patch if row.figures else 0)
            yield row
        for peer in peers.values():
            yield from self._of(peer, tuple(peer.measured(side)))

    def _of(self, peer: Peer, settings: Sequence[Setting]) -> Iterator[Row]:
        try:
            python = self._python(peer)
        except InstallError as error:
            yield Row(peer.title, settings[0].title, reason=f"can't be installed: {error}")
            return
        for setting in settings:
            yield self._row(peer, setting, python)

    def _row(self, peer: Peer, setting: Setting, python: str) -> Row:
        try:
            labels, figures = measure(python, self._folder, peer.adapter, setting.options)
        except AdapterError as error:
            return Row(peer.title, setting.title, reason=str(error))
        if peer is _WHOLE:
            self._whole = labels
        differing = None
        if self._whole is not None:
            differing = int(np.count_nonzero((labels != self._whole) & self._valid))
        return Row(peer.title, setting.title, figures, differing)

    def _python(self, peer: Peer) -> str:
        """The interpreter that has the tool; segpipe's own adapters need no environment."""
        if not peer.packages:
            return sys.executable
        if self._environment is None:
            self._environment = Environment(self._place)
        self._environment.install(peer)
        return self._environment.python
