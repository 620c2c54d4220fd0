"""The power fails at any moment of a run, and of what isn't synchronised anything may be lost.

A run is noted as the operations that reach the disk: names that come and go, bytes of files, and
what is synchronised when. Of those that aren't, each one by itself is then kept, lost or torn, as
POSIX allows: bytes are safe after a sync of the file, names after a sync of their folder, and a
rename is one operation. What is left is put on a disk, and the command is typed again.
"""

import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from segpipe.pipeline import storage
from segpipe.pipeline.errors import StorageError
from tests import disks, toys
from tests.disks import Desk, Tree, go_on, half_made, watched

SEED = 20261123
KINDS = ("cog", "zarr-2", "zarr-3", "layers", "products", "cog, replaced", "zarr-3, replaced")
ORDERS = 200

Entry = tuple[int, str]
"""A folder by its number, and a name in it."""

ROOT = 0


@dataclass(frozen=True, slots=True)
class Links:
    """Names that come to stand for files and folders, by their numbers, or go; at once."""

    changes: dict[Entry, int | None]


@dataclass(frozen=True, slots=True)
class Bytes:
    """What a file holds from now on."""

    file: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Synced:
    """All that was done to this file, or to the names in this folder, is safe."""

    node: int


Event = Links | Bytes | Synced
Facts = tuple[int, int]


@dataclass(slots=True)
class Journal:
    """The events of a run, found by looking at its folder before each step."""

    root: Path
    events: list[Event] = field(default_factory=list)
    folders: set[int] = field(default_factory=set)
    _links: dict[Entry, int] = field(default_factory=dict)
    _numbers: dict[int, int] = field(default_factory=dict)
    _facts: dict[int, Facts] = field(default_factory=dict)
    _paths: dict[Path, int] = field(default_factory=dict)
    _fresh: Iterator[int] = field(default_factory=lambda: itertools.count(ROOT + 1))
    _syncing: Path | None = None

    def begin(self) -> None:
        """What is there already is safe."""
        self._look()
        self.events += [Synced(node) for node in (ROOT, *self._paths.values())]

    def step(self, number: int, action: str, path: Path) -> None:
        """Notes what the step before this one has done."""
        self._look()
        if self._syncing in self._paths:
            self.events.append(Synced(self._paths[self._syncing]))
        self._syncing = path if action == "sync" else None
        if path in self._paths and path.is_file():
            self._facts.pop(self._paths[path], None)
            self._look()

    def _look(self) -> None:
        before, moved = self._links, {number: entry for entry, number in self._links.items()}
        self._links, self._paths, numbers = {}, {self.root: ROOT}, {}
        for folder, folders, files in os.walk(self.root):
            parent = self._paths[Path(folder)]
            self.folders.add(parent)
            for name in sorted((*folders, *files)):
                path = Path(folder, name)
                inode = path.stat().st_ino
                # A number that was given back may be given to another file.
                numbers[inode] = self._numbers.get(inode) or next(self._fresh)
                self._links[parent, name] = self._paths[path] = numbers[inode]
        self._numbers = numbers
        for entry in sorted(before.keys() | self._links.keys()):
            node = self._links.get(entry)
            if node == before.get(entry) or (
                node is None and before[entry] in self._paths.values()
            ):
                continue
            came = {moved[node]: None} if node in moved else {}
            self.events.append(Links({**came, entry: node}))
        for path, node in self._paths.items():
            if path.is_file():
                facts = path.stat().st_size, path.stat().st_mtime_ns
                if self._facts.get(node) != facts:
                    self._facts[node] = facts
                    self.events.append(Bytes(node, path.read_bytes()))


def unsafe(events: list[Event]) -> set[int]:
    """The places of events that nothing after them made safe."""
    found: set[int] = set()
    synced: set[int] = set()
    for place in reversed(range(len(events))):
        match events[place]:
            case Synced(node):
                synced.add(node)
            case Links(changes):
                if not {folder for folder, _ in changes} <= synced:
                    found.add(place)
            case Bytes(file, _) if file not in synced:
                found.add(place)
    return found


