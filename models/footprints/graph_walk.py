"""A structural walk through a network: what every output pixel reads, without any values."""

from collections.abc import Iterator
from dataclasses import dataclass
from operator import getitem

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from segpipe.models.footprints.exported import export, module_name, open_up, operation_name
from segpipe.models.footprints.operators import (
    HANDLERS,
    POINTWISE,
    UNIFORM,
    Call,
    Findings,
    Fixed,
    Handler,
    Places,
    Reads,
    Result,
    Shape,
    UnknownOperationError,
)
from segpipe.models.footprints.spans import Span


@dataclass(frozen=True, slots=True)
class Walk:
    """What the output reads of the image's rows and columns, (index,) each.

    `reasons` say which operations surely break the law; `suspects` which ones explain it if the
    output turns out not to shift with the image.
    """

    rows: Span
    columns: Span
    reasons: tuple[str, ...]
    suspects: tuple[str, ...]


def follow(network: nn.Module, bands: int, height: int, width: int) -> Walk:
    """What the output of `network` on an image (1, bands, height, width) reads.

    Raises:
        ExportError: it can't be exported, or doesn't take an image of this size.
        UnknownOperationError: what an operation reads isn't known, even in terms of simpler ones.
    """
    program = export(network, bands, height, width)
    try:
        return walk(program)
    except UnknownOperationError:
        return walk(open_up(program, _known))


def walk(program: ExportedProgram) -> Walk:
    """What the output (1, channels, h, w) of an exported network reads.

    Raises:
        UnknownOperationError: what an operation reads isn't known.
    """
    findings = Findings()
    values: dict[Node, Result] = dict(_inputs(program))
    for seed, node in enumerate(program.graph.nodes, 1):
        if node.op == "output":
            rows, columns = _output(values[node.args[0][0]])
            return Walk(rows, columns, _once(findings.surely), _once(findings.perhaps))
        if node.op == "call_function":
            values[node] = _call(node, values, seed << 16, findings)
    raise UnknownOperationError("a graph without an output")


def _known(operation: OpOverload) -> bool:
    return _handler(operation) is not None


def _handler(operation: OpOverload) -> Handler | None:
    pointwise = POINTWISE if torch.Tag.pointwise in operation.tags else None
    return HANDLERS.get(operation_name(operation), pointwise)


def _inputs(program: ExportedProgram) -> Iterator[tuple[Node, Result]]:
    kinds = {spec.arg.name: spec.kind for spec in program.graph_signature.input_specs}
    for node in program.graph.nodes:
        if node.op != "placeholder":
            continue
        shape = _shapes(node)[0]
        if kinds[node.name] is not InputKind.USER_INPUT:
            yield node, Fixed(shape)
            continue
        rank = len(shape)
        rows = Span.image(shape[-2], rank - 2, rank)
        yield node, Reads(shape, rows, Span.image(shape[-1], rank - 1, rank))


def _call(node: Node, values: dict[Node, Result], seed: int, findings: Findings) -> Result:
    if node.target is getitem:
        source, index = node.args
        parts = values[source] if isinstance(source, Node) else None
        if not isinstance(parts, tuple) or not isinstance(index, int):
            raise UnknownOperationError("an operation of unknown outputs")
        return parts[index]
    operation = node.target
    if not isinstance(operation, OpOverload):
        raise UnknownOperationError(str(operation))
    shapes = _shapes(node)
    if not shapes:
        return None
    arguments = {name: _resolve(value, values) for name, value in _bound(node, operation).items()}
    call = Call(operation_name(operation), module_name(node), arguments, shapes, seed, findings)
    if not call.live():
        return _constant(call, operation)
    handler = _handler(operation)
    if handler is None:
        raise UnknownOperationError(call.sentence("isn't known"))
    return _checked(call, handler(call))


def _bound(node: Node, operation: OpOverload) -> dict[str, object]:
    """Arguments by name, in the schema's order, defaults where none is given."""
    bound: dict[str, object] = {}
    for index, argument in enumerate(operation._schema.arguments):
        if index < len(node.args):
            bound[argument.name] = node.args[index]
        elif argument.name in node.kwargs:
            bound[argument.name] = node.kwargs[argument.name]
        elif argument.has_default_value():
            bound[argument.name] = argument.default_value
    return bound


def _checked(call: Call, result: Result) -> Result:
    """The result, if a handler's reads fit the shapes that the operation really has."""
    for value in result if isinstance(result, tuple) else (result,):
        if not isinstance(value, Reads):
            continue
        for span in (value.rows, value.columns):
            sides = zip(span.shape, value.shape, strict=False)
            if len(span.shape) != len(value.shape) or any(a not in (1, b) for a, b in sides):
                raise UnknownOperationError(call.sentence("has reads of another shape"))
    return result


def _constant(call: Call, operation: OpOverload) -> Result:
    tensors = list(call.tensors())
    pure = torch.Tag.pointwise in operation.tags and all(
        isinstance(value, Fixed) and value.uniform for value in tensors
    )
    uniform = (pure and bool(tensors)) or call.operation in UNIFORM
    constants = tuple(Fixed(shape, uniform) for shape in call.shapes)
    return constants if len(constants) > 1 else constants[0]


def _resolve(argument: object, values: dict[Node, Result]) -> object:
    if isinstance(argument, Node):
        return values[argument]
    if isinstance(argument, list | tuple):
        return [_resolve(one, values) for one in argument]
    return argument


def _shapes(node: Node) -> tuple[Shape, ...]:
    value = node.meta.get("val")
    tensors = value if isinstance(value, list | tuple) else (value,)
    return tuple(tuple(map(int, one.shape)) for one in tensors if isinstance(one, Tensor))


def _output(value: Result) -> tuple[Span, Span]:
    if isinstance(value, Places) or not isinstance(value, Reads | Fixed) or len(value.shape) < 2:
        raise UnknownOperationError("an output that isn't a map")
    rank = len(value.shape)
    if isinstance(value, Fixed):
        raise UnknownOperationError("an output that doesn't depend on the image")
    return (
        _along(value.rows, rank - 2, value.shape[-2]),
        _along(value.columns, rank - 1, value.shape[-1]),
    )


def _along(span: Span, dim: int, side: int) -> Span:
    others = [at for at in range(len(span.shape)) if at != dim]
    return span.reduce(others, 0).drop(others).repeat([side])


def _once(sentences: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(sentences))
