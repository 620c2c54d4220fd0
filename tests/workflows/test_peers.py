"""Other tools: each maps what segpipe maps, and what differs is counted rightly."""

import ast
import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from segpipe.models.architectures.registry import build
from segpipe.models.card import ClassInfo, ModelCard
from segpipe.models.converted import ConvertedClassifier, labelling
from segpipe.models.convolutionalize import convert
from segpipe.models.footprints.proof import he_initialise
from segpipe.models.formats.layer_graph import trace
from segpipe.models.package import SegmentationModel, save
from segpipe.workflows.peers import crops, plain_loop, whole_pass
from segpipe.workflows.peers.comparison import Comparison, Row
from segpipe.workflows.peers.known import PEERS
from segpipe.workflows.peers.process import Figures
from segpipe.workflows.peers.subject import Subject
from segpipe.workflows.reading.inputs import Reading, open_input
from tests import toys
from tests.conftest import ROOT
from tests.workflows.conftest import Command

TOOLS = ("geoai", "monai", "omnicloudmask", "rastervision", "torchvision")


def subject(scene: Path, model: SegmentationModel) -> Subject:
    return Subject(model, open_input(scene, Reading(resolution="native"), model.card))


def pointwise(name: str = "pointwise") -> SegmentationModel:
    """Five classes by the colour of each pixel alone."""
    network = nn.Conv2d(3, 5, 1)
    network.weight.data = torch.randn(5, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    return SegmentationModel(network, toys.card(name))


def blended_pixel_by_pixel(
    network: nn.Module, image: Tensor, patch: int, overlap: float
) -> tuple[Tensor, Tensor]:
    """Sums of weighted scores and of weights, from a list of patches and no slices of sums."""
    height, width = image.shape[1:]

    def starts(length: int) -> list[int]:
        found, start = [], 0
        while start + patch < length:
            found.append(start)
            start += max(1, round(patch * (1 - overlap)))
        return [*found, max(0, length - patch)]

    def weight(place: int) -> float:
        return math.exp(-0.5 * ((place - (patch - 1) / 2) / (patch / 8)) ** 2)

    total, weights = torch.zeros(5, height, width), torch.zeros(height, width)
    for top in starts(height):
        for left in starts(width):
            part = image[:, top : top + patch, left : left + patch]
            scores = network(part[None])[0]
            for row in range(part.shape[1]):
                for column in range(part.shape[2]):
                    share = weight(row) * weight(column)
                    total[:, top + row, left + column] += share * scores[:, row, column]
                    weights[top + row, left + column] += share
    return total, weights


@given(
    height=st.integers(3, 20),
    width=st.integers(3, 20),
    patch=st.integers(3, 9),
    overlap=st.sampled_from([0.0, 0.25, 0.5]),
)
@settings(max_examples=25, deadline=None)
def test_the_loop_blends_as_each_pixel_by_itself_would(
    height: int, width: int, patch: int, overlap: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(3, height, width, generator=generator)
    network = nn.Conv2d(3, 5, 3, padding=1)
    network.weight.data = torch.randn(5, 3, 3, 3, generator=generator)
    with torch.inference_mode():
        found = plain_loop.blended(network, image, patch, overlap)
        expected, weights = blended_pixel_by_pixel(network, image, patch, overlap)
    assert bool((weights > 0).all())
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("patch", "overlap"), [(32, 0.5), (64, 0.25), (500, 0.0)])
def test_a_network_without_neighbours_has_the_labels_of_the_whole_image(
    patch: int, overlap: float, tmp_path: Path
) -> None:
    scene = toys.write_scene(tmp_path / "scene.tif", toys.landscape(70, 90))
    given = subject(scene, pointwise())
    whole = whole_pass.labels(given)
    _, valid = given.pixels()
    found = plain_loop.labels(given, patch=patch, overlap=overlap)
    assert found.patch == patch
    assert len(np.unique(found.labels)) > 1
    assert np.array_equal(found.labels[valid], whole.labels[valid])


def test_the_whole_pass_is_the_laws_reference(tmp_path: Path) -> None:
    pixels = toys.landscape(61, 83)
    given = subject(toys.write_scene(tmp_path / "scene.tif", pixels), toys.small())
    _, valid = given.pixels()
    model = given.model
    assert np.array_equal(valid, pixels.all(0))
    stride = model.footprint.stride
    expected = toys.whole_image(model.network, model.card, stride, pixels, valid)
    assert np.array_equal(whole_pass.labels(given).labels[valid], expected[valid])


def converted() -> ConvertedClassifier:
    """A small classifier without padding, whose crops are what one pass sees."""
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(6, 6, 3, 2), nn.Flatten()
    )
    network.append(nn.Linear(network(torch.zeros(1, 3, 22, 22)).shape[1], 5))
    he_initialise(network)
    return labelling(convert(trace(network.eval()), 22), network)


