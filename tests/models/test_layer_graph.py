"""Networks as data: they compute what the code computed, and no text makes them do more."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.architectures.registry import build, names
from segpipe.models.errors import ModelError
from segpipe.models.folding import fold
from segpipe.models.footprint import measure
from segpipe.models.footprints.proof import he_initialise
from segpipe.models.formats.layer_graph import NAME, LayerGraph, layer_graph, trace
from segpipe.models.formats.layer_steps import LONGEST_TEXT, Graph
from segpipe.models.formats.layer_vocabulary import LAYERS, defaults
from segpipe.models.package import SegmentationModel, load, save
from tests import toys


class Twisted(nn.Module):
    """What people write: functions, methods, sizes, slices, tensors of their own, shared layers."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"down": nn.Conv2d(3, 4, 3, padding=1, bias=False)})
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 5, 2, stride=2)
        self.scale = nn.Parameter(torch.full((4, 1, 1), 0.5))
        self.register_buffer("shift", torch.arange(3.0)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm(self.parts["down"](image - self.get_buffer("shift")))
        half, where = F.max_pool2d(F.relu(x), 2, return_indices=True)
        back = F.max_unpool2d(half, where, [2, 2], output_size=x.size()[2:])
        y = torch.cat([half * self.scale, self.norm(half)], dim=1)[:, :4]
        high = image.shape[2] - back.size(2)
        scores: Tensor = self.up(y) + F.pad(back, [0, 0, 0, high])[:, 0:1, ..., :] / 2
        return scores.clamp(min=-9.0)


def fresh(network: nn.Module) -> nn.Module:
    he_initialise(network)
    return network.eval()


def networks() -> dict[str, Callable[[], nn.Module]]:
    return {
        "u-net": lambda: build("unet", 3, 5, depth=2, width=4),
        "residual": lambda: build("unet-resnet18", 3, 5),
        "compact": lambda: build("fcn-compact", 3, 5),
        "twisted": Twisted,
    }


@pytest.mark.parametrize("name", networks())
def test_the_graph_computes_what_the_code_computes(name: str) -> None:
    network = fresh(networks()[name]())
    graph = layer_graph(network, 3, 5)
    image = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        assert torch.equal(graph(image), network(image))
        assert torch.equal(copy.deepcopy(graph)(image), network(image))
        assert torch.equal(pickle.loads(pickle.dumps(graph))(image), network(image))
    own, stored = network.state_dict(), graph.state_dict()
    assert own.keys() <= stored.keys()
    assert all(torch.equal(tensor, stored[key]) for key, tensor in own.items())
    assert {key for key, _ in graph.named_parameters()} == {
        key for key, _ in network.named_parameters()
    }
    assert measure(graph) == measure(network)


def test_training_goes_on_in_the_graph() -> None:
    network = fresh(Twisted())
    graph = layer_graph(network, 3, 5)
    graph(torch.randn(1, 3, 16, 16)).sum().backward()
    assert all(weight.grad is not None for weight in graph.parameters())


def test_norms_are_folded_in_a_graph_too() -> None:
    graph = layer_graph(fresh(build("unet", 3, 5, depth=2, width=4)), 3, 5)
    image = torch.randn(1, 3, 32, 32)
    folded = fold(graph, image)
    assert not [one for one in folded.modules() if type(one) is nn.BatchNorm2d]
    with torch.inference_mode():
        torch.testing.assert_close(folded(image), graph(image), atol=1e-4, rtol=1e-4)


def test_a_text_is_the_graph() -> None:
    for make in networks().values():
        graph = trace(make().eval())
        assert Graph.from_json(graph.to_json()) == graph


@pytest.mark.parametrize("kind", LAYERS)
def test_options_of_every_layer_are_kept_by_it(kind: str) -> None:
    # What the constructor took is read back from attributes of the same names.
    numbers: dict[str, Any] = {
        "BatchNorm1d": 3, "BatchNorm2d": 3, "InstanceNorm2d": 3, "LayerNorm": 3, "ConstantPad2d": 1,
        "ZeroPad2d": 1, "ReflectionPad2d": 1, "ReplicationPad2d": 1, "PixelShuffle": 2,
        "PixelUnshuffle": 2, "AvgPool2d": 2, "MaxPool2d": 2, "MaxUnpool2d": 2,
        "AdaptiveAvgPool2d": 2, "AdaptiveMaxPool2d": 2, "LocalResponseNorm": 5,
    }  # fmt: skip
    several = {
        "Conv2d": (2, 3, 1),
        "ConvTranspose2d": (2, 3, 1),
        "Linear": (2, 3),
        "GroupNorm": (1, 2),
    }
    given_numbers = several.get(kind, (numbers[kind],) if kind in numbers else ())
    if kind == "ConstantPad2d":
        given_numbers = (1, 0.5)
    if kind.startswith("Upsampl"):
        given_numbers = (None, 2)
    layer = LAYERS[kind](*given_numbers)
    assert all(hasattr(layer, name) for name in defaults(kind))
    again = trace(nn.Sequential(layer)).layers["0"]
    assert repr(LAYERS[kind](**again.options)) == repr(layer)


@pytest.mark.parametrize("module", [nn.LSTM(3, 3), nn.MultiheadAttention(4, 1), nn.Conv3d(3, 3, 1)])
def test_a_layer_that_is_not_known_is_named(module: nn.Module) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.strange = module

        def forward(self, image: Tensor) -> Tensor:
            scores: Tensor = self.strange(image)
            return scores

    with pytest.raises(ModelError, match=f"strange is a {type(module).__name__}"):
        trace(Odd())


class Branching(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image if image.sum() > 0 else -image


class Twofold(nn.Module):
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return image, image


class Sorting(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return torch.sort(image)[0]


@pytest.mark.parametrize(
    ("network", "message"),
    [(Branching(), "can't be followed"), (Twofold(), "one tensor"), (Sorting(), "calls sort")],
)
def test_code_that_is_no_graph_is_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        trace(network)


def test_a_package_holds_a_graph(tmp_path: Path) -> None:
    model = SegmentationModel(layer_graph(fresh(Twisted()), 3, 5), toys.card())
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    image = torch.randn(1, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(again.network(image), model.network(image))
    assert again.digest == model.digest
    assert again.footprint == model.footprint


def test_a_graph_is_nothing_to_build_anew() -> None:
    assert NAME not in names()
    with pytest.raises(ModelError, match="lacks the option 'graph'"):
        build(NAME, 3, 5)


# ---- texts that nobody vouches for


def text() -> str:
    return trace(Twisted().eval()).to_json()


def meta(graph: str) -> LayerGraph:
    with torch.device("meta"):
        return LayerGraph(3, 5, graph=graph)


def edited(change: Callable[[Any], object]) -> str:
    data = json.loads(text())
    change(data)
    return json.dumps(data)


BAD: dict[str, Callable[[Any], object]] = {
    "a layer of another kind": lambda d: d["layers"].update(norm=["LSTM", {}]),
    "a layer by a path": lambda d: d["layers"].update(norm=["torch.hub.load", {}]),
    "an option that no layer has": lambda d: d["layers"]["norm"][1].update(code="x"),
    "a negative size": lambda d: d["layers"]["norm"][1].update(num_features=-3),
    "a size beyond bounds": lambda d: d["layers"]["norm"][1].update(num_features=1 << 40),
    "sizes whose product overflows": lambda d: d["layers"]["parts.down"][1].update(
        in_channels=1 << 24, out_channels=1 << 24, kernel_size=[1 << 24, 1 << 24]
    ),
    "a name of the module's own": lambda d: d["layers"].update(forward=d["layers"]["norm"]),
    "a name with underscores": lambda d: d["layers"].update(__class__=d["layers"]["norm"]),
    "a layer in a layer": lambda d: d["layers"].update({"norm.x": d["layers"]["norm"]}),
    "a name of no words": lambda d: d["layers"].update({"a..b": d["layers"]["norm"]}),
    "a function of another kind": lambda d: d["steps"].append(["function", "torch.load", [], {}]),
    "a function by a path": lambda d: d["steps"].append(["function", "os.system", ["id"], {}]),
    "a method by name": lambda d: d["steps"].append(["function", "Tensor.tofile", [], {}]),
    "a call of a layer that isn't there": lambda d: d["steps"].append(["layer", "x", [], {}]),
    "a value of the future": lambda d: d["steps"][0][2].append({"value": 99}),
    "a value before the image": lambda d: d["steps"][0][2].append({"value": -1}),
    "a tensor that isn't there": lambda d: d["steps"][0][2].append({"tensor": "weights"}),
    "a tensor of a million sides": lambda d: d["tensors"].update(scale=[[1] * 1000000, True]),
    "a tensor over a layer": lambda d: d["tensors"].update({"norm": [[1], True]}),
    "an output of the future": lambda d: d.update(output=999),
    "more than a graph": lambda d: d.update(code="print()"),
    "a string of code": lambda d: d["steps"][0][2].append("__import__('os')"),
    "a long string": lambda d: d["steps"][0][2].append("a" * 1000),
    "a number that is none": lambda d: d["steps"][0][2].append(float("nan")),
    "a deep list": lambda d: d["steps"][0][2].append([[[[[[[1]]]]]]]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_graph_is_refused(name: str) -> None:
    with pytest.raises(ModelError):
        meta(edited(BAD[name]))


@pytest.mark.parametrize(
    "bad", ["", "[]", "{}", "null", "[" * 100_000, " " * (LONGEST_TEXT + 1), "9" * 10_000]
)
def test_what_is_no_graph_at_all_is_refused(bad: str) -> None:
    with pytest.raises(ModelError):
        meta(bad)


def test_a_graph_whose_parts_do_not_fit_is_named_when_it_runs() -> None:
    def widen(data: Any) -> None:
        data["layers"]["norm"][1]["num_features"] = 7

    network = LayerGraph(3, 5, graph=edited(widen)).eval()
    with pytest.raises(ModelError, match=r"step \d+ of the network, norm, fails"):
        network(torch.zeros(1, 3, 16, 16))
    assert not measure(network).exact


def test_numbers_cannot_grow_without_bounds() -> None:
    steps: list[object] = [["function", "Tensor.size", [{"value": 0}, 2], {}]]
    steps += [["function", "operator.mul", [{"value": n}, {"value": n}], {}] for n in range(1, 100)]
    data = {"layers": {}, "tensors": {}, "steps": steps, "output": len(steps)}
    with pytest.raises(ModelError, match="beyond"):
        LayerGraph(3, 5, graph=json.dumps(data))(torch.zeros(1, 3, 64, 64))


def test_the_largest_layers_take_no_memory_before_their_weights_are_seen() -> None:
    def grow(data: Any) -> None:
        data["layers"]["parts.down"][1].update(in_channels=1 << 15, out_channels=1 << 15)

    network = meta(edited(grow))
    assert sum(one.numel() for one in network.parameters()) > 1 << 30
    assert {one.device.type for one in network.parameters()} == {"meta"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = data.keys() if isinstance(data, dict) else range(len(data))
    found: list[tuple[Any, ...]] = []
    for key in keys:
        found.append((*path, key))
        if isinstance(data[key], dict | list):
            found += places(data[key], (*path, key))
    return found


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_is_changed_is_built_or_refused(data: st.DataObject) -> None:
    graph = json.loads(text())
    *path, last = data.draw(st.sampled_from(places(graph)))
    inner = graph
    for key in path:
        inner = inner[key]
    inner[last] = data.draw(JSON)
    try:
        network = meta(json.dumps(graph))
    except ModelError:
        return
    assert all(one.device.type == "meta" for one in network.parameters())
