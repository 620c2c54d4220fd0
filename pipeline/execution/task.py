"""What a worker does for one task: it calls the run's function with its resident and the item."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from distributed import get_worker

from segpipe.pipeline.errors import ClusterError, OverdueError
from segpipe.pipeline.execution.residence import Residence
from segpipe.pipeline.execution.skew import skewed

Resident = TypeVar("Resident")
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """Where a thread goes on with an item that is overdue, and why that is so."""

    worker: str
    has_nanny: bool
    reason: str


@dataclass(frozen=True, slots=True)
class WithoutItem(Generic[Resident, Result]):
    """A function of the resident alone, as a function of the resident and an item."""

    function: Callable[[Resident], Result]

    def __call__(self, resident: Resident, item: None) -> Result:
        """What the function gives."""
        return self.function(resident)


def on_worker(name: str, packed: bytes, deadline: float | None, item: Item) -> object | LeftBehind:
    """What the packed function gives for the resident of that name and the item.

    Raises:
        ClusterError: there is no such resident here, or the versions are others.
    """
    worker = get_worker()
    residence = worker.plugins.get(name)
    if not isinstance(residence, Residence):
        raise ClusterError(
            f"the scheduler of the worker {worker.address} was started anew and knows nothing of "
            "this run; type the same command again"
        )
    if skew := residence.skew:
        raise skewed(f"the worker {worker.address}", skew)
    resident = residence.resident()
    function: Callable[[object, Item], object] = pickle.loads(packed)
    try:
        return residence.deadlines.call(deadline, partial(function, resident, item))
    except OverdueError as error:
        return LeftBehind(worker.address, worker.nanny is not None, str(error))
    except BaseException as error:
        # Dask pickles causes too, and what can't be pickled (GDAL's errors) would arrive as a
        # bare `Exception`.
        error.__cause__ = error.__context__ = None
        raise
