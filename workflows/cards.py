"""Model cards for networks that come without one: from options, a YAML file, or defaults."""

import colorsys
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from segpipe.models.card import ClassInfo, ModelCard
from segpipe.models.errors import ModelError
from segpipe.pipeline.errors import InputRefusedError

KEYS = (
    "name",
    "bands",
    "classes",
    "mean",
    "std",
    "window",
    "overlap",
    "edges",
    "description",
    "licence",
    "training_data",
    "units",
    "resolution",
)
"""What a card's file may hold; all of it is optional."""

LARGEST_FILE = 1 << 20

OKABE_ITO = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#f0e442",
    "#999999",
)
"""Colours that people with any colour vision tell apart (Okabe and Ito 2008), grey for black."""


def describe(
    name: str,
    bands: int,
    classes: int,
    *,
    card_file: Path | None = None,
    band_names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    colors: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    window: int | None = None,
) -> ModelCard:
    """The card of a network with so many bands and classes.

    What is given here goes before what the file has, and that before the defaults: bands and
    classes with their numbers as names, mean 0 and deviation 1, colours of `palette`. A class has
    the number of its channel as its value in the map, counted from 0, unless the file gives one.

    Args:
        name: of the model, where the file has none; what isn't a letter or digit becomes a hyphen.
        bands: how many the network takes.
        classes: how many it gives.
        card_file: YAML with some of `KEYS`; `classes` are names, or tables of name, value, color.
        band_names: in the network's order.
        class_names: in the order of the network's channels.
        colors: one a class, as `#rrggbb`.
        mean: one number a band in the card's units (by default the scene's own), or one for all.
        std: likewise.
        window: side in pixels of the windows that the network was trained on.

    Raises:
        InputRefusedError: the file can't be read, or isn't such a card.
        ModelError: the network has other numbers of bands or classes, or a value makes no sense.
    """
    told = {} if card_file is None else _read(card_file)
    try:
        table = {key: told[key] for key in KEYS[5:] if key in told}
        if window is not None:
            table["window"] = window
        return ModelCard(
            name=told.get("name", _word(name)),
            bands=_bands(bands, band_names or _items(told, "bands")),
            classes=_classes(classes, class_names, colors, _items(told, "classes")),
            mean=_numbers("mean", bands, mean or told.get("mean", 0.0)),
            std=_numbers("std", bands, std or told.get("std", 1.0)),
            **table,
        )
    except ModelError as error:
        place = "" if card_file is None else f"{card_file}: "
        raise ModelError(f"{place}{error}") from error


def count_of(card_file: Path | None, key: str) -> int | None:
    """How many bands or classes a card's file lists; None where it lists none.

    Raises:
        InputRefusedError: the file can't be read, or isn't a card.
    """
    listed = {} if card_file is None else _read(card_file)
    return len(listed[key]) if isinstance(listed.get(key), list) else None


def palette(count: int) -> tuple[str, ...]:
    """So many different colours, the first of them safe for every kind of colour vision."""
    more = (_tint(number) for number in range(count - len(OKABE_ITO)))
    return (*OKABE_ITO[:count], *more)


def _tint(number: int) -> str:
    # Hues a golden angle apart are far from all that came before.
    hue, lightness = number * 0.618034 % 1, (0.35, 0.65, 0.5)[number % 3]
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue, lightness, 0.55))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise InputRefusedError(f"{path} has more than {LARGEST_FILE} bytes; a card has a few")
        text = path.read_text(encoding="utf-8")
        # Aliases of aliases would unfold to any size.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise InputRefusedError(f"{path} uses YAML's aliases (*name); write the values out")
        data = yaml.safe_load(text)
    except OSError as error:
        raise InputRefusedError(f"{path} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputRefusedError(f"{path} isn't YAML: {reason:.200}") from error
    if not isinstance(data, Mapping):
        raise InputRefusedError(f"{path} isn't a card: a table of {', '.join(KEYS)}")
    if unknown := sorted(set(map(str, data)) - set(KEYS)):
        raise InputRefusedError(f"{path} has an unknown key {unknown[0]!r:.80}; {_KNOWN}")
    return dict(data)


_KNOWN = f"a card takes {', '.join(KEYS)}"


def _items(told: Mapping[str, Any], key: str) -> list[Any]:
    items = told.get(key, [])
    if not isinstance(items, list):
        raise ModelError(f"a card's {key!r} is a list, got {items!r:.80}")
    return items


def _bands(count: int, names: Sequence[str]) -> tuple[str, ...]:
    _require_count("bands", count, names)
    return tuple(names) or tuple(f"band {number}" for number in range(1, count + 1))


def _classes(
    count: int, names: Sequence[str] | None, colors: Sequence[str] | None, told: Sequence[object]
) -> tuple[ClassInfo, ...]:
    tables = [_class_table(entry) for entry in told] or [{} for _ in range(count)]
    _require_count("classes", count, tables)
    _require_count("classes", count, names or ())
    _require_count("colours", count, colors or ())
    for index, table in enumerate(tables):
        if names:
            table["name"] = names[index]
        if colors:
            table["color"] = colors[index]
    usual = palette(count)
    return tuple(
        ClassInfo.from_dict(
            {"value": index, "name": f"class {index}", "color": usual[index], **table}
        )
        for index, table in enumerate(tables)
    )


def _class_table(entry: object) -> dict[str, Any]:
    match entry:
        case str(name):
            return {"name": name}
        case dict(table):
            return dict(table)
    raise ModelError(f"a class is a name, or a table of name, value and color, got {entry!r:.80}")


def _numbers(title: str, bands: int, given: object) -> tuple[float, ...]:
    numbers = given if isinstance(given, list | tuple) else [given]
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers):
        raise ModelError(f"{title} is a number for each band or one for all, got {given!r:.80}")
    if len(numbers) == 1:
        numbers = list(numbers) * bands
    _require_count(f"numbers of {title}", bands, numbers)
    return tuple(map(float, numbers))


def _require_count(title: str, count: int, given: Sequence[object]) -> None:
    if given and len(given) != count:
        raise ModelError(f"{len(given)} {title} are named, the network has {count}")


def _word(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-_") or "model"
