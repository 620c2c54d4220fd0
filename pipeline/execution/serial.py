"""The work is done in this thread, one item after another: the oracle of the other runners."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from segpipe.pipeline.errors import OverdueError
from segpipe.pipeline.execution.patience import Deadlines, Failed, Patience, again_alone

Resident = TypeVar("Resident")
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Serial(Generic[Resident]):
    """Calls functions with the resident of this process."""

    resident: Resident
    deadlines: Deadlines = field(default_factory=Deadlines, compare=False, repr=False)

    @property
    def dashboard(self) -> str | None:
        """None."""
        return None

    def on(self, device: str) -> "Serial[Resident]":
        """The same: there is one process."""
        return self

    def of_run(self, run: str, rank: int) -> "Serial[Resident]":
        """The same."""
        return self

    def call(self, function: Callable[[Resident], Result]) -> Result:
        """What the function gives."""
        return function(self.resident)

    def everywhere(self, function: Callable[[], Result]) -> Mapping[str, Result]:
        """What the function gives here."""
        return {"this process": function()}

    def map(
        self, function: Callable[[Resident, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """What the function gives for each item, in their order."""
        return (function(self.resident, item) for item in items)

    def attempt(
        self,
        function: Callable[[Resident, Item], Result],
        items: Iterable[Item],
        patience: Patience,
    ) -> Iterator[Result | Failed[Item]]:
        """What the function gives for each item, in their order, then for those tried again.

        Raises:
            StoppedError: the time is over; an item that was begun is finished first.
        """
        return again_alone(partial(self._pass, function, patience), items)

    def _pass(
        self,
        function: Callable[[Resident, Item], Result],
        patience: Patience,
        items: Iterable[Item],
    ) -> Iterator[Result | Failed[Item]]:
        for item in items:
            patience.left()
            try:
                yield self.deadlines.call(patience.deadline, partial(function, self.resident, item))
            except OverdueError as error:
                yield Failed(item, error)
            except patience.forgiven as error:
                yield Failed(item, error)
