"""Maps by networks in ONNX files: the law, a published model, and files that are refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import onnxruntime

from segpipe.models.package import ClassInfo, ModelCard, SegmentationModel, load
from segpipe.workflows.import_model import import_model
from segpipe.workflows.run import run
from segpipe.workflows.verify import verify
from tests import toys
from tests.models.onnx_files import export, model, node, normal, written
from tests.workflows.conftest import Command

Labels = NDArray[np.uint8]


def labels_of(path: Path) -> Labels:
    with rasterio.open(path) as file:
        labels: Labels = file.read(1)
    return labels


# ---- the law


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of a U-Net that went through an ONNX file."""
    folder = tmp_path_factory.mktemp("onnx")
    own = toys.small()
    (folder / "unet.onnx").write_bytes(export(own.network))
    card = {"bands": own.card.bands, "mean": list(own.card.mean), "std": list(own.card.std)}
    (folder / "card.yaml").write_text(json.dumps(card))
    found = import_model(
        folder / "unet.onnx", output=folder / "unet", card_file=folder / "card.yaml"
    )
    footprint = found.inspection.footprint
    assert footprint == own.footprint
    assert found.inspection.proof is not None
    assert found.inspection.proof.holds
    return folder / "unet"


def test_tiles_are_invisible_with_onnxruntime(
    exported: Path, examples: Path, tmp_path: Path
) -> None:
    scene = examples / "landsat8-224077-rgb.tif"
    with rasterio.open(scene) as file:
        pixels = file.read()
    package = load(exported)
    expected = in_one_pass((exported / "network.onnx").read_bytes(), package, pixels)
    assert len(np.unique(expected)) > 3
    for side in (256, 512):
        report = run(scene, model=exported, output=tmp_path / f"{side}.tif", tile=side)
        assert report.engine.name == "onnxruntime"
        assert report.footprint.exact
        assert not report.warnings
        np.testing.assert_array_equal(labels_of(report.output), expected)
    assert verify(scene, tmp_path / "512.tif", model=exported, windows=2).differing == 0

    by_torch = run(
        scene, model=exported, output=tmp_path / "t.tif", engine="torch", precision="fp32"
    )
    assert by_torch.engine.name == "torch"
    assert np.mean(labels_of(by_torch.output) == expected) >= 0.9999


def in_one_pass(content: bytes, package: SegmentationModel, pixels: NDArray[np.generic]) -> Labels:
    """The law's reference: the whole image in one call of onnxruntime."""
    card, stride = package.card, package.footprint.stride
    valid = (pixels != 0).all(axis=0)
    mean, std = (np.array(n, np.float32)[:, None, None] for n in (card.mean, card.std))
    image = np.where(valid, (pixels.astype(np.float32) - mean) / std, np.float32(0))
    height, width = valid.shape
    padded = np.pad(image, ((0, 0), (0, -height % stride), (0, -width % stride)))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    scores = session.run(None, {session.get_inputs()[0].name: padded[None]})[0]
    best = scores[0, :, :height, :width].argmax(0).astype(np.uint8)
    return np.where(valid, best, np.uint8(255))


