"""A run whose tiles are stored: what they took, and the report of its map."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter

from segpipe.pipeline.area import grid_area
from segpipe.pipeline.mapping import peak_rss, this_process
from segpipe.pipeline.receipt import ClassCount, Receipt, total, total_confidence
from segpipe.pipeline.scenes.location import Place
from segpipe.workflows.plan import Preparation
from segpipe.workflows.results.report import Canaries, ClassTotal, Report, SeamCheck, Seconds
from segpipe.workflows.stages import Run, Watcher
from segpipe.workflows.tiles import Limits, Work, check_canaries, unsealed, without_failed


@dataclass(frozen=True, slots=True)
class Tally:
    """What the tiles of one process's run took: how many, their seconds, and the memory."""

    tiles: int = 0
    read: float = 0.0
    predict: float = 0.0
    write: float = 0.0
    peak_rss: int = 0

    @classmethod
    def of(cls, receipts: Iterable[Receipt]) -> "Tally":
        """The sum over receipts; memory is the sum of each process's peak, this one's included."""
        peaks: dict[str, int] = {}
        tiles, read, predict, write = 0, 0.0, 0.0, 0.0
        for receipt in receipts:
            tiles += 1
            read += receipt.read
            predict += receipt.predict
            write += receipt.write
            peaks[receipt.worker] = max(peaks.get(receipt.worker, 0), receipt.peak_rss)
        peaks[this_process()] = peak_rss()
        return cls(tiles, read, predict, write, sum(peaks.values()))


@dataclass(frozen=True, slots=True)
class Mapped:
    """A run of which nothing is missing but the tiles that it is published without.

    `seam` and `canaries` are what was computed again, None where nothing was.
    """

    run: Run
    tally: Tally
    seam: SeamCheck | None
    canaries: Canaries | None

    @classmethod
    def of(cls, begun: Run, limits: Limits, watch: Watcher) -> "Mapped":
        """Maps what isn't stored yet.

        Raises:
            TilesFailedError, CorruptInputError: tiles failed, and the limits don't allow that.
            StoppedError: the time is over.
            VerificationError: what is stored isn't what is computed again.
        """
        if begun.is_published:
            left = replace(begun, failed=begun.staged.failures())
            return cls(left, Tally(), left.noted_seam(), None)
        begun = unsealed(begun)
        canaries = check_canaries(begun, limits)
        tally = Tally.of(Work(begun, limits, watch).receipts())
        whole = without_failed(begun, limits)
        return cls(whole, tally, whole.check_seam(), canaries)

    def publish(self, scene: Place, start: float, *, style: bool, overwrite: bool) -> Report:
        """The report of the map, which is published; `start` is when the run began.

        Raises:
            FingerprintMismatchError: there is an output that mustn't be replaced.
            StorageError: the disk refuses.
        """
        run = self.run
        counts = total(run.receipts(), run.ready.legend.values)
        mapped = perf_counter()
        run.journal.note("publishing", output=run.ready.output)
        run.publish(counts, style=style, overwrite=overwrite)
        end, tally = perf_counter(), self.tally
        seconds = Seconds(end - start, tally.read, tally.predict, tally.write, end - mapped)
        return self._report(scene, counts, seconds)

    def _report(self, scene: Place, counts: Mapping[int, ClassCount], seconds: Seconds) -> Report:
        run, ready = self.run, self.run.ready
        selection, certainty = ready.selection, ready.certainty
        return Report(
            output=ready.output,
            scene=scene,
            model=ready.model.card.name,
            tiles=len(selection),
            tiles_resumed=len(selection) - self.tally.tiles - len(run.failed),
            pixels=ready.plan.grid.pixels,
            aoi_pixels=None if selection.aoi is None else selection.pixels,
            classes=_classes(ready, counts),
            footprint=ready.model.footprint,
            tile=ready.plan.side,
            engine=run.engine,
            seam=self.seam,
            seconds=seconds,
            peak_rss_bytes=self.tally.peak_rss,
            warnings=(*ready.warnings, *run.remarks),
            area_m2=grid_area(ready.plan.grid),
            probabilities=certainty.probabilities,
            confidence=certainty.confidence,
            sureness=total_confidence(run.receipts()) if certainty.counted else None,
            run=run.id,
            canaries=self.canaries,
            failed=run.failed,
        )


def _classes(ready: Preparation, counts: Mapping[int, ClassCount]) -> dict[str, ClassTotal]:
    return {
        entry.name: ClassTotal(
            entry.value, counts[entry.value].pixels, counts[entry.value].area, entry.color
        )
        for entry in ready.legend.entries
    }
