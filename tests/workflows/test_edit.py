"""Maps with other classes and without small areas, in every container and as polygons."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.features
import shapely
from numpy.typing import NDArray

from segpipe.pipeline.maps.map_facts import read_facts
from segpipe.pipeline.maps.sieve import sieved
from segpipe.pipeline.window import Window
from segpipe.workflows.export import export_map
from segpipe.workflows.labels.reference import open_labels
from tests.conftest import ROOT
from tests.workflows.conftest import Command, Refusal, write_scene

LANDCOVER = ROOT / "examples/landcover-nc-1996.tif"
CLASSES = ROOT / "examples/landcover-classes.json"


def scheme(path: Path, *classes: tuple[int, str, list[int]], ignored: list[int]) -> Path:
    entries = [
        {"value": value, "name": name, "color": f"#0000{value:02x}", "labels": labels}
        for value, name, labels in classes
    ]
    path.write_text(json.dumps({"classes": entries, "ignored": ignored}))
    return path


def land_and_water(folder: Path) -> Path:
    return scheme(folder / "c.json", (1, "land", [1, 2, 3]), (2, "water", [4]), ignored=[])


@pytest.fixture(scope="module")
def landcover(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map with a legend, made of a raster by others."""
    output = tmp_path_factory.mktemp("maps") / "map.tif"
    return export_map(LANDCOVER, output, reclass=CLASSES).output


def pixels(path: Path) -> NDArray[np.uint8]:
    labels = open_labels(path)
    values, valid = labels.read(labels.grid.window)
    return np.where(valid, values[0], 255).astype(np.uint8)


def test_classes_are_joined_as_for_training(landcover: Path) -> None:
    expected = np.full(256, 255, np.uint8)
    expected[[1, 2, 3, 4, 7, 5, 6]] = [1, 2, 2, 2, 2, 3, 4]
    with rasterio.open(LANDCOVER) as file:
        labels = np.where(file.read_masks(1) > 0, file.read(1), 255)
    np.testing.assert_array_equal(pixels(landcover), expected[labels])
    facts = read_facts(landcover)
    told = json.loads(CLASSES.read_text())["classes"]
    assert [
        {"value": entry.value, "name": entry.name, "color": entry.color}
        for entry in facts.legend.entries
    ] == [{key: entry[key] for key in ("value", "name", "color")} for entry in told]
    (step,) = json.loads(facts.tags["SEGPIPE_EDITS"])
    assert step == {"reclass": {entry["name"]: entry["labels"] for entry in told}, "ignored": []}


def test_any_container_and_a_second_time(segpipe: Command, landcover: Path, tmp_path: Path) -> None:
    """Values that are ignored are nodata; what was done before stays in the tags."""
    file = scheme(tmp_path / "c.json", (9, "green", [2, 3]), (5, "wet", [4]), ignored=[1])
    options = ("--reclass", file, "--sieve", "6", "--json")
    for name in ("a.tif", "b.zarr"):
        done = segpipe("export", landcover, "-o", tmp_path / name, *options)
        assert (done.code, done.err) == (0, "")
    values = np.array([255, 255, 9, 9, 5, *[255] * 251], np.uint8)
    joined = write_scene(tmp_path / "j.tif", values[pixels(landcover)][None], nodata=255)
    expected = sieved(open_labels(joined), 6).read(Window(0, 0, 443, 489))
    np.testing.assert_array_equal(expected[1], pixels(tmp_path / "a.tif") != 255)
    for name in ("a.tif", "b.zarr"):
        found = pixels(tmp_path / name)
        np.testing.assert_array_equal(found[expected[1]], expected[0][0][expected[1]])
        facts = read_facts(tmp_path / name)
        assert [(entry.value, entry.name) for entry in facts.legend.entries] == [
            (5, "wet"),
            (9, "green"),
        ]
        steps = json.loads(facts.tags["SEGPIPE_EDITS"])
        assert [list(step) for step in steps] == [["reclass", "ignored"]] * 2 + [["sieve"]]
        assert steps[1:] == [
            {"reclass": {"green": [2, 3], "wet": [4]}, "ignored": [1]},
            {"sieve": 6},
        ]
        told = json.loads(done.out)["classes"]
        assert told == {
            "wet": {"pixels": int((found == 5).sum())},
            "green": {"pixels": int((found == 9).sum())},
        }