@pytest.mark.parametrize("batch", [1, 7, 0])
def test_a_classifier_on_crops_has_the_labels_of_one_pass(batch: int, tmp_path: Path) -> None:
    scene = toys.write_scene(tmp_path / "scene.tif", toys.landscape(50, 61))
    given = subject(scene, SegmentationModel(converted(), toys.card("crops")))
    _, valid = given.pixels()
    whole, found = whole_pass.labels(given), crops.labels(given, batch=batch)
    assert found.patch == 22
    assert np.count_nonzero((found.labels != whole.labels) & valid) <= 1  # a tie may round


def test_what_is_fed_to_tools_is_what_segpipe_feeds(tmp_path: Path) -> None:
    pixels = toys.landscape(20, 30).astype(np.float32)
    pixels[1, 3, 4], pixels[0, 5, 6] = np.nan, np.inf
    given = subject(toys.write_scene(tmp_path / "scene.tif", pixels), pointwise())
    card, image = given.model.card, given.image()
    valid = np.isfinite(pixels).all(0) & (pixels != 0).all(0)
    mean, std = (np.array(each, np.float32)[:, None, None] for each in (card.mean, card.std))
    with np.errstate(invalid="ignore"):
        expected = np.where(valid, (pixels - mean) / std, 0)
    assert np.allclose(image.numpy(), expected, rtol=1e-6)


def test_ratios_are_of_segpipes_own_runs() -> None:
    rows = (
        Row("whole image", "one pass, fp32", Figures(3.0, 3.0, 1, 0, ""), 0),
        Row("segpipe", "fp32", Figures(4.0, 4.0, 1, 512, ""), 0),
        Row("segpipe", "default", Figures(1.0, 1.0, 1, 512, ""), 3),
        Row("other", "any", Figures(10.0, 10.0, 1, 256, ""), 25),
        Row("lacking", "any", reason="isn't there"),
    )
    found = Comparison("scene.tif", "model", 2_000_000, 1_000_000, rows)
    other, lacking = rows[3:]
    assert found.speed(other) == pytest.approx(0.2)
    assert found.times(other, "fp32") == pytest.approx(2.5)
    assert found.times(other, "default") == pytest.approx(10)
    assert found.share(other) == pytest.approx(25e-6)
    assert found.speed(lacking) is found.times(lacking, "fp32") is found.share(lacking) is None
    told = found.to_dict()["rows"]
    assert told[3]["segpipe_default_times_as_fast"] == pytest.approx(10)
    assert told[4] == {"tool": "lacking", "setting": "any", "reason": "isn't there"}


def test_equal_settings_have_segpipes_tile_and_nothing_else_changed() -> None:
    monai = list(PEERS["monai"].measured(768))
    assert [setting.options["patch"] for setting in monai] == [512, 512, 768]
    assert {**monai[0].options, "patch": 768} == monai[2].options
    assert len(list(PEERS["monai"].measured(512))) == 2  # its default is as large already
    assert len(list(PEERS["monai"].measured(0))) == 2  # segpipe itself wasn't measured
    assert len(list(PEERS["window"].measured(768))) == 2


