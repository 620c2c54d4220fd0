"""An ONNX file as a plain graph, read without trusting it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.models.errors import ModelError

Array = NDArray[Any]

INSTALL = "pip install 'segpipe[onnx]'"

LARGEST_FILE = 1 << 31
"""Bytes that protobuf, in which ONNX is written, can hold."""

LARGEST_ARRAY = 1 << 24
"""Elements of an array that is worked out from shapes alone."""

NUMBERS = frozenset(
    ("FLOAT", "FLOAT16", "DOUBLE", "INT64", "INT32", "INT16", "INT8", "UINT8", "BOOL")
)
"""Types that tensors may have."""

FLOATS = frozenset(("FLOAT", "FLOAT16", "DOUBLE"))

FOLDABLE = frozenset(
    (
        *("Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Concat", "ConstantOfShape"),
        *(
            "Div",
            "Equal",
            "Expand",
            "Flatten",
            "Floor",
            "Gather",
            "Greater",
            "GreaterOrEqual",
            "Identity",
            "Less",
        ),
        *("LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Range"),
        *("ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round", "Slice"),
        *("Split", "Sqrt", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where"),
    )
)
"""Operations on arrays that are known without pixels: shapes, and weights in other clothes."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operation: what it takes and gives by name ("" for an option left out), and how.

    `proto` is the same as onnx has it.
    """

    operation: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    proto: Any


@dataclass(frozen=True, slots=True)
class Graph:
    """What an ONNX file computes from one image.

    Attributes:
        opset: the version of the operations.
        input: name of the image.
        shape: the image's sides, None where any will do.
        output: name of the first output.
        constants: arrays by name; all floats are float32.
        nodes: in the order in which they are computed, without those that need no image.
    """

    opset: int
    input: str
    shape: tuple[int | None, ...]
    output: str
    constants: Mapping[str, Array]
    nodes: tuple[Node, ...]


def read_graph(content: bytes) -> Graph:
    """The graph in an ONNX file; nothing outside of `content` is read and nothing of it is run.

    Raises:
        ModelError: the file is damaged, needs other files or other code than ONNX's own
            operations, branches or loops, or doesn't take one image of floating-point numbers.
        ValueError, TypeError, LookupError: what it holds contradicts itself.
    """
    model = _parsed(content)
    _refuse_external(model)
    _refuse_code(model)
    _check(model)
    graph = model.graph
    opset = max((one.version for one in model.opset_import if _is_standard(one.domain)), default=1)
    constants = {one.name: array_of(one) for one in graph.initializer}
    nodes = list(_nodes(graph, opset, constants))
    image = _image(graph)
    return Graph(
        opset,
        image.name,
        tuple(_sides(image)),
        _wanted(graph),
        MappingProxyType(constants),
        tuple(nodes),
    )


def evaluate(node: Node, opset: int, arrays: list[Array]) -> list[Array]:
    """What a foldable operation makes of arrays, by ONNX's own reference implementation.

    Raises:
        ModelError: they don't fit it, or the result would be too large.
    """
    from onnx.reference import ReferenceEvaluator

    if node.operation not in FOLDABLE:
        raise ModelError(f"{node.operation} ({node.name}) on arrays that no pixel changes")
    names = [name for name in node.inputs if name]
    try:
        if _elements(node, arrays) > LARGEST_ARRAY:
            raise ModelError(f"{node.operation} ({node.name}) makes a constant that is too large")
        found = ReferenceEvaluator(node.proto, opsets={"": opset}).run(
            None, dict(zip(names, arrays, strict=True))
        )
    except (ValueError, TypeError, IndexError, RuntimeError, ArithmeticError) as error:
        raise ModelError(f"{node.operation} ({node.name}) can't be worked out: {error}") from error
    return [_plain(np.asarray(one)) for one in found]


def array_of(tensor: Any) -> Array:
    """The numbers of an ONNX tensor.

    Raises:
        ModelError: they are of a kind that segpipe doesn't compute with, or too few for the shape.
    """
    import onnx

    kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    if kind not in NUMBERS:
        raise ModelError(
            f"{tensor.name!r:.80} holds numbers of type {kind}; quantised files aren't supported, "
            "export the network in float32"
        )
    try:
        return _plain(onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError) as error:
        raise ModelError(f"{tensor.name!r:.80} has a damaged array: {error}") from error


def _plain(array: Array) -> Array:
    """Floats as float32: the precision is the engine's, whatever the file was stored in."""
    return array.astype(np.float32) if np.issubdtype(array.dtype, np.floating) else array


def _parsed(content: bytes) -> Any:
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError as error:
        raise ModelError(f"ONNX files need the package onnx: {INSTALL}") from error
    if len(content) >= LARGEST_FILE:
        raise ModelError(f"an ONNX file has less than 2 GB, got {len(content):,} bytes")
    try:
        return onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelError(
            "this isn't a whole ONNX file: it is damaged or cut short; get it again"
        ) from error


