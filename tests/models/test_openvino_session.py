"""Labels by OpenVINO are torch's but for rounding, and don't depend on tiles."""

import itertools
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from segpipe.models import choice, openvino_session
from segpipe.models.architectures.trimming import Edges
from segpipe.models.blend import Blended
from segpipe.models.card import ClassInfo, ModelCard
from segpipe.models.choice import choose_engine
from segpipe.models.engine import Engine, Precision, is_native
from segpipe.models.errors import DeviceError, ModelError
from segpipe.models.footprint import Footprint, measure
from segpipe.models.openvino_session import NAME, Session, is_installed, refusal
from segpipe.models.predictor import TorchPredictor
from tests import toys
from tests.models import test_trimming as trimming

needs_openvino = pytest.mark.skipif(not is_installed(), reason="OpenVINO isn't installed")
needs_bf16 = pytest.mark.skipif(not is_native("bf16", "cpu"), reason="this CPU has no bf16")

PRECISIONS = ("fp32", pytest.param("bf16", marks=needs_bf16))
Labels = NDArray[np.uint8]


def engine(precision: Precision = "fp32", name: str = NAME) -> Engine:
    return Engine(name, precision=precision, threads=2)


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    return toys.small().network


CARD = toys.card()
STRIDE = 4


def whole(predictor: TorchPredictor, pixels: NDArray[np.generic]) -> Labels:
    height, width = pixels.shape[1:]
    everything = (slice(0, height), slice(0, width))
    return predictor(pixels, (pixels != 0).all(0), everything)


# ---- labels


@needs_openvino
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("side", [32, 96, 160])
def test_tiles_give_the_labels_of_the_whole(
    unet: nn.Module, precision: Precision, side: int
) -> None:
    footprint = measure(unet, 3)
    assert footprint.exact
    _tiles_are_invisible(TorchPredictor(unet, CARD, STRIDE, engine(precision)), footprint, side)


@needs_openvino
@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_tiles_of_a_resnet_give_the_labels_of_the_whole(precision: Precision) -> None:
    network = toys.model("unet-resnet18").network
    predictor = TorchPredictor(network, CARD, 32, engine(precision))
    _tiles_are_invisible(predictor, measure(network, 3), 256, extent=640)


