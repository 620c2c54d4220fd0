"""Which planes of a Zarr store are a scene's bands, by xarray's conventions.

A variable is an array whose last two dimensions are rows and columns. Before them may stand time,
of which one step is chosen, and one dimension that is the bands; others have a length of 1.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.scenes.location import Address, Place
from segpipe.pipeline.scenes.zarr_store import Array

_TIMES = ("time", "t", "date", "datetime", "valid_time")
_PLACED = {"grid_mapping", "_CRS", "proj:wkt2", "proj:code"}
_MICROSECONDS = {
    "day": 86_400e6,
    "hour": 3_600e6,
    "minute": 60e6,
    "second": 1e6,
    "millisecond": 1e3,
    "microsecond": 1.0,
    "nanosecond": 1e-3,
}
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user says of a store with several variables or steps.

    Attributes:
        variable: the name of one variable.
        time: a step: its number from 1, or its label, such as a date that begins as it does.
    """

    variable: str | None = None
    time: str | None = None


ANY = Choice()
"""Nothing is said: the store has to leave no choice."""


@dataclass(frozen=True, slots=True)
class Plane:
    """A band: its title ("" for none), its array's name, and where it stands before the rows."""

    title: str
    array: str
    index: tuple[int, ...]


def planes(place: Place, arrays: Mapping[str, Array], choice: Choice) -> tuple[Plane, ...]:
    """The bands of the scene: those of one variable, or several variables on the same pixels.

    Raises:
        InputRefusedError: the store leaves it open, or has nothing of what was chosen.
    """
    names = _variables(place, arrays, choice.variable)
    for name in names:
        _check_order(place, arrays[name])
    if len(names) > 1 and any(_several(arrays[name], arrays) for name in names):
        raise _open_question(place, names, arrays)
    found = [_bands(place, name, arrays, choice.time) for name in names]
    if len(found) == 1:
        return found[0]
    return tuple(Plane(name, name, band.index) for name, (band,) in zip(names, found, strict=True))


def dimensions(array: Array) -> tuple[str, ...]:
    """The names of an array's dimensions; none where it doesn't say."""
    names = getattr(array.metadata, "dimension_names", None)
    names = names or array.attrs.get("_ARRAY_DIMENSIONS")
    if not isinstance(names, list | tuple) or len(names) != array.ndim:
        return ()
    return tuple(str(name) for name in names)


def _variables(place: Place, arrays: Mapping[str, Array], asked: str | None) -> list[str]:
    images = {name: array for name, array in arrays.items() if array.ndim in (2, 3, 4)}
    if asked is not None:
        if asked not in images:
            raise InputRefusedError(
                f"{place}: there's no variable {asked!r}: it has {_listed(_images(arrays))}; "
                "choose one of them with --variable"
            )
        return [asked]
    images = _images(arrays)
    if len(images) > 1:
        placed = [name for name, array in images.items() if _PLACED & set(array.attrs)]
        if len(placed) == 1:
            return placed
    if not images or len({_pixels(array) for array in images.values()}) > 1:
        raise _open_question(place, list(images), arrays)
    return sorted(images)