def _refuse_external(model: Any) -> None:
    """Passes if all numbers are in the file."""
    import onnx

    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            told = {entry.key: entry.value for entry in tensor.external_data}
            where = told.get("location", "")
            raise ModelError(
                f"the weights {tensor.name!r:.80} lie in another file, {where!r:.80}, which isn't "
                "read; save the model as one file: onnx.save(onnx.load(FILE), NEW_FILE)"
            )


def _tensors(model: Any) -> Iterator[Any]:
    """All arrays of the file, wherever they are."""
    graphs = [model.graph, *(one.initialization for one in model.training_info)]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes += graph.node
        for node in nodes:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices)
                graphs += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
        nodes = []


def _refuse_code(model: Any) -> None:
    """Passes if the file has no operations but ONNX's own, in one sequence."""
    for node in model.graph.node:
        what = f"the operation {node.op_type} ({node.name or 'without a name'})"
        if not _is_standard(node.domain):
            raise ModelError(
                f"{what} is of the domain {node.domain!r:.80}, not one of ONNX's own; no libraries "
                "of operations are loaded: export the network with standard operations only"
            )
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ModelError(
                f"{what} branches or loops, and what it computes may depend on the image; export "
                "the network without control flow"
            )
    for title, there in (
        ("functions", model.functions),
        ("sparse weights", model.graph.sparse_initializer),
        ("a training graph", model.training_info),
    ):
        if there:
            raise ModelError(f"the file has {title}; export the network for inference, without")


def _is_standard(domain: str) -> bool:
    return domain in ("", "ai.onnx")


def _check(model: Any) -> None:
    import onnx

    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        found = " ".join(str(error).split())
        raise ModelError(f"this isn't a valid ONNX file: {found:.200}") from error


def _nodes(graph: Any, opset: int, constants: dict[str, Array]) -> Iterator[Node]:
    """The nodes that depend on the image; what the others give is added to `constants`."""
    for index, proto in enumerate(graph.node):
        node = _node(index, proto)
        known = [name in constants for name in node.inputs if name]
        if node.operation == "Constant":
            constants[node.outputs[0]] = _constant(node)
        elif all(known) and node.operation in FOLDABLE:
            arrays = [constants[name] for name in node.inputs if name]
            constants |= zip(node.outputs, evaluate(node, opset, arrays), strict=True)
        else:
            yield node


def _node(index: int, proto: Any) -> Node:
    import onnx

    attributes = {one.name: _text(onnx.helper.get_attribute_value(one)) for one in proto.attribute}
    name = proto.name or f"{proto.op_type}_{index}"
    return Node(
        proto.op_type,
        name,
        tuple(proto.input),
        tuple(proto.output),
        MappingProxyType(attributes),
        proto,
    )


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _constant(node: Node) -> Array:
    ((kind, value),) = node.attributes.items()
    if kind == "value":
        return array_of(value)
    if kind in ("value_float", "value_floats"):
        return np.array(value, np.float32)
    if kind in ("value_int", "value_ints"):
        return np.array(value, np.int64)
    raise ModelError(f"the constant {node.name} is neither an array nor a number")


def _elements(node: Node, arrays: list[Array]) -> int:
    """How many elements a foldable operation gives, at most."""
    first = arrays[0]
    if node.operation == "ConstantOfShape":
        return math.prod(map(int, first))
    if node.operation == "Expand":
        return math.prod(np.broadcast_shapes(first.shape, tuple(map(int, arrays[1]))))
    if node.operation == "Tile":
        return int(first.size) * math.prod(map(int, arrays[1]))
    if node.operation == "Range":
        start, limit, step = (float(one) for one in arrays)
        return math.ceil(abs(limit - start) / abs(step))
    # Weights may be larger: they are in the file already.
    return 0


def _image(graph: Any) -> Any:
    import onnx

    initialised = {one.name for one in graph.initializer}
    inputs = [one for one in graph.input if one.name not in initialised]
    if len(inputs) != 1:
        names = ", ".join(one.name for one in inputs) or "none"
        raise ModelError(f"the network takes one image, this one has the inputs: {names:.200}")
    kind = onnx.TensorProto.DataType.Name(inputs[0].type.tensor_type.elem_type)
    rank = len(list(_sides(inputs[0])))
    if kind not in FLOATS or rank != 4:
        raise ModelError(
            "the network takes images (N, bands, H, W) or (N, H, W, bands) of floating-point "
            f"numbers, this one's {inputs[0].name!r:.80} has {rank} sides of type {kind}"
        )
    return inputs[0]


def _sides(value: Any) -> Iterator[int | None]:
    for side in value.type.tensor_type.shape.dim:
        yield side.dim_value if side.HasField("dim_value") and side.dim_value > 0 else None


def _wanted(graph: Any) -> str:
    made = {name for node in graph.node for name in node.output}
    wanted = graph.output[0].name
    if wanted not in made:
        raise ModelError("the network's output isn't computed from its image")
    return str(wanted)
