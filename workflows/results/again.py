"""The command line that does what a call from Python did."""

import inspect
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from segpipe.pipeline.scenes.location import shown

SHORT = {"model": "-m", "output": "-o"}
LEFT_OUT = {
    *("watch", "series", "log", "overwrite", "new_run"),
    *("allow_failed", "tile_timeout", "stop_after"),
}
"""What changes nothing in the map."""

PLACEHOLDER = "PACKAGE"
"""Stands for a model that was handed over as an object: it has no name on a command line."""


@dataclass(frozen=True, slots=True)
class Origin:
    """How a run was called: its arguments that aren't defaults, and the command line they make."""

    arguments: Mapping[str, object]
    command: str

    @classmethod
    def of(cls, function: Callable[..., object], arguments: Mapping[str, object]) -> "Origin":
        """The origin of a call of `function` with these arguments, by name."""
        return cls(given(function, arguments), command(function, arguments))


def given(function: Callable[..., object], arguments: Mapping[str, object]) -> dict[str, object]:
    """The arguments that aren't the function's defaults, in the order of its parameters."""
    return {
        name: arguments[name]
        for name, parameter in inspect.signature(function).parameters.items()
        if name in arguments and name not in LEFT_OUT and arguments[name] != parameter.default
    }


def command(function: Callable[..., object], arguments: Mapping[str, object]) -> str:
    """`segpipe` with the function's name, its positional arguments, and its options.

    Args:
        function: has a command of its name, whose options are those of the function.
        arguments: what it was called with, by name.
    """
    kinds = inspect.signature(function).parameters
    places: list[str] = []
    options: list[str] = []
    for name, value in given(function, arguments).items():
        if kinds[name].kind is inspect.Parameter.KEYWORD_ONLY:
            options += list(_option(name, value))
        else:
            places += map(word, value if isinstance(value, list | tuple) else [value])
    return shlex.join(["segpipe", function.__name__, *places, *options])


def word(value: object) -> str:
    """A value as it is typed: words between commas, and a placeholder for what can't be typed.

    A table is NAME=WORD between commas. Addresses are without what opens them.
    """
    if isinstance(value, str | Path | int | float):
        return shown(str(value))
    if isinstance(value, Mapping):
        return ",".join(f"{name}={word(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ",".join(map(word, value))
    return PLACEHOLDER


def _option(name: str, value: object) -> Iterator[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        yield f"--{flag}" if value else f"--no-{flag}"
    else:
        yield SHORT.get(name, f"--{flag}")
        yield word(value)