def _images(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays that may be variables: numbers on rows and columns that describe no other."""
    helpers: set[str] = set()
    for array in arrays.values():
        for key in ("bounds", "coordinates", "grid_mapping"):
            helpers |= set(str(array.attrs.get(key, "")).split())
    return {
        name: array
        for name, array in arrays.items()
        if array.ndim in (2, 3, 4) and array.dtype.kind in "iufcb" and name not in helpers
    }


def _pixels(array: Array) -> tuple[object, ...]:
    return array.shape[-2:], dimensions(array)[-2:]


def _open_question(
    place: Place, names: Sequence[str], arrays: Mapping[str, Array]
) -> InputRefusedError:
    remedy = "choose one with --variable" if names else "name the folder of the array itself"
    if not arrays and isinstance(place, Address) and place.service == "http":
        remedy = "a web server lists no folders: name the array itself, or consolidate the metadata"
    if any(arrays[name].shape[axis] > 1 for name in names for axis in _times(arrays[name], arrays)):
        remedy += ", and its step of time with --time"
    return InputRefusedError(
        f"{place}: a scene is one array (band, y, x) or (y, x), or several (y, x) of one size, "
        f"found {_listed(names)} of {len(arrays)} arrays; {remedy}"
    )


def _listed(names: Mapping[str, Any] | Sequence[str]) -> str:
    shown = sorted(names)[:_SHOWN]
    return ", ".join(shown) + (", ..." if len(names) > _SHOWN else "") or "none"


def _check_order(place: Place, array: Array) -> None:
    dims = dimensions(array)
    if array.ndim not in (2, 3, 4) or 0 in array.shape or (array.ndim == 4 and not dims):
        raise InputRefusedError(
            f"{place}: a scene is one array (band, y, x) or (y, x), found the shape {array.shape}"
            f"{'' if dims else ' without names of dimensions'}"
        )
    if {"band", *_TIMES} & set(dims[-2:]):
        raise InputRefusedError(
            f"{place}: the dimensions are {', '.join(dims)}; a scene has (band, y, x): transpose it"
        )


def _bands(
    place: Place, name: str, arrays: Mapping[str, Array], asked: str | None
) -> tuple[Plane, ...]:
    """One plane a band of a variable, at the step that is asked for."""
    array, dims = arrays[name], dimensions(arrays[name])
    leading = array.shape[:-2]
    index = [0] * len(leading)
    times = _times(array, arrays)
    if asked is not None and not times:
        raise InputRefusedError(
            f"{place}: {name or 'the array'} has no time ({', '.join(dims) or 'no names'} are its "
            "dimensions); leave --time out"
        )
    for axis in times:
        index[axis] = _step(place, leading[axis], arrays.get(dims[axis]), asked)
    several = _several(array, arrays)
    if len(several) > 1:
        raise InputRefusedError(
            f"{place}: {name or 'the array'} has the dimensions {', '.join(dims)} and the shape "
            f"{array.shape}; a scene has one dimension of bands before rows and columns"
        )
    others = [axis for axis in range(len(leading)) if axis not in times]
    varying = several[0] if several else others[-1] if others else None
    count = 1 if varying is None else leading[varying]
    coordinate = arrays.get(dims[varying]) if varying is not None and dims else None
    found = []
    for band, title in enumerate(_titles(array, coordinate, count)):
        if varying is not None:
            index[varying] = band
        found.append(Plane(title, name, tuple(index)))
    return tuple(found)


def _titles(array: Array, coordinate: Array | None, count: int) -> list[str]:
    titles: Any = array.attrs.get("long_name")
    if isinstance(titles, str):
        titles = [titles]
    if coordinate is not None and coordinate.shape == (count,) and coordinate.dtype.kind in "OUTS":
        titles = np.asarray(coordinate[:]).tolist()
    if not isinstance(titles, list | tuple) or len(titles) != count:
        return [""] * count
    return [title.decode() if isinstance(title, bytes) else str(title) for title in titles]


def _several(array: Array, arrays: Mapping[str, Array]) -> list[int]:
    """The dimensions before rows and columns, but for time, that are longer than 1."""
    times = _times(array, arrays)
    return [axis for axis in range(array.ndim - 2) if axis not in times and array.shape[axis] > 1]


# Steps of time


def _times(array: Array, arrays: Mapping[str, Array]) -> list[int]:
    """The dimensions before rows and columns that are time."""
    return [axis for axis, dim in enumerate(dimensions(array)[:-2]) if _is_time(dim, arrays)]


def _is_time(name: str, arrays: Mapping[str, Array]) -> bool:
    coordinate = arrays.get(name)
    if name in _TIMES or coordinate is None:
        return name in _TIMES
    return coordinate.dtype.kind == "M" or " since " in str(coordinate.attrs.get("units", ""))


def _step(place: Place, count: int, coordinate: Array | None, asked: str | None) -> int:
    """The place of the step that is asked for; without a question, of the only one."""
    if asked is None and count == 1:
        return 0
    labels = _labels(coordinate) if coordinate is not None and coordinate.ndim == 1 else []
    steps = f"{count} time steps" + (f", {labels[0]} to {labels[-1]}" if labels else "")
    if asked is None:
        raise InputRefusedError(
            f"{place}: holds {steps}; a scene is one: choose it with --time, by its number from 1 "
            "or by its date"
        )
    wanted = asked.strip().replace(" ", "T").removesuffix("T00:00:00")
    matches = [step for step, label in enumerate(labels) if _begins(label, wanted)]
    if not matches and re.fullmatch(r"[0-9]+", wanted) and 1 <= int(wanted) <= count:
        return int(wanted) - 1
    if len(matches) != 1:
        several = f"{len(matches)} steps begin with" if matches else "there's no step"
        raise InputRefusedError(
            f"{place}: {several} {asked!r:.50}: it holds {steps}; name one by its number from 1, "
            "or by its whole label"
        )
    return matches[0]


def _begins(label: str, wanted: str) -> bool:
    """Whether a label is the wanted one, or a time within the wanted year, month, day or hour."""
    rest = label.removeprefix(wanted) if label.startswith(wanted) else None
    return rest is not None and (not rest or (len(wanted) >= 4 and rest[0] in "-T:."))


def _labels(coordinate: Array) -> list[str]:
    values = np.asarray(coordinate[:])
    times = values if values.dtype.kind == "M" else _decoded(values, coordinate.attrs)
    if times is not None:
        return [str(text).removesuffix("T00:00:00") for text in np.datetime_as_string(times, "s")]
    return [str(value) for value in values.tolist()]


def _decoded(values: Any, attributes: Mapping[str, Any]) -> Any:
    """Times by CF (section 4.4, Gregorian calendars), or None for other numbers."""
    match = re.fullmatch(r"(\w+?)s? since (.+)", str(attributes.get("units", "")).strip())
    calendar = str(attributes.get("calendar", "standard"))
    if match is None or match[1] not in _MICROSECONDS or values.dtype.kind not in "iuf":
        return None
    if calendar not in ("standard", "gregorian", "proleptic_gregorian"):
        return None
    try:
        start = np.datetime64(re.sub(r"\s*(Z|UTC|\+00:?00)$", "", match[2]).replace(" ", "T"), "us")
        return start + np.round(values * _MICROSECONDS[match[1]]).astype("timedelta64[us]")
    except (ValueError, OverflowError):
        return None
