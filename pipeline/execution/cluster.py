"""The work is done by the workers of a Dask cluster, whoever started it."""

import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar, cast

from distributed import Client
from distributed.protocol.pickle import dumps

from segpipe.pipeline.errors import TilesFailedError
from segpipe.pipeline.execution.dispatch import Dispatch
from segpipe.pipeline.execution.flow import Flow
from segpipe.pipeline.execution.losses import losses_reported, of_the_network, within
from segpipe.pipeline.execution.patience import STRICT, Failed, Patience, again_alone
from segpipe.pipeline.execution.runner import Named
from segpipe.pipeline.execution.settings import silence
from segpipe.pipeline.execution.slots import GPU, SHARE, slots_of
from segpipe.pipeline.execution.task import WithoutItem, on_worker

Resident = TypeVar("Resident")
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Cluster(Generic[Resident]):
    """Runs tasks on a Dask cluster whose workers all hold the resident called `name`.

    Attributes:
        client: its own connection, which threads share.
        name: of the resident.
        flow: one limit for the tasks in flight of all runs.
        run: how the names of tasks go on after `segpipe-`.
        rank: tasks of lower rank come first.
        share: of a GPU, for each task; 0 where any worker will do.
        dashboard: the address of the scheduler's pages; Dask asks the scheduler for it every time.
    """

    client: Client
    name: str
    flow: Flow = field(default_factory=Flow, compare=False, repr=False)
    run: str = ""
    rank: int = 0
    share: float = 0.0
    dashboard: str | None = None

    @property
    def slots(self) -> int:
        """How many tasks can run at once."""
        return slots_of(self.client, self.share)

    def on(self, device: str) -> "Cluster[Resident]":
        """Only the workers that declare a GPU, where there are such and one is wanted.

        Each takes a few tasks at a time, which take turns on the device; what other programs ask of
        it with `GPU=1` waits for them, and they for it.
        """
        if device == "cpu":
            return replace(self, share=0.0)
        with losses_reported(self.client):
            declared = slots_of(self.client, SHARE)
        return replace(self, share=SHARE if declared else 0.0)

    def of_run(self, run: str, rank: int) -> "Cluster[Resident]":
        """The same workers, for a run whose tasks come after those of runs of lower rank."""
        return replace(self, run=run, rank=rank)

    def call(self, function: Callable[[Resident], Result]) -> Result:
        """What the function gives on one worker."""
        return next(self.map(WithoutItem(function), [None]))

    def everywhere(self, function: Callable[[], Result]) -> Mapping[str, Result]:
        """What the function gives in every worker process that there is now, however busy it is.

        A worker where it raises, or that dies meanwhile, is left out.

        Raises:
            ClusterError: the scheduler was lost, or a worker is silent.
        """

        def ask() -> Awaitable[Any]:
            answers = self.client.run(function, on_error="ignore")
            return cast(Awaitable[Any], answers)

        with losses_reported(self.client):
            found: Mapping[str, Result] = within(self.client, silence(), ask)
        return found

    def map(
        self, function: Callable[[Resident, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """What the function gives for each item, in the order in which they are finished.

        Raises:
            ClusterError: the scheduler or all workers were lost.
            TilesFailedError: an item killed its worker each time it was tried, alone at last.
        """
        guilty: list[Item] = []
        for outcome in self.attempt(function, items, STRICT):
            if isinstance(outcome, Failed):
                guilty.append(outcome.item)
            else:
                yield outcome
        if guilty:
            raise TilesFailedError(
                f"{len(guilty)} tiles killed every worker that tried them, the first is "
                f"{guilty[0]}; give the workers more memory, or a smaller --tile"
            )

    def attempt(
        self,
        function: Callable[[Resident, Item], Result],
        items: Iterable[Item],
        patience: Patience,
    ) -> Iterator[Result | Failed[Item]]:
        """What the function gives for each item, or `Failed` where it failed alone too.

        Raises:
            ClusterError: the scheduler or all workers were lost.
            StoppedError: the time is over; what is in flight is left.
        """
        return again_alone(partial(self._pass, function, patience), items)

    def _pass(
        self,
        function: Callable[[Resident, Item], Result],
        patience: Patience,
        items: Iterable[Item],
    ) -> Iterator[Result | Failed[Item]]:
        # Packed once for all tasks; the scheduler, which repacks each of them, needn't open it.
        task = partial(on_worker, self.name, dumps(function), patience.deadline)
        send: Callable[[Sequence[Item]], Sequence[Any]] = partial(self._send, task)
        return Dispatch(self.client, self.flow, self.share, send, patience).outcomes(items)

    def _send(self, task: Callable[[Item], object], items: Sequence[Item]) -> Sequence[Any]:
        """The tasks of these items, in one message."""
        run = "-".join(["segpipe", *filter(None, [self.run])])
        places = (item.name if isinstance(item, Named) else "call" for item in items)
        futures: Sequence[Any] = self.client.map(
            task,
            items,
            key=[f"{run}-{place}-{uuid.uuid4().hex[:8]}" for place in places],
            pure=False,
            priority=-self.rank,
            resources={GPU: self.share} if self.share else None,
        )
        return futures


def dashboard_of(client: Client) -> str | None:
    """The address of the scheduler's pages, where it has some."""
    with losses_reported(client), of_the_network():
        return client.dashboard_link or None
