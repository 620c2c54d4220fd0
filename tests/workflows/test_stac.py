"""The STAC item of a map tells what the files say, and a collection what its items do."""

import hashlib
import json
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pystac
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.warp import transform_geom
from shapely.geometry import shape

from segpipe.models.stac import EXTENSIONS
from segpipe.pipeline import storage
from segpipe.workflows.errors import OptionError
from segpipe.workflows.reading.timespan import Timespan, parsed
from segpipe.workflows.results.map_collection import union
from tests.stac_schemas import SCHEMAS, validate
from tests.workflows.conftest import CLASSES, Command, noise, write_scene

FP32 = ("--precision", "fp32")
UNKNOWN = {
    "datetime": None,
    "start_datetime": "1900-01-01T00:00:00Z",
    "end_datetime": "9999-12-31T23:59:59Z",
}


@pytest.fixture
def model(tiny_model: Path) -> tuple[str, ...]:
    return ("-m", str(tiny_model), *FP32)


def with_gap() -> NDArray[np.uint16]:
    """Pixels with a corner that is nodata 0."""
    pixels = noise(90, 80) + np.uint16(1)
    pixels[:, 60:, 50:] = 0
    return pixels


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def check_files(path: Path, item: dict[str, Any]) -> None:
    """Every asset is there, with the size and the sum that the item says."""
    for name, asset in item["assets"].items():
        place = path.parent / unquote(asset["href"])
        assert place.exists(), name
        if name == "report":
            assert "file:checksum" not in asset
            continue
        files = [place] if place.is_file() else [one for one in place.rglob("*") if one.is_file()]
        assert asset["file:size"] == sum(one.stat().st_size for one in files)
        if place.is_file():
            digest = hashlib.sha256(place.read_bytes()).hexdigest()
        elif shutil.which("sha256sum") is None:
            continue
        else:  # as the documentation says it
            told = subprocess.run(
                "find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum",
                shell=True,
                cwd=place,
                capture_output=True,
                text=True,
                check=True,
            )
            digest = told.stdout.split()[0]
        assert asset["file:checksum"] == f"1220{digest}"


@pytest.mark.parametrize("output", ["maps/map one.tif", "maps/map.zarr"])
def test_an_item_says_what_the_files_say(
    segpipe: Command, tmp_path: Path, tiny_model: Path, model: tuple[str, ...], output: str
) -> None:
    (tmp_path / "maps").mkdir()
    write_scene(tmp_path / "scene.tif", with_gap(), nodata=0)
    words = ("--polygons", "maps/areas.gpkg", "--probabilities", "shares.tif", "--report", "p.html")
    done = segpipe("run", "scene.tif", *model, "-o", output, "--stac", "maps/item.json", *words)
    assert done.code == 0
    path = tmp_path / "maps" / "item.json"
    item = read(path)
    asked = {schema["$id"] for schema in SCHEMAS}
    assert asked <= set(validate(item))
    check_files(path, item)
    assert {"map", "polygons", "probabilities", "report"} <= set(item["assets"])
    facts, asset = item["properties"], item["assets"]["map"]
    with rasterio.open(tmp_path / output) as dataset:
        labels, colors = dataset.read(1), dataset.colormap(1)
        assert facts["proj:shape"] == [*dataset.shape]
        assert facts["proj:transform"] == [*dataset.transform][:6]
        assert facts["proj:bbox"] == list(dataset.bounds)
        assert facts["proj:code"] == dataset.crs.to_string()
        corners = {
            "type": "MultiPoint",
            "coordinates": [dataset.xy(row, column) for row in (0, 89) for column in (0, 79)],
        }
        points = shape(transform_geom(dataset.crs, "OGC:CRS84", corners))
        assert asset["nodata"] == dataset.nodata
    assert shape(item["geometry"]).contains(points)
    assert item["bbox"] == list(shape(item["geometry"]).bounds)
    classes = asset["classification:classes"]
    assert [entry["value"] for entry in classes] == [*(info.value for info in CLASSES), 255]
    counts = np.bincount(labels.ravel(), minlength=256)
    assert [entry["count"] for entry in classes] == [counts[entry["value"]] for entry in classes]
    assert sum(entry.get("percentage", 0) for entry in classes) == pytest.approx(100, abs=1e-4)
    # The areas of classes and nodata are the raster's, 900 square metres a pixel.
    assert [entry["segpipe:area_m2"] for entry in classes] == pytest.approx(
        [900 * entry["count"] for entry in classes], rel=1e-12
    )
    for entry in classes[:-1]:
        assert bytes.fromhex(entry["color_hint"]) == bytes(colors[entry["value"]][:3])
        assert facts["renders"]["classes"]["colormap"][str(entry["value"])] == [
            *colors[entry["value"]]
        ]
    (link,) = (link for link in item["links"] if link["rel"] == "derived_from")
    assert asset["processing:expression"] == {"format": "stac-mlm", "expression": link["href"]}
    package = path.parent / unquote(link["href"])
    assert package.samefile(tiny_model / "model.json")
    assert set(EXTENSIONS) <= set(read(package)["stac_extensions"])
    shares = item["assets"]["probabilities"]
    assert [band["name"] for band in shares["bands"]] == [info.name for info in CLASSES]
    assert shares["raster:scale"] == pytest.approx(1 / 250)


