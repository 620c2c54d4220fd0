"""What a scene's name means: a path on this machine, or the address of an object in a store."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal, cast
from urllib.parse import unquote, urlsplit

from segpipe.pipeline.errors import InputRefusedError

Service = Literal["s3", "gs", "azure", "http"]

_SERVICES: dict[str, Service] = {
    **{"s3": "s3", "gs": "gs", "az": "azure", "abfs": "azure", "abfss": "azure"},
    **{"http": "http", "https": "http"},
}
_ADDRESS = re.compile(rf"({'|'.join(_SERVICES)})://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Address:
    """An object, or a folder of objects, in a store on the network.

    As text it's without what opens it: a query, a fragment, a user and a password are left out.

    Attributes:
        service: which kind of store.
        host: a bucket or container (before an "@" and the account's host, where Azure's address
            names one), or the server and its port.
        path: the object's key; for http(s) as it stands in the address.
        url: the address as it was typed, which may hold a signature.
        text: the address as it may be shown.
    """

    service: Service
    host: str
    path: str
    text: str
    url: str = field(repr=False)

    @classmethod
    def of(cls, url: str) -> "Address":
        """The address that this text is.

        Raises:
            InputRefusedError: it names no object.
        """
        scheme, _, rest = url.partition("://")
        scheme = scheme.lower()
        service = _SERVICES[scheme]
        whole, _, path = rest.partition("/")
        path = re.split(r"[?#]", path, maxsplit=1)[0] if service == "http" else path
        shown = whole if service == "azure" else whole.rpartition("@")[2]
        text = f"{scheme}://{shown}/{re.split('[?#]', path, maxsplit=1)[0]}"
        if not shown or not path.strip("/") or not _is_sound(url):
            raise InputRefusedError(
                f"{text}: names no object; expected such as s3://BUCKET/KEY or https://HOST/PATH"
            )
        return cls(service, shown, path.strip("/") if service != "http" else path, text, url)

    def __str__(self) -> str:
        return self.text

    @property
    def name(self) -> str:
        """The last part of the path, as a file would be called."""
        last = self.path.rstrip("/").rpartition("/")[2]
        return (unquote(last) if self.service == "http" else last).replace("/", "_")

    @property
    def is_folder(self) -> bool:
        """Whether it's called as a folder of objects is, such as a Zarr store."""
        return self.text.endswith(("/", ".zarr"))

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def folder(self) -> "Address":
        """What holds this object: a folder of objects, or the whole bucket."""
        path, bucket = self.path.rpartition("/")[0], self.text.rstrip("/").removesuffix(self.path)
        return replace(self, path=path, text=f"{bucket}{path}")

    def beside(self, name: str) -> "Address":
        """The address of another object of the same folder."""
        folder = self.folder
        path = f"{folder.path}/{name}".lstrip("/")
        return replace(self, path=path, text=f"{folder.text.rstrip('/')}/{name}")


Place = Path | Address


def is_remote(name: str | Path) -> bool:
    """Whether this names an object on the network."""
    return isinstance(name, str) and _ADDRESS.match(name) is not None


def place_of(name: str | Path) -> Place:
    """Where the scene of this name lies: an absolute path, or an address.

    Raises:
        InputRefusedError: it's an address that names no object.
    """
    return Address.of(cast(str, name)) if is_remote(name) else Path(name).absolute()


def shown(name: str) -> str:
    """A word of a command line as it may be shown: an address without what opens it."""
    if not is_remote(name):
        return name
    try:
        return Address.of(name).text
    except InputRefusedError:
        return name.partition("://")[0] + "://..."


def without_secrets(word: str) -> str:
    """A word of a command line as it may be shown: as `shown`, also NAME=ADDRESS between commas."""
    if is_remote(word):
        return shown(word)
    parts = word.split(",")
    starts = [match.start() if (match := _ADDRESS.search(part)) else 0 for part in parts]
    return ",".join(
        part[:start] + shown(part[start:]) for part, start in zip(parts, starts, strict=True)
    )


def _is_sound(url: str) -> bool:
    """Whether every library reads the address alike."""
    try:
        urlsplit(url).port  # noqa: B018  # says so itself
    except ValueError:
        return False
    return url.isprintable() and " " not in url.partition("://")[2].partition("/")[0]
