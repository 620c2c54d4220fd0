"""What is sent to an object store is there whole or not at all, whatever the store does."""

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segpipe.pipeline import objects, storage
from segpipe.pipeline.errors import FingerprintMismatchError, StorageError, UnreachableError
from segpipe.pipeline.maps.label_store import STORE_MARKS
from segpipe.pipeline.maps.upload import MARK, require_room, upload_file, upload_store
from segpipe.pipeline.objects import Objects
from segpipe.pipeline.outbox import Outbox
from segpipe.pipeline.scenes.location import Address
from tests.object_server import Fault, Store, storing
from tests.servers import RETRIES, hide_settings

SEED = 20261123
TREE = {
    ".zattrs": b"{}",
    ".zgroup": b'{"zarr_format": 2}',
    ".zmetadata": b'{"metadata": {}}',
    "classes/.zarray": b"{}",
    "classes/.zarray.aux.xml": b"<PAMDataset/>",
    "classes/0/0": b"first",
    "classes/0/1": b"second",
    "x/.zarray": b"{}",
    "x/0": b"coordinates",
}
OLD = {**TREE, "classes/0/0": b"older", "classes/7/7": b"stale", "classes/.zarray": b"{ }"}
MAP = Address.of("s3://maps/a/map.zarr")
FILE = Address.of("s3://maps/a/map.tif")
ROOT = (".zattrs", ".zgroup", ".zmetadata")
MINE, OTHERS = b"mine", b"another's"


class Killed(BaseException):
    """Stands for SIGKILL: no handler of errors sees it."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    hide_settings(monkeypatch, tmp_path)
    with storing(monkeypatch) as store:
        yield store


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A Zarr store and a GeoTIFF of sorts, with a legend and a style."""
    for key, data in TREE.items():
        path = tmp_path / "map.zarr" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for name in ("map.tif", "map.tif.aux.xml", "map.qml"):
        (tmp_path / name).write_bytes(name.encode() * 9)
    return tmp_path


def below(tree: dict[str, bytes]) -> dict[str, bytes]:
    """The tree as the store has it."""
    return {f"a/map.zarr/{key}": data for key, data in tree.items()}


def fill(store: Store, tree: dict[str, bytes]) -> None:
    """Leaves the store with a map of these objects, and nothing else."""
    store.objects.clear()
    for key, data in below(tree).items():
        store.put(("maps", key), data)


def seen(store: Store) -> dict[str, bytes]:
    """The objects of the Zarr store."""
    return store.tree("a/map.zarr/")


def is_store(tree: dict[str, bytes]) -> bool:
    """Whether a reader takes these objects for a Zarr store."""
    return any(f"a/map.zarr/{mark}" in tree for mark in STORE_MARKS)


def shows_a_whole(store: Store, before: dict[str, bytes]) -> bool:
    """Whether a reader sees no store, the new one, or the one that was there before.

    Of the documents of the root some may be missing: what they tell of is there.
    """
    there = seen(store)
    there.pop(f"a/map.zarr/{MARK}", None)
    parts = {key: data for key, data in there.items() if key.split("/")[2] not in ROOT}
    whole = [
        {key: data for key, data in tree.items() if key not in ROOT} for tree in (TREE, before)
    ]
    return not is_store(there) or parts in [below(tree) for tree in whole]


def sent(local: Path, *, replace: bool = False) -> None:
    upload_store(local / "map.zarr", MAP, MINE, replace=replace)


# A Zarr store


def test_a_store_arrives_with_its_style(store: Store, local: Path) -> None:
    sent(local)
    assert seen(store) == below(TREE)
    assert store.tree()["a/map.qml"] == (local / "map.qml").read_bytes()


def test_what_is_there_is_not_sent_again(store: Store, local: Path) -> None:
    sent(local)
    store.asked.clear()
    sent(local)
    assert {key for method, key, _ in store.asked if method == "PUT"} == {f"a/map.zarr/{MARK}"}
    assert seen(store) == below(TREE)


@pytest.mark.parametrize("before", [{}, OLD], ids=["new", "overwritten"])
def test_killed_before_any_request_no_reader_sees_a_part(
    store: Store, local: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, bytes]
) -> None:
    for at in itertools.count():
        fill(store, before)
        numbers = itertools.count()

        def step(action: str, path: Path, last: int = at, numbers: Iterator[int] = numbers) -> None:
            if next(numbers) >= last:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(storage, "step", step)
            try:
                sent(local, replace=bool(before))
            except Killed:
                killed = True
            else:
                killed = False
        assert shows_a_whole(store, before)
        sent(local, replace=bool(before))
        assert seen(store) == below(TREE)
        if not killed:
            break
    assert at > len(TREE)


def test_a_store_that_is_there_is_refused_and_stays(store: Store, local: Path) -> None:
    fill(store, OLD)
    with pytest.raises(FingerprintMismatchError, match=r"s3://maps/a/map\.zarr exists"):
        require_room(MAP, MINE, replace=False)
    with pytest.raises(FingerprintMismatchError, match="exists"):
        sent(local)
    assert seen(store) == below(OLD)


