"""How far a network sees, found by running it: for operations whose structure isn't known.

A frame of NaN around a part of the image reaches every output that reads beyond the part, however
small the weight and whatever a ReLU hides: max(NaN, 0) is NaN.
"""

import torch
from torch import Tensor, nn

from segpipe.models.exported import evaluating

SIDE = 64
"""The short side of the strips that are run; windows lie at its multiples."""
LONGEST = 8192

Extents = tuple[int, int, int, int]


def find_extents(network: nn.Module, bands: int) -> Extents | None:
    """Pixels seen to the top, left, bottom and right, or None where all of a long strip is seen.

    Raises:
        RuntimeError: the network doesn't take a strip of 64 pixels' width.
    """
    columns = _along(network, bands, -1)
    rows = _along(network, bands, -2) if columns else None
    if rows is None or columns is None:
        return None
    return rows[0], columns[0], rows[1], columns[1]


def strip(bands: int, length: int, dim: int, seed: int = 0) -> Tensor:
    """Random numbers, (1, bands, 64, length), or (1, bands, length, 64) where `dim` is -2."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(1, bands, SIDE, length, generator=generator, dtype=torch.float64)
    return image if dim == -1 else image.transpose(-1, -2).contiguous()


def _along(network: nn.Module, bands: int, dim: int) -> tuple[int, int] | None:
    weight = next((one for one in network.parameters() if one.is_floating_point()), torch.empty(0))
    length = 4 * SIDE
    with evaluating(network):
        while length <= LONGEST:
            image = strip(bands, length, dim).to(weight)
            found = _inside(network, image, dim)
            if found is not None:
                return found
            length *= 2
    return None


def _inside(network: nn.Module, image: Tensor, dim: int) -> tuple[int, int] | None:
    """Distances from the frame's inner sides to the outputs that it doesn't change."""
    length = image.shape[dim]
    first, end = length // 4, length - length // 4
    framed = image.clone()
    framed.narrow(dim, 0, first).fill_(torch.nan)
    framed.narrow(dim, end, length - end).fill_(torch.nan)
    before, after = network(image), network(framed)
    if before.shape[2:] != image.shape[2:]:
        raise ValueError(f"the output has the shape {tuple(before.shape)}, not the image's")
    changed = (after != before).transpose(dim, 0).flatten(1).any(1)
    same = (~changed).nonzero().flatten()
    if len(same) < length // 8 or bool(changed[same[0] : same[-1]].any()):
        return None
    return max(0, int(same[0]) - first), max(0, end - 1 - int(same[-1]))
