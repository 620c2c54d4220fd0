"""Bands in files of their own and reflectances, from the command line to the map."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine
from rasterio.windows import Window

from segpipe.models.card import Units
from segpipe.models.engine import Engine
from segpipe.models.package import SegmentationModel, save
from segpipe.workflows.plan import prepare, target
from segpipe.workflows.reading.inputs import Reading
from segpipe.workflows.reading.scenes import batch
from segpipe.workflows.run import run
from segpipe.workflows.stages import fingerprint_of
from segpipe.workflows.verify import verify
from tests import toys
from tests.conftest import ROOT
from tests.servers import serving
from tests.workflows.conftest import Command, Outcome

NAMES = ("red", "green", "blue")
FILES = "red=red.tif,green=green.tif,blue=blue.tif"
PRODUCT = "LC08_L2SP_224077_20201101_20201107_02_T1"
SCALE, OFFSET = 0.0000275, -0.2
PLACE = Affine(30, 0, 694005, 0, -30, -2766615)


def write(path: Path, plane: NDArray[np.generic], **options: Any) -> Path:
    """One band (row, column) without a name."""
    settings: dict[str, Any] = {"transform": PLACE, "crs": "EPSG:32621", **options}
    return toys.write_scene(path, plane[None], names=("",), **settings)


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint16]:
    """A part of the Landsat 8 example, (band, row, column)."""
    with rasterio.open(ROOT / "examples" / "landsat8-224077-rgb.tif") as file:
        found: NDArray[np.uint16] = file.read(window=Window(900, 600, 300, 280))
    assert found.any()
    return found


@pytest.fixture
def scene(tmp_path: Path, pixels: NDArray[np.uint16]) -> Path:
    """The folder of the bands, and beside it the same as one file."""
    folder = tmp_path / "scene"
    folder.mkdir()
    for name, plane in zip(NAMES, pixels, strict=True):
        write(folder / f"{name}.tif", plane)
    toys.write_scene(tmp_path / "whole.tif", pixels, transform=PLACE, crs="EPSG:32621")
    return folder


@pytest.fixture
def model(tmp_path: Path, pixels: NDArray[np.uint16]) -> Path:
    """A package that takes stored numbers, under which every class wins somewhere."""
    return packaged(tmp_path / "stored")


@pytest.fixture
def reflecting(tmp_path: Path) -> Path:
    """The same network for reflectances of Landsat's scale."""
    return packaged(tmp_path / "reflecting", units="reflectance")


def packaged(folder: Path, units: Units = "stored") -> Path:
    toy = toys.small(name=folder.name)
    mean, std = (10000.0,) * 3, (3000.0,) * 3
    if units == "reflectance":
        mean, std = (SCALE * 10000 + OFFSET,) * 3, (SCALE * 3000,) * 3
    card = replace(toy.card, mean=mean, std=std, units=units)
    save(SegmentationModel(toy.network, card), folder)
    return folder


def mapped(segpipe: Command, output: str, *words: str | Path) -> bytes:
    done = segpipe(
        "run", *words, "-o", output, "--precision", "fp32", "--tile", "256", "--quiet", "--no-style"
    )
    assert done.code == 0, done.err
    return Path(output).read_bytes()


def labels(path: Path | str) -> NDArray[np.uint8]:
    with rasterio.open(path) as file:
        found: NDArray[np.uint8] = file.read(1)
    assert len(np.unique(found)) >= 3
    return found


def refusal(outcome: Outcome, code: int = 3) -> str:
    assert outcome.code == code, outcome.err
    (line,) = outcome.lines
    return line


def item(folder: Path, **extra: object) -> Path:
    """A STAC item for the files of a folder, in that folder."""
    assets = {
        name: {
            "href": f"./{name}.tif",
            "type": "image/tiff; application=geotiff",
            "bands": [{"name": name, "eo:common_name": name}],
            **extra,
        }
        for name in NAMES
    }
    path = folder / "item.json"
    content = {"type": "Feature", "stac_version": "1.1.0", "properties": {}, "assets": assets}
    path.write_text(json.dumps(content))
    return path