def left_over(events: list[Event], folders: set[int], chance: random.Random) -> Tree:
    """What a disk may hold after these events; names of folders end in /."""
    links: dict[Entry, int | None] = {}
    data: dict[int, bytes] = {}
    luck = chance.choice((0.0, 0.2, 0.5, 0.8, 1.0))
    in_danger = unsafe(events)
    for place, event in enumerate(events):
        kept = place not in in_danger or chance.random() < luck
        if isinstance(event, Links) and kept:
            links |= event.changes
        elif isinstance(event, Bytes) and kept:
            data[event.file] = event.data
        elif isinstance(event, Bytes) and chance.random() < 0.5:
            data[event.file] = event.data[: chance.randrange(len(event.data) + 1)]
    return dict(_files(ROOT, "", links, folders, data))


def _files(
    folder: int,
    prefix: str,
    links: dict[Entry, int | None],
    folders: set[int],
    data: dict[int, bytes],
) -> Iterator[tuple[str, bytes]]:
    inside = [(name, node) for (parent, name), node in links.items() if parent == folder]
    for name, node in inside:
        if node in folders:
            yield f"{prefix}{name}/", b""
            yield from _files(node, f"{prefix}{name}/", links, folders, data)
        elif node is not None:
            yield f"{prefix}{name}", data.get(node, b"")


def put(files: Tree, folder: Path) -> None:
    """Writes files into a folder; names that end in / are folders."""
    for name, data in files.items():
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


@pytest.fixture(autouse=True, scope="module")
def quick_runs() -> Iterator[None]:
    with disks.quick_runs():
        yield


def old_map(desk: Desk) -> Tree:
    """Another map that is there already."""
    desk.scene.rename(desk.scene.with_name("kept.tif"))
    toys.write_scene(desk.scene, disks.pixels(1))
    desk.run()
    old = desk.seen()
    desk.scene.with_name("kept.tif").rename(desk.scene)
    return old


def outages(kind: str, folder: Path, orders: int) -> None:
    """The power fails so many times; each time the command that is typed again makes it good."""
    name, _, replaced = kind.partition(", ")
    desk = disks.desks(folder)[name]
    desk.clear()
    more = {"overwrite": True} if replaced else {}
    old: Tree = old_map(desk) if replaced else {}
    journal = Journal(desk.folder)
    journal.begin()
    safe = len(journal.events)
    with watched(journal.step):
        desk.run(**more)
    journal.step(-1, "end", desk.folder)
    whole = desk.seen()
    chance = random.Random(f"{SEED} {kind}")
    for order in range(orders):
        moment = chance.randrange(safe, len(journal.events) + 1)
        files = left_over(journal.events[:moment], journal.folders, chance)
        desk.clear()
        put(files, desk.folder)
        said = f"seed {SEED}, {kind}, order {order}, event {moment} of {len(journal.events)}"
        print(said)
        assert half_made(desk.seen(), whole, old) == [], said
        assert desk.seen() or not old or desk.hidden, said
        go_on(desk, whole, **more)


def shares(kinds: tuple[str, ...], orders: int) -> list[tuple[str, int]]:
    """Kinds, each with its share of the orders."""
    return [
        (kind, orders * (n + 1) // len(kinds) - orders * n // len(kinds))
        for n, kind in enumerate(kinds)
    ]


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("kind", "orders"), shares(KINDS, ORDERS))
def test_two_hundred_outages(kind: str, orders: int, tmp_path: Path) -> None:
    outages(kind, tmp_path, orders)


@pytest.mark.parametrize("kind", ["cog", "zarr-3, replaced"])
def test_some_outages(kind: str, tmp_path: Path) -> None:
    outages(kind, tmp_path, 6)


def test_a_disk_that_is_never_synchronised_loses_a_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but syncs of folders keeps outputs whole: the test above can fail."""
    sync = storage.sync

    def only_files(path: Path) -> None:
        if path.is_file():
            sync(path)

    monkeypatch.setattr(storage, "sync", only_files)
    with pytest.raises((AssertionError, StorageError)):
        outages("zarr-3", tmp_path, 60)
