"""Lists, globs and folders of scenes, through the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from segpipe.workflows.errors import OptionError
from segpipe.workflows.reading.scenes import batch
from tests.workflows.conftest import Command, Outcome, noise, write_scene

FP32 = ("--precision", "fp32")


@pytest.fixture
def model(tiny_model: Path) -> tuple[str, ...]:
    return ("-m", str(tiny_model), *FP32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two scenes, and what lies beside scenes."""
    place = tmp_path / "scenes"
    place.mkdir()
    write_scene(place / "b.tif", noise(90, 80))
    write_scene(place / "a.tif", noise(80, 90)[::-1])
    (place / "a.tif.aux.xml").write_text("<PAMDataset></PAMDataset>")
    (place / "notes.txt").write_text("words")
    (place / "more").mkdir()
    write_scene(place / "more" / "c.tif", noise(30, 30))
    write_scene(place / ".hidden.tif", noise(30, 30))
    write_scene(place / "b.tif.ovr", noise(30, 30))
    write_scene(place / "b.classes.tif", noise(30, 30, 1))
    return place


def labels(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as file:
        found: NDArray[np.uint8] = file.read(1)
    return found


def runs(outcome: Outcome) -> list[str]:
    """The names of the scenes that were mapped."""
    return [Path(run["scene"]).name for run in json.loads(outcome.out)["runs"]]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("word", ["scenes", "scenes/*.tif", "scenes/[ab].tif", "*/?.tif"])
def test_a_folder_or_a_glob_gives_a_map_each(
    segpipe: Command, tmp_path: Path, folder: Path, model: tuple[str, ...], word: str
) -> None:
    outcome = segpipe("run", word, *model, "--no-style", "--json")
    assert outcome.code == 0
    assert runs(outcome) == ["a.tif", "b.tif"]
    assert json.loads(outcome.out)["failed"] == []
    mapped = [f"segpipe: scenes/{x}.tif: mapped to {tmp_path}/{x}.classes.tif" for x in "ab"]
    assert outcome.lines == mapped
    assert segpipe("run", folder / "b.tif", *model, "-o", "alone.tif").code == 0
    assert np.array_equal(labels(tmp_path / "b.classes.tif"), labels(tmp_path / "alone.tif"))


def test_one_scene_in_a_folder_is_a_list_too(
    segpipe: Command, folder: Path, model: tuple[str, ...]
) -> None:
    assert runs(segpipe("run", folder / "more", *model, "--json")) == ["c.tif"]
    alone = json.loads(segpipe("run", folder / "a.tif", *model, "--json").out)
    assert alone["scene"] == str(folder / "a.tif")


def test_maps_go_into_a_folder_that_exists(
    segpipe: Command, tmp_path: Path, folder: Path, model: tuple[str, ...]
) -> None:
    (tmp_path / "maps").mkdir()
    outcome = segpipe("run", folder / "a.tif", folder / "b.tif", *model, "-o", "maps")
    assert outcome.code == 0
    assert {"a.classes.tif", "b.classes.tif"} <= names(tmp_path / "maps")
    assert not (tmp_path / "a.classes.tif").exists()
    single = segpipe("run", folder / "more" / "c.tif", *model, "-o", "maps/")
    assert single.code == 0
    assert "c.classes.tif" in names(tmp_path / "maps")
    for output in ("nowhere", "map.tif"):
        refused = segpipe("run", folder, *model, "-o", output)
        assert refused.code == 2
        assert "name a folder that exists" in refused.lines[0]


def test_a_scene_that_fails_does_not_stop_the_others(
    segpipe: Command, tmp_path: Path, folder: Path, model: tuple[str, ...]
) -> None:
    write_scene(folder / "aa.tif", noise(30, 30, 1))
    outcome = segpipe("run", folder, *model, "--json")
    assert outcome.code == 3
    assert runs(outcome) == ["a.tif", "b.tif"]
    (failed,) = json.loads(outcome.out)["failed"]
    assert (failed["scene"], failed["exit_code"]) == (str(folder / "aa.tif"), 3)
    assert "--bands" in failed["error"]
    assert [line.split(": ")[2].split()[0] for line in outcome.lines] == [
        "mapped",
        "failed",
        "mapped",
    ]
    # Typed again: what is finished is told of, and what failed is tried again.
    again = segpipe("run", folder, *model, "--json")
    assert again.code == 3
    assert runs(again) == []
    told = json.loads(again.out)
    assert [entry["exit_code"] for entry in told["failed"]] == [3]
    assert [Path(run["scene"]).name for run in told["already_mapped"]] == ["a.tif", "b.tif"]
    first = json.loads(outcome.out)["runs"]
    assert [run["classes"] for run in told["already_mapped"]] == [run["classes"] for run in first]
    assert {"a.classes.tif", "b.classes.tif"} <= names(tmp_path)


def test_a_raster_that_cannot_be_opened_is_left_out_aloud(
    segpipe: Command, folder: Path, model: tuple[str, ...]
) -> None:
    (folder / "damaged.tif").write_bytes((folder / "a.tif").read_bytes()[:300])
    outcome = segpipe("run", folder, *model, "--json")
    assert outcome.code == 0
    assert runs(outcome) == ["a.tif", "b.tif"]
    warning = outcome.lines[0]
    assert warning.startswith("segpipe: warning: left out: ")
    assert "damaged.tif" in warning


def test_a_zarr_scene_is_no_folder_of_scenes(
    segpipe: Command, tmp_path: Path, folder: Path, model: tuple[str, ...]
) -> None:
    assert segpipe("run", folder / "a.tif", *model, "-o", folder / "map.zarr").code == 0
    assert batch([str(folder / "map.zarr")], None).single
    found = batch([str(folder)], None).assignments
    assert [Path(task.scene).name for task in found] == ["a.tif", "b.tif", "map.zarr"]


def test_what_names_no_scene_is_refused(
    segpipe: Command, tmp_path: Path, model: tuple[str, ...]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("words")
    for word, told in (("empty", "no raster in it"), ("*.tif", "no scene has such a name")):
        outcome = segpipe("run", word, *model)
        assert outcome.code == 3
        assert outcome.out == ""
        assert len(outcome.lines) == 1
        assert told in outcome.lines[0]


def test_maps_of_one_name_are_refused_before_the_start(
    segpipe: Command, tmp_path: Path, folder: Path, model: tuple[str, ...]
) -> None:
    shutil.copy(folder / "a.tif", folder / "more" / "a.tif")
    before = names(tmp_path)
    outcome = segpipe("run", folder, folder / "more" / "a.tif", *model)
    assert outcome.code == 2
    assert len(outcome.lines) == 1
    assert f"{folder / 'a.tif'} and {folder / 'more' / 'a.tif'} would both" in outcome.lines[0]
    assert names(tmp_path) == before


def test_options_that_name_one_file_are_refused(
    segpipe: Command, folder: Path, model: tuple[str, ...]
) -> None:
    outcome = segpipe("run", folder, *model, "--report", "page.html")
    assert outcome.code == 2
    assert "--report names one file" in outcome.lines[0]


def test_a_scene_that_two_words_name_is_mapped_once(folder: Path) -> None:
    words = [str(folder / "a.tif"), str(folder / "*.tif")]
    found = batch(words, None)
    assert [Path(task.scene).name for task in found.assignments] == ["a.tif", "b.tif"]
    assert not found.single


def test_what_does_not_exist_is_left_to_be_refused(tmp_path: Path) -> None:
    for word in ("missing.tif", "https://example.org/a.tif?b=[1]", "x" * 5000):
        found = batch([word], None)
        assert found.single
        assert found.assignments[0].scene == word
    with pytest.raises(OptionError, match="-o names one output"):
        batch(["a.tif", "b.tif"], tmp_path / "map.tif")
