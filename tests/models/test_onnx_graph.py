"""ONNX files that nobody vouches for: refused for a reason, with nothing read or run."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper

from segpipe.models.errors import ModelError
from segpipe.models.formats.onnx_graph import read_graph
from segpipe.models.formats.onnx_network import OnnxNetwork
from tests.models.onnx_files import model, node, normal, written

WEIGHTS = {"w": normal(3, 4, 3, 3)}
CONV = node("Conv", "x w", "y", pads=[1, 1, 1, 1])


@contextmanager
def opened() -> Iterator[list[str]]:
    """Names of all files that Python opens meanwhile."""
    names: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open":
            names.append(os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else "")

    sys.addaudithook(hook)  # can't be taken off again
    try:
        yield names
    finally:
        watching = False


def external(tensor: Any, location: str) -> None:
    """Lets a tensor lie in another file."""
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    for key, value in (("location", location), ("offset", "0"), ("length", "432")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


@pytest.mark.parametrize("location", ["../canary.bin", "canary.bin", "/etc/passwd"])
@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
def test_other_files_are_never_read(
    location: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for path in (tmp_path, folder):
        # Whoever opens a pipe to read it waits for ever.
        os.mkfifo(path / "canary.bin")
    proto = model([CONV], WEIGHTS)
    tensor = proto.graph.initializer[0]
    if place != "initializer":
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
        del proto.graph.initializer[0]
        tensor = proto.graph.node[0].attribute[0].t
    if place == "branch":
        inner = helper.make_graph([proto.graph.node[0]], "inner", [], [])
        del proto.graph.node[0]
        tensor = inner.node[0].attribute[0].t
        external(tensor, location)
        proto.graph.node.insert(0, helper.make_node("If", ["x"], ["w"], then_branch=inner))
    else:
        external(tensor, location)
    with opened() as names, pytest.raises(ModelError, match=r"another file, .*isn't read"):
        OnnxNetwork(written(proto))
    assert not [name for name in names if "canary" in name or "passwd" in name]


def refused(proto: Any, reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as error:
        OnnxNetwork(written(proto))
    assert "\n" not in str(error.value)


def test_operations_of_others_are_refused_by_name() -> None:
    foreign = helper.make_node("Evil", ["x"], ["y"], name="it", domain="com.evil")
    proto = model([foreign])
    proto.opset_import.append(helper.make_opsetid("com.evil", 1))
    refused(proto, r"Evil \(it\) is of the domain 'com.evil'")


def test_branches_and_loops_are_refused_by_name() -> None:
    inner = helper.make_graph([], "inner", [], [])
    refused(model([helper.make_node("If", ["x"], ["y"], then_branch=inner)]), "If .* branches")
    refused(model([helper.make_node("Loop", ["x"], ["y"], body=inner)]), "Loop .* branches")


def test_functions_are_refused() -> None:
    proto = model([CONV], WEIGHTS)
    proto.functions.add().name = "mine"
    refused(proto, "has functions")


def test_unknown_operations_are_refused_by_name() -> None:
    refused(model([node("Asinh", "x", "y")]), r"Asinh \(Asinh_0\) isn't supported")


def test_quantised_weights_are_refused() -> None:
    proto = model([CONV], WEIGHTS)
    proto.graph.initializer[0].data_type = TensorProto.FLOAT8E4M3FN
    with pytest.raises(ModelError):
        read_graph(written(proto))


def test_weights_that_are_too_few_for_their_shape_take_no_memory() -> None:
    proto = model([CONV], WEIGHTS)
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend([1 << 20, 4, 1 << 6, 1 << 6])
    with pytest.raises(ModelError, match=r"valid|damaged"):
        read_graph(written(proto))


LARGE: dict[str, Callable[[], Any]] = {
    "ConstantOfShape": lambda: [node("ConstantOfShape", "n", "c")],
    "Expand": lambda: [node("Expand", "one n", "c")],
    "Tile": lambda: [node("Tile", "four n", "c")],
    "Range": lambda: [node("Range", "zero most one0", "c")],
}


@pytest.mark.parametrize("name", LARGE)
def test_constants_that_would_fill_the_memory_are_refused(name: str) -> None:
    constants = {
        "n": np.array([1 << 15] * 4, np.int64),
        "one": np.ones(1, np.int64),
        "four": np.ones((1, 1, 1, 1), np.int64),
        "zero": np.array(0, np.int64),
        "one0": np.array(1, np.int64),
        "most": np.array(1 << 40, np.int64),
    }
    nodes = [*LARGE[name](), node("Cast", "c", "d", to=1), node("Add", "x d", "y")]
    refused(model(nodes, constants), "too large")


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (("N", 4, 256, 128), "256 x 128"),
        (("N", 4, "H", 128), "any x 128"),
        (("N", 4, "W"), "3 sides"),
    ],
)
def test_images_of_an_odd_shape_are_refused(shape: tuple[Any, ...], reason: str) -> None:
    refused(model([node("Relu", "x", "y")], shape=shape), reason)


def test_images_of_whole_numbers_are_refused() -> None:
    proto = model([node("Cast", "x", "y", to=1)], kind=TensorProto.UINT8)
    refused(proto, "type UINT8")


def test_several_images_are_refused() -> None:
    proto = model([node("Add", "x z", "y")])
    proto.graph.input.append(
        helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4, "H", "W"])
    )
    refused(proto, "takes one image.* x, z")


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damaged_files_are_refused_or_read(data: st.DataObject) -> None:
    content = written(model([CONV], WEIGHTS))
    if data.draw(st.booleans(), "cut"):
        damaged = content[: data.draw(st.integers(0, len(content) - 1), "length")]
    else:
        changed = bytearray(content)
        for _ in range(data.draw(st.integers(1, 4), "bytes")):
            changed[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        damaged = bytes(changed)
    with suppress(ModelError):
        network = OnnxNetwork(damaged)
        assert sum(one.numel() for one in network.parameters()) <= len(content)


def test_a_text_is_no_onnx_file() -> None:
    for content in (b"", b"# not a network\n", b"PK\x03\x04" + bytes(100)):
        with pytest.raises(ModelError, match="ONNX file"):
            OnnxNetwork(content)


def test_the_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModelError, match=r"pip install 'segpipe\[onnx\]'"):
        OnnxNetwork(b"")


def test_nodes_that_need_no_image_are_worked_out_beforehand() -> None:
    nodes = [
        node("Mul", "a b", "c"),
        node("Reshape", "c s", "w"),
        node("Constant", "", "s", value_ints=[4, 4, 1, 1]),
        node("Conv", "x w", "y"),
    ]
    proto = model([nodes[2], *nodes[:2], nodes[3]], {"a": normal(16), "b": normal(16, seed=1)})
    graph = read_graph(written(proto))
    assert [one.operation for one in graph.nodes] == ["Conv"]
    expected = (normal(16) * normal(16, seed=1)).reshape(4, 4, 1, 1)
    np.testing.assert_array_equal(graph.constants["w"], expected)
