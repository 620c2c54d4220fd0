"""What happens in a run, one JSON object a line, for those who read it later."""

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

from segpipe.pipeline import storage

Level = Literal["info", "warning", "error"]

_STANDARD_ERROR = "-"

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@dataclass(slots=True)
class Journal:
    """Where the events of one run go: to the end of a file, to standard error, or nowhere.

    Attributes:
        place: the file, `-` for standard error, None for nowhere.
        run: the run's id, as soon as it is known.
    """

    place: str | Path | None = None
    run: str | None = None

    def begin(self, run: str, **facts: object) -> None:
        """Every line is of this run from now on; the first tells what is planned."""
        self.run = run
        self.note("planned", **facts)

    def note(self, event: str, level: Level = "info", /, **facts: object) -> None:
        """Adds a line: when, how grave, which run, what happened, and facts about it.

        Raises:
            StorageError: the file can't be written.
        """
        if self.place is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        entry = {"time": now, "level": level, "run": self.run, "event": event, **facts}
        line = json.dumps(entry, default=str)
        if str(self.place) == _STANDARD_ERROR:
            print(line, file=sys.stderr, flush=True)
        else:
            # One write a line: several processes may share the file.
            storage.append(Path(self.place), f"{line}\n".encode())

    @classmethod
    def of(cls, log: object) -> "Journal":
        """The journal itself, or a new one that goes to a file of this name."""
        if isinstance(log, Journal):
            return log
        return cls(log if isinstance(log, str | Path) else None)


def noting_errors(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """The function, whose keyword `log` becomes a journal that is told of what ends it early."""

    @functools.wraps(function)
    def noted(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        kwargs["log"] = journal = Journal.of(kwargs.get("log"))
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            journal.note("interrupted", "warning")
            raise
        except Exception as error:
            code = getattr(error, "exit_code", 1)
            text = " ".join(str(error).split())
            journal.note("error", "error", exit_code=code, kind=type(error).__name__, message=text)
            raise

    return noted