def test_the_bytes_are_the_same_again(landcover: Path, tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        export_map(landcover, tmp_path / name, reclass=land_and_water(tmp_path), sieve=4)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_polygons_of_a_changed_map(
    segpipe: Command, landcover: Path, tmp_path: Path, suffix: str
) -> None:
    file = land_and_water(tmp_path)
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    changed = export_map(landcover, tmp_path / "m.tif", reclass=file, sieve=9).output
    outputs = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    words = ("--reclass", file, "--sieve", "9", "--json")
    done = segpipe("export", landcover, "-o", outputs[0], *words)
    assert json.loads(done.out)["edits"] == [
        {"reclass": {"land": [1, 2, 3], "water": [4]}, "ignored": []},
        {"sieve": 9},
    ]
    assert segpipe("export", changed, "-o", outputs[1]).code == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    shapes, values = read(outputs[0])
    assert shapely.coverage_is_valid(shapes)
    sizes = shapely.area(shapes) / 28.5**2
    assert sizes.min() >= 9 or (sizes < 9).sum() < 5
    assert set(values) == {1, 2}


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".parquet"])
def test_simplified_polygons_are_the_same_regions(
    segpipe: Command, landcover: Path, tmp_path: Path, suffix: str
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    exact, simple = tmp_path / f"exact{suffix}", tmp_path / f"simple{suffix}"
    whole = segpipe("export", landcover, "-o", exact, "--json")
    done = segpipe("export", landcover, "-o", simple, "--simplify", "40", "--json")
    assert (done.code, done.err) == (0, "")
    before, after = json.loads(whole.out), json.loads(done.out)
    assert (before["simplify"], after["simplify"]) == (None, 40)
    assert after["polygons"] == before["polygons"]
    for name, total in before["classes"].items():
        now = after["classes"][name]
        assert now["area_m2"] == pytest.approx(total["area_m2"], rel=1e-9)
        assert now["polygons"] == total["polygons"]
    (old, _), (new, _) = read(exact), read(simple)
    assert shapely.coverage_is_valid(new)
    assert shapely.get_num_coordinates(new).sum() < 0.6 * shapely.get_num_coordinates(old).sum()
    assert shapely.area(new).sum() == pytest.approx(shapely.area(old).sum(), rel=0.01)
    first = simple.read_bytes()
    again = segpipe("export", landcover, "-o", simple, "--simplify", "40", "--overwrite")
    assert again.code == 0
    assert simple.read_bytes() == first


def read(path: Path) -> tuple[NDArray[Any], list[int]]:
    if path.suffix == ".parquet":
        found = pytest.importorskip("geopandas").read_parquet(path)
        return found.geometry.to_numpy(), found["value"].tolist()
    _, _, shapes, columns = pyogrio.raw.read(path, layer="classes")
    return shapely.from_wkb(shapes), columns[0].tolist()


def test_what_is_refused_is_one_line(refused: Refusal, landcover: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.gpkg"
    code, text = refused(landcover, output, "--simplify", "0")
    assert (code, "--simplify takes a positive number" in text) == (2, True)
    code, text = refused(landcover, output, "--simplify", "20000")
    assert (code, "is more than the map's 13936.5 units" in text) == (2, True)
    code, text = refused(landcover, output, "--sieve", "20000")
    assert (code, "--sieve takes 2 to 10,000 pixels" in text) == (2, True)
    code, text = refused(landcover, tmp_path / "a.tif", "--simplify", "5")
    assert (code, "--simplify is for polygons" in text) == (2, True)
    code, text = refused(landcover, output, "--reclass", tmp_path / "nowhere.json")
    assert (code, "can't be read" in text) == (3, True)
    (tmp_path / "bad.json").write_text('{"classes": [{"value": 1}]}')
    code, text = refused(landcover, output, "--reclass", tmp_path / "bad.json")
    assert (code, "isn't a table of classes" in text) == (3, True)
    twice = scheme(tmp_path / "twice.json", (1, "a", [1, 2]), (1, "b", [3, 4]), ignored=[])
    for name in ("a.gpkg", "a.tif"):
        code, text = refused(landcover, tmp_path / name, "--reclass", twice)
        assert (code, "makes no legend: classes have one value each" in text) == (3, True)
    file = scheme(tmp_path / "c.json", (1, "a", [1]), (2, "b", [2]), ignored=[])
    for name in ("a.gpkg", "a.tif", "a.zarr"):
        code, text = refused(landcover, tmp_path / name, "--reclass", file)
        assert (code, "holds 3" in text.replace("hold 3", "holds 3")) == (3, True)
        assert str(landcover) in text


def test_a_changed_map_is_not_verified(
    segpipe: Command, landcover: Path, tiny_model: Path, tmp_path: Path
) -> None:
    done = segpipe("verify", LANDCOVER, landcover, "-m", tiny_model, "--bands", "1,1,1")
    assert (done.code, len(done.lines)) == (3, 1)
    assert "was changed by segpipe export" in done.err


def test_tags_that_tell_nonsense_are_refused(
    segpipe: Command, landcover: Path, tmp_path: Path
) -> None:
    shutil.copy(landcover.with_name("map.tif.aux.xml"), tmp_path / "a.tif.aux.xml")
    source = write_scene(tmp_path / "a.tif", pixels(landcover)[None], nodata=255)
    with rasterio.open(source, "r+") as file:
        file.update_tags(SEGPIPE_EDITS="{")
    done = segpipe("export", source, "-o", tmp_path / "b.tif", "--sieve", "4")
    assert (done.code, len(done.lines)) == (3, 1)
    assert "its tag SEGPIPE_EDITS is '{', expected a list" in done.err
    assert segpipe("export", source, "-o", tmp_path / "b.gpkg", "--sieve", "4").code == 0
