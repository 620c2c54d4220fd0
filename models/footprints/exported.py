"""A network as a graph of ATen operations, without touching its weights."""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Node

REFUSALS = (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, LookupError)
"""What comes out of a network that can't be traced, or that refuses an image of this size."""


_tracing = threading.Lock()
"""Torch traces one network at a time: of two in two threads both fail, or come out mixed."""


class ExportError(Exception):
    """A network can't be traced on an image of this size, and why."""


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """`network` in evaluation mode and without gradients; its modes come back afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def export(network: nn.Module, bands: int, height: int, width: int) -> ExportedProgram:
    """The functional graph of `network` on an image (1, bands, height, width).

    Only shapes are followed: nothing is computed, and the image's memory is never written to.

    Raises:
        ExportError: the network can't be traced or doesn't take an image of this size.
    """
    weight = next((one for one in network.parameters() if one.is_floating_point()), torch.empty(0))
    image = torch.empty(1, bands, height, width, dtype=weight.dtype, device=weight.device)
    with _tracing, evaluating(network), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program: ExportedProgram = torch.export.export(network, (image,), strict=False)
            if any(_writes_through_view(node) for node in program.graph.nodes):
                program = program.run_decompositions({})
        except REFUSALS as error:
            raise ExportError(first_line(error)) from error
        return program


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def open_up(program: ExportedProgram, keep: Callable[[OpOverload], bool]) -> ExportedProgram:
    """The same graph with every operation but those to `keep` in terms of simpler ones."""
    table = torch.export.default_decompositions()
    for operation in list(table):
        if isinstance(operation, OpOverload) and keep(operation):
            del table[operation]
    with _tracing, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened: ExportedProgram = program.run_decompositions(table)
        return opened


def operation_name(operation: OpOverload) -> str:
    """The name without namespace, overload and the underscore of in-place operations."""
    name = operation._schema.name.split("::")[-1]
    return name.removesuffix("_") or name


def module_name(node: Node) -> str:
    """Qualified name of the module whose `forward` makes the call, "" for the network itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    name = str(stack[-1][0]) if stack else ""
    return name.removeprefix("L['self']").removeprefix(".")


def _writes_through_view(node: Node) -> bool:
    """Whether a node changes memory that other nodes may see under another name."""
    if not isinstance(node.target, OpOverload) or not node.target._schema.is_mutable:
        return False
    target = node.args[0]
    if not isinstance(target, Node):
        return True
    return _is_view(target) or any(_is_view(user) for user in target.users)


def _is_view(node: Node) -> bool:
    if not isinstance(node.target, OpOverload):
        return False
    aliases = (argument.alias_info for argument in node.target._schema.arguments)
    return any(alias is not None and not alias.is_write for alias in aliases)