def test_objects_that_are_no_store_are_never_replaced(store: Store, local: Path) -> None:
    fill(store, {"readme.txt": b"precious"})
    for replace in (False, True):
        with pytest.raises(FingerprintMismatchError, match="holds 1 objects and is no Zarr store"):
            require_room(MAP, MINE, replace=replace)
        with pytest.raises(FingerprintMismatchError, match="is no Zarr store"):
            sent(local, replace=replace)
    assert seen(store) == below({"readme.txt": b"precious"})


def test_two_runs_do_not_send_to_one_address(store: Store, local: Path) -> None:
    fill(store, {MARK: OTHERS, "classes/0/0": b"theirs"})
    with pytest.raises(FingerprintMismatchError, match="another run is sending"):
        require_room(MAP, MINE, replace=True)
    with pytest.raises(FingerprintMismatchError, match="another run is sending"):
        sent(local, replace=True)
    assert seen(store) == below({MARK: OTHERS, "classes/0/0": b"theirs"})
    require_room(MAP, OTHERS, replace=False)


# A file


def test_a_file_arrives_after_its_side_cars(store: Store, local: Path) -> None:
    upload_file(local / "map.tif", FILE, replace=False)
    keys = [key for method, key, _ in store.asked if method == "PUT"]
    assert keys == ["a/map.tif.aux.xml", "a/map.qml", "a/map.tif"]
    assert store.tree() == {key: (local / key[2:]).read_bytes() for key in keys}
    upload_file(local / "map.tif", FILE, replace=False)


def test_a_file_that_is_there_is_refused_and_a_style_stays(store: Store, local: Path) -> None:
    store.put(("maps", "a/map.tif"), b"older")
    with pytest.raises(FingerprintMismatchError, match="exists"):
        require_room(FILE, MINE, replace=False)
    with pytest.raises(FingerprintMismatchError, match="exists"):
        upload_file(local / "map.tif", FILE, replace=False)
    assert store.tree() == {"a/map.tif": b"older"}
    store.objects.clear()
    store.put(("maps", "a/map.qml"), b"by hand")
    store.put(("maps", "a/map.tif.aux.xml"), b"of another")
    upload_file(local / "map.tif", FILE, replace=False)
    assert store.tree()["a/map.qml"] == b"by hand"
    assert store.tree()["a/map.tif.aux.xml"] == (local / "map.tif.aux.xml").read_bytes()
    (local / "map.tif.aux.xml").unlink()
    upload_file(local / "map.tif", FILE, replace=True)
    assert sorted(store.tree()) == ["a/map.qml", "a/map.tif"]
    assert store.tree()["a/map.qml"] == (local / "map.qml").read_bytes()


