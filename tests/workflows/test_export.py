"""A map in another container is what the run itself would have written there."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray

from segpipe.pipeline import storage
from segpipe.workflows.export import export_map
from segpipe.workflows.polygons import write_polygons
from segpipe.workflows.run import run
from segpipe.workflows.terminal import progress
from tests import toys
from tests.workflows.conftest import Command, Refusal, write_scene


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one map in each container."""
    folder = tmp_path_factory.mktemp("maps")
    scene = toys.write_scene(folder / "scene.tif", toys.landscape(300, 290))
    for name, zarr_format in (("map.tif", 2), ("map.zarr", 2), ("map3.zarr", 3)):
        run(
            scene,
            model=toys.small(),
            output=folder / name,
            tile=512,
            zarr_format=zarr_format,
            style=False,
        )
    return folder


def content(path: Path) -> dict[str, bytes]:
    """All bytes of a map and of its side-car."""
    side_car = path.with_name(f"{path.name}.aux.xml")
    files = [path, side_car] if path.is_file() else list(path.rglob("*"))
    return {
        str(file.relative_to(path) if file not in (path, side_car) else file.suffix): (
            file.read_bytes()
        )
        for file in files
        if file.is_file()
    }


@pytest.mark.parametrize("source", ["map.tif", "map.zarr", "map3.zarr"])
@pytest.mark.parametrize("output", ["map.tif", "map.zarr"])
def test_the_bytes_are_those_of_a_run(
    segpipe: Command, maps: Path, tmp_path: Path, source: str, output: str
) -> None:
    done = segpipe("export", maps / source, "-o", tmp_path / output, "--no-style", "--json")
    assert (done.code, done.err) == (0, "")
    assert content(tmp_path / output) == content(maps / output)
    beside = [f"{output}.aux.xml"] * output.endswith(".tif")
    assert sorted(path.name for path in tmp_path.iterdir()) == [output, *beside]
    told = json.loads(done.out)["classes"]
    assert sum(count["pixels"] for count in told.values()) > 0


def test_zarr_3_has_the_same_labels(segpipe: Command, maps: Path, tmp_path: Path) -> None:
    done = segpipe("export", maps / "map.tif", "-o", tmp_path / "m.zarr", "--zarr-format", "3")
    assert done.code == 0
    assert "class 1" in done.out
    with (
        xarray.open_zarr(tmp_path / "m.zarr", consolidated=False) as new,
        xarray.open_zarr(maps / "map3.zarr", consolidated=False) as old,
    ):
        np.testing.assert_array_equal(new["classes"].to_numpy(), old["classes"].to_numpy())
        assert new["classes"].attrs["flag_meanings"] == old["classes"].attrs["flag_meanings"]
        assert new.attrs == old.attrs
    assert (tmp_path / "m.qml").is_file()


def test_a_map_that_takes_long_tells_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 1.0, 11.0, 25.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    printer = progress.SharePrinter()
    for share in (0.1, 0.5, 1.0):
        printer(share)
    told = capsys.readouterr().err.splitlines()
    assert told == ["50% of the map, 0:11 left", "100% of the map, 0:00 left"]


def test_a_share_is_told_of_all_that_is_read(maps: Path, tmp_path: Path) -> None:
    shares: list[float] = []
    export_map(maps / "map.tif", tmp_path / "a.tif", watch=shares.append)
    write_polygons(maps / "map.tif", tmp_path / "a.gpkg", simplify=50, watch=shares.append)
    write_polygons(maps / "map.tif", tmp_path / "b.gpkg", watch=shares.append)
    assert shares.count(1.0) == 3
    assert all(0 < share <= 1 for share in shares)


class StoppedError(Exception):
    """A process that is killed."""


