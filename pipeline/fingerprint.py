"""What decides the bytes of a map, and how two such decisions differ."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

Fields = Mapping[str, Any]
"""Nested mappings of JSON values, such as {"model": {"sha256": ...}, "options": {...}}."""


def digest(fields: Fields) -> str:
    """The sha256 of the fields' canonical JSON, in hex."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(before: Fields, now: Fields) -> list[str]:
    """One line for each field that changed: its dotted name, what it was, what it is."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    return [
        f"{name} was {old.get(name, 'absent')}, is {new.get(name, 'absent')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _leaves(fields: Fields, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
