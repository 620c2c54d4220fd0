"""ONNX files made for tests: single operations, and networks that torch exports."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

Array = NDArray[Any]
Side = int | str


def node(operation: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    """A node; inputs and outputs are words, "-" for one left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(operation, names, outputs.split(), **attributes)


def model(
    nodes: Sequence[Any],
    constants: Mapping[str, Array] = {},
    shape: Sequence[Side] = ("N", 4, "H", "W"),
    opset: int = 18,
    kind: int = TensorProto.FLOAT,
) -> Any:
    """A model from an image `x` to `y`."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list("abcd"))],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def written(proto: Any) -> bytes:
    """The bytes of a model's file."""
    content: bytes = proto.SerializeToString()
    return content


def export(network: nn.Module, bands: int = 3, *, optimize: bool = True) -> bytes:
    """What torch exports of a network, for images of any number and size.

    By default it folds batch norms, which rounds weights anew.
    """
    auto = torch.export.Dim.AUTO
    program = torch.onnx.export(
        network.eval(),
        (torch.randn(2, bands, 64, 96),),
        dynamo=True,
        dynamic_shapes=({0: auto, 2: auto, 3: auto},),
        optimize=optimize,
        verbose=False,
    )
    assert program is not None
    file = io.BytesIO()
    onnx.save(program.model_proto, file)
    return file.getvalue()


def by_onnxruntime(content: bytes, image: Array) -> Array:
    """The first output, by onnxruntime with nothing of segpipe's."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    output: Array = session.run(None, {session.get_inputs()[0].name: image})[0]
    return output


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Random numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
