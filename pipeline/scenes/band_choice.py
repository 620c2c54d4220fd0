"""Which of the bands there are is meant by each name or number."""

from collections.abc import Sequence
from typing import Protocol

from segpipe.pipeline.errors import InputRefusedError

_SHOWN = 16


class Named(Protocol):
    """A band by what it's called: "" where it has no name, and other names that it goes by."""

    @property
    def name(self) -> str:
        """Its own name."""
        ...

    @property
    def aliases(self) -> tuple[str, ...]:
        """What else it's called; a band whose own name it is goes before."""
        ...

    @property
    def alpha(self) -> bool:
        """Whether it only tells where pixels are."""
        ...


def choose(
    place: object,
    bands: Sequence[Named],
    asked: Sequence[str] | None,
    wanted: Sequence[str],
    *,
    ordered: bool = True,
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Numbers of the bands to read, counted from 1, and remarks for the user.

    Args:
        place: what has the bands, for messages.
        bands: all that there are.
        asked: the user's choice, numbers or names; None for none.
        wanted: the model's names of its bands, which decide where the user doesn't.
        ordered: whether bands without such names may be taken in their own order, where there are
            as many of them.

    Raises:
        InputRefusedError: a band isn't there, or it isn't clear which one is meant.
    """
    has = f"it has {listed(bands)}"
    if asked is not None:
        indexes = tuple(_find(place, bands, name, has) for name in asked)
        if not indexes or (wanted and len(indexes) != len(wanted)):
            raise InputRefusedError(
                f"{place}: {len(indexes)} bands were named, the model wants "
                f"{len(wanted) or 'some'}{_names(wanted)}; {has}; name as many with --bands"
            )
        return indexes, ()
    own = tuple(index for index, band in enumerate(bands, start=1) if not band.alpha)
    if not wanted:
        return own, ()
    matches = [_named(bands, name) for name in wanted]
    if all(len(match) == 1 for match in matches):
        return tuple(match[0] for match in matches), ()
    if any(matches) or len(own) != len(wanted) or not ordered:
        raise InputRefusedError(
            f"{place}: {has}, the model wants {len(wanted)}{_names(wanted)}; "
            f"say which are which with --bands, such as --bands "
            f"{','.join(str(index) for index in range(1, len(wanted) + 1))}"
        )
    if not any(bands[index - 1].name for index in own):
        return own, ()
    return own, (
        f"the bands of {_short(place)} aren't named {', '.join(wanted)}: taken in their order, "
        f"{', '.join(title(bands[index - 1], index) for index in own)}; --bands changes it",
    )


def title(band: Named, index: int) -> str:
    """What a band is called in messages."""
    return band.name or f"band {index}"


def listed(bands: Sequence[Named]) -> str:
    """How many there are, and their names."""
    shown = [
        f"{index} {band.name or ('alpha' if band.alpha else '(unnamed)')}"
        for index, band in enumerate(bands[:_SHOWN], start=1)
    ]
    more = ", ..." if len(bands) > len(shown) else ""
    return f"{len(bands)} band{'s' * (len(bands) != 1)}: {', '.join(shown)}{more}"


def _find(place: object, bands: Sequence[Named], asked: str, has: str) -> int:
    name = asked.strip()
    if name.isascii() and name.isdigit():
        if not 1 <= int(name) <= len(bands):
            raise InputRefusedError(f"{place}: there's no band {name}: {has}, counted from 1")
        return int(name)
    matches = _named(bands, name)
    if len(matches) != 1:
        found = "several bands are" if matches else "no band is"
        raise InputRefusedError(f"{place}: {found} named {name!r}: {has}; choose by number")
    return matches[0]


def _named(bands: Sequence[Named], name: str) -> list[int]:
    wanted = _folded(name)
    own = [i for i, band in enumerate(bands, start=1) if _folded(band.name) == wanted]
    return own or [
        i for i, band in enumerate(bands, start=1) if wanted in map(_folded, band.aliases)
    ]


def _folded(name: str) -> str:
    return name.strip().casefold()


def _names(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _short(place: object) -> str:
    return str(place).rstrip("/").rpartition("/")[2]
