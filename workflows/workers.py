"""Who computes a run: the workers of a scheduler, or some started here, one for each GPU."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from segpipe.models.engine import visible_gpus
from segpipe.models.package import SegmentationModel
from segpipe.pipeline.execution.embedded import embedded
from segpipe.pipeline.execution.existing import configured, existing
from segpipe.pipeline.execution.runner import Runner
from segpipe.workflows.errors import OptionError
from segpipe.workflows.resident import Resident

Opening = Callable[[], AbstractContextManager[Runner[Resident]]]
"""Finds or starts workers."""


def workers_for(
    model: SegmentationModel,
    *,
    device: str,
    scheduler: str | None,
    scheduler_file: str | None,
    workers: int | None,
    threads: int = 3,
) -> AbstractContextManager[Runner[Resident]]:
    """Workers that hold the model; those that are started here have `threads` each.

    Raises:
        OptionError: the options contradict each other.
        ClusterError, when it is entered: there is no scheduler.
    """
    if scheduler and scheduler_file:
        raise OptionError("--scheduler and --scheduler-file name two clusters; leave one out")
    if workers is not None and workers < 1:
        raise OptionError(f"workers are 1 or more, got {workers}")
    resident = Resident(model)
    scheduler = scheduler or unnamed_scheduler(scheduler, scheduler_file, workers)
    if scheduler or scheduler_file:
        return existing(
            resident, scheduler=scheduler, scheduler_file=scheduler_file, digest=model.digest
        )
    gpus = gpus_for(device, workers, visible_gpus())
    count = len(gpus) or workers or 1
    return embedded(resident, digest=model.digest, workers=count, threads=threads, gpus=gpus)


def unnamed_scheduler(
    scheduler: str | None, scheduler_file: str | None, workers: int | None
) -> str | None:
    """The scheduler's address in Dask's configuration, where no option says who does the work."""
    return None if scheduler or scheduler_file or workers else configured()


def gpus_for(device: str, workers: int | None, visible: Sequence[str]) -> tuple[str, ...]:
    """The GPUs that get a worker each on this machine; none where one process will do.

    Args:
        device: `auto` and `cuda` mean all GPUs, `cuda:N` is one and `cpu` none.
        workers: how many there are to be; None for one a GPU.
        visible: the GPUs of this machine, as CUDA_VISIBLE_DEVICES names them.

    Raises:
        OptionError: there are more workers than GPUs, and they would share one by accident.
    """
    if device not in ("auto", "cuda") or len(visible) < 2 or workers == 1:
        return ()
    if workers is not None and workers > len(visible):
        raise OptionError(
            f"{workers} workers would share {len(visible)} GPUs; leave out --workers, or compute "
            "with --device cpu"
        )
    return tuple(visible[:workers])


class SharedWorkers:
    """Workers for the scenes of one command, found or started when the first scene needs them."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._stack = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._runner: Runner[Resident] | None = None

    def __enter__(self) -> "SharedWorkers":
        """Nothing is opened yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Lets the workers go."""
        self._stack.__exit__(kind, error, trace)

    @contextlib.contextmanager
    def lent(self) -> Iterator[Runner[Resident]]:
        """The workers, for one scene.

        Raises:
            ClusterError: there is no scheduler.
        """
        with self._lock:
            if self._runner is None:
                self._runner = self._stack.enter_context(self._opening())
        yield self._runner
