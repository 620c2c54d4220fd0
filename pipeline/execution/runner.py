"""What a run asks of whoever does its work; in one process or in many, they do the same."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, TypeVar, runtime_checkable

from segpipe.pipeline.execution.patience import Failed, Patience

Held = TypeVar("Held", covariant=True)
Item = TypeVar("Item")
Result = TypeVar("Result")


@runtime_checkable
class Named(Protocol):
    """An item by whose name its task is found on Dask's dashboard."""

    @property
    def name(self) -> str:
        """Its place among the others."""
        ...


class Runner(Protocol[Held]):
    """Calls functions with the resident of a worker process."""

    @property
    def dashboard(self) -> str | None:
        """The address of Dask's dashboard, where there is one."""
        ...

    def on(self, device: str) -> "Runner[Held]":
        """Only the workers that have this kind of device: `auto`, `cpu`, `cuda` or `cuda:N`."""
        ...

    def of_run(self, run: str, rank: int) -> "Runner[Held]":
        """The same workers, for a run whose tasks come after those of runs of lower rank."""
        ...

    def call(self, function: Callable[[Held], Result]) -> Result:
        """What the function gives on one worker."""
        ...

    def everywhere(self, function: Callable[[], Result]) -> Mapping[str, Result]:
        """What the function gives in every worker process, by the worker's address."""
        ...

    def map(
        self, function: Callable[[Held, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """What the function gives for each item, in the order in which they are finished."""
        ...

    def attempt(
        self,
        function: Callable[[Held, Item], Result],
        items: Iterable[Item],
        patience: Patience,
    ) -> Iterator[Result | Failed[Item]]:
        """Likewise; an item that failed alone too comes as `Failed`."""
        ...
