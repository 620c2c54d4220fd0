"""A network in an ONNX file is the network that it was exported from."""

import copy
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from segpipe.models.blend import Blended
from segpipe.models.card import ClassInfo, ModelCard
from segpipe.models.choice import choose_engine
from segpipe.models.engine import Engine
from segpipe.models.errors import DeviceError
from segpipe.models.footprint import measure
from segpipe.models.footprints.proof import prove
from segpipe.models.formats import onnx_session
from segpipe.models.formats.onnx_network import OnnxNetwork
from segpipe.models.predictor import TorchPredictor
from tests import toys
from tests.models.onnx_files import Array, by_onnxruntime, export, model, node, normal, written


class Unpooling(nn.Module):
    """Upsampling by stored places, which ONNX has as a scattering."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 8, 3, padding=1)
        self.outer = nn.Conv2d(8, 5, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x, where = nn.functional.max_pool2d(self.inner(image), 2, return_indices=True)
        scores: Tensor = self.outer(nn.functional.max_unpool2d(x, where, [2, 2]))
        return scores


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "unet": lambda: toys.small().network,
    "fcn-compact": lambda: toys.model("fcn-compact").network,
    "unpooling": lambda: toys.alive(Unpooling()),
}


@pytest.fixture(
    scope="module",
    params=["unet", pytest.param("fcn-compact", marks=pytest.mark.slow), "unpooling"],
)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, OnnxNetwork]:
    """A network and its file."""
    network = NETWORKS[request.param]()
    return network, OnnxNetwork(export(network, optimize=False))


def scores(network: nn.Module, image: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = network(image)
    return found


def test_scores_are_those_of_the_network(pair: tuple[nn.Module, OnnxNetwork]) -> None:
    network, found = pair
    image = torch.from_numpy(normal(2, 3, 96, 120))
    torch.testing.assert_close(scores(found, image), scores(network, image), rtol=0, atol=1e-5)
    double, exact = copy.deepcopy(network).double(), copy.deepcopy(found).double()
    torch.testing.assert_close(
        scores(exact, image.double()), scores(double, image.double()), rtol=0, atol=1e-10
    )


def test_the_footprint_is_that_of_the_network(pair: tuple[nn.Module, OnnxNetwork]) -> None:
    network, found = pair
    assert measure(found) == measure(network)
    assert found.footprint(3).exact
    assert prove(found, found.footprint(3)).holds


def test_labels_are_those_of_onnxruntime(pair: tuple[nn.Module, OnnxNetwork]) -> None:
    _, found = pair
    image = normal(1, 3, 256, 320)
    expected = by_onnxruntime(found.content, image).argmax(1)
    labels = scores(found, torch.from_numpy(image)).argmax(1).numpy()
    assert len(np.unique(expected)) > 2
    assert np.mean(labels == expected) >= 0.9999


def test_it_has_all_weights_and_travels_as_its_file(pair: tuple[nn.Module, OnnxNetwork]) -> None:
    network, found = pair
    assert found.parameter_count >= 0.9 * sum(one.numel() for one in network.parameters())
    image = torch.from_numpy(normal(1, 3, 64, 64))
    travelled = pickle.loads(pickle.dumps(found))
    assert torch.equal(scores(travelled, image), scores(found, image))


def test_it_computes_in_the_precision_that_it_is_cast_to(
    pair: tuple[nn.Module, OnnxNetwork],
) -> None:
    _, found = pair
    half = copy.deepcopy(found).to(torch.bfloat16)
    image = torch.from_numpy(normal(1, 3, 64, 64))
    rounded = scores(half, image.bfloat16())
    assert rounded.dtype is torch.bfloat16
    assert torch.corrcoef(torch.stack([rounded.float().flatten(), scores(found, image).flatten()]))[
        0, 1
    ] == pytest.approx(1, abs=0.01)


def test_a_global_operation_is_named_with_its_node() -> None:
    nodes = [node("GlobalAveragePool", "x", "a", name="se/pool"), node("Mul", "x a", "y")]
    footprint = OnnxNetwork(written(model(nodes))).footprint(4)
    assert not footprint.exact
    assert "se_pool" in footprint.reasons[0]


FIXED = ("N", 4, 32, 32)
CONV = node("Conv", "x w", "y", pads=[1, 1, 1, 1])
WEIGHTS = {"w": normal(3, 4, 3, 3)}


def test_a_file_for_one_size_says_so() -> None:
    network = OnnxNetwork(written(model([CONV], WEIGHTS, FIXED)))
    assert (network.bands, network.window) == (4, 32)
    footprint = network.footprint(4)
    assert not footprint.exact
    assert footprint.reasons == ("the file takes images of 32 x 32 pixels and no others",)
    with pytest.raises(ValueError, match="32 x 32 only"):
        network(torch.zeros(1, 4, 32, 64))
    with pytest.raises(ValueError, match="takes 4 bands, got 3"):
        network(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("sides", [("H", "W"), (32, 32)])
def test_bands_may_come_last(sides: tuple[int | str, int | str]) -> None:
    last = [
        node("Transpose", "x", "a", perm=[0, 3, 1, 2]),
        node("Conv", "a w", "b", pads=[1, 1, 1, 1]),
        node("Transpose", "b", "y", perm=[0, 2, 3, 1]),
    ]
    turned = OnnxNetwork(written(model(last, WEIGHTS, ("N", *sides, 4))))
    plain = OnnxNetwork(written(model([CONV], WEIGHTS, ("N", 4, *sides))))
    image = torch.from_numpy(normal(2, 4, 32, 32))
    assert turned.bands == 4
    assert torch.equal(scores(turned, image), scores(plain, image))
    for one in (turned, plain):
        torch.testing.assert_close(scores(session(one), image), scores(plain, image))


def session(network: OnnxNetwork) -> nn.Module:
    return onnx_session.on_onnxruntime(network, Engine("onnxruntime"))


def test_probabilities_become_logarithms() -> None:
    nodes = [node("Conv", "x w", "a", pads=[1, 1, 1, 1]), node("Softmax", "a", "y", axis=1)]
    network = OnnxNetwork(written(model(nodes, WEIGHTS)))
    plain = OnnxNetwork(written(model([CONV], WEIGHTS)))
    image = torch.from_numpy(normal(1, 4, 20, 24))
    for one in (network, session(network)):
        torch.testing.assert_close(scores(one, image).softmax(1), scores(plain, image).softmax(1))


@pytest.mark.parametrize("sigmoid", [True, False])
def test_a_single_channel_becomes_two_classes(sigmoid: bool) -> None:
    weights = {"w": normal(1, 4, 3, 3)}
    nodes = [node("Conv", "x w", "a", pads=[1, 1, 1, 1])]
    nodes.append(node("Sigmoid" if sigmoid else "Identity", "a", "y"))
    network = OnnxNetwork(written(model(nodes, weights)))
    image = torch.from_numpy(normal(1, 4, 20, 24))
    logits = nn.functional.conv2d(image, torch.from_numpy(weights["w"]), padding=1)
    for one in (network, session(network)):
        found = scores(one, image)
        assert found.shape == (1, 2, 20, 24)
        torch.testing.assert_close(found.softmax(1)[:, 1:], logits.sigmoid())


def test_labels_instead_of_scores_are_refused() -> None:
    nodes = [node("ArgMax", "x", "a", axis=1), node("Cast", "a", "y", to=1)]
    with pytest.raises(Exception, match="ArgMax"):
        OnnxNetwork(written(model(nodes)))
    whole = OnnxNetwork(written(model([node("Cast", "x", "y", to=7)])))
    with pytest.raises(ValueError, match="not scores"):
        whole(torch.zeros(1, 4, 8, 8))


def test_a_file_for_one_image_at_a_time_takes_several() -> None:
    network = OnnxNetwork(written(model([CONV], WEIGHTS, (1, 4, "H", "W"))))
    images = torch.from_numpy(normal(3, 4, 16, 16))
    expected = torch.cat([scores(network, one[None]) for one in images])
    assert torch.equal(scores(network, images), expected)
    torch.testing.assert_close(scores(session(network), images), expected)


# ---- which library computes


CARD = ModelCard(
    "toy",
    ("a", "b", "c", "d"),
    tuple(ClassInfo(value, f"c{value}", "#123456") for value in range(3)),
    (0.0,) * 4,
    (1.0,) * 4,
    window=32,
)


def chosen(network: nn.Module, **options: str) -> Engine:
    pixels, valid = normal(4, 32, 32), np.ones((32, 32), np.bool_)
    return choose_engine(network, CARD, 1, pixels, valid, threads=2, **options)  # type: ignore[arg-type]


@pytest.fixture
def network() -> OnnxNetwork:
    return OnnxNetwork(written(model([CONV], WEIGHTS)))


def test_onnxruntime_is_taken_for_its_files_alone(network: OnnxNetwork) -> None:
    engine = chosen(network, device="cpu")
    assert (engine.name, engine.device, engine.precision) == ("onnxruntime", "cpu", "fp32")
    assert engine.version
    assert engine.threads == 2
    assert chosen(Blended(network, 32), device="cpu") == engine
    assert chosen(network, engine="torch", precision="fp32").name == "torch"
    plain = nn.Conv2d(4, 3, 1)
    assert chosen(plain, precision="fp32").name == "torch"
    with pytest.raises(DeviceError, match="ONNX files, this one isn't"):
        chosen(plain, engine="onnxruntime")
    with pytest.raises(DeviceError, match="engines are auto, torch, onnxruntime"):
        chosen(plain, engine="tpu")


def test_another_precision_is_torchs(network: OnnxNetwork) -> None:
    assert chosen(network, precision="bf16", device="cpu").name == "torch"
    with pytest.raises(DeviceError, match="not in bf16"):
        chosen(network, engine="onnxruntime", precision="bf16", device="cpu")


def test_torch_computes_where_onnxruntime_is_missing(
    network: OnnxNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert chosen(network, precision="auto", device="cpu").name == "torch"
    with pytest.raises(DeviceError, match=r"isn't installed; pip install 'segpipe\[onnx\]'"):
        chosen(network, engine="onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DeviceError, match="isn't installed"):
        onnx_session.Session(network.content, network.layout, Engine("onnxruntime"))


@pytest.mark.parametrize("blended", [False, True])
def test_labels_of_both_libraries_agree(network: OnnxNetwork, blended: bool) -> None:
    runs = Blended(network, 32) if blended else network
    pixels = normal(4, 90, 70)
    valid = np.random.default_rng(1).random((90, 70)) > 0.1
    everything = (slice(0, 90), slice(0, 70))
    labels: list[Array] = []
    for name in ("torch", "onnxruntime"):
        predictor = TorchPredictor(runs, CARD, 4, Engine(name, threads=2))
        labels.append(predictor(pixels, valid, everything))
        again = pickle.loads(pickle.dumps(predictor))
        np.testing.assert_array_equal(again(pixels, valid, everything), labels[-1])
    assert np.mean(labels[0] == labels[1]) > 0.999
    assert len(np.unique(labels[0])) == 3


def test_memory_that_lacks_is_a_memory_error(
    network: OnnxNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    def fail(*_: object) -> None:
        raise MemoryLackError("Failed to allocate memory for requested buffer of size 9")

    class MemoryLackError(RuntimeError):
        """As onnxruntime has it."""

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", fail)
    predictor = TorchPredictor(network, CARD, 1, Engine("onnxruntime"))
    with pytest.raises(MemoryError):
        predictor(normal(4, 8, 8), np.ones((8, 8), np.bool_), (slice(0, 8), slice(0, 8)))


def test_a_session_keeps_to_the_engine(network: OnnxNetwork) -> None:
    image = torch.from_numpy(normal(1, 4, 64, 64))
    one, two = (
        scores(onnx_session.on_onnxruntime(network, Engine("onnxruntime", threads=count)), image)
        for count in (1, 2)
    )
    assert torch.equal(one, two)
    with pytest.raises(DeviceError, match="not in bf16"):
        onnx_session.on_onnxruntime(network, replace(Engine("onnxruntime"), precision="bf16"))
