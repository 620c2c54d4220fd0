"""When a scene was taken: as someone says it, or as its file does."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.scenes.raster import read_tags
from segpipe.pipeline.scenes.zarr_scene import read_attributes
from segpipe.workflows.errors import OptionError

_EXIF = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d:\d\d:\d\d)")
"""How TIFF 6.0 writes the tag DateTime, without a zone."""

UNKNOWN = ("1900-01-01T00:00:00Z", "9999-12-31T23:59:59Z")
"""A span that holds any time that could be meant."""


@dataclass(frozen=True, slots=True)
class Timespan:
    """From one instant to another, in UTC, the same one where there is one only."""

    start: datetime
    end: datetime

    @classmethod
    def parse(cls, text: str) -> "Timespan":
        """An instant (`2000-07-20T15:31:00Z`), a day (`2000-07-20`), or two with `/` between them.

        Without a zone it is UTC.

        Raises:
            ValueError: it is none of them.
        """
        first, slash, last = text.strip().partition("/")
        start, end = cls._of(first), cls._of(last if slash else first)
        if end.end < start.start:
            raise ValueError(f"{last} is before {first}")
        return cls(start.start, end.end)

    @classmethod
    def _of(cls, text: str) -> "Timespan":
        moment = datetime.fromisoformat(text.strip())
        moment = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
        if re.fullmatch(r"\d{4}-\d\d-\d\d|\d{8}", text.strip()):
            return cls(moment, moment + timedelta(days=1, seconds=-1))
        return cls(moment, moment)

    def to_dict(self) -> dict[str, str | None]:
        """The properties that STAC has for it (1.1.0, common metadata, date and time)."""
        start, end = stamp(self.start), stamp(self.end)
        if start == end:
            return {"datetime": start}
        return {"datetime": None, "start_datetime": start, "end_datetime": end}


def stamp(moment: datetime) -> str:
    """An instant as RFC 3339 writes it in UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parsed(text: str) -> Timespan:
    """The time that someone typed.

    Raises:
        OptionError: it is none.
    """
    try:
        return Timespan.parse(text)
    except ValueError:
        raise OptionError(
            f"a time is 2000-07-20T15:31:00Z, a day, or two with / between, got {text!r:.80}"
        ) from None


def told(files: Sequence[str]) -> Timespan | None:
    """When files say that they were taken, from the first to the last; None where one doesn't."""
    found = [span for file in files if (span := _told(Path(file)))]
    if not found or len(found) < len(files):
        return None
    return Timespan(min(span.start for span in found), max(span.end for span in found))


def _told(path: Path) -> Timespan | None:
    """When a file says that it was taken; None where it says nothing that is a time.

    That is the time of a STAC item, the tag DateTime of a TIFF, or `time_coverage_start` and
    `time_coverage_end` of a Zarr store (Attribute Convention for Data Discovery 1.3).
    """
    try:
        if path.suffix.lower() in (".json", ".geojson"):
            return _of_item(json.loads(path.read_bytes())["properties"])
        tags = read_attributes(path) if path.is_dir() else read_tags(path)
        if text := tags.get("TIFFTAG_DATETIME"):
            return Timespan.parse(_EXIF.sub(r"\1-\2-\3T\4", str(text)))
        if first := tags.get("time_coverage_start"):
            return Timespan.parse(f"{first}/{tags.get('time_coverage_end', first)}")
    except (InputRefusedError, ValueError, KeyError, TypeError, OSError):
        # The scene itself was accepted: of these, only its time is missing.
        return None
    return None


def _of_item(facts: Mapping[str, object]) -> Timespan:
    if moment := facts.get("datetime"):
        return Timespan.parse(str(moment))
    return Timespan.parse(f"{facts['start_datetime']}/{facts['end_datetime']}")


def properties(taken: Timespan | None) -> dict[str, str | None]:
    """STAC's properties for a time, or for an unknown one: a span that holds all that could be.

    STAC wants a time of every item. The day of the run would be a wrong one, and another each time.
    """
    if taken is not None:
        return taken.to_dict()
    start, end = UNKNOWN
    return {"datetime": None, "start_datetime": start, "end_datetime": end}