def test_a_store_of_format_3_and_confidence_are_told_of(
    segpipe: Command, tmp_path: Path, model: tuple[str, ...]
) -> None:
    write_scene(tmp_path / "scene.tif", noise(60, 60))
    words = ("-o", "map.zarr", "--zarr-format", "3", "--confidence", "sure.zarr")
    assert segpipe("run", "scene.tif", *model, *words, "--stac", "item.json").code == 0
    item = read(tmp_path / "item.json")
    validate(item)
    check_files(tmp_path / "item.json", item)
    assert item["assets"]["map"]["type"] == "application/vnd.zarr; version=3"
    assert [band["name"] for band in item["assets"]["confidence"]["bands"]] == [
        "confidence",
        "margin",
    ]


def test_a_second_run_gives_the_same_bytes(
    segpipe: Command, tmp_path: Path, model: tuple[str, ...]
) -> None:
    write_scene(tmp_path / "scene.tif", with_gap(), nodata=0)
    words = ("run", "scene.tif", *model, "--stac", "item.json", "--polygons", "areas.fgb")
    done = segpipe(*words, "--json")
    assert json.loads(done.out)["stac"] == str(tmp_path / "item.json")
    first = (tmp_path / "item.json").read_bytes()
    assert segpipe(*words, "--overwrite").code == 0
    assert (tmp_path / "item.json").read_bytes() == first
    refused = segpipe("run", "scene.tif", *model, "-o", "other.tif", "--stac", "item.json")
    assert refused.code == 5
    assert not (tmp_path / "other.tif").exists()


