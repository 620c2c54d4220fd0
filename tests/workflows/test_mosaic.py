"""Several scenes make one map: that of the image that they make together."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.merge import merge

from segpipe.models.certainty import CONFIDENCE, certainty
from segpipe.pipeline.errors import FingerprintMismatchError
from segpipe.pipeline.scenes.mosaic import Rule
from segpipe.workflows.errors import OptionError
from segpipe.workflows.plan import plan
from segpipe.workflows.results.again import command
from segpipe.workflows.run import run
from segpipe.workflows.stages import Progress
from segpipe.workflows.verify import verify
from tests import toys
from tests.workflows.conftest import Command

UTM = "EPSG:32617"


def write(
    path: Path, top: int, left: int, height: int, width: int, seed: int = 0, crs: str = UTM
) -> Path:
    """A scene so many pixels of 30 m away from a corner."""
    transform = rasterio.Affine(30, 0, 600000 + 30 * left, 0, -30, 4000000 - 30 * top)
    pixels = toys.landscape(height, width, seed)
    return toys.write_scene(path, pixels, nodata=0, crs=crs, transform=transform)


@pytest.fixture
def scenes(tmp_path: Path) -> tuple[Path, ...]:
    """Three scenes of one acquisition grid, with overlaps, a gap, and a fringe of nodata."""
    return (
        write(tmp_path / "a.tif", 0, 0, 300, 200),
        write(tmp_path / "b.tif", -37, 150, 250, 210, seed=1),
        write(tmp_path / "c.tif", 201, 111, 150, 100, seed=2),
    )


def labels(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as file:
        found: NDArray[np.uint8] = file.read(1)
    return found


@pytest.mark.parametrize("rule", ["first", "last"])
def test_the_map_is_that_of_the_merged_image(
    tmp_path: Path, scenes: tuple[Path, ...], rule: Rule
) -> None:
    model = toys.small()
    pixels, transform = merge(scenes, method=rule)
    expected = toys.whole_image(
        model.network, model.card, model.footprint.stride, pixels, (pixels != 0).all(axis=0)
    )
    made = run(scenes, mosaic=rule, model=model, output=tmp_path / "map.tif", tile=256)
    np.testing.assert_array_equal(labels(made.output), expected)
    assert (made.tiles, made.scene, made.warnings) == (4, scenes[0], ())
    with rasterio.open(made.output) as file:
        assert file.transform == transform
    assert verify(scenes, made.output, mosaic=rule, model=model, windows=None).holds
    # The image as one file gives the same bytes.
    merged = toys.write_scene(tmp_path / "m.tif", pixels, nodata=0, crs=UTM, transform=transform)
    alone = run(merged, model=model, output=tmp_path / "one.tif", tile=256)
    assert alone.output.read_bytes() == made.output.read_bytes()


def test_the_command_line_maps_plans_and_verifies_a_mosaic(
    segpipe: Command, tmp_path: Path, tiny_model: Path, scenes: tuple[Path, ...]
) -> None:
    words = (*scenes, "--mosaic", "last", "-m", tiny_model, "--precision", "fp32")
    planned = json.loads(segpipe("plan", *words, "--json").out)
    assert planned["output"] == str(tmp_path / "a.classes.tif")
    report = json.loads(segpipe("run", *words, "--json").out)
    assert report["output"] == planned["output"]
    assert report["scene"] == str(scenes[0])
    # `?.tif` is the three of them in the same order, and a folder for outputs takes the one map.
    (tmp_path / "maps").mkdir()
    assert segpipe("run", "?.tif", *words[3:], "-o", "maps").code == 0
    into = tmp_path / "maps" / "a.classes.tif"
    assert into.read_bytes() == (tmp_path / "a.classes.tif").read_bytes()
    first, *others = scenes
    checked = segpipe("verify", first, *others, into, *words[3:], "--all")
    assert (checked.code, checked.lines) == (0, [])
    wrong = segpipe("verify", *others, first, into, *words[3:], "--all")
    assert (wrong.code, len(wrong.lines)) == (10, 1)
    bare, ruled = (
        segpipe("run", *scenes, "-m", tiny_model, "-o", name, *rule).code
        for name, rule in (("bare.tif", ("--mosaic",)), ("ruled.tif", ("--mosaic", "first")))
    )
    assert (bare, ruled) == (0, 0)
    assert (tmp_path / "bare.tif").read_bytes() == (tmp_path / "ruled.tif").read_bytes()
    unruled = segpipe("plan", *scenes, "-m", tiny_model)
    assert (unruled.code, unruled.lines[0].partition(": ")[2]) == (
        2,
        "3 scenes make one map by a rule: name one, such as --mosaic first",
    )


def test_several_crs_are_one_line_and_exit_code_3(
    segpipe: Command, tmp_path: Path, tiny_model: Path, scenes: tuple[Path, ...]
) -> None:
    other = write(tmp_path / "d.tif", 0, 0, 30, 30, crs="EPSG:32618")
    refused = segpipe("run", scenes[0], other, "--mosaic", "first", "-m", tiny_model)
    assert (refused.code, len(refused.lines)) == (3, 1)
    assert "EPSG:32618" in refused.lines[0]
    assert "gdalwarp -t_srs EPSG:32617" in refused.lines[0]
    assert not list(tmp_path.glob("*.classes.tif"))


def test_a_resolution_is_that_of_the_mosaic_s_grid(
    tmp_path: Path, scenes: tuple[Path, ...]
) -> None:
    model = toys.small()
    made = run(
        scenes, mosaic="first", model=model, output=tmp_path / "map.tif", resolution=60, tile=256
    )
    with rasterio.open(made.output) as file:
        assert file.transform == rasterio.Affine(60, 0, 600000, 0, -60, 4000000 + 19 * 60)
        assert file.shape == (19 + 176, 180)
    assert made.warnings[0].endswith("resampled onto it: b.tif, c.tif")
    assert verify(
        scenes, made.output, mosaic="first", model=model, resolution=60, windows=None
    ).holds


def test_what_makes_no_mosaic_is_refused(scenes: tuple[Path, ...]) -> None:
    model = toys.small()
    with pytest.raises(
        OptionError, match="a mosaic's rule is first or last or confident, got 'best'"
    ):
        plan(scenes, model=model, mosaic="best")
    with pytest.raises(OptionError, match="2 scenes make one map by a rule"):
        plan(scenes[:2], model=model)
    with pytest.raises(OptionError, match="no scene is named"):
        plan((), model=model, mosaic="first")


def test_the_output_may_be_none_of_the_scenes(scenes: tuple[Path, ...]) -> None:
    with pytest.raises(OptionError, match="is the scene itself"):
        run(scenes, mosaic="first", model=toys.small(), output=scenes[1], overwrite=True)


def test_the_command_of_a_call_names_all_scenes() -> None:
    arguments = {"scene": ("a.tif", Path("b c.tif")), "mosaic": "last"}
    assert command(run, arguments) == "segpipe run a.tif 'b c.tif' --mosaic last"
    assert command(run, {"scene": "a.tif"}) == "segpipe run a.tif"


def test_the_surest_scene_has_the_label(tmp_path: Path, scenes: tuple[Path, ...]) -> None:
    model = toys.small()
    stride = model.footprint.stride
    top, left = 37, 0
    best = np.full((388, 360), -1)
    expected = np.full((388, 360), 255, np.uint8)
    for path, (row, column) in zip(scenes, ((0, 0), (-37, 150), (201, 111)), strict=True):
        with rasterio.open(path) as file:
            pixels = file.read()
        # Each scene by itself, in one pass.
        valid = (pixels != 0).all(axis=0)
        scores = toys.whole_scores(model.network, model.card, stride, pixels, valid)
        sure = certainty(scores, [CONFIDENCE], shares=False, pinned=False)[CONFIDENCE][0].numpy()
        own = toys.whole_image(model.network, model.card, stride, pixels, valid)
        rows = slice(top + row, top + row + own.shape[0])
        place = rows, slice(left + column, left + column + own.shape[1])
        wins = valid & (sure.astype(int) > best[place])
        best[place][wins], expected[place][wins] = sure[wins], own[wins]
    made = run(scenes, mosaic="confident", model=model, output=tmp_path / "map.tif", tile=256)
    np.testing.assert_array_equal(labels(made.output), expected)
    assert (made.tiles, made.seam is not None and made.seam.differing) == (4, 0)
    whole = run(scenes, mosaic="confident", model=model, output=tmp_path / "w.tif", tile=512)
    assert (whole.tiles, whole.output.read_bytes()) == (1, made.output.read_bytes())
    assert verify(scenes, made.output, mosaic="confident", model=model, windows=None).holds
    first = run(scenes, mosaic="first", model=model, output=tmp_path / "first.tif")
    assert (labels(first.output) != expected).any()


def test_the_surest_scene_has_the_probabilities_too(
    tmp_path: Path, scenes: tuple[Path, ...]
) -> None:
    model = toys.small()
    sure = tmp_path / "sure.tif"
    made = run(
        scenes[:2],
        mosaic="confident",
        model=model,
        output=tmp_path / "map.tif",
        confidence=sure,
        probabilities=tmp_path / "shares.tif",
    )
    with rasterio.open(sure) as one, rasterio.open(tmp_path / "shares.tif") as all_of_them:
        greatest, shares = one.read(1), all_of_them.read()
    values = np.array([0, *(info.value for info in model.card.classes)])
    found = labels(made.output)
    known = found != 255
    np.testing.assert_array_equal(greatest[known], shares.max(axis=0)[known])
    at_label = np.take_along_axis(shares, np.searchsorted(values, found)[None] % 6 - 1, axis=0)[0]
    np.testing.assert_array_equal(at_label[known], greatest[known])
    assert (greatest[~known] == 255).all()


def test_a_mosaic_that_was_stopped_goes_on(tmp_path: Path, scenes: tuple[Path, ...]) -> None:
    model = toys.small()
    whole = run(scenes, mosaic="first", model=model, output=tmp_path / "one.tif", tile=256)

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(scenes, mosaic="first", model=model, output=tmp_path / "two.tif", tile=256, watch=stop)
    with pytest.raises(FingerprintMismatchError):
        run(scenes[::-1], mosaic="first", model=model, output=tmp_path / "two.tif", tile=256)
    resumed = run(scenes, mosaic="first", model=model, output=tmp_path / "two.tif", tile=256)
    assert resumed.tiles_resumed >= 1
    assert resumed.output.read_bytes() == whole.output.read_bytes()


@pytest.mark.parametrize("rule", ["last", "confident"])
def test_inside_an_area_of_interest_the_map_is_what_it_is_without(
    tmp_path: Path, scenes: tuple[Path, ...], rule: Rule
) -> None:
    model = toys.small()
    x, y = 600000 + 30 * 140, 4000000 - 30 * 180
    shape = {"type": "Polygon", "coordinates": [[[x, y], [x + 3000, y], [x, y - 2400], [x, y]]]}
    area = tmp_path / "area.geojson"
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32617"}}
    feature = {"type": "Feature", "properties": {}, "geometry": shape}
    area.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    whole = labels(run(scenes, mosaic=rule, model=model, output=tmp_path / "w.tif").output)
    made = run(scenes, mosaic=rule, model=model, output=tmp_path / "p.tif", aoi=area, tile=256)
    part = labels(made.output)
    assert 3000 < np.count_nonzero(part != 255) < 4100
    np.testing.assert_array_equal(part[part != 255], whole[part != 255])