def _tiles_are_invisible(
    predictor: TorchPredictor, footprint: Footprint, side: int, extent: int = 352
) -> None:
    pixels = toys.landscape(extent + 3, extent + 38)
    valid = (pixels != 0).all(0)
    expected = whole(predictor, pixels)
    assert len(np.unique(expected)) > 3
    height, width = valid.shape
    stride = footprint.stride
    top, left = (-(-seen // stride) * stride for seen in (footprint.top, footprint.left))
    bottom, right = (-(-seen // stride) * stride for seen in (footprint.bottom, footprint.right))
    for row, column in itertools.product(range(0, height, side), range(0, width, side)):
        end, last = min(row + side, height), min(column + side, width)
        first, start = max(row - top, 0), max(column - left, 0)
        rows, columns = slice(first, min(end + bottom, height)), slice(start, last + right)
        core = (slice(row - first, end - first), slice(column - start, last - start))
        found = predictor(pixels[:, rows, columns], valid[rows, columns], core)
        np.testing.assert_array_equal(found, expected[row:end, column:last])


@cache
def trimmed_session(name: str, precision: Precision) -> Session:
    with patch.object(openvino_session, "LIGHT", 0):
        return Session(trimming.network(name), 3, trimming.SIDE, engine(precision))


@needs_openvino
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", trimming.NETWORKS)
@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_what_a_decoder_leaves_out_changes_no_bit(
    name: str, precision: Precision, data: st.DataObject
) -> None:
    image, edges = trimming.drawn(data)
    assume(image.shape[-1] > trimming.SIDE)  # see `refusal`
    session = trimmed_session(name, precision)
    whole = edges.off(session(image)).clone()
    assert torch.equal(session.inner(image, edges), whole)
    assert torch.equal(session.best(image, edges).long(), whole.max(dim=1).indices)


@needs_openvino
@pytest.mark.parametrize("name", trimming.NETWORKS)
def test_so_it_is_where_little_is_left(name: str) -> None:
    image = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    session = trimmed_session(name, "fp32")
    for side in range(72, 120, 8):
        edges = Edges(side, side, side, side)
        whole = edges.off(session(image)).clone()
        assert torch.equal(session.inner(image, edges), whole), side


@needs_openvino
def test_a_trimmed_decoder_counts_as_torchs_unless_it_is_light() -> None:
    side = trimming.Side(64, 64, 256)
    for made, is_trimmed in (("resnet18", True), ("compact", False)):
        by_torch, by_openvino = (
            TorchPredictor(trimming.network(made), CARD, trimming.SIDE, engine(name=name))
            for name in ("torch", NAME)
        )
        computed = by_torch.pixels_computed([((side, side), 3)])
        assert computed < 3 * 256**2
        expected = computed if is_trimmed else 3 * 256**2
        assert by_openvino.pixels_computed([((side, side), 3)]) == expected
        assert by_openvino.trims == is_trimmed


@needs_openvino
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8", ">u2"])
def test_labels_are_torchs(unet: nn.Module, dtype: str) -> None:
    pixels = (toys.landscape(90, 70) // 100).astype(dtype)
    card = replace(CARD, mean=(67.0,) * 3, std=(29.0,) * 3)
    by_torch, by_openvino = (
        whole(TorchPredictor(unet, card, STRIDE, engine(name=name)), pixels)
        for name in ("torch", NAME)
    )
    assert np.mean(by_torch == by_openvino) > 0.999
    assert len(np.unique(by_torch)) > 3


class Ties(nn.Module):
    """Small whole numbers, of which many are equal in every precision."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(classes)
        weight = torch.randint(-1, 2, (classes, 3, 1, 1), generator=generator)
        self.weight = nn.Parameter(weight.float())

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.conv2d(images, self.weight)


@needs_openvino
@pytest.mark.parametrize("classes", [2, 3, 5, 8, 17, 64])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_first_of_equal_scores_wins(precision: Precision, classes: int) -> None:
    network = Ties(classes).eval()
    images = torch.from_numpy(np.random.default_rng(0).integers(-1, 2, (1, 3, 37, 66)))
    images = images.float()
    expected = network(images).argmax(1)
    session = Session(network, 3, 1, engine(precision))
    assert torch.equal(session.best(images).long(), expected)
    assert session(images).equal(network(images))


@needs_openvino
@pytest.mark.parametrize("precision", PRECISIONS)
def test_further_layers_change_no_label(unet: nn.Module, precision: Precision) -> None:
    predictor = TorchPredictor(unet, CARD, STRIDE, engine(precision), shares=False)
    pixels = toys.landscape(128, 96)
    valid = (pixels != 0).all(0)
    core = (slice(8, 120), slice(0, 96))
    found = predictor.layers(pixels, valid, core, ("classes", "probabilities", "confidence"))
    np.testing.assert_array_equal(found["classes"], predictor(pixels, valid, core))
    by_torch = TorchPredictor(unet, CARD, STRIDE, engine(name="torch"), shares=False)
    reference = by_torch.layers(pixels, valid, core, ("probabilities",))["probabilities"]
    differences = np.abs(found["probabilities"].astype(int) - reference)
    assert np.mean(differences <= 5) > 0.99
    assert found["confidence"].shape == (2, 112, 96)


@needs_openvino
@pytest.mark.parametrize("precision", PRECISIONS)
def test_neither_threads_nor_a_copy_change_a_label(unet: nn.Module, precision: Precision) -> None:
    pixels = toys.landscape(130, 210)
    two = TorchPredictor(unet, CARD, STRIDE, engine(precision))
    expected = whole(two, pixels)
    for threads in (1, 12):
        other = replace(engine(precision), threads=threads)
        found = whole(TorchPredictor(unet, CARD, STRIDE, other), pixels)
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(whole(pickle.loads(pickle.dumps(two)), pixels), expected)
    assert not any(module.training for module in unet.modules())


@needs_openvino
def test_another_scaling_needs_no_other_graph(unet: nn.Module) -> None:
    pixels = toys.landscape(64, 64)
    predictor = TorchPredictor(unet, CARD, STRIDE, engine())
    halved = replace(CARD, mean=(3350.0,) * 3, std=(1450.0,) * 3)
    np.testing.assert_array_equal(
        whole(predictor.for_card(halved), pixels / 2), whole(predictor, pixels.astype(np.float64))
    )


@needs_openvino
def test_a_card_with_other_classes_is_refused(unet: nn.Module) -> None:
    few = ModelCard("few", CARD.bands, (ClassInfo(1, "one", "#123456"),), (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(ModelError, match="the card's classes and the network's channels"):
        TorchPredictor(unet, few, STRIDE, engine())


@needs_openvino
def test_memory_that_lacks_is_a_memory_error(unet: nn.Module) -> None:
    predictor = TorchPredictor(unet, CARD, STRIDE, engine())

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Exception from src/inference: Failed to allocate 9 bytes of memory")

    session = predictor._network
    assert isinstance(session, Session)
    session._compiled[0] = fail
    with pytest.raises(MemoryError, match="can't allocate memory"):
        whole(predictor, toys.landscape(64, 64))


# ---- which networks, and when


class Unpooled(nn.Module):
    """Max-unpooling, which OpenVINO lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(3, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        pooled, places = nn.functional.max_pool2d(images, 2, return_indices=True)
        scores: Tensor = self.last(nn.functional.max_unpool2d(pooled, places, (2, 2)))
        return scores


@needs_openvino
def test_what_openvino_lacks_is_told_in_a_line() -> None:
    with pytest.raises(DeviceError, match="OpenVINO can't compute this network") as error:
        Session(Unpooled(), 3, 2, engine())
    assert "\n" not in str(error.value)


def chosen(network: nn.Module, **options: object) -> Engine:
    pixels = toys.landscape(96, 96)
    valid = (pixels != 0).all(0)
    return choose_engine(network, CARD, STRIDE, pixels, valid, threads=2, **options)  # type: ignore[arg-type]


LARGE = 10**12


@needs_openvino
@needs_bf16
def test_auto_takes_openvino_for_large_scenes(
    unet: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "MINIMUM_AGREEMENT", 0.5)  # the weights are random
    found = chosen(unet, area=LARGE, device="cpu")
    assert (found.name, found.precision, found.device) == (NAME, "bf16", "cpu")
    assert found.version
    assert found.agreement is not None
    assert 0.9 < found.agreement < 1
    small = chosen(unet, area=10**6, device="cpu")
    assert (small.name, small.precision) == ("torch", "bf16")
    assert chosen(unet, area=LARGE, device="cpu", precision="fp32").name == "torch"
    assert chosen(unet, area=LARGE, device="cpu", engine="torch").name == "torch"
    assert chosen(Unpooled().eval(), area=LARGE, device="cpu").name == "torch"
    assert chosen(Blended(unet, 32), area=LARGE, device="cpu").name == "torch"
    monkeypatch.setattr(choice, "MINIMUM_AGREEMENT", 1.1)
    assert chosen(unet, area=LARGE, device="cpu").precision == "fp32"


@needs_openvino
@needs_bf16
def test_auto_takes_openvino_in_fp32_where_bf16_isnt_trusted(unet: nn.Module) -> None:
    found = chosen(unet, area=LARGE, device="cpu")  # the weights are random
    assert (found.name, found.precision) == (NAME, "fp32")
    assert found.agreement is not None
    assert found.agreement > 0.9999
    small = chosen(unet, area=10**6, device="cpu")
    assert (small.name, small.precision) == ("torch", "fp32")


@needs_openvino
def test_so_it_does_where_there_is_no_bf16(
    unet: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "is_native", lambda precision, device: precision == "fp32")
    found = chosen(unet, area=LARGE, device="cpu")
    assert (found.name, found.precision) == (NAME, "fp32")
    unable = chosen(Unpooled().eval(), area=LARGE, device="cpu")
    assert (unable.name, unable.agreement) == ("torch", None)
    torchs = chosen(unet, area=LARGE, device="cpu", engine="torch")
    assert (torchs.name, torchs.precision, torchs.agreement) == ("torch", "fp32", None)


@needs_openvino
@needs_bf16
def test_what_was_compared_is_kept_for_the_run(unet: nn.Module) -> None:
    made: list[Engine] = []

    def keep(one: Engine) -> TorchPredictor:
        made.append(one)
        return TorchPredictor(unet, CARD, STRIDE, one)

    found = chosen(unet, engine=NAME, precision="bf16", kept=keep)
    assert made == [replace(found, agreement=None)]


@needs_openvino
@pytest.mark.parametrize("precision", PRECISIONS)
def test_openvino_computes_in_the_precision_that_is_asked_for(
    unet: nn.Module, precision: Precision
) -> None:
    found = chosen(unet, engine=NAME, precision=precision)
    assert (found.name, found.precision) == (NAME, precision)
    assert found.agreement is not None
    assert (found.agreement > 0.9999) == (precision == "fp32")


class Forgetful(nn.Module):
    """Computes with its image's size in Python, which the tracer writes down as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(3, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.last(images)
        return scores if images.shape[2] == 64 else -scores


@needs_openvino
def test_another_network_than_torchs_is_refused() -> None:
    torch.manual_seed(0)
    with pytest.raises(DeviceError, match="computes another network"):
        chosen(Forgetful().eval(), engine=NAME, precision="fp32")


@pytest.mark.parametrize(
    ("made", "device", "precision", "told"),
    [
        (lambda: Blended(nn.Conv2d(3, 5, 1), 32), "cpu", "auto", "not window by window"),
        (lambda: nn.Conv2d(3, 5, 1), "cuda:0", "auto", "not on cuda:0"),
        (lambda: nn.Conv2d(3, 5, 1), "cpu", "fp16", "not in fp16"),
    ],
)
def test_refusals_say_what_to_do(
    made: Callable[[], nn.Module], device: str, precision: str, told: str
) -> None:
    why = refusal(made(), device, precision, 1)
    assert why is not None
    assert told in why
    assert "--engine" in why


@needs_openvino
def test_a_scene_of_one_stride_is_torchs(unet: nn.Module) -> None:
    pixels = toys.landscape(64, STRIDE)
    valid = (pixels != 0).all(0)
    with pytest.raises(DeviceError, match=f"wider than {STRIDE} pixels"):
        choose_engine(unet, CARD, STRIDE, pixels, valid, device="cpu", engine=NAME)
    auto = choose_engine(unet, CARD, STRIDE, pixels, valid, device="cpu", area=LARGE)
    assert auto.name == "torch"


def test_without_openvino_torch_computes(unet: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_session, "is_installed", lambda: False)
    assert chosen(unet, area=LARGE, device="cpu").name == "torch"
    with pytest.raises(DeviceError, match=r"isn't installed; pip install 'segpipe\[openvino\]'"):
        chosen(unet, engine=NAME)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, NAME, None)
    assert chosen(unet, area=LARGE, device="cpu").name == "torch"
    with pytest.raises(DeviceError, match="can't be imported"):
        Session(unet, 3, STRIDE, engine())


@needs_openvino
def test_nobody_is_told_that_openvino_is_used() -> None:
    code = """
import sys, torch
from segpipe.models.engine import Engine
from segpipe.models.openvino_session import Session
Session(torch.nn.Conv2d(3, 2, 1), 3, 1, Engine("openvino"))(torch.zeros(1, 3, 8, 8))
assert sys.modules["openvino_telemetry"] is None
assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
