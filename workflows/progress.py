"""How far a run is, for people: a bar on a terminal, plain lines elsewhere."""

import sys
import time

import click

from segpipe.workflows.stages import Progress

_PAUSE = 10.0
"""Seconds between two plain lines."""


class ProgressPrinter:
    """Draws what `run` tells of its tiles on standard error."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._shown = self._start
        self._terminal = sys.stderr.isatty()

    def __call__(self, progress: Progress) -> None:
        """Shows a state, if it is time to."""
        now, last = time.monotonic(), progress.done == progress.tiles
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
        if progress.resumed:
            text += f" ({progress.resumed} from before)"
        return text


class StepPrinter:
    """Tells on standard error how far training is."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def __call__(self, step: int, loss: float) -> None:
        """Shows every twentieth step."""
        if step % max(self._steps // 20, 1) == 0 or step == self._steps:
            click.echo(f"step {step}/{self._steps}, loss {loss:.3f}", err=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