def test_an_item_whose_writing_failed_is_written_when_the_command_is_typed_again(
    segpipe: Command, tmp_path: Path, model: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scene(tmp_path / "scene.tif", with_gap(), nodata=0)
    words = ("run", "scene.tif", *model, "--stac", "item.json", "--datetime", "2020-05-06")

    def full(action: str, path: Path) -> None:
        if action == "replace" and path.name == "item.json":
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(storage, "step", full)
        assert segpipe(*words).code == 7
    assert {path.name for path in tmp_path.iterdir() if path.suffix == ".json"} == set()
    assert segpipe(*words).code == 0
    check_files(tmp_path / "item.json", read(tmp_path / "item.json"))


@pytest.mark.parametrize(
    ("words", "tag", "expected"),
    [
        ((), None, UNKNOWN),
        ((), "2000:07:20 15:31:09", {"datetime": "2000-07-20T15:31:09Z"}),
        ((), "some day", UNKNOWN),
        (
            ("2001-02-03T04:05:06+02:00",),
            "2000:07:20 15:31:09",
            {"datetime": "2001-02-03T02:05:06Z"},
        ),
        (
            ("2001-02-03",),
            None,
            {
                "datetime": None,
                "start_datetime": "2001-02-03T00:00:00Z",
                "end_datetime": "2001-02-03T23:59:59Z",
            },
        ),
    ],
)
def test_the_time_is_what_the_user_or_the_scene_says(
    segpipe: Command,
    tmp_path: Path,
    model: tuple[str, ...],
    words: tuple[str, ...],
    tag: str | None,
    expected: dict[str, str | None],
) -> None:
    write_scene(tmp_path / "scene.tif", noise(30, 30))
    if tag:
        with rasterio.open(tmp_path / "scene.tif", "r+") as dataset:
            dataset.update_tags(TIFFTAG_DATETIME=tag)
    more = ("--datetime", *words) if words else ()
    done = segpipe("run", "scene.tif", *model, "--stac", "item.json", *more)
    assert done.code == 0
    item = read(tmp_path / "item.json")
    validate(item)
    found = item["properties"]
    assert {name: found.get(name) for name in expected} == expected
    assert ("--datetime" in done.err) == (expected == UNKNOWN)


@given(st.datetimes(), st.datetimes())
def test_times_are_read_back_in_order(first: Any, second: Any) -> None:
    start, end = sorted([first, second])
    found = Timespan.parse(f"{start.isoformat()}/{end.isoformat()}Z")
    assert (found.start.replace(tzinfo=None), found.end.replace(tzinfo=None)) == (start, end)
    if start != end:
        with pytest.raises(ValueError, match="before"):
            Timespan.parse(f"{end.isoformat()}/{start.isoformat()}")


def test_what_is_no_time_or_no_item_is_refused_before_the_start(
    segpipe: Command, tmp_path: Path, model: tuple[str, ...]
) -> None:
    write_scene(tmp_path / "scene.tif", noise(30, 30))
    before = sorted(tmp_path.iterdir())
    for words, told in (
        (("--stac", "item.txt"), "ends in .json"),
        (("--stac", "item.json", "--datetime", "yesterday"), "a time is"),
        (("--datetime", "2000-07-20"), "--stac"),
    ):
        done = segpipe("run", "scene.tif", *model, *words)
        assert done.code == 2
        assert len(done.lines) == 1
        assert told in done.err
    assert segpipe("run", "scene.tif", *model, "--stac", "nowhere/item.json").code == 7
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(OptionError):
        parsed("2000-07-20/1999-01-01")


class TestCollection:
    @pytest.fixture
    def scenes(self, tmp_path: Path) -> Path:
        """Two scenes and a damaged one."""
        folder = tmp_path / "scenes"
        folder.mkdir()
        (tmp_path / "maps").mkdir()
        write_scene(folder / "a.tif", noise(60, 60))
        write_scene(folder / "b.tif", noise(60, 70)[:, ::-1])
        write_scene(folder / "c.tif", noise(40, 40, 1))
        return folder

    def test_it_has_an_item_for_each_map(
        self, segpipe: Command, tmp_path: Path, scenes: Path, model: tuple[str, ...]
    ) -> None:
        words = ("run", "scenes/*.tif", *model, "-o", "maps", "--stac", "maps/collection.json")
        assert segpipe(*words, "--datetime", "2000-07-20T15:31:00Z").code == 3
        maps = tmp_path / "maps"
        found = read(maps / "collection.json")
        validate(found)
        assert found["id"] == "maps"
        items = [link["href"] for link in found["links"] if link["rel"] == "item"]
        assert items == ["./a.classes.json", "./b.classes.json"]
        for href in items:
            item = read(maps / href)
            validate(item)
            check_files(maps / href, item)
            assert item["collection"] == "maps"
            (parent,) = (link["href"] for link in item["links"] if link["rel"] == "parent")
            assert (maps / parent).samefile(maps / "collection.json")
        # A reader that nobody here wrote walks through it.
        opened = pystac.Collection.from_file(str(maps / "collection.json"))
        walked = list(opened.get_items())
        assert [item.id for item in walked] == ["a.classes", "b.classes"]
        boxes = np.array([item.bbox for item in walked])
        (box,) = opened.extent.spatial.bboxes
        assert box == [*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)]
        (interval,) = found["extent"]["temporal"]["interval"]
        assert interval == ["2000-07-20T15:31:00Z"] * 2

    def test_a_batch_goes_on_with_what_is_missing(
        self, segpipe: Command, tmp_path: Path, scenes: Path, model: tuple[str, ...]
    ) -> None:
        words = ("run", "scenes", *model, "-o", "maps", "--stac", "maps/collection.json", "--json")
        assert segpipe(*words).code == 3
        maps = tmp_path / "maps"
        kept = {path: path.stat().st_mtime_ns for path in maps.glob("*.tif")}
        write_scene(scenes / "c.tif", noise(40, 40))
        again = segpipe(*words)
        assert again.code == 0
        told = json.loads(again.out)
        assert [Path(run["scene"]).name for run in told["runs"]] == ["c.tif"]
        assert [Path(run["scene"]).name for run in told["already_mapped"]] == ["a.tif", "b.tif"]
        assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
        found = read(maps / "collection.json")
        assert sum(link["rel"] == "item" for link in found["links"]) == 3
        # As if it had never been stopped.
        maps.rename(tmp_path / "stopped")
        maps.mkdir()
        assert segpipe(*words).code == 0
        for path in sorted(maps.iterdir()):
            if path.is_file():
                assert (tmp_path / "stopped" / path.name).read_bytes() == path.read_bytes()

    def test_a_batch_that_is_stopped_at_any_step_ends_as_if_it_had_not_been(
        self,
        segpipe: Command,
        tmp_path: Path,
        scenes: Path,
        model: tuple[str, ...],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (scenes / "c.tif").unlink()
        maps = tmp_path / "maps"
        words = ("run", "scenes", *model, "-o", "maps", "--stac", "maps/collection.json")
        seen: list[int] = []
        stop = -1

        def step(action: str, path: Path) -> None:
            # What follows a map's own publishing; the steps before are those of any run.
            ours = path.suffix == ".json" and path.parent in (maps, maps / ".segpipe-batch")
            # Scenes are driven by threads of their own; tiles are another test's.
            thread = threading.current_thread()
            if thread is not threading.main_thread() and not thread.name.startswith("scene"):
                return
            if ours or path.parent == maps:
                seen.append(len(seen))
                if len(seen) == stop:
                    raise SystemExit(99)

        monkeypatch.setattr(storage, "step", step)
        assert segpipe(*words).code == 0
        whole = {path.name: path.read_bytes() for path in maps.iterdir() if path.is_file()}
        steps = len(seen)
        assert steps > 10
        for at in range(1, steps + 1, 3):
            shutil.rmtree(maps)
            maps.mkdir()
            seen.clear()
            stop = at
            assert segpipe(*words).code == 99
            stop = -1
            assert segpipe(*words).code == 0, at
            left = {path.name: path.read_bytes() for path in maps.iterdir() if path.is_file()}
            assert left == whole, at

    def test_only_what_is_as_it_would_be_made_is_left_alone(
        self, segpipe: Command, tmp_path: Path, scenes: Path, model: tuple[str, ...]
    ) -> None:
        (scenes / "c.tif").unlink()
        words = ("run", "scenes", *model, "-o", "maps")
        assert segpipe(*words).code == 0
        quick = segpipe(*words)
        assert quick.code == 0
        assert [line.split(": ")[2].split(" to ")[0] for line in quick.lines] == [
            "already mapped"
        ] * 2
        # Other options and another scene are refused, and what is lost is made again.
        assert segpipe(*words, "--no-style").code == 5
        (tmp_path / "maps" / "a.classes.tif").unlink()
        write_scene(scenes / "b.tif", noise(60, 70) // 2)
        mixed = segpipe(*words, "--json")
        assert mixed.code == 5
        told = json.loads(mixed.out)
        assert [Path(run["scene"]).name for run in told["runs"]] == ["a.tif"]
        assert [Path(run["scene"]).name for run in told["failed"]] == ["b.tif"]
        assert segpipe(*words, "--overwrite").code == 0

    def test_a_collection_replaces_nobodys_file(
        self, segpipe: Command, tmp_path: Path, scenes: Path, model: tuple[str, ...]
    ) -> None:
        (tmp_path / "maps" / "collection.json").write_text('{"type": "Collection"}')
        words = ("run", "scenes", *model, "-o", "maps", "--stac", "maps/collection.json")
        refused = segpipe(*words)
        assert refused.code == 5
        assert len(refused.lines) == 1
        assert [path.name for path in (tmp_path / "maps").iterdir()] == ["collection.json"]


@st.composite
def boxes(draw: st.DrawFn) -> list[tuple[float, float, float, float]]:
    """Boxes on the globe, some across the antimeridian."""
    found = []
    for _ in range(draw(st.integers(1, 5))):
        west, width = draw(st.integers(-180, 179)), draw(st.integers(1, 120))
        east = (west + width + 180) % 360 - 180
        south = draw(st.integers(-90, 89))
        found.append(
            (float(west), float(south), float(east) if east != -180 else 180.0, south + 1.0)
        )
    return found


def covered(box: tuple[float, ...]) -> set[int]:
    """The degrees of longitude that a box covers, each by its western edge."""
    west, east = int(box[0]), int(box[2])
    return {degree % 360 for degree in range(west, east if west < east else east + 360)}


@given(boxes())
def test_the_extent_is_the_smallest_around_all_boxes(
    found: list[tuple[float, float, float, float]],
) -> None:
    whole = union(found)
    wanted = set().union(*map(covered, found))
    assert wanted <= covered(tuple(whole))
    assert (whole[1], whole[3]) == (min(box[1] for box in found), max(box[3] for box in found))
    # No arc from one box's west to any degree that holds all is shorter.
    best = min(max((degree - start) % 360 for degree in wanted) + 1 for start in wanted)
    assert len(covered(tuple(whole))) == best
    assert union([]) == (-180, -90, 180, 90)


def test_a_mosaic_tells_of_all_its_scenes(
    segpipe: Command, tmp_path: Path, model: tuple[str, ...]
) -> None:
    for name, day in (("west.tif", "2001:01:02"), ("east.tif", "2001:01:04")):
        write_scene(tmp_path / name, noise(30, 30))
        with rasterio.open(tmp_path / name, "r+") as dataset:
            dataset.update_tags(TIFFTAG_DATETIME=f"{day} 10:00:00")
    words = ("--mosaic", "first", "-o", "map.tif", "--stac", "item.json")
    assert segpipe("run", "west.tif", "east.tif", *model, *words).code == 0
    item = read(tmp_path / "item.json")
    validate(item)
    via = [link["href"] for link in item["links"] if link["rel"] == "via"]
    assert via == ["./west.tif", "./east.tif"]
    assert item["properties"]["datetime"] is None
    assert item["properties"]["start_datetime"] == "2001-01-02T10:00:00Z"
    assert item["properties"]["end_datetime"] == "2001-01-04T10:00:00Z"


def test_a_scene_that_is_an_item_hands_its_time_down(
    segpipe: Command, tmp_path: Path, model: tuple[str, ...]
) -> None:
    names = ("red", "green", "blue")
    for name, band in zip(names, noise(30, 30), strict=True):
        write_scene(tmp_path / f"{name}.tif", band[None])
    source: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": "scene",
        "geometry": None,
        "properties": {"datetime": "2010-03-04T05:06:07.5Z"},
        "links": [],
        "assets": {
            name: {
                "href": f"./{name}.tif",
                "type": "image/tiff; application=geotiff",
                "bands": [{"name": name}],
            }
            for name in names
        },
    }
    (tmp_path / "scene.json").write_text(json.dumps(source))
    words = ("-o", "map.tif", "--stac", "item.json")
    assert segpipe("run", "scene.json", *model, *words).code == 0
    item = read(tmp_path / "item.json")
    validate(item)
    assert item["properties"]["datetime"] == "2010-03-04T05:06:07.500000Z"
    assert [link["href"] for link in item["links"] if link["rel"] == "derived_from"][-1] == (
        "./scene.json"
    )
    again = ("-o", "map.tif", "--stac", "scene.json", "--overwrite")
    assert segpipe("run", "scene.json", *model, *again).code == 2
    assert read(tmp_path / "scene.json") == source