def test_no_tool_is_imported_but_by_its_adapter() -> None:
    """And adapters are imported by the processes of their environments alone."""
    adapters = {peer.adapter: name for name, peer in PEERS.items() if peer.packages}
    for path in (ROOT / "workflows").rglob("*.py"):
        imported: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported |= {f"{node.module}", *(f"{node.module}.{a.name}" for a in node.names)}
        theirs = {name.partition(".")[0] for name in imported} & set(TOOLS)
        assert theirs <= {adapters.get(path.stem), "torchvision" if path.stem == "vision" else None}
        assert not {name.rpartition(".")[2] for name in imported} & adapters.keys(), path


def wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    """A wheel that pip installs, with these files in it."""
    info = f"{name}-{version}.dist-info"
    texts = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    texts[f"{info}/RECORD"] = "".join(f"{place},,\n" for place in [*texts, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for place, text in texts.items():
            archive.writestr(place, text)


STAND_IN = '''
"""The whole image at once, but for seven pixels, of which one is nodata."""
import torch

def sliding_window_inference(inputs, roi_size, sw_batch_size, predictor, overlap, mode):
    if mode == "gaussian":
        raise RuntimeError("no gaussian\\ntoday")
    scores = predictor(inputs)
    scores[0, :, 0, :7] = scores[0, :, 0, :7].roll(1, 0)
    return scores
'''


@pytest.mark.slow
def test_the_whole_way_with_a_tool_that_stands_in_for_another(
    segpipe: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels, "monai", "1.6.1", {"monai/__init__.py": "", "monai/inferers.py": STAND_IN})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    pixels = np.maximum(toys.landscape(300, 280), 1)
    pixels[:, 0, 3] = 0
    scene = toys.write_scene(tmp_path / "scene.tif", pixels)
    network = build("unet", 3, 4, depth=2, width=4)
    card = ModelCard(
        "toy",
        ("red", "green", "blue"),
        tuple(ClassInfo(value, f"class {value}", "#808080") for value in (1, 2, 5, 9)),
        (6700.0,) * 3,
        (2900.0,) * 3,
    )
    save(SegmentationModel(network, card), tmp_path / "model")
    words = ["bench", "peers", scene, "-m", tmp_path / "model", "--tile", "256", "--json"]
    words += ["--peer", "loop", "--peer", "geoai", "--peer", "monai"]
    done = segpipe(*words, "--environment", tmp_path / "environment")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["pixels"] == 300 * 280
    assert told["valid_pixels"] == 300 * 280 - 1
    rows = {(row["tool"], row["setting"]): row for row in told["rows"]}
    assert rows["whole image", "one pass, fp32"]["labels_differing"] == 0
    assert rows["segpipe", "fp32"]["labels_differing"] == 0
    assert rows["segpipe", "fp32"]["patch"] == 256
    assert rows["plain loop", "patches of 512, 50 % shared, gaussian"]["seconds"] > 0
    # Channels were rolled by one, so each of the six valid pixels has another label.
    ours = rows["MONAI", "patches of 512, 25 % shared"]
    assert ours["labels_differing"] == 6
    assert ours["labels_differing_share"] == pytest.approx(6 / (300 * 280 - 1))
    assert ours["peak_rss_bytes"] > 50e6
    assert rows["MONAI", "patches of 256, 25 % shared"]["labels_differing"] == 6
    failed = rows["MONAI", "patches of 512, 50 % shared, gaussian"]
    assert failed["reason"] == "today"
    (lacking,) = (row for (tool, _), row in rows.items() if tool == "geoai")
    assert "geoai-py" in lacking["reason"]
    assert "can't be installed" in lacking["reason"]
    assert not list(tmp_path.glob("*.classes.tif"))
    # What was installed there isn't here.
    with pytest.raises(ModuleNotFoundError):
        __import__("monai")


def test_refusals_are_one_line(segpipe: Command, tmp_path: Path) -> None:
    scene = toys.write_scene(tmp_path / "scene.tif", toys.landscape(64, 64))
    done = segpipe("bench", "peers", scene, "-m", "deeplabv3-resnet50", "--peer", "loop")
    assert done.code == 4
    assert "approximate" in done.err
    assert len(done.lines) == 1
    assert segpipe("bench", "peers", scene, "--peer", "nobody").code == 2


def test_a_folder_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    from segpipe.workflows.errors import OptionError
    from segpipe.workflows.peers.environment import Environment

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match="no virtual environment"):
        Environment(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
