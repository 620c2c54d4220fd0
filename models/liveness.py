"""How much memory a network's activations take at once."""

from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import Node

from segpipe.models.footprints.exported import export

PROBE = 512
FLOAT = 4
"""Bytes of a number in float32, in which networks are run whatever their weights are stored in."""


def activation_bytes(network: nn.Module, bands: int = 3) -> float:
    """Peak bytes of the float32 activations that are alive at once, a pixel of the input.

    Image and output are counted, weights and an operation's own workspace aren't. A view and the
    result of an operation in place take no memory of their own.

    Raises:
        ExportError: the network can't be exported.
    """
    program = export(network, bands, PROBE, PROBE)
    weights = {spec.arg.name for spec in program.graph_signature.input_specs} - set(
        program.graph_signature.user_inputs
    )
    nodes = [node for node in program.graph.nodes if node.name not in weights]
    owners: dict[Node, Node] = {}
    last: dict[Node, int] = {}
    for time, node in enumerate(nodes):
        owners[node] = _owner(node, owners)
        for one in (node, *node.all_input_nodes):
            if one in owners:
                last[owners[one]] = time
    alive = peak = 0
    for time, node in enumerate(nodes):
        if owners[node] is node:
            alive += _bytes(node)
        peak = max(peak, alive)
        alive -= sum(_bytes(one) for one in _dying(node, owners, last, time))
    return peak / PROBE**2


def _dying(node: Node, owners: dict[Node, Node], last: dict[Node, int], time: int) -> set[Node]:
    touched = {owners[one] for one in (node, *node.all_input_nodes) if one in owners}
    return {one for one in touched if last[one] == time}


def _owner(node: Node, owners: dict[Node, Node]) -> Node:
    """The node that allocated what this one returns."""
    source = next(iter(node.all_input_nodes), None)
    if source not in owners:
        return node
    shares = not isinstance(node.target, OpOverload) or any(
        argument.alias_info is not None for argument in node.target._schema.arguments
    )
    return owners[source] if shares else node


def _bytes(node: Node) -> int:
    value = node.meta.get("val")
    tensors = value if isinstance(value, list | tuple) else (value,)
    return sum(
        int(one.numel()) * (FLOAT if one.is_floating_point() else one.element_size())
        for one in tensors
        if isinstance(one, Tensor)
    )
