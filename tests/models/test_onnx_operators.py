"""Every operation computes what onnxruntime computes."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("onnxruntime")

from segpipe.models.formats.onnx_network import OnnxNetwork
from segpipe.models.formats.onnx_operators import OPERATORS
from tests.models.onnx_files import Array, by_onnxruntime, model, node, normal, written

INT = np.int64
SCALES = {"s": np.array([1, 1, 2, 3], np.float32)}
ONES = {"w": normal(6, 2, 3, 3), "b": normal(6)}

Case = tuple[str, list[Any], dict[str, Array]]


def single(operation: str, constants: dict[str, Array] | None = None, **attributes: Any) -> Case:
    """One node that takes the image and these constants."""
    constants = constants or {}
    inputs = " ".join(["x", *constants])
    return operation, [node(operation, inputs, "y", **attributes)], constants


def ints(*values: int) -> Array:
    return np.array(values, INT)


ELEMENTWISE = "Abs Ceil Cos Erf Exp Floor HardSwish Identity Mish Neg Reciprocal Relu Round "
ELEMENTWISE += "Sigmoid Sign Sin Softplus Softsign Tanh Elu Celu HardSigmoid LeakyRelu Selu Dropout"
SUMS = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceL2", "ReduceSum")
BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum")

CASES: list[Case] = [
    *(single(name) for name in ELEMENTWISE.split()),
    *(single(name, {"a": normal(4, 1, 1, seed=1)}) for name in BINARY),
    *(single(name, {"a": np.array(1.5, np.float32)}) for name in BINARY[:4]),
    *(single(name, {"a": ints(2, 3)}, keepdims=1) for name in SUMS),
    *(single(name, {"a": ints(1)}) for name in SUMS),
    ("Div", [node("Div", "a x", "y")], {"a": np.array(2, np.float32)}),
    ("Log", [node("Abs", "x", "a"), node("Log", "a", "y")], {}),
    ("Sqrt", [node("Abs", "x", "a"), node("Sqrt", "a", "y")], {}),
    ("Pow", [node("Abs", "x", "a"), node("Pow", "a e", "y")], {"e": np.array(1.5, np.float32)}),
    ("Mod", [node("Mod", "x a", "y", fmod=1)], {"a": np.array(0.7, np.float32)}),
    single("Clip", {"l": np.array(-0.3, np.float32), "h": np.array(0.9, np.float32)}),
    ("Clip", [node("Clip", "x - h", "y")], {"h": np.array(0.9, np.float32)}),
    single("PRelu", {"a": normal(4, 1, 1)}),
    single("PRelu", {"a": normal(1)}),
    single("BatchNormalization", {n: abs(normal(4, seed=i)) for i, n in enumerate("abcd")}),
    single("InstanceNormalization", {"a": normal(4), "b": normal(4, seed=1)}, epsilon=1e-3),
    single("LayerNormalization", {"a": normal(12), "b": normal(12, seed=1)}),
    single("LRN", size=3, alpha=0.1, beta=0.6, bias=1.5),
    *(single(name) for name in ("GlobalAveragePool", "GlobalMaxPool")),
    ("Softmax", [node("Softmax", "x", "a", axis=1), node("Neg", "a", "y")], {}),
    ("LogSoftmax", [node("LogSoftmax", "x", "y", axis=1)], {}),
    single("Transpose", perm=[0, 2, 3, 1]),
    single("Cast", to=1),
    ("Cast", [node("Cast", "x", "a", to=7), node("Cast", "a", "y", to=1)], {}),
    ("CastLike", [node("Cast", "x", "a", to=7), node("CastLike", "x a", "b"),
                  node("CastLike", "b x", "y")], {}),
    single("Pad", {"p": ints(0, 0, 1, 2, 0, 0, 3, 4)}),
    single("Pad", {"p": ints(0, 0, 1, 2, 0, 0, 3, 4), "v": np.array(7, np.float32)}),
    single("Pad", {"p": ints(0, 0, -1, 2, 0, 0, 3, -2)}),
    single("Pad", {"p": ints(0, 0, 1, 2, 0, 0, 3, 4)}, mode="reflect"),
    single("Pad", {"p": ints(0, 0, 1, 2, 0, 0, 3, 4)}, mode="edge"),
    single("Slice", {"a": ints(1, -5), "b": ints(2**60, -1), "c": ints(2, 3), "d": ints(2, 1)}),
    single("Expand", {"a": ints(2, 1, 1, 1)}),
    single("Tile", {"a": ints(1, 2, 1, 1)}),
    single("DepthToSpace", blocksize=2, mode="DCR"),
    single("DepthToSpace", blocksize=2, mode="CRD"),
    single("SpaceToDepth", blocksize=2),
    single("Gather", {"a": ints(2, -1)}, axis=1),
    ("Gather", [node("Gather", "x i", "a", axis=1), node("Unsqueeze", "a d", "y")],
     {"i": np.array(1, INT), "d": ints(1)}),
    ("Concat", [node("Neg", "x", "a"), node("Concat", "x a", "y", axis=1)], {}),
    ("Split", [node("Split", "x s", "a y", axis=1)], {"s": ints(1, 3)}),
    ("Split", [node("Split", "x", "y a", axis=1, num_outputs=2)], {}),
    ("Squeeze", [node("Unsqueeze", "x d", "a"), node("Squeeze", "a d", "y")], {"d": ints(0)}),
    ("Flatten", [node("Shape", "x", "s"), node("Flatten", "x", "a"), node("Reshape", "a s", "y")],
     {}),
    ("Shape", [node("Shape", "x", "a", start=1), node("Concat", "n a", "s", axis=0),
               node("Reshape", "x s", "y")], {"n": ints(-1)}),
    ("Size", [node("Size", "x", "a"), node("Cast", "a", "b", to=1), node("Div", "x b", "y")], {}),
    ("Where", [node("Greater", "x z", "c"), node("Where", "c x z", "y")],
     {"z": np.array(0.1, np.float32)}),
    *((name, [node(name, "x z", "c"), node("Cast", "c", "y", to=1)],
       {"z": np.array(0.1, np.float32)})
      for name in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    *((name, [node("Greater", "x z", "a"), node("Less", "x o", "b"), node(name, "a b", "c"),
              node("Not", "c", "d"), node("Cast", "d", "y", to=1)],
       {"z": np.array(0.1, np.float32), "o": np.array(0.5, np.float32)})
      for name in ("And", "Or")),
    ("Not", [node("Greater", "x z", "a"), node("Not", "a", "b"), node("Cast", "b", "y", to=1)],
     {"z": np.array(0.1, np.float32)}),
    ("MatMul", [node("MatMul", "x w", "y")], {"w": normal(12, 5)}),
    ("Gemm", [node("Shape", "x", "s"), node("Flatten", "x", "f", axis=3),
              node("Gemm", "f w b", "g", transB=1, alpha=0.5, beta=2.0),
              node("Reshape", "g s", "y")],
     {"w": normal(12, 12), "b": normal(12)}),
    ("ConstantOfShape", [node("Shape", "x", "s"), node("ConstantOfShape", "s", "a"),
                         node("Add", "x a", "y")], {}),
    ("Range", [node("Shape", "x", "s", start=3), node("Squeeze", "s", "e"),
               node("Range", "z e o", "r"), node("Gather", "x r", "y", axis=3)],
     {"z": np.array(0, INT), "o": np.array(2, INT)}),
    ("MaxPool", [node("MaxPool", "x", "a i", kernel_shape=[2, 2], strides=[2, 2]),
                 node("Cast", "i", "y", to=1)], {}),
    ("Conv", [node("Neg", "w", "v"), node("Conv", "x v b", "y", group=2, pads=[1, 1, 1, 1])], ONES),
    ("Resize", [node("Resize", "x - - z", "y", mode="linear")], {"z": ints(2, 4, 15, 25)}),
    ("Resize", [node("Resize", "x - s", "y", mode="cubic", cubic_coeff_a=-0.75)], SCALES),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_an_operation_gives_what_onnxruntime_gives(case: Case) -> None:
    _, nodes, constants = case
    agree(written(model(nodes, constants)))


def test_every_operation_has_a_case() -> None:
    tested = {case[0] for case in CASES}
    # These are compared over all their attributes, below.
    swept = {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "Resize", "Upsample", "Unsqueeze"}
    later = {"Gelu", "GroupNormalization"}
    # torch's export of unpooling has ScatterND; Reshape is part of other cases.
    assert OPERATORS.keys() - tested - swept - later <= {"ScatterND", "Reshape"}


def agree(content: bytes, height: int = 10, width: int = 12, tolerance: float = 1e-5) -> None:
    image = normal(2, 4, height, width, seed=5)
    network = OnnxNetwork(content)
    values = network._computed(torch.from_numpy(image))
    expected = by_onnxruntime(content, image)
    assert values.shape == expected.shape
    np.testing.assert_allclose(values.detach().numpy(), expected, rtol=1e-4, atol=tolerance)


side = st.integers(1, 3)
pair = st.tuples(side, side)


@settings(max_examples=60, deadline=None)
@given(pair, pair, pair, st.tuples(*[st.integers(0, 3)] * 4), st.data())
def test_convolutions_with_all_their_attributes(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pads: tuple[int, int, int, int],
    data: st.DataObject,
) -> None:
    auto = data.draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    group = data.draw(st.sampled_from([1, 2, 4]))
    options: dict[str, Any] = {"strides": stride, "group": group}
    # onnxruntime takes dilations with automatic padding for something else.
    options |= {"pads": pads, "dilations": dilation} if auto == "NOTSET" else {"auto_pad": auto}
    weights = {"w": normal(4, 4 // group, *kernel)}
    agree(written(model([node("Conv", "x w", "y", **options)], weights)))


@settings(max_examples=40, deadline=None)
@given(pair, pair, pair, st.tuples(st.integers(0, 1), st.integers(0, 1)), st.data())
def test_transposed_convolutions_with_all_their_attributes(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pad: tuple[int, int],
    data: st.DataObject,
) -> None:
    extra = tuple(data.draw(st.integers(0, most - 1)) for most in stride)
    group = data.draw(st.sampled_from([1, 2]))
    weights = {"w": normal(4, 3, *kernel), "b": normal(3 * group)}
    options = {
        "strides": stride,
        "dilations": dilation,
        "pads": (*pad, *pad),
        "output_padding": extra,
        "group": group,
    }
    agree(written(model([node("ConvTranspose", "x w b", "y", **options)], weights)))


@settings(max_examples=60, deadline=None)
@given(st.booleans(), pair, pair, st.tuples(*[st.integers(0, 2)] * 4), st.data())
def test_poolings_with_all_their_attributes(
    largest: bool,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pads: tuple[int, int, int, int],
    data: st.DataObject,
) -> None:
    assume(all(pad < kernel[at % 2] for at, pad in enumerate(pads)))
    options: dict[str, Any] = {"kernel_shape": kernel, "strides": stride}
    auto = data.draw(st.sampled_from(["NOTSET", "SAME_UPPER", "VALID"]))
    # onnxruntime has no windows that leave pixels out then.
    assume(auto != "SAME_UPPER" or all(a <= b for a, b in zip(stride, kernel, strict=True)))
    options |= {"pads": pads} if auto == "NOTSET" else {"auto_pad": auto}
    if not largest:
        options["count_include_pad"] = data.draw(st.integers(0, 1))
    operation = "MaxPool" if largest else "AveragePool"
    agree(written(model([node(operation, "x", "y", **options)])))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["nearest", "linear"]),
    st.sampled_from(["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]),
    st.sampled_from(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]),
    st.tuples(*[st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0])] * 2),
)
def test_interpolations_with_all_their_attributes(
    mode: str, places: str, nearest: str, scales: tuple[float, float]
) -> None:
    options = {"mode": mode, "coordinate_transformation_mode": places, "nearest_mode": nearest}
    constants = {"s": np.array([1, 1, *scales], np.float32)}
    agree(written(model([node("Resize", "x - s", "y", **options)], constants)))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsampling_as_old_files_have_it(mode: str) -> None:
    agree(written(model([node("Upsample", "x s", "y", mode=mode)], SCALES, opset=9)))
    agree(written(model([node("Resize", "x s", "y", mode=mode)], SCALES, opset=10)))


def test_operations_of_newer_versions() -> None:
    group = {"a": normal(4), "b": normal(4, seed=1)}
    agree(written(model([node("GroupNormalization", "x a b", "y", num_groups=2)], group, opset=21)))
    for how in ("none", "tanh"):
        agree(written(model([node("Gelu", "x", "y", approximate=how)], opset=20)))


def test_options_that_were_attributes_in_old_files() -> None:
    for one in (
        node("Slice", "x", "y", starts=[1, 2], ends=[9, 11], axes=[2, 3]),
        node("Pad", "x", "y", pads=[0, 0, 1, 2, 0, 0, 3, 4], value=2.0),
        node("Clip", "x", "y", min=-0.5, max=0.5),
        node("ReduceMean", "x", "y", axes=[2, 3]),
        node("Split", "x", "y z", axis=1, split=[1, 3]),
    ):
        agree(written(model([one], opset=9)))
    old = [node("Softmax", "x", "a", axis=1), node("Neg", "a", "y")]
    agree(written(model(old, opset=9)))