def test_files_of_bands_give_the_map_of_the_whole(
    segpipe: Command, scene: Path, model: Path
) -> None:
    whole = mapped(segpipe, "whole-map.tif", "whole.tif", "-m", model)
    labels("whole-map.tif")
    options = ("-m", model)
    assert mapped(segpipe, "a.tif", "scene", "--bands", FILES, *options) == whole
    numbers = "1=red.tif,3=blue.tif:1,2=green.tif"
    assert mapped(segpipe, "b.tif", "scene", "--bands", numbers, *options) == whole
    absolute = ",".join(f"{name.upper()}={scene / name}.tif" for name in NAMES)
    assert mapped(segpipe, "c.tif", "whole.tif", "--bands", absolute, *options) == whole
    assert mapped(segpipe, "d.tif", item(scene), *options) == whole
    report = run(
        scene, bands={name: scene / f"{name}.tif" for name in NAMES}, model=model, tile=256,
        precision="fp32", output="e.tif", style=False,
    )  # fmt: skip
    assert report.output.read_bytes() == whole
    verified = segpipe("verify", "scene", "a.tif", "--bands", FILES, "-m", model, "--all")
    assert verified.code == 0, verified.err
    planned = segpipe("plan", "scene", "--bands", FILES, "-m", model, "--json")
    assert json.loads(planned.out)["output"].endswith("scene.classes.tif")


def test_the_current_folder_gives_its_name(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scene)
    assert target(".", None) == scene / "scene.classes.tif"


def test_the_report_tells_the_command_that_makes_it_again(
    segpipe: Command, scene: Path, model: Path
) -> None:
    mapped(segpipe, "a.tif", "scene", "--bands", FILES, "-m", model, "--report", "a.html")
    assert f"--bands {FILES}" in Path("a.html").read_text(encoding="utf-8")


def test_an_item_is_read_over_http(
    segpipe: Command, tmp_path: Path, scene: Path, model: Path
) -> None:
    here = mapped(segpipe, "here.tif", item(scene), "-m", model)
    with serving(tmp_path) as server:
        there = mapped(segpipe, "there.tif", f"{server.url}/scene/item.json", "-m", model)
        files = ",".join(f"{name}={server.url}/scene/{name}.tif" for name in NAMES)
        named = mapped(segpipe, "named.tif", "scene", "--bands", files, "-m", model)
        missing = segpipe("run", f"{server.url}/scene/other.json", "-m", model)
        address = f"{server.url}/scene/item.json?signed=secret"
        signed = segpipe("run", address, "-m", model, "--report", "signed.html", "--json")
        (scene / "green.tif").unlink()
        lost = segpipe("run", f"{server.url}/scene/item.json", "-m", model)
    assert here == there == named
    assert "other.json: there is no such object (404)" in refusal(missing)
    assert "secret" not in signed.out + signed.err + Path("signed.html").read_text(encoding="utf-8")
    assert re.search(r"green.tif: .* \(404\)", refusal(lost))