def test_who_comes_second_does_not_replace_the_first(store: Store, local: Path) -> None:
    def intrude(method: str, target: str) -> Fault | None:
        if method == "PUT" and target.endswith("map.tif"):
            store.put(("maps", "a/map.tif"), b"theirs")
        return None

    store.fault = intrude
    with pytest.raises(FingerprintMismatchError, match="exists"):
        upload_file(local / "map.tif", FILE, replace=False)
    assert store.tree()["a/map.tif"] == b"theirs"


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What is larger than a part goes up in parts; bytes that make several."""
    monkeypatch.setattr(objects, "ONE_PUT", 1 << 20)
    monkeypatch.setattr(objects, "_part", lambda size: 5 << 20)
    return random.Random(SEED).randbytes(12_000_000)


def test_a_large_file_goes_up_in_parts_and_is_looked_at(
    store: Store, local: Path, in_parts: bytes
) -> None:
    (local / "map.tif").write_bytes(in_parts)
    for md5 in (True, False):
        store.objects.clear()
        store.asked.clear()
        store.md5 = md5
        upload_file(local / "map.tif", FILE, replace=False)
        assert store.tree()["a/map.tif"] == in_parts
        numbers = [query for method, _, query in store.asked if "partNumber" in query]
        assert len(numbers) == 3
        # Read back only where the ETag says nothing.
        assert md5 != any(method == "GET" for method, *_ in store.asked)


def test_an_upload_that_fails_leaves_no_parts(store: Store, local: Path, in_parts: bytes) -> None:
    (local / "map.tif").write_bytes(in_parts)
    store.fault = lambda method, target: "busy" if "partNumber=2" in target else None
    with pytest.raises(UnreachableError, match="503"):
        upload_file(local / "map.tif", FILE, replace=False)
    assert "a/map.tif" not in store.tree()
    assert store.parts == {}
    store.fault = lambda method, target: None
    upload_file(local / "map.tif", FILE, replace=False)
    assert store.tree()["a/map.tif"] == in_parts


# Faults


def test_a_store_that_changes_bytes_is_found_out(store: Store, local: Path) -> None:
    put = store.put
    store.put = lambda place, data, etag="": put(place, data[:-1] + b"?", etag)  # type: ignore[method-assign]
    with pytest.raises(StorageError, match="shows other bytes") as raised:
        upload_file(local / "map.tif", FILE, replace=True)
    assert raised.value.exit_code == 7


@pytest.mark.parametrize("md5", [True, False], ids=["md5", "opaque"])
def test_lost_answers_are_asked_for(store: Store, local: Path, md5: bool) -> None:
    store.md5 = md5
    seen_before: set[str] = set()

    def once(method: str, target: str) -> Fault | None:
        first = f"{method} {target}" not in seen_before
        seen_before.add(f"{method} {target}")
        return "committed" if first else None

    store.fault = once
    sent(local)
    upload_file(local / "map.tif", FILE, replace=False)
    assert seen(store) == below(TREE)


def test_a_denied_store_and_a_missing_bucket_are_told(store: Store, local: Path) -> None:
    store.fault = lambda method, target: "denied" if method == "PUT" else None
    with pytest.raises(StorageError, match=r"access is denied .*AWS_ACCESS_KEY_ID"):
        upload_file(local / "map.tif", FILE, replace=False)
    store.fault = lambda method, target: None
    with pytest.raises(StorageError, match="there is no such bucket"):
        upload_file(local / "map.tif", Address.of("s3://elsewhere/map.tif"), replace=False)


def test_retries_end(store: Store, local: Path) -> None:
    store.fault = lambda method, target: "busy"
    with pytest.raises(UnreachableError, match=r"503.*retries; what is mapped is kept") as raised:
        sent(local)
    assert raised.value.exit_code == 8
    assert len(store.asked) == RETRIES + 1


def faults(
    chance: random.Random, share: float, count: list[int]
) -> Callable[[str, str], Fault | None]:
    """Faults by chance, counted."""

    def fault(method: str, target: str) -> Fault | None:
        if chance.random() >= share:
            return None
        count[0] += 1
        kinds: tuple[Fault, ...] = ("busy", "reset", "committed", "cut")
        return chance.choice(kinds)

    return fault


@pytest.mark.slow
def test_350_faults_leave_the_same_objects(store: Store, local: Path) -> None:
    print(f"seed {SEED}")
    chance, count, again = random.Random(SEED), [0], 0
    before = itertools.cycle([{}, OLD])
    while count[0] < 350:
        fill(store, next(before))
        store.md5 = chance.random() < 0.5
        store.fault = faults(chance, chance.choice([0.1, 0.3, 0.5]), count)
        while True:
            try:
                sent(local, replace=True)
                upload_file(local / "map.tif", FILE, replace=True)
                break
            except UnreachableError:
                again += 1
                assert shows_a_whole(store, OLD)
        store.fault = lambda method, target: None
        assert seen(store) == below(TREE)
        assert store.tree()["a/map.tif"] == (local / "map.tif").read_bytes()
        assert store.parts == {}
    print(f"{count[0]} faults, {again} uploads were given up and typed again")
    assert again > 0


# The outbox


def test_an_outbox_keeps_apart_what_the_store_keeps_apart(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, FILE)
    names = ["s3://maps/a/x.tif", "s3://maps/b/x.tif", "gs://maps/a/x.tif", "s3://maps/a/y.tif"]
    places = [outbox.place(Address.of(name)) for name in names]
    assert len(set(places)) == len(names)
    assert places[0].parent == places[3].parent
    with outbox.opened(FILE):
        outbox.place(FILE).write_bytes(b"")
        mark = outbox.mark
        assert mark
    assert list(tmp_path.iterdir()) == []


def test_an_outbox_with_a_run_in_it_stays(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, FILE)
    with outbox.opened(FILE):
        mark, staged = (
            outbox.mark,
            outbox.place(FILE).with_name(".map.tif.segpipe-0a1b2c3d4e5f6071"),
        )
        staged.mkdir()
    with outbox.opened(FILE):
        assert outbox.mark == mark
        staged.rmdir()
    assert list(tmp_path.iterdir()) == []


def test_objects_know_their_folder() -> None:
    for url, folder in [("s3://b/map.tif", "s3://b/"), ("gs://b/x/y/map.zarr/", "gs://b/x/y")]:
        address = Address.of(url)
        assert str(address.folder) == folder
        assert address.beside(address.name).path == address.path
    assert str(Address.of("s3://b/map.tif").beside("map.qml")) == "s3://b/map.qml"


def test_what_moto_stores_is_what_was_sent(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.servers import bucket

    monkeypatch.setenv("HOME", str(local))
    (local / "empty").mkdir()
    with bucket("maps", local / "empty") as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        for _ in range(2):
            sent(local)
            upload_file(local / "map.tif", FILE, replace=False)
        held = Objects(MAP).held()
        assert {key: found.size for key, found in held.items()} == {
            key: len(data) for key, data in TREE.items()
        }
        (local / "map.tif").write_bytes(b"another")
        with pytest.raises(FingerprintMismatchError):
            upload_file(local / "map.tif", FILE, replace=False)
