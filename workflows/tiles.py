"""The tiles of a run: what is missing is mapped, what fails is noted, what is stored is sampled."""

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from segpipe.pipeline.driver import beating
from segpipe.pipeline.errors import (
    CorruptInputError,
    PipelineError,
    StoppedError,
    TilesFailedError,
    VerificationError,
)
from segpipe.pipeline.execution.patience import Failed, Patience
from segpipe.pipeline.failure import FORGIVEN, Failure, summary, told
from segpipe.pipeline.mapping import is_stored
from segpipe.pipeline.receipt import Receipt
from segpipe.pipeline.vectors.aoi import Piece
from segpipe.workflows.errors import OptionError
from segpipe.workflows.resident import count_changed, map_one
from segpipe.workflows.results.report import Canaries
from segpipe.workflows.stages import FAILED_TAG, ROUNDING, Progress, Run, Watcher

_CANARIES = 8
"""Stored tiles that are computed again at most; and one in a hundred."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run puts up with, and how long.

    Attributes:
        allow_failed: whether a map is published without the tiles that failed.
        tile_timeout: seconds that a tile may take; None for any time.
        stop_at: what `time.monotonic()` says when the run ends, whatever is left; None for never.
    """

    allow_failed: bool = False
    tile_timeout: float | None = None
    stop_at: float | None = None

    @classmethod
    def of(
        cls, allow_failed: bool, tile_timeout: float | None, stop_after: float | None
    ) -> "Limits":
        """The limits of a run that begins now; `stop_after` is seconds.

        Raises:
            OptionError: a time isn't positive.
        """
        for name, seconds in {"tile-timeout": tile_timeout, "stop-after": stop_after}.items():
            if seconds is not None and not seconds > 0:
                raise OptionError(f"--{name} is a time such as 90s, 10m or 2h, got {seconds:g} s")
        stop_at = None if stop_after is None else time.monotonic() + stop_after
        return cls(allow_failed, tile_timeout, stop_at)

    @property
    def patience(self) -> Patience:
        """What a runner is told of it."""
        return Patience(FORGIVEN, self.tile_timeout, self.stop_at)

    def has_time_for(self, seconds: float) -> bool:
        """Whether something that takes so long ends in time."""
        return self.stop_at is None or time.monotonic() + seconds <= self.stop_at


class Work:
    """Maps the tiles of a run that aren't stored yet; `watch` is told of every one."""

    def __init__(self, run: Run, limits: Limits, watch: Watcher) -> None:
        self._run, self._limits, self._watch = run, limits, watch
        self._known = {failure.place: failure for failure in run.staged.failures()}
        self._resumed = self._fresh = self._failed = self._given = 0
        self._longest = 0.0
        self._cut_short = False

    def receipts(self) -> Iterator[Receipt]:
        """The receipts of tiles as they are mapped; those that fail are noted.

        Raises:
            ClusterError, StorageError: nothing more can be mapped.
            StoppedError: the run's time is over.
        """
        run = self._run
        map_tile = partial(map_one, run.job, run.use, run.engine)
        with beating(run.staged, self._counted):
            try:
                for outcome in run.runner.attempt(map_tile, self._missing(), self._limits.patience):
                    if receipt := self._settled(outcome):
                        yield receipt
            except StoppedError:
                self._cut_short = True
        if self._cut_short:
            done, tiles = self._resumed + self._fresh, len(run.ready.selection)
            raise StoppedError(
                f"stopped as --stop-after says: {done:,} of {tiles:,} tiles are finished and safe"
            )

    def _missing(self) -> Iterator[Piece]:
        """Tiles to map; those that failed before come last, lest they stop the others again."""
        run, known = self._run, self._known
        tiles = run.ready.selection.tiles
        first = (tile for tile in tiles() if (tile.row, tile.column) not in known)
        last = (tile for tile in tiles() if (tile.row, tile.column) in known)
        for tile in itertools.chain(first, last):
            if is_stored(run.job, tile):
                run.staged.forgive(tile.row, tile.column)
                self._resumed += 1
                self._tell()
            # It waits for a tile that is in work, then takes its own time.
            elif self._limits.has_time_for(2 * self._longest):
                self._given += 1
                yield run.ready.selection.piece(tile)
            else:
                self._cut_short = True
                return

    def _settled(self, outcome: Receipt | Failed[Piece]) -> Receipt | None:
        """The receipt of a tile that has one; a failure is noted."""
        if isinstance(outcome, Failed):
            return self._noted(outcome)
        if outcome.place in self._known:
            self._run.staged.forgive(*outcome.place)
        self._fresh += 1
        self._longest = max(self._longest, outcome.read + outcome.predict + outcome.write)
        self._tell()
        self._run.journal.note(
            "stored",
            tile=list(outcome.place),
            worker=outcome.worker,
            bytes=outcome.stored,
            read=round(outcome.read, 3),
            predict=round(outcome.predict, 3),
            write=round(outcome.write, 3),
        )
        return outcome

    def _noted(self, failed: Failed[Piece]) -> Receipt | None:
        tile = failed.item.tile
        # A worker may have died, or have been given up, after it had stored the tile.
        if receipt := is_stored(self._run.job, tile):
            return self._settled(receipt)
        before = self._known.get((tile.row, tile.column))
        attempts = failed.attempts + (before.attempts if before else 0)
        failure = Failure.of(tile.row, tile.column, failed.error, attempts)
        self._run.staged.give_up(failure)
        self._failed += 1
        self._tell()
        self._run.journal.note(
            "failed",
            "warning",
            tile=list(failure.place),
            kind=failure.kind,
            attempts=attempts,
            reason=failure.reason,
        )
        return None

    def _counted(self) -> tuple[int, int]:
        """Tiles that this process has mapped, and those that are in work."""
        return self._fresh, self._given - self._fresh - self._failed

    def _tell(self) -> None:
        plan, selection = self._run.ready.plan, self._run.ready.selection
        pixels = plan.grid.pixels / len(plan)
        done = self._resumed + self._fresh
        dashboard = self._run.runner.dashboard
        self._watch(Progress(done, self._resumed, len(selection), pixels, dashboard, self._failed))


