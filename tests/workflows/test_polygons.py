"""Polygons of maps, from the command line: what they hold, and what is refused."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.features
import shapely
from numpy.typing import NDArray

from segpipe.pipeline.errors import FingerprintMismatchError, StorageError
from segpipe.workflows.errors import OptionError
from segpipe.workflows.polygons import write_polygons
from segpipe.workflows.run import run
from tests import toys
from tests.workflows.conftest import Command, Refusal, write_scene

PIXEL = 30.0**2


def read(path: Path) -> tuple[NDArray[np.object_], dict[str, list[Any]]]:
    facts, _, shapes, columns = pyogrio.raw.read(path, layer="classes")
    return shapely.from_wkb(shapes), {
        name: column.tolist() for name, column in zip(facts["fields"], columns, strict=True)
    }


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A map by somebody else: values without names."""
    labels = np.zeros((1, 30, 40), np.uint8)
    labels[0, :, :10], labels[0, 5, 20], labels[0, 10:20, 30:], labels[0, 25:] = 4, 4, 9, 255
    return write_scene(tmp_path / "plain.tif", labels, nodata=255)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map by segpipe."""
    folder = tmp_path_factory.mktemp("map")
    scene = toys.write_scene(folder / "scene.tif", toys.landscape(130, 150))
    return run(scene, model=toys.small(), output=folder / "map.tif", tile=256).output


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb"])
def test_the_polygons_are_the_map(
    segpipe: Command, named: Path, tmp_path: Path, suffix: str
) -> None:
    done = segpipe("export", named, "-o", tmp_path / f"areas{suffix}", "--json")
    assert (done.code, done.err) == (0, "")
    shapes, columns = read(tmp_path / f"areas{suffix}")
    assert shapely.coverage_is_valid(shapes)
    with rasterio.open(named) as file:
        labels, transform = file.read(1), file.transform
        burnt = rasterio.features.rasterize(
            zip(shapes, columns["value"], strict=True),
            out_shape=labels.shape,
            transform=transform,
            fill=255,
            dtype="uint8",
        )
    np.testing.assert_array_equal(burnt, labels)
    told = json.loads(done.out)
    assert told["polygons"] == len(shapes)
    for name, total in told["classes"].items():
        here = np.array(columns["value"]) == total["value"]
        assert {columns["class"][index] for index in np.flatnonzero(here)} == {name}
        area = np.count_nonzero(labels == total["value"]) * 28.5**2
        assert np.array(columns["area_m2"])[here].sum() == pytest.approx(area, rel=1e-9)
        assert total["area_m2"] == pytest.approx(area, rel=1e-9)
        assert total["polygons"] == here.sum()
        assert total["left_out"] == {"polygons": 0, "area_m2": 0}
    assert {f"class {value}" for value in np.unique(labels) if value != 255} == told[
        "classes"
    ].keys()


def test_a_zarr_gives_the_same(segpipe: Command, named: Path, tmp_path: Path) -> None:
    scene = named.with_name("scene.tif")
    store = run(scene, model=toys.small(), output=tmp_path / "map.zarr", tile=256).output
    for source, output in ((named, "a.gpkg"), (store, "b.gpkg")):
        assert segpipe("export", source, "-o", tmp_path / output).code == 0
    first, second = read(tmp_path / "a.gpkg"), read(tmp_path / "b.gpkg")
    assert shapely.equals(first[0], second[0]).all()
    assert first[1] == second[1]


def test_small_ones_are_left_out_and_told(segpipe: Command, plain: Path, tmp_path: Path) -> None:
    whole = segpipe("export", plain, "-o", tmp_path / "whole.gpkg", "--json")
    assert {
        name: total["polygons"] for name, total in json.loads(whole.out)["classes"].items()
    } == {
        "0": 1,
        "4": 2,
        "9": 1,
    }
    done = segpipe("export", plain, "-o", tmp_path / "a.gpkg", "--min-area", "901", "--json")
    told = json.loads(done.out)["classes"]["4"]
    assert told == {
        "value": 4,
        "polygons": 1,
        "area_m2": 250 * PIXEL,
        "left_out": {"polygons": 1, "area_m2": PIXEL},
    }
    assert sorted(read(tmp_path / "a.gpkg")[1]["value"]) == [0, 4, 9]
    exactly = segpipe("export", plain, "-o", tmp_path / "b.gpkg", "--min-area", "900", "--json")
    assert json.loads(exactly.out)["polygons"] == 4
    shown = segpipe("export", plain, "-o", tmp_path / "c.gpkg", "--min-area", "901")
    assert "1 of 0.00 km2" in shown.out
    assert "c.gpkg: 3 polygons" in shown.out


def test_without_a_crs_there_are_no_areas(segpipe: Command, tmp_path: Path) -> None:
    labels = np.ones((1, 4, 4), np.uint8)
    source = write_scene(tmp_path / "map.tif", labels, crs=None, nodata=255)
    done = segpipe("export", source, "-o", tmp_path / "a.fgb", "--json")
    assert done.code == 0
    assert json.loads(done.out)["classes"]["1"]["area_m2"] is None
    assert np.isnan(read(tmp_path / "a.fgb")[1]["area_m2"][0])
    done = segpipe("export", source, "-o", tmp_path / "b.fgb", "--min-area", "5")
    assert done.code == 2
    assert "has no crs that gives areas; leave out --min-area" in done.err


def test_what_is_refused_is_one_line(
    refused: Refusal, segpipe: Command, plain: Path, tmp_path: Path
) -> None:
    code, text = refused(plain, tmp_path / "areas.shp")
    assert (code, "polygons are written as .gpkg, .fgb" in text) == (2, True)
    code, text = refused(tmp_path / "missing.tif", tmp_path / "a.gpkg")
    assert (code, "doesn't exist" in text) == (3, True)
    code, text = refused(plain, tmp_path / "nowhere" / "a.gpkg")
    assert (code, "No such file or directory; make the folder" in text) == (7, True)
    code, text = refused(plain, tmp_path / "a.gpkg", "--min-area", "nan")
    assert (code, "square metres" in text) == (2, True)
    floats = write_scene(tmp_path / "floats.tif", np.ones((1, 4, 4), np.float32))
    code, text = refused(floats, tmp_path / "a.gpkg")
    assert (code, "holds float32, expected whole numbers" in text) == (3, True)
    assert segpipe("export", plain, "-o", tmp_path / "a.gpkg").code == 0
    code, text = refused(plain, tmp_path / "a.gpkg")
    assert (code, "exists; choose another name, or replace it with --overwrite" in text) == (
        5,
        True,
    )
    assert segpipe("export", plain, "-o", tmp_path / "a.gpkg", "--overwrite").code == 0


def test_without_pyarrow_it_is_named(
    refused: Refusal, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    code, text = refused(plain, tmp_path / "a.parquet")
    assert (code, "pip install 'segpipe[parquet]', or name a .gpkg or .fgb" in text) == (2, True)


def test_a_damaged_map_leaves_nothing(segpipe: Command, plain: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 5, (1, 600, 600), np.uint8)
    source = write_scene(tmp_path / "map.tif", noise, compress="deflate", tiled=True)
    with source.open("r+b") as file:
        file.seek(-2000, 2)
        file.write(bytes(1000))
    done = segpipe("export", source, "-o", tmp_path / "a.gpkg")
    assert (done.code, len(done.lines)) == (6, 1)
    assert "the file is damaged" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.tif", "plain.tif"]


def options(folder: Path) -> dict[str, Any]:
    return {"model": toys.small(), "output": folder / "map.tif", "polygons": folder / "areas.gpkg"}


def test_a_run_makes_them_of_the_published_map(named: Path, tmp_path: Path) -> None:
    scene = named.with_name("scene.tif")
    report = run(scene, **options(tmp_path))
    assert report.polygons is not None
    assert report.to_dict()["polygons"] == report.polygons.to_dict()
    exported = write_polygons(report.output, tmp_path / "again.gpkg")
    assert exported.classes == report.polygons.classes
    assert (tmp_path / "again.gpkg").read_bytes() == (tmp_path / "areas.gpkg").read_bytes()
    for name, total in report.polygons.classes.items():
        assert total.area_m2 == pytest.approx(report.classes[name].area_m2, rel=1e-9)


def test_what_cant_be_written_is_refused_before_any_work(named: Path, tmp_path: Path) -> None:
    scene = named.with_name("scene.tif")
    (tmp_path / "areas.gpkg").write_text("precious")
    with pytest.raises(FingerprintMismatchError, match="exists; choose another name, or replace"):
        run(scene, **options(tmp_path))
    with pytest.raises(OptionError, match="polygons are written as"):
        run(scene, **options(tmp_path) | {"polygons": tmp_path / "areas.tif"})
    assert [path.name for path in tmp_path.iterdir()] == ["areas.gpkg"]
    report = run(scene, **options(tmp_path), overwrite=True)
    assert report.polygons is not None
    assert len(read(tmp_path / "areas.gpkg")[0]) == report.polygons.polygons


@pytest.mark.parametrize("before", [False, True])
def test_a_run_that_stopped_at_its_polygons_goes_on_there(
    named: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    scene, whole = named.with_name("scene.tif"), write_polygons

    def stopped(*arguments: Any, **words: Any) -> None:
        if not before:
            whole(*arguments, **words)
        raise StorageError("no space")

    monkeypatch.setattr("segpipe.workflows.results.products.write_polygons", stopped)
    with pytest.raises(StorageError):
        run(scene, **options(tmp_path))
    made = (tmp_path / "map.tif").stat().st_mtime_ns
    monkeypatch.undo()
    report = run(scene, **options(tmp_path))
    assert report.tiles_resumed == report.tiles
    assert (tmp_path / "map.tif").stat().st_mtime_ns == made
    assert report.polygons is not None
    assert len(read(tmp_path / "areas.gpkg")[0]) == report.polygons.polygons
    assert not list(tmp_path.glob(".*"))


def test_a_resumed_run_replaces_no_file_that_it_did_not_write(
    named: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = named.with_name("scene.tif")

    def stopped(*_: Any, **__: Any) -> None:
        raise StorageError("no space")

    monkeypatch.setattr("segpipe.workflows.results.products.write_polygons", stopped)
    with pytest.raises(StorageError):
        run(scene, **options(tmp_path))
    monkeypatch.undo()
    (tmp_path / "other.gpkg").write_text("precious")
    with pytest.raises(FingerprintMismatchError, match=r"other\.gpkg exists"):
        run(scene, **options(tmp_path) | {"polygons": tmp_path / "other.gpkg"})
    assert (tmp_path / "other.gpkg").read_text() == "precious"
    assert run(scene, **options(tmp_path)).polygons is not None


def test_the_command_makes_them_too(
    segpipe: Command, named: Path, tiny_model: Path, tmp_path: Path
) -> None:
    scene = named.with_name("scene.tif")
    done = segpipe("run", scene, "-m", tiny_model, "-o", "m.tif", "--polygons", "a.fgb", "--quiet")
    assert done.code == 0
    count = len(read(tmp_path / "a.fgb")[0])
    assert f"polygons {tmp_path / 'a.fgb'} ({count:,} polygons)" in " ".join(done.out.split())


def test_a_run_gives_them_the_form_that_is_asked_for(
    segpipe: Command, named: Path, tiny_model: Path, tmp_path: Path
) -> None:
    scene = named.with_name("scene.tif")
    form = ("--min-area", "1500", "--simplify", "30")
    words = ("-m", tiny_model, "-o", "m.tif", *form, "--json")
    done = segpipe("run", scene, *words, "--polygons", "a.gpkg", "--report", "a.html")
    assert done.code == 0
    told = json.loads(done.out)["polygons"]
    assert (told["min_area"], told["simplify"]) == (1500, 30)
    assert sum(total["left_out"]["polygons"] for total in told["classes"].values())
    assert segpipe("export", "m.tif", "-o", "b.gpkg", *form).code == 0
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert f"{told['polygons']:,} in {tmp_path / 'a.gpkg'}" in page
    assert "--min-area 1500.0 --simplify 30.0" in page


def test_a_form_that_makes_no_sense_is_refused_before_any_work(
    segpipe: Command, named: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = ("run", named.with_name("scene.tif"), "-m", tiny_model, "-o", "m.tif")
    for form, said in (
        (("--simplify", "30"), "name their file with --polygons"),
        (("--polygons", "a.gpkg", "--simplify", "-1"), "takes a positive number in units"),
        (("--polygons", "a.gpkg", "--simplify", "1e9"), "is more than the map's"),
    ):
        done = segpipe(*words, *form)
        assert (done.code, len(done.lines)) == (2, 1)
        assert said in done.err
    assert not list(tmp_path.iterdir())