def test_coarser_bands_are_interpolated_onto_the_finest(
    segpipe: Command, tmp_path: Path, scene: Path, pixels: NDArray[np.uint16], model: Path
) -> None:
    coarse = pixels[2, ::2, ::2]
    write(scene / "blue.tif", coarse, transform=PLACE @ Affine.scale(2), nodata=None)
    done = segpipe(
        "run", "scene", "--bands", FILES, "-m", model, "-o", "map.tif", "--precision", "fp32",
        "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert any("blue.tif: resampled onto" in line for line in json.loads(done.out)["warnings"])
    by_hand = np.stack([pixels[0], pixels[1], np.rint(doubled(coarse)).astype(np.uint16)])
    toys.write_scene(tmp_path / "by_hand.tif", by_hand, transform=PLACE, crs="EPSG:32621")
    mapped(segpipe, "oracle.tif", "by_hand.tif", "-m", model)
    np.testing.assert_array_equal(labels("map.tif"), labels("oracle.tif"))


def doubled(plane: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Each pixel as four, interpolated between the centres; weights are 3/4 and 1/4."""
    values = plane.astype(np.float64)
    for axis in (0, 1):
        padded = np.pad(values, [(1, 1) if n == axis else (0, 0) for n in (0, 1)], "edge")
        before, after = (
            np.take(padded, range(k, padded.shape[axis] - 2 + k), axis) for k in (0, 2)
        )
        pairs = np.stack([0.75 * values + 0.25 * before, 0.75 * values + 0.25 * after], axis + 1)
        shape = [2 * side if n == axis else side for n, side in enumerate(values.shape)]
        values = pairs.reshape(shape)
    return values


def test_a_product_folder_is_one_scene(
    segpipe: Command, tmp_path: Path, scene: Path, model: Path, reflecting: Path
) -> None:
    folder = tmp_path / PRODUCT
    folder.mkdir()
    for number, name in ((4, "red"), (3, "green"), (2, "blue")):
        shutil.copy(scene / f"{name}.tif", folder / f"{PRODUCT}_SR_B{number}.TIF")
    whole = mapped(segpipe, "whole-map.tif", "whole.tif", "-m", model)
    assert mapped(segpipe, "a.tif", PRODUCT, "-m", model) == whole
    assert mapped(segpipe, "b.tif", PRODUCT, "-m", model, "--bands", "B4,B3,B2") == whole
    mapped(segpipe, "c.tif", PRODUCT, "-m", reflecting)
    np.testing.assert_array_equal(labels("c.tif"), labels("a.tif"))
    assert [task.scene for task in batch(["LC08*"], None).assignments] == [PRODUCT]
    assert batch([PRODUCT], None).single


@contextmanager
def told(folder: Path, how: str) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The scene under `folder`, with its scale and offset said in one way; words of a command."""
    if how == "options":
        yield folder.parent / "whole.tif", ("--scale", str(SCALE), "--offset", str(OFFSET))
    elif how == "item":
        yield item(folder, **{"raster:scale": SCALE, "raster:offset": OFFSET}), ()
    else:
        with rasterio.open(folder.parent / "whole.tif", "r+") as file:
            file.scales, file.offsets = (SCALE,) * 3, (OFFSET,) * 3
        yield folder.parent / "whole.tif", ()


@pytest.mark.parametrize("how", ["options", "item", "file"])
def test_reflectances_are_what_scale_and_offset_make_of_the_numbers(
    segpipe: Command, scene: Path, pixels: NDArray[np.uint16], reflecting: Path, how: str
) -> None:
    with told(scene, how) as (place, words):
        mapped(segpipe, "map.tif", place, "-m", reflecting, *words)
        checked = segpipe("verify", place, "map.tif", "-m", reflecting, "--windows", "1", *words)
        assert checked.code == 0, checked.err
    toy = toys.small()
    valid = (pixels != 0).all(0)
    card = replace(toy.card, mean=(SCALE * 10000 + OFFSET,) * 3, std=(SCALE * 3000,) * 3)
    stride = toy.footprint.stride
    expected = toys.whole_image(
        toy.network, card, stride, (SCALE * pixels + OFFSET).astype(np.float32), valid
    )
    # The oracle rounds reflectances, the run normalises the stored numbers themselves.
    assert (labels("map.tif") == expected).mean() > 0.9999
    folded = card.in_stored_units((SCALE,) * 3, (OFFSET,) * 3)
    exact = toys.whole_image(toy.network, folded, stride, pixels, valid)
    np.testing.assert_array_equal(labels("map.tif"), exact)


def test_fractions_are_taken_for_reflectances_and_it_is_said(
    segpipe: Command, tmp_path: Path, pixels: NDArray[np.uint16], reflecting: Path
) -> None:
    fractions = (SCALE * pixels.astype(np.float64) + OFFSET).astype(np.float32)
    toys.write_scene(tmp_path / "fractions.tif", fractions, nodata=-0.2)
    done = segpipe("plan", "fractions.tif", "-m", reflecting, "--json")
    (line,) = json.loads(done.out)["warnings"]
    assert line.endswith("doesn't scale red, green, blue: taken as reflectances")


def test_another_scaling_is_another_run(segpipe: Command, scene: Path, reflecting: Path) -> None:
    words = ("whole.tif", "-m", reflecting, "--scale", "0.0000275")
    mapped(segpipe, "a.tif", *words, "--offset", "-0.2")
    mapped(segpipe, "b.tif", *words, "--offset", "0.1")
    assert (labels("a.tif") != labels("b.tif")).any()
    report = run(
        "whole.tif", model=reflecting, scale=SCALE, offset=OFFSET, output="c.tif", tile=256,
        precision="fp32", style=False,
    )  # fmt: skip
    assert report.output.read_bytes() == Path("a.tif").read_bytes()
    assert verify("whole.tif", "c.tif", model=reflecting, scale=SCALE, offset=OFFSET).holds


Break = Callable[[Path], tuple[str, ...]]


def _without(name: str) -> Break:
    def remove(folder: Path) -> tuple[str, ...]:
        (folder / name).unlink()
        return ("scene", "--bands", FILES)

    return remove


def _elsewhere(folder: Path) -> tuple[str, ...]:
    write(folder / "blue.tif", np.ones((40, 40), np.uint16), transform=Affine(30, 0, 0, 0, -30, 0))
    return ("scene", "--bands", FILES)


def _no_band(folder: Path) -> tuple[str, ...]:
    return ("scene", "--bands", FILES.replace("blue.tif", "blue.tif:2"))


def _no_assets(folder: Path) -> tuple[str, ...]:
    path = item(folder)
    content = json.loads(path.read_text())
    del content["assets"]["blue"]
    path.write_text(json.dumps(content))
    return (str(path),)


def _leads_away(folder: Path) -> tuple[str, ...]:
    return (str(item(folder, href="file:///etc/passwd")),)


def _no_item(folder: Path) -> tuple[str, ...]:
    (folder / "item.json").write_text("{}")
    return ("scene/item.json",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without("green.tif"), "green.tif: doesn't exist"),
        (_elsewhere, "blue.tif: shows other ground than the other bands"),
        (_no_band, "blue.tif: has 1 band, and blue is its band 2"),
        (_no_assets, "it has 2 bands: 1 red, 2 green, the model wants 3 (red, green, blue)"),
        (_leads_away, "an item may lead to files beneath its own folder"),
        (_no_item, "isn't a STAC item of version 1"),
        (lambda _: ("scene", "--bands", "red=red.tif,green=green.tif"), "name one for each"),
        (lambda _: ("scene", "--bands", FILES.replace("red=", "rot=")), "name one for each"),
        (lambda _: ("scene", "--bands", f"{FILES},1=red.tif"), "name one for each"),
        (lambda _: ("other", "--bands", FILES), "other: doesn't exist"),
    ],
)
def test_what_is_no_scene_ends_with_one_line_and_3(
    segpipe: Command, tmp_path: Path, scene: Path, model: Path, change: Break, words: str
) -> None:
    given = change(scene)
    before = sorted(tmp_path.rglob("*"))
    assert words in refusal(segpipe("run", *given, "-m", model, "--no-style"))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 3, "nothing says how it's scaled"),
        (("--scale", "0"), 2, "--scale is positive"),
        (("--scale", "nan"), 2, "--scale is positive"),
        (("--offset", "-0.1"), 2, "--offset goes with --scale"),
        (("--scale", "0.1", "--offset", "inf"), 2, "--scale is positive and --offset a number"),
        (("--bands", "red=red.tif,green"), 2, "lacks a name or a file"),
        (("--bands", "red=red.tif,red=green.tif"), 2, "names a band twice"),
    ],
)
def test_numbers_that_stand_for_nothing_are_refused(
    segpipe: Command, scene: Path, reflecting: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    done = segpipe("run", "whole.tif", "-m", reflecting, *words)
    assert done.code == code
    assert message in done.err


def test_the_scaling_is_part_of_the_fingerprint(scene: Path, reflecting: Path, model: Path) -> None:
    def fields(package: Path, scale: float | None, offset: float | None) -> object:
        ready = prepare(
            scene.parent / "whole.tif", model=str(package), output=None, tile=256, memory=None,
            reading=Reading(scale=scale, offset=offset),
        )  # fmt: skip
        return fingerprint_of(ready, Engine(), 2)["options"]

    assert fields(reflecting, SCALE, OFFSET) == fields(reflecting, SCALE, OFFSET)
    assert fields(reflecting, SCALE, OFFSET) != fields(reflecting, SCALE, 0.0)
    assert "scaling" not in str(fields(model, None, None))


def test_inspect_tells_what_a_model_takes(
    segpipe: Command, tmp_path: Path, reflecting: Path
) -> None:
    assert json.loads(segpipe("inspect", reflecting, "--json").out)["units"] == "reflectance"
    assert "reflectances" in segpipe("inspect", reflecting).out


def test_a_model_of_stored_numbers_takes_no_scale(
    segpipe: Command, scene: Path, model: Path
) -> None:
    done = segpipe("run", "whole.tif", "-m", model, "--scale", "0.1")
    assert "takes the numbers that a scene stores" in refusal(done, 2)


def test_a_band_is_never_overwritten(segpipe: Command, scene: Path, model: Path) -> None:
    done = segpipe(
        "run", "scene", "--bands", FILES, "-m", model, "-o", "scene/red.tif", "--overwrite"
    )
    assert "is the scene itself" in refusal(done, 2)
