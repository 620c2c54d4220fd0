"""Models that users have as code: `package.module:function`."""

import importlib
import re
import sys
import traceback
from pathlib import Path

from segpipe.models.errors import ModelError

_NAME = r"[^\W\d]\w*"
_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What goes wrong in people's code."""


def is_code(text: str) -> bool:
    """Whether a text has the form `package.module:function`."""
    return re.fullmatch(rf"{_NAME}(\.{_NAME})*:{_NAME}", text) is not None


def from_code(text: str) -> object:
    """What the function gives; it is called without arguments, and found as `python -m` would.

    The current folder stays on the path: workers have to find the module too.

    Raises:
        ModelError: there is no such function, or it fails; the message has its line.
    """
    module_name, _, function_name = text.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        function = getattr(importlib.import_module(module_name), function_name)
        return function()
    except _ERRORS as error:
        raise ModelError(f"{text} fails{_place(error)}: {_line(error)}") from error


def _place(error: BaseException) -> str:
    """The last line of code on the way to the error that isn't Python's or this module's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if one.filename != __file__ and "importlib" not in one.filename]
    return f" in {own[-1].filename}, line {own[-1].lineno}" if own else ""


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text:.300}"
