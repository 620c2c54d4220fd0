"""What the values of a map mean: names and colours, apart from any file format."""

import re
import unicodedata
from dataclasses import dataclass

RGBA = tuple[int, int, int, int]

_TRANSPARENT: RGBA = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """A class: its value in the map, its name and its colour as `#rrggbb`.

    Raises:
        ValueError: the value isn't a byte, or no file could hold the name or the colour.
    """

    value: int
    name: str
    color: str

    def __post_init__(self) -> None:
        if type(self.value) is not int or not 0 <= self.value <= 255:
            raise ValueError(f"a class has a value from 0 to 255, got {self.value!r}")
        if not self.name.strip() or not self.name.isprintable():
            raise ValueError(f"a class has a name of printable characters, got {self.name!r}")
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", self.color):
            raise ValueError(f"a class has a colour such as #4060c8, got {self.color!r}")

    @property
    def rgba(self) -> RGBA:
        """Red, green, blue and an opaque alpha, 0 to 255."""
        red, green, blue = bytes.fromhex(self.color[1:])
        return red, green, blue, 255


@dataclass(frozen=True, slots=True)
class Legend:
    """A map's title, its classes by rising value, and the value of pixels without a label.

    Raises:
        ValueError: there is no class, two share a value, or one has that of `nodata`.
    """

    title: str
    entries: tuple[LegendEntry, ...]
    nodata: int = 255

    def __post_init__(self) -> None:
        if not self.title.strip() or not self.title.isprintable():
            raise ValueError(f"a legend has a title of printable characters, got {self.title!r}")
        values = [entry.value for entry in self.entries]
        if not values or len({*values, self.nodata}) != len(values) + 1:
            raise ValueError(f"classes have one value each, and none has {self.nodata}: {values}")
        ordered = sorted(self.entries, key=lambda entry: entry.value)
        object.__setattr__(self, "entries", tuple(ordered))

    @property
    def values(self) -> tuple[int, ...]:
        """The classes' values."""
        return tuple(entry.value for entry in self.entries)

    @property
    def names(self) -> tuple[str, ...]:
        """A name for every value from 0 to the highest class, empty where there is no class."""
        by_value = {entry.value: entry.name for entry in self.entries}
        return tuple(by_value.get(value, "") for value in range(self.entries[-1].value + 1))

    @property
    def palette(self) -> tuple[RGBA, ...]:
        """256 colours by value, transparent where there is no class."""
        by_value = {entry.value: entry.rgba for entry in self.entries}
        return tuple(by_value.get(value, _TRANSPARENT) for value in range(256))

    @property
    def flag_meanings(self) -> tuple[str, ...]:
        """A different word for each class, of the characters that CF 1.11, section 3.5 allows."""
        words = [_word(entry.name) for entry in self.entries]
        if all(words) and len(set(words)) == len(words):
            return tuple(words)
        # A value behind the last underscore tells any two words apart.
        return tuple(
            f"{word or 'class'}_{entry.value}"
            for word, entry in zip(words, self.entries, strict=True)
        )


def _word(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_.+@-]+", "_", plain).strip("_")