def unsealed(run: Run) -> Run:
    """The run whose stores have their names, if an earlier process was killed while it published.

    What failed is tried again, so nothing of that is kept.
    """
    if not run.staged.sealed:
        return run
    return replace(run, staged=run.staged.unseal(store.array for store in run.job.stores))


def without_failed(run: Run, limits: Limits) -> Run:
    """The run with every tile stored, or without those that failed if that is allowed.

    Raises:
        CorruptInputError: tiles failed, all of them because the scene is damaged.
        TilesFailedError: tiles failed.
    """
    failures = run.staged.failures()
    if not failures:
        return run
    if not limits.allow_failed or len(failures) == len(run.ready.selection):
        raise _refusal(run, failures)
    run.journal.note("left out", "warning", tiles=[list(failure.place) for failure in failures])
    names = [store.array for store in run.job.stores]
    left = replace(run, staged=run.staged.seal(names), failed=failures)
    for store in left.job.stores:
        for failure in failures:
            store.erase(run.ready.plan.tile(*failure.place).core)
        store.adopt({FAILED_TAG: told(failures)})
    return left


def _refusal(run: Run, failures: tuple[Failure, ...]) -> PipelineError:
    damaged = all(failure.kind == "corrupt" for failure in failures)
    kind = CorruptInputError if damaged else TilesFailedError
    remedy = "; where the scene is repaired or replaced, add --new-run" if damaged else ""
    return kind(
        f"{summary(failures, len(run.ready.selection))} (all are in {run.staged.folder / 'failed'})"
        ": nothing is published; the same command tries them again, and with --allow-failed it "
        f"publishes the map with nodata there{remedy}"
    )


def check_canaries(run: Run, limits: Limits) -> Canaries | None:
    """Computes some tiles again that an earlier process stored; None where nothing is missing.

    Raises:
        VerificationError: labels differ by more than rounding.
    """
    tiles = run.ready.selection.tiles()
    stored = [tile for tile in tiles if run.staged.has_receipt(tile.row, tile.column)]
    if not stored or len(stored) == len(run.ready.selection):
        return None
    count = min(_CANARIES, -(-len(stored) // 100))
    drawn = random.Random(run.staged.folder.name).sample(stored, count)
    pieces = [run.ready.selection.piece(tile) for tile in drawn if is_stored(run.job, tile)]
    recount = partial(count_changed, run.job, run.use, run.engine)
    pixels = differing = 0
    for outcome in run.runner.attempt(recount, pieces, limits.patience):
        if isinstance(outcome, Failed):
            raise outcome.error
        tile, changed = outcome
        if changed > ROUNDING * tile.core.pixels:
            raise VerificationError(
                f"{changed:,} of {tile.core.pixels:,} labels of tile {tile.name}, which an earlier "
                "process of this run stored, come out otherwise now, so that the map would be of "
                "two kinds: go on with the processor, drivers and libraries that began it, or add "
                "--new-run"
            )
        pixels, differing = pixels + tile.core.pixels, differing + changed
    run.journal.note("canaries", tiles=len(pieces), pixels=pixels, differing=differing)
    return Canaries(len(pieces), pixels, differing)
