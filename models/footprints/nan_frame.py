"""How far a network sees, found by running it: for operations whose structure isn't known.

NaN beyond a line through the image reaches every output that reads across the line, however small
the weight and whatever a ReLU hides: max(NaN, 0) is NaN.
"""

import torch
from torch import Tensor, nn

from segpipe.models.footprints.exported import evaluating

SIDE = 64
"""The short side of the strips that are run; windows lie at its multiples."""
LONGEST = 8192
FILLS = (torch.nan, 1e4, -1e4)
"""What the frame is made of: comparisons swallow a NaN, but not a large number of either sign."""

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
    """How many outputs inside the image's middle half change with what lies before and after it.

    None where outputs on the other side of the middle change too.
    """
    length = image.shape[dim]
    first, end = length // 4, length - length // 4
    clean: Tensor = network(image)
    if clean.shape[2:] != image.shape[2:]:
        raise ValueError(f"the output has the shape {tuple(clean.shape)}, not the image's")

    def changed(start: int, stop: int) -> Tensor:
        differs = torch.zeros_like(clean, dtype=torch.bool)
        for fill in FILLS:
            framed = image.clone()
            framed.narrow(dim, start, stop - start).fill_(fill)
            differs |= network(framed) != clean
        return differs.transpose(dim, 0).flatten(1).any(1).nonzero().flatten()

    before, after = changed(0, first), changed(end, length)
    seen_before = max(0, int(before.max()) + 1 - first) if len(before) else 0
    seen_after = max(0, end - int(after.min())) if len(after) else 0
    if max(seen_before, seen_after) > length // 4:
        return None
    return seen_before, seen_after
