"""A process in which one tool maps the subject: what it is told, and what it tells back.

`python -m segpipe.workflows.peers.process FOLDER ADAPTER OPTIONS` reads the subject in the folder,
and leaves labels and figures there.
"""

import importlib
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from segpipe.models.engine import default_threads
from segpipe.workflows.peers.subject import Labels, Mapped, Subject

Options = Mapping[str, str | int | float]
"""What an adapter is told, by the names of its parameters."""

_SUBJECT, _LABELS, _FIGURES = "subject.pickle", "labels.npy", "figures.json"


class AdapterError(Exception):
    """A tool can't be imported, or failed: its own last line."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a tool took.

    Attributes:
        seconds: from the scene's file to labels.
        cpu_seconds: of all cores meanwhile, which other work on the machine hardly changes.
        peak_rss_bytes: the most memory of its process.
        patch, note: as in `Mapped`.
    """

    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    patch: int
    note: str


def prepare(subject: Subject, folder: Path) -> None:
    """Puts the subject into a folder, for all processes."""
    (folder / _SUBJECT).write_bytes(pickle.dumps(subject))


def measure(python: str, folder: Path, adapter: str, options: Options) -> tuple[Labels, Figures]:
    """The labels of an adapter, a module beside this one, and what it took.

    Args:
        python: the interpreter of the environment in which the tool is installed.
        folder: with the subject that `prepare` left there.
        adapter: the module's name.
        options: for its function `labels`.

    Raises:
        AdapterError: the tool can't be imported, or failed.
    """
    done = subprocess.run(
        [python, "-m", __spec__.name, str(folder), adapter, json.dumps(dict(options))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if done.returncode < 0:
        raise AdapterError(f"ended by {signal.Signals(-done.returncode).name}")
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise AdapterError(lines[-1] if lines else f"ended with {done.returncode}")
    figures = Figures(**json.loads((folder / _FIGURES).read_text(encoding="utf-8")))
    return np.load(folder / _LABELS), figures


def main(folder: Path, adapter: str, options: Options) -> None:
    """Maps the subject by an adapter: its library is imported before the time runs."""
    # This process's own file, which nobody else could write.
    subject: Subject = pickle.loads((folder / _SUBJECT).read_bytes())
    labels = importlib.import_module(f"{__package__}.{adapter}").labels
    torch.set_num_threads(default_threads())
    start, before = time.perf_counter(), _cpu()
    mapped: Mapped = labels(subject, **options)
    seconds, cpu = time.perf_counter() - start, _cpu() - before
    np.save(folder / _LABELS, mapped.labels)
    figures = Figures(seconds, cpu, _peak(), mapped.patch, mapped.note)
    (folder / _FIGURES).write_text(json.dumps(asdict(figures)), encoding="utf-8")


def _cpu() -> float:
    """Seconds of all cores, by this process and by those that it started and that have ended."""
    return sum(os.times()[:4])


def _peak() -> int:
    """The most memory that this process has held, in bytes.

    Linux counts what the parent held before `exec` into `ru_maxrss`, but not into its own files.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (peak,) = (
            line.split()[1]
            for line in status.read_text(encoding="utf-8").splitlines()
            if line.startswith("VmHWM:")
        )
        return int(peak) * 1024
    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_rss if sys.platform == "darwin" else peak_rss * 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
