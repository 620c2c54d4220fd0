"""Maps in object stores: the same bytes as on a disk, whatever happens on the way."""

import itertools
import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from segpipe.pipeline.errors import (
    FingerprintMismatchError,
    InputRefusedError,
    PipelineError,
    UnreachableError,
)
from segpipe.workflows import run
from segpipe.workflows.clean import clean, found
from segpipe.workflows.status import status
from tests import disks, toys
from tests.disks import Killed, stop, tree, watched
from tests.object_server import Fault, Store, storing
from tests.servers import hide_settings
from tests.workflows.conftest import Command, finish, noise, start, write_scene

SEED = 20261123
SPARSE = 29
"""The quick test takes every so many steps."""

KINDS = {
    "cog": ("map.tif", {}, {}),
    "zarr-2": ("map.zarr", {"confidence": "sure.zarr"}, {}),
    "zarr-3": ("map.zarr", {}, {"zarr_format": 3}),
    "products": (
        "map.tif",
        {"polygons": "areas.gpkg", "report": "page.html", "probabilities": "shares.tif"},
        {},
    ),
}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    hide_settings(monkeypatch, tmp_path)
    with storing(monkeypatch) as store:
        yield store


@pytest.fixture
def quick() -> Iterator[None]:
    with disks.quick_runs():
        yield


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return toys.write_scene(tmp_path / "scene.tif", disks.pixels())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which outboxes are."""
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def mapped(scene: Path | str, kind: str, place: str, **more: object) -> None:
    """Runs with the map, and what is beside it, below an address or in a folder."""
    output, beside, options = KINDS[kind]
    names = {option: f"{place}/{name}" for option, name in beside.items()}
    words: dict[str, object] = {"tile": 256, **names, **options, **more}
    run.run(str(scene), output=f"{place}/{output}", **words)  # type: ignore[arg-type]


def on_a_disk(scene: Path, kind: str, folder: Path) -> dict[str, bytes]:
    """What the same run writes on a disk: the oracle."""
    folder.mkdir()
    mapped(scene, kind, str(folder))
    return dict(tree(folder))


def in_the_store(store: Store) -> dict[str, bytes]:
    """The objects, by their names beside the map."""
    return {key.removeprefix("a/"): data for key, data in store.tree("a/").items()}


def same(found: dict[str, bytes], expected: dict[str, bytes]) -> bool:
    """Whether the names and the bytes are the same; a page tells addresses, so it differs."""
    pages = {name for name in expected if name.endswith(".html")}
    assert sorted(found) == sorted(expected)
    return all(found[name] == data for name, data in expected.items() if name not in pages)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", KINDS)
def test_the_objects_are_the_files_of_a_run_on_a_disk(
    store: Store, scene: Path, home: Path, tmp_path: Path, kind: str
) -> None:
    expected = on_a_disk(scene, kind, tmp_path / "disk")
    mapped(scene, kind, "s3://maps/a")
    assert same(in_the_store(store), expected)
    assert list(home.iterdir()) == []
    with pytest.raises(PipelineError, match=r"s3://maps/a/\S+ exists; name another") as raised:
        mapped(scene, kind, "s3://maps/a")
    assert raised.value.exit_code == 5
    mapped(scene, kind, "s3://maps/a", overwrite=True)
    assert same(in_the_store(store), expected)
    assert list(home.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_an_overwritten_store_has_nothing_of_the_old_one(
    store: Store, scene: Path, home: Path, tmp_path: Path
) -> None:
    expected = on_a_disk(scene, "zarr-3", tmp_path / "disk")
    store.put(("maps", "a/map.zarr/.zgroup"), b"{}")
    store.put(("maps", "a/map.zarr/classes/9/9"), b"stale")
    mapped(scene, "zarr-3", "s3://maps/a", overwrite=True)
    assert same(in_the_store(store), expected)


def survived(
    store: Store, scene: Path, home: Path, expected: dict[str, bytes], kind: str, every: int
) -> int:
    """How many steps a run was killed before; the same command ended with the same objects."""
    for at in itertools.count(step=every):
        store.objects.clear()
        with watched(stop(at)):
            try:
                mapped(scene, kind, "s3://maps/a")
            except Killed:
                ended = False
            else:
                ended = True
        if ended:
            return at // every
        seen = in_the_store(store)
        output = KINDS[kind][0]
        assert seen.get("map.tif", b"") in (b"", expected.get("map.tif"))
        if any(f"{output}/{mark}" in seen for mark in (".zgroup", "zarr.json")):
            chunks = {name for name in expected if name.startswith(f"{output}/")}
            missing = {name for name in chunks - {*seen} if name.count("/") > 1}
            assert missing == set()
        try:
            mapped(scene, kind, "s3://maps/a")
        except FingerprintMismatchError:
            # All that was missing is that the outbox goes away.
            assert same(seen, expected), at
        assert same(in_the_store(store), expected), at
        assert list(home.iterdir()) == [], at
    raise AssertionError


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["cog", "zarr-2"])
def test_killed_before_every_so_many_steps(
    store: Store, scene: Path, home: Path, tmp_path: Path, kind: str
) -> None:
    expected = on_a_disk(scene, kind, tmp_path / "disk")
    assert survived(store, scene, home, expected, kind, SPARSE) > 1


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["cog", "zarr-3"])
def test_killed_before_every_sixth_step(
    store: Store, scene: Path, home: Path, tmp_path: Path, kind: str
) -> None:
    expected = on_a_disk(scene, kind, tmp_path / "disk")
    assert survived(store, scene, home, expected, kind, 6) > 9


@pytest.mark.usefixtures("quick")
def test_a_store_that_is_lost_leaves_a_run_that_goes_on(
    store: Store, scene: Path, home: Path, tmp_path: Path
) -> None:
    expected = on_a_disk(scene, "zarr-2", tmp_path / "disk")
    store.fault = lambda method, target: "busy" if "classes/0" in target else None
    with pytest.raises(UnreachableError, match="503"):
        mapped(scene, "zarr-2", "s3://maps/a")
    assert run.is_begun(str(scene), "s3://maps/a/map.zarr")
    (begun,) = status("s3://maps/a/map.zarr")
    assert (begun.state, str(begun.output)) == ("stopped", "s3://maps/a/map.zarr")
    assert begun.tiles == begun.stored
    assert status(home) == [begun]
    assert not any("map.zarr/.z" in name for name in in_the_store(store))
    store.fault = lambda method, target: None
    mapped(scene, "zarr-2", "s3://maps/a")
    assert same(in_the_store(store), expected)
    assert list(home.iterdir()) == []
    assert [entry.state for entry in status("s3://maps/a/map.zarr")] == ["published"]
    with pytest.raises(InputRefusedError, match=r"s3://maps/b/map\.tif"):
        status("s3://maps/b/map.tif")


@pytest.mark.usefixtures("quick")
def test_an_unsent_map_is_cleaned_away(store: Store, scene: Path, home: Path) -> None:
    (home / ".segpipe-outbox-map.tif-01234567").mkdir()
    store.fault = lambda method, target: (
        "busy" if method != "HEAD" and target.endswith("map.tif") else None
    )
    with pytest.raises(UnreachableError):
        mapped(scene, "cog", "s3://maps/a")
    assert found(["s3://maps/b/map.tif"]).removed == ()
    (left,) = found(["s3://maps/a/map.tif"]).removed
    assert (left.kind, str(left.output)) == ("unsent map", "s3://maps/a/map.tif")
    assert found([home]).removed == (left,)
    assert clean(found([home])).removed == (left,)
    assert [path.name for path in home.iterdir()] == [".segpipe-outbox-map.tif-01234567"]


@pytest.mark.usefixtures("quick")
def test_new_run_throws_away_what_was_finished(
    store: Store, scene: Path, home: Path, tmp_path: Path
) -> None:
    expected = on_a_disk(scene, "cog", tmp_path / "disk")
    store.fault = lambda method, target: "busy" if target.endswith("map.tif") else None
    with pytest.raises(UnreachableError):
        mapped(scene, "cog", "s3://maps/a")
    store.fault = lambda method, target: None
    mapped(scene, "cog", "s3://maps/a", new_run=True)
    assert same(in_the_store(store), expected)
    assert list(home.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.timeout(600)
def test_150_faults_while_scenes_are_read_and_maps_are_written(
    store: Store, scene: Path, home: Path, tmp_path: Path
) -> None:
    print(f"seed {SEED}")
    chance, count, codes = random.Random(SEED), 0, list[int]()
    expected = {kind: on_a_disk(scene, kind, tmp_path / kind) for kind in ("cog", "zarr-2")}

    def fault(method: str, target: str) -> Fault | None:
        nonlocal count
        if chance.random() >= share:
            return None
        count += 1
        kinds: tuple[Fault, ...] = ("busy", "reset", "committed", "cut")
        return chance.choice(kinds)

    for kind in itertools.cycle(expected):
        store.objects.clear()
        store.put(("maps", "scene.tif"), scene.read_bytes())
        share = chance.choice([0.1, 0.3, 0.5])
        store.fault = fault
        while True:
            try:
                mapped("s3://maps/scene.tif", kind, "s3://maps/a")
            except PipelineError as error:
                # Lost on the way; or the scene can't be reached, and nothing is begun.
                codes.append(error.exit_code)
            else:
                break
        store.fault = lambda method, target: None
        assert same(in_the_store(store), expected[kind])
        assert list(home.iterdir()) == []
        if count >= 150:
            break
    print(f"{count} faults, {len(codes)} runs were given up and typed again: {sorted(codes)}")
    assert {8} <= {*codes} <= {3, 8}


# As a user meets it


def test_the_item_says_the_addresses_and_verify_reads_them(
    store: Store, segpipe: Command, tmp_path: Path, tiny_model: Path
) -> None:
    scene = write_scene(tmp_path / "scene.tif", noise(200, 200))
    options = ("-m", tiny_model, "--precision", "fp32", "--bands", "1,2,3")
    names = ("-o", "s3://maps/a/map.zarr", "--stac", "s3://maps/a/map.json")
    done = segpipe("run", scene, *options, *names, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert (report["output"], report["stac"]) == (names[1], names[3])
    item = json.loads(store.tree()["a/map.json"])
    hrefs = {name: asset["href"] for name, asset in item["assets"].items()}
    assert hrefs == {"map": "s3://maps/a/map.zarr", "style": "s3://maps/a/map.qml"}
    (source,) = [link["href"] for link in item["links"] if link["rel"] == "via"]
    assert source == scene.as_uri()
    verified = segpipe("verify", scene, names[1], *options, "--windows", "1")
    assert verified.code == 0, verified.err
    assert "0 differ: the map holds" in verified.out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("-o", "https://host/map.tif"), 2, "can't be written to; name s3://"),
        (("-o", "s3://maps/a/map.png"), 2, "an output ends in .tif (COG) or .zarr, got map.png"),
        (("-o", "s3://maps/a/.map.tif"), 2, "has a name that not every reader takes"),
        (("-o", "s3://maps"), 3, "names no object"),
        (("-o", "map.tif", "--report", "s3://maps/r.html"), 2, "name both in the store"),
        (("-o", "map.tif", "--staging", "."), 2, "--staging is for maps that go to an object"),
        (("-o", "s3://maps/map.tif", "--staging", "gone"), 7, "there is no folder"),
        (("-o", "s3://gone/map.tif"), 7, "there is no such bucket"),
        (("-o", "s3://maps/there.tif"), 5, "s3://maps/there.tif exists"),
        (("-o", "s3://maps/a/m.tif", "--report", "s3://maps/there.tif"), 2, "ends in .html"),
        (("-o", "s3://maps/a/m.tif", "--stac", "s3://maps/there.json"), 5, "there.json exists"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_work(
    store: Store,
    segpipe: Command,
    tmp_path: Path,
    tiny_model: Path,
    words: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    scene = write_scene(tmp_path / "scene.tif", noise(100, 100))
    there = {"there.tif": b"precious", "there.json": b"precious"}
    for name, data in there.items():
        store.put(("maps", name), data)
    before = sorted(tmp_path.rglob("*"))
    done = segpipe("run", scene, "-m", tiny_model, "--bands", "1,2,3", *words)
    assert done.code == code, done.err
    (line,) = done.lines
    assert message in line
    assert sorted(tmp_path.rglob("*")) == before
    assert store.tree() == there


def test_nothing_is_sent_to_where_the_scene_lies(
    store: Store, segpipe: Command, tmp_path: Path, tiny_model: Path
) -> None:
    scene = write_scene(tmp_path / "scene.tif", noise(100, 100))
    store.put(("maps", "scene.tif"), scene.read_bytes())
    words = ("s3://maps/scene.tif", "-o", "s3://maps/scene.tif", "--overwrite")
    done = segpipe("run", *words, "-m", tiny_model, "--bands", "1,2,3")
    assert (done.code, len(done.lines)) == (2, 1)
    assert "is the scene itself" in done.err
    assert store.tree() == {"scene.tif": scene.read_bytes()}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_kills_leave_the_same_objects(
    store: Store, tmp_path: Path, tiny_model: Path, home: Path
) -> None:
    print(f"seed {SEED}")
    chance, killed = random.Random(SEED), 0
    scene = write_scene(tmp_path / "scene.tif", noise(300, 280))
    options = ("-m", tiny_model, "--precision", "fp32", "--bands", "1,2,3", "--tile", "256")
    words = ("run", scene, *options, "-o", "s3://maps/a/map.zarr", "--quiet")
    done = finish(start(*words, cwd=home))
    assert done.code == 0, done.err
    expected = in_the_store(store)
    while killed < 3:
        store.objects.clear()
        store.asked.clear()
        wanted, process = chance.randint(1, 30), start(*words, cwd=home)
        while len(store.asked) < wanted and process.poll() is None:
            signal.sigtimedwait([], 0.001)
        process.kill()
        finish(process)
        killed += process.returncode == -signal.SIGKILL
        again = finish(start(*words, cwd=home))
        assert again.code in (0, 5), again.err
        assert same(in_the_store(store), expected)
        assert again.code == 5 or list(home.iterdir()) == []