def test_torch_says_that_it_computes_instead(
    exported: Path, examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    scene = examples / "landsat8-224077-rgb.tif"
    report = run(scene, model=exported, output=tmp_path / "map.tif", precision="auto")
    assert report.engine.name == "torch"
    assert any("torch computed this ONNX file" in text for text in report.warnings)


# ---- a published model


CLASSES = ("clear", "cloud", "shadow")
OVERLAP = 52
"""256 pixels less the whole part of 0.8 x 256: what ukis-csmask's windows share."""


def reflectance(path: Path, count: int, *, clouds: bool) -> NDArray[np.float32]:
    """A Landsat 7 scene at the top of the atmosphere, (band, row, column), 30 degrees of zenith.

    From the calibration of Chander, Markham and Helder (2009), and with made-up clouds if wanted.
    """
    with rasterio.open(path) as file:
        numbers = file.read().astype(np.float64)
    numbers = np.where(numbers == 0, np.median(numbers, (1, 2), keepdims=True), numbers)
    gain = np.array([0.7787, 0.7988, 0.6217, 0.9686, 0.1262, 0.0439])[:, None, None]
    bias = np.array([-6.98, -7.20, -5.62, -6.07, -1.13, -0.39])[:, None, None]
    sun = np.array([1997, 1812, 1533, 1039, 230.8, 84.9])[:, None, None]
    image = np.clip(np.pi * (gain * numbers + bias) / (sun * np.cos(np.radians(45))), 0, 1)
    if clouds:
        image = under_clouds(image)
    wanted: NDArray[np.float32] = image[:count].astype(np.float32)
    return wanted


def under_clouds(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """The image with bright discs, and their shadows to the lower left."""
    random = np.random.default_rng(1)
    row, column = np.mgrid[: image.shape[1], : image.shape[2]]
    white = np.array([0.62, 0.6, 0.6, 0.62, 0.45, 0.33])[:, None, None]
    for _ in range(14):
        y, x, radius = *(random.random(2) * image.shape[1:]), random.uniform(12, 45)
        shade = np.clip(1.3 - np.hypot(row - y - 20, column - x + 20) / radius, 0, 1)
        cover = np.clip(1.3 - np.hypot(row - y, column - x) / radius, 0, 1)
        image = image * (1 - 0.7 * shade) * (1 - cover) + cover * white
    return image


def from_edges(length: int, first: int, step: int) -> NDArray[np.float64]:
    """How far each pixel is from the nearest edge of a window of 256 pixels, along an axis."""
    starts = np.arange(first, length, step)
    edges = np.concatenate([starts, starts + 256])
    inside = edges[(edges > 0) & (edges < length)]
    distance: NDArray[np.float64] = np.abs(np.arange(length)[:, None] + 0.5 - inside).min(1)
    return distance


def away(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels that are 32 pixels or more from every window's edge, ours and ukis-csmask's."""
    far = [
        np.minimum(from_edges(side, 0, 128), from_edges(side, 1 - OVERLAP, 256 - OVERLAP)) >= 32
        for side in shape
    ]
    return np.logical_and(far[0][:, None], far[1])


def masked(image: NDArray[np.float32], names: list[str]) -> Labels:
    """What ukis-csmask says of the image."""
    from ukis_csmask.mask import CSmask

    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    labels: Labels = CSmask(pixels, names, providers=["CPUExecutionProvider"]).csm[..., 0]
    return labels


@pytest.mark.parametrize(
    ("bands", "sides"),
    [(4, (512,)), pytest.param(6, (256, 512), marks=pytest.mark.slow)],
)
def test_cloud_masks_are_those_of_ukis_csmask(
    bands: int, sides: tuple[int, ...], examples: Path, tmp_path: Path, segpipe: Command
) -> None:
    package = pytest.importorskip("ukis_csmask")
    file = Path(package.__file__).parent / f"model_{bands}b_l1c.onnx"
    told = json.loads(file.with_suffix(".json").read_text())["data"]["dataset_statistics"]
    names: list[str] = told["band_names"]
    mean, std = (",".join(map(str, numbers)) for numbers in told["img"])
    (tmp_path / "card.yaml").write_text(f"overlap: {OVERLAP}\nedges: mirror\n")
    words = ("--bands", ",".join(names), "--classes", ",".join(CLASSES), "--mean", mean)
    done = segpipe(
        "model", "import", file, "-o", "mask", *words, "--std", std, "--card", "card.yaml"
    )
    assert (done.code, done.err) == (0, "")
    copied = load(tmp_path / "mask")
    card = replace(copied.card, overlap=None, edges="zeros")
    blended = SegmentationModel(copied.network, card)

    def scene(name: str, image: NDArray[np.float32]) -> Path:
        path = tmp_path / name
        return toys.write_scene(path, image, nodata=None, names=tuple(names))

    clear = reflectance(examples / "landsat7-nc-2000.tif", bands, clouds=False)
    report = run(scene("clear.tif", clear), model=blended, output=tmp_path / "a.tif")
    assert report.footprint.reasons == ("the file takes images of 256 x 256 pixels and no others",)
    agree = labels_of(report.output) == masked(clear, names)
    assert np.mean(agree[away(agree.shape)]) >= 0.99

    cloudy = reflectance(examples / "landsat7-nc-2000.tif", bands, clouds=True)
    expected = masked(cloudy, names)
    assert len(np.unique(expected)) == 3
    path = scene("cloudy.tif", cloudy)
    for side in sides:
        report = run(path, model=copied, output=tmp_path / f"{side}.tif", tile=side)
        assert report.engine.name == "onnxruntime"
        assert np.count_nonzero(labels_of(report.output) != expected) == 0


# ---- refused


def evil(path: Path) -> Path:
    """A network whose weights lie above its folder."""
    proto = model([node("Conv", "x w", "y", pads=[1] * 4)], {"w": normal(3, 4, 3, 3)})
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    entry: Any = tensor.external_data.add()
    entry.key, entry.value = "location", "../canary.bin"
    path.write_bytes(written(proto))
    return path


def test_weights_above_the_folder_are_refused(segpipe: Command, tmp_path: Path) -> None:
    (tmp_path / "canary.bin").write_bytes(bytes(432))
    folder = tmp_path / "folder"
    folder.mkdir()
    before = (tmp_path / "canary.bin").stat().st_atime_ns
    done = segpipe("model", "import", evil(folder / "evil.onnx"), "-o", "package")
    assert done.code == 4
    assert len(done.lines) == 1
    assert "'../canary.bin'" in done.err
    assert (tmp_path / "canary.bin").stat().st_atime_ns == before
    assert not (tmp_path / "package").exists()


def test_a_package_is_refused_for_its_file(
    segpipe: Command, exported: Path, examples: Path, tmp_path: Path
) -> None:
    for name, content in (
        ("external", evil(tmp_path / "evil.onnx").read_bytes()),
        ("cut", (exported / "network.onnx").read_bytes()[:-100]),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.json").write_bytes((exported / "model.json").read_bytes())
        (folder / "network.onnx").write_bytes(content)
        done = segpipe("run", examples / "landsat8-224077-rgb.tif", "-m", folder, "-o", "map.tif")
        assert done.code == 4
        assert len(done.lines) == 1
        assert not (tmp_path / "map.tif").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--engine", "onnxruntime"), "ONNX files, this one isn't"),
        (("--engine", "tpu"), "'tpu' is not one of"),
    ],
)
def test_an_engine_that_cannot_run_it_is_refused(
    words: tuple[str, ...], reason: str, segpipe: Command, tiny_model: Path, examples: Path
) -> None:
    scene = examples / "landsat8-224077-rgb.tif"
    done = segpipe("run", scene, "-m", tiny_model, "-o", "map.tif", *words)
    assert done.code == 2
    assert reason in done.err


def test_any_network_of_one_size_is_blended(tmp_path: Path) -> None:
    """Tiles of a blend are invisible too, whatever the overlap and the edges."""
    nodes = [node("GlobalAveragePool", "x", "a"), node("Add", "x a", "b")]
    nodes.append(node("Conv", "b w", "y", pads=[1] * 4))
    (tmp_path / "net.onnx").write_bytes(
        written(model(nodes, {"w": normal(3, 3, 3, 3)}, ("N", 3, 64, 64)))
    )
    scene = toys.write_scene(tmp_path / "scene.tif", toys.landscape(600, 530))
    found = import_model(tmp_path / "net.onnx", output=tmp_path / "net")
    assert found.inspection.card.window == 64
    network = load(tmp_path / "net").network
    infos = tuple(ClassInfo(value, f"c{value}", "#123456") for value in range(3))
    for overlap, edges in ((None, "zeros"), (13, "zeros"), (13, "mirror")):
        card = ModelCard(
            "net", ("red", "green", "blue"), infos, (6700.0,) * 3, (2900.0,) * 3,
            overlap=overlap, edges=edges,  # type: ignore[arg-type]
        )  # fmt: skip
        maps = []
        for side in (256, 768):
            report = run(
                scene,
                model=SegmentationModel(network, card),
                output=tmp_path / "map.tif",
                tile=side,
                overwrite=True,
            )
            assert not report.footprint.exact
            maps.append(labels_of(report.output))
        np.testing.assert_array_equal(maps[0], maps[1])
        assert len(np.unique(maps[0])) > 2
