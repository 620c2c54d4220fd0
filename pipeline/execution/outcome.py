"""What became of a task: its result, or why the item failed."""

import contextlib
from collections.abc import Mapping
from typing import Any, TypeVar

from distributed import Client
from distributed.scheduler import KilledWorker

from segpipe.pipeline.errors import OverdueError, WorkerDiedError
from segpipe.pipeline.execution.losses import BEAT, LOST, of_the_network, within
from segpipe.pipeline.execution.patience import Failed, Patience
from segpipe.pipeline.execution.settings import silence
from segpipe.pipeline.execution.task import LeftBehind

Item = TypeVar("Item")


def outcome_of(
    client: Client, future: Any, item: Item, patience: Patience, results: Mapping[Any, Any]
) -> Any:
    """What a finished task gave, or `Failed`; it is asked for where it isn't among `results`.

    Raises:
        TimeoutError: the result doesn't come.
    """
    try:
        result = results[future] if future in results else _asked_for(future)
    except KilledWorker:
        return Failed(item, WorkerDiedError("it ended every process that tried it"))
    except patience.forgiven as error:
        return Failed(item, error)
    if isinstance(result, LeftBehind):
        _restart(client, result)
        return Failed(item, OverdueError(result.reason))
    return result


def _asked_for(future: Any) -> Any:
    # One that was finished may have gone with its worker in the meantime, and waits again.
    if future.status in ("finished", "pending"):
        with of_the_network():
            return future.result(timeout=BEAT if future.status == "finished" else 0.1)
    return future.result()


def _restart(client: Client, left: LeftBehind) -> None:
    """Ends a worker in which a thread hangs, if there is a nanny that starts it again."""
    if left.has_nanny:
        with contextlib.suppress(*LOST, OSError, KeyError, ValueError):
            within(
                client,
                silence(),
                lambda: client.restart_workers([left.worker], raise_for_error=False),
            )
