"""What the process that drives a run tells of it to whoever looks at its staging folder.

    driver.json     which process it is, how many tiles there are, how to resume; see `Driver`
    pulse.json      how far it is, written anew every second; see `Pulse`

Nothing in a run depends on either.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from segpipe.pipeline import storage
from segpipe.pipeline.plan import Plan
from segpipe.pipeline.staging import Staging

_BEAT = 1.0
"""Seconds from one pulse to the next."""


@dataclass(frozen=True, slots=True)
class Driver:
    """The process that drives a run, or did so last.

    Attributes:
        run: the run's id.
        tiles: how many tiles are mapped in all.
        plan: how the scene is cut into tiles.
        layers: names of the layers that are stored beside the map.
        started: when the process began, in seconds since 1970.
        host, pid: where it is found.
        command: what is typed to resume the run, in the folder `folder`.
        dashboard: the address of Dask's dashboard, if there is one.
    """

    run: str
    tiles: int
    plan: Plan
    layers: tuple[str, ...]
    started: float
    host: str
    pid: int
    command: str
    folder: str
    dashboard: str | None

    def announce(self, staged: Staging) -> None:
        """Puts it into the staging folder, in place of an earlier process."""
        data = {**asdict(self), "plan": self.plan.to_dict()}
        storage.write(staged.driver, json.dumps(data, indent=2, sort_keys=True).encode())

    @classmethod
    def of(cls, staged: Staging) -> "Driver | None":
        """What was announced last; None where nothing was that can be read."""
        try:
            data: dict[str, Any] = json.loads(staged.driver.read_bytes())
            plan, layers = Plan.from_dict(data.pop("plan")), tuple(data.pop("layers"))
            return cls(plan=plan, layers=layers, **data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


@dataclass(frozen=True, slots=True)
class Pulse:
    """How far the process is.

    Attributes:
        at: when it was so, in seconds since 1970.
        stored: tiles that this process has stored.
        running: tiles that it has given to workers and that aren't stored yet.
    """

    at: float
    stored: int
    running: int

    @classmethod
    def of(cls, staged: Staging) -> "Pulse | None":
        """The last one; None where there is none that can be read."""
        try:
            return cls(**json.loads(staged.pulse.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None


@contextlib.contextmanager
def beating(staged: Staging, counts: Callable[[], tuple[int, int]]) -> Iterator[None]:
    """Writes a pulse every second while the block runs.

    Args:
        staged: where to.
        counts: gives `stored` and `running`; called in another thread.
    """
    over = threading.Event()

    def beat() -> None:
        while not over.wait(_BEAT):
            stored, running = counts()
            pulse = Pulse(time.time(), stored, running)
            storage.refresh(staged.pulse, json.dumps(asdict(pulse)).encode())

    thread = threading.Thread(target=beat, name="segpipe-pulse", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