@pytest.mark.parametrize("output", ["map.tif", "map.zarr"])
def test_killed_while_it_replaces_a_map_it_can_be_typed_again(
    maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    place = tmp_path / output
    steps: list[str] = []
    export_map(maps / "map.tif", place, style=False)
    whole = content(place)
    monkeypatch.setattr(storage, "step", lambda action, path: steps.append(action))
    export_map(maps / "map.tif", place, style=False, overwrite=True)
    for last in range(len(steps) - 8, len(steps)):
        count = 0

        def stop(action: str, path: Path, last: int = last) -> None:
            nonlocal count
            count += 1
            if count > last:
                raise StoppedError

        monkeypatch.setattr(storage, "step", stop)
        with pytest.raises(StoppedError):
            export_map(maps / "map.tif", place, style=False, overwrite=True)
        monkeypatch.setattr(storage, "step", lambda action, path: None)
        export_map(maps / "map.tif", place, style=False, overwrite=True)
        assert content(place) == whole
        assert not list(tmp_path.glob(".*"))


def test_what_is_refused_is_one_line(
    refused: Refusal, segpipe: Command, maps: Path, tmp_path: Path
) -> None:
    whole = maps / "map.tif"
    code, text = refused(whole, tmp_path / "a.tif", "--min-area", "5")
    assert (code, "--min-area is for polygons" in text) == (2, True)
    code, text = refused(whole, whole)
    assert (code, "is the map itself" in text) == (2, True)
    code, text = refused(whole, tmp_path / "nowhere" / "a.tif")
    assert (code, "can't be written to; choose another with -o" in text) == (7, True)
    foreign = write_scene(tmp_path / "foreign.tif", np.ones((1, 9, 9), np.uint8))
    code, text = refused(foreign, tmp_path / "a.zarr")
    assert (code, "has no legend" in text) == (3, True)
    wide = write_scene(tmp_path / "wide.tif", np.ones((1, 9, 9), np.uint16))
    code, text = refused(wide, tmp_path / "a.tif")
    assert (code, "holds uint16, expected the bytes of a map" in text) == (3, True)
    code, text = refused(tmp_path / "missing.zarr", tmp_path / "a.tif")
    assert (code, "doesn't exist" in text) == (3, True)
    assert segpipe("export", whole, "-o", tmp_path / "b.tif").code == 0
    code, text = refused(whole, tmp_path / "b.tif")
    assert (code, "exists; name another output with -o" in text) == (5, True)


def test_pixels_that_no_class_names_are_refused(
    segpipe: Command, maps: Path, tmp_path: Path
) -> None:
    source = write_scene(tmp_path / "map.tif", np.full((1, 9, 9), 77, np.uint8))
    side_car = (maps / "map.tif.aux.xml").read_bytes()
    (tmp_path / "map.tif.aux.xml").write_bytes(side_car)
    done = segpipe("export", source, "-o", tmp_path / "b.tif")
    assert (done.code, len(done.lines)) == (6, 1)
    assert "81 pixels have values that its legend doesn't name" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.tif", "map.tif.aux.xml"]


@pytest.mark.parametrize(
    ("found", "put"),
    [
        (rb"<PAMDataset>", b"<!DOCTYPE a [<!ENTITY b 'c'>]><PAMDataset>"),
        (rb"</Row>[^$]*", b""),
        (rb"<F>class 1</F>", b"<F></F>"),
        (rb"<Name>Red</Name>", b"<Name>Rot</Name>"),
        (rb"(<F>class 1</F>\s*<F>\d+</F>\s*<F>)\d+", rb"\g<1>300"),
    ],
)
def test_legends_that_are_not_sound_are_refused(
    segpipe: Command, maps: Path, tmp_path: Path, found: bytes, put: bytes
) -> None:
    shutil.copy(maps / "map.tif", tmp_path)
    changed, times = re.subn(found, put, (maps / "map.tif.aux.xml").read_bytes(), count=1)
    assert times == 1
    (tmp_path / "map.tif.aux.xml").write_bytes(changed)
    done = segpipe("export", tmp_path / "map.tif", "-o", tmp_path / "b.zarr")
    assert (done.code, len(done.lines)) == (3, 1)
    assert "has no legend" in done.err
    # Polygons need none.
    assert segpipe("export", tmp_path / "map.tif", "-o", tmp_path / "b.gpkg").code == 0
