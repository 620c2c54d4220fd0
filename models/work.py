"""How much a network computes for windows of which the margins aren't wanted."""

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from segpipe.models.architectures.trimming import Edges, TrimmedNetwork, multiplications
from segpipe.models.footprints.exported import evaluating


class Side(Protocol):
    """One direction of a window: its pixels, and those before and after what is wanted."""

    @property
    def before(self) -> int:
        """Pixels above what is wanted, or to the left."""

    @property
    def after(self) -> int:
        """Pixels below, or to the right."""

    @property
    def length(self) -> int:
        """All pixels of the window."""


def pixels_computed(
    network: nn.Module, bands: int, stride: int, windows: Iterable[tuple[tuple[Side, Side], int]]
) -> float:
    """Pixels whose plain pass takes as many multiplications as all windows do.

    These are the windows' pixels, less what a trimmed decoder saves.

    Args:
        network: that computes the windows.
        bands: of an image.
        stride: of the network, which divides the windows' sides.
        windows: rows and columns of each window, and how many there are.
    """
    pixels, saved = 0, 0.0
    for (rows, columns), count in windows:
        pixels += count * rows.length * columns.length
        if isinstance(network, TrimmedNetwork):
            edges = Edges(rows.before, columns.before, rows.after, columns.after)
            saved += count * network.saved(edges, (rows.length, columns.length))
    return pixels - saved / multiplications_a_pixel(network, bands, stride) if saved else pixels


def multiplications_a_pixel(network: nn.Module, bands: int, stride: int) -> float:
    """Multiplications of a plain pass for each pixel."""
    found = 0.0

    def after(layer: nn.Module, inputs: object, output: Tensor) -> None:
        nonlocal found
        found += multiplications(layer) * output.shape[-2] * output.shape[-1]

    layers = (one for one in network.modules() if isinstance(one, nn.Conv2d | nn.ConvTranspose2d))
    handles = [one.register_forward_hook(after) for one in layers]
    weight = next(network.parameters())
    try:
        with evaluating(network):
            network(torch.zeros(1, bands, stride, stride).to(weight))
    finally:
        for handle in handles:
            handle.remove()
    return found / stride**2
