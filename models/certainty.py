"""How sure a network is: the probability of each class, in steps of 1/250, from its scores.

Only operations that treat each pixel by itself are used. Torch's own softmax gives a pixel other
last bits in an image of another size, so that a tile could differ from the whole.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import Node

from segpipe.models.blend import Blended
from segpipe.models.footprints.exported import (
    REFUSALS,
    ExportError,
    evaluating,
    export,
    operation_name,
)
from segpipe.models.formats.foreign import Foreign

PROBABILITIES = "probabilities"
"""The probability of each class, (class, row, column)."""

CONFIDENCE = "confidence"
"""The greatest probability, and how far it is above the second one, (2, row, column)."""

STEPS = 250
"""Steps from 0 to 1."""

UNKNOWN = 255
"""Where the scores aren't finite numbers."""

_SAMPLE = 64
"""Least side in pixels of the image on which a network shows what its scores are."""

_AT_ONCE = 1 << 20
"""Scores that are turned into probabilities at once; some copies of 4 MB are held."""

_TRANSPARENT = frozenset(
    ["_to_copy", "clone", "contiguous", "slice", "to", "upsample_bilinear2d", "upsample_nearest2d"]
)
"""Operations after which shares of 1 still are."""


def certainty(
    scores: Tensor, wanted: Sequence[str], *, shares: bool, pinned: bool
) -> dict[str, Tensor]:
    """What is wanted of `PROBABILITIES` and `CONFIDENCE`, uint8 on the host.

    A probability p is stored as round(250 p). Of a single class it is 1, and so is its lead.

    Args:
        scores: (class, row, column), of any precision; a softmax is taken in fp32.
        wanted: names of what is wanted.
        shares: whether the scores are probabilities already, as `gives_shares` tells.
        pinned: whether the results are put where a GPU can write by itself; they are there once
            its stream has come so far.
    """
    classes, height, width = scores.shape
    found = {
        name: torch.empty((count, height, width), dtype=torch.uint8, pin_memory=pinned)
        for name, count in ((PROBABILITIES, classes), (CONFIDENCE, 2))
        if name in wanted
    }
    rows = max(1, _AT_ONCE // (classes * width))
    for top in range(0, height, rows):
        strip = slice(top, top + rows)
        parts = _parts(scores[:, strip].float(), shares=shares)
        whole = _added(parts)
        if CONFIDENCE in found:
            for place, part in enumerate(_best(parts)):
                found[CONFIDENCE][place, strip].copy_(_bytes(part / whole), non_blocking=True)
        if PROBABILITIES in found:
            found[PROBABILITIES][:, strip].copy_(_bytes(parts / whole), non_blocking=True)
    return found


def gives_shares(network: nn.Module, bands: int, stride: int) -> bool:
    """Whether a network's scores end in a softmax or a sigmoid: are probabilities already.

    Blends and ONNX files give logarithms of probabilities where they have them, of which a softmax
    gives the probabilities back. A network that can't be followed gives probabilities if all that
    it says of noise lies between 0 and 1. Ask before other threads run the same network: tracing
    changes it for the time being.
    """
    if isinstance(network, Blended) or (isinstance(network, Foreign) and network.kind == "onnx"):
        return False
    side = -(-_SAMPLE // stride) * stride
    try:
        nodes = list(export(network, bands, side, side).graph.nodes)
    except ExportError:
        return _stays_in_unit(network, bands, side)
    return any(name in ("softmax", "sigmoid") for name in _last(nodes[-1]))


def _stays_in_unit(network: nn.Module, bands: int, side: int) -> bool:
    """Whether all scores of an image of noise lie between 0 and 1."""
    weight = next((one for one in network.parameters() if one.is_floating_point()), torch.empty(0))
    noise = torch.randn(1, bands, side, side, generator=torch.Generator().manual_seed(0))
    try:
        with evaluating(network):
            scores: Tensor = network(noise.to(weight))
    except REFUSALS:
        return False  # the run will say why
    return bool(((scores >= 0) & (scores <= 1)).all())


def _last(node: Node) -> Iterator[str]:
    """The last operation of a graph that isn't transparent, if it can be told."""
    while node.all_input_nodes:
        node = node.all_input_nodes[0]
        if not isinstance(node.target, OpOverload):
            return
        name = operation_name(node.target).removeprefix("_")
        if name not in _TRANSPARENT and operation_name(node.target) not in _TRANSPARENT:
            yield name
            return


def _parts(scores: Tensor, *, shares: bool) -> Tensor:
    """Numbers in proportion to the probabilities, (class, row, column)."""
    if shares:
        return scores.clamp(min=0)
    return (scores - scores.amax(dim=0)).exp_()


def _added(parts: Tensor) -> Tensor:
    """The sum over classes, always in their order."""
    whole = parts[0].clone()
    for part in parts[1:]:
        whole += part
    return whole


def _best(parts: Tensor) -> tuple[Tensor, Tensor]:
    """The greatest part, and how far it is above the second one, which of one class is 0."""
    first, second = parts[0], torch.zeros_like(parts[0])
    for part in parts[1:]:
        second = torch.maximum(second, torch.minimum(first, part))
        first = torch.maximum(first, part)
    return first, first - second


def _bytes(probabilities: Tensor) -> Tensor:
    return probabilities.mul_(STEPS).round_().nan_to_num_(nan=UNKNOWN).to(torch.uint8)
