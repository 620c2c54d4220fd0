"""How far a run is, for people: a bar on a terminal, plain lines elsewhere."""

import math
import sys
import time

import click

from segpipe.models.learning.training import Step
from segpipe.workflows.stages import Progress

_PAUSE = 10.0
"""Seconds between two plain lines."""


class ProgressPrinter:
    """Draws what `run` tells of its tiles on standard error."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._shown = self._start
        self._terminal = sys.stderr.isatty()
        self._begun = False

    def __call__(self, progress: Progress) -> None:
        """Shows a state, if it is time to; on a terminal first of all where Dask's pages are."""
        if self._terminal and not self._begun and progress.dashboard:
            click.echo(f"dashboard: {progress.dashboard}", err=True)
        self._begun = True
        now, last = time.monotonic(), progress.done + progress.failed == progress.tiles
        pause = 0.1 if self._terminal else _PAUSE
        if now - self._shown < pause and not last:
            return
        self._shown = now
        if self._terminal:
            click.echo(f"\r{self._bar(progress)}\x1b[K", err=True, nl=last)
        else:
            click.echo(self._figures(progress), err=True)

    def _bar(self, progress: Progress) -> str:
        filled = 24 * progress.done // progress.tiles
        return f"[{'#' * filled}{'.' * (24 - filled)}] {self._figures(progress)}"

    def _figures(self, progress: Progress) -> str:
        seconds = time.monotonic() - self._start
        fresh = progress.done - progress.resumed
        text = f"{progress.done}/{progress.tiles} tiles"
        if fresh and seconds > 0:
            rate = fresh / seconds
            left = (progress.tiles - progress.done) / rate
            text += f", {rate * progress.tile_pixels / 1e6:.2f} Mpx/s, {_clock(left)} left"
        if progress.failed:
            text += f", {progress.failed} failed"
        if progress.resumed:
            text += f" ({progress.resumed} from before)"
        return text


class SharePrinter:
    """Tells on standard error how much of a map has been read."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._shown = self._start
        self._terminal = sys.stderr.isatty()

    def __call__(self, share: float) -> None:
        """Shows a share, if it is time to; nothing of a map that is small."""
        now, last = time.monotonic(), share >= 1
        pause = 0.1 if self._terminal else _PAUSE
        if now - self._shown < pause and not (last and self._shown > self._start):
            return
        self._shown = now
        left = (now - self._start) * (1 - share) / share
        figures = f"{share:.0%} of the map, {_clock(left)} left"
        if self._terminal:
            filled = int(24 * share)
            bar = f"[{'#' * filled}{'.' * (24 - filled)}] {figures}"
            click.echo(f"\r{bar}\x1b[K", err=True, nl=last)
        else:
            click.echo(figures, err=True)


class StepPrinter:
    """Tells on standard error how far training is: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._start = time.monotonic()
        self._first = 0
        self._best = -math.inf
        self._terminal = sys.stderr.isatty()

    def __call__(self, step: Step) -> None:
        """Shows a step, on plain lines every twentieth one and those that are validated."""
        self._first = self._first or step.number
        self._best = max(self._best, -math.inf if step.score is None else step.score)
        last = step.number == self._steps
        if self._terminal:
            filled = 24 * step.number // self._steps
            bar = f"[{'#' * filled}{'.' * (24 - filled)}] {self._figures(step)}"
            click.echo(f"\r{bar}\x1b[K", err=True, nl=last)
        elif last or step.score is not None or step.number % max(self._steps // 20, 1) == 0:
            click.echo(self._figures(step), err=True)

    def _figures(self, step: Step) -> str:
        text = f"step {step.number}/{self._steps}, loss {step.loss:.3f}"
        if step.score is not None:
            text += f", validated mean IoU {step.score:.3f}"
        if self._best > -math.inf:
            text += f", best {self._best:.3f}"
        if fresh := step.number - self._first:
            left = (self._steps - step.number) * (time.monotonic() - self._start) / fresh
            text += f", {_clock(left)} left"
        return text


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
