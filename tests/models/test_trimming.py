"""A decoder that leaves out what nobody wants gives the rest to the last bit."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from segpipe.models.architectures.network import Option
from segpipe.models.architectures.registry import build
from segpipe.models.architectures.trimming import FEW, WHOLE, Edges, TrimmedNetwork, reach, trims
from segpipe.models.architectures.unet import UNet
from segpipe.models.footprint import measure
from segpipe.models.pointwise import settle
from segpipe.models.work import pixels_computed
from tests import toys

NETWORKS: dict[str, tuple[str, dict[str, Option]]] = {
    "unet": ("unet", {"depth": 3, "width": 8}),
    "compact": ("fcn-compact", {}),
    "resnet18": ("unet-resnet18", {}),
}
SIDE = 32
"""The greatest of their strides."""

lengths = st.integers(1, 8).map(lambda count: count * SIDE)


@dataclass(frozen=True)
class Side:
    """One direction of a window."""

    before: int
    after: int
    length: int


@cache
def network(name: str, precision: torch.dtype = torch.float32) -> TrimmedNetwork:
    """A network as a predictor prepares it."""
    architecture, options = NETWORKS[name]
    made = toys.alive(build(architecture, 3, 5, **options))
    assert isinstance(made, TrimmedNetwork)
    if precision is torch.float32:
        settle(made)
        return made
    return made.to(precision, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def drawn(data: st.DataObject) -> tuple[Tensor, Edges]:
    """An image, and edges that leave something of it."""
    sides = [data.draw(lengths, label) for label in ("height", "width")]
    starts = [data.draw(st.integers(0, side - 1), "start") for side in sides]
    ends = [
        data.draw(st.integers(0, side - 1 - start), "end")
        for side, start in zip(sides, starts, strict=True)
    ]
    noise = torch.Generator().manual_seed(sides[0] + 31 * sides[1])
    return torch.randn(1, 3, *sides, generator=noise), Edges(*starts, *ends)


@pytest.mark.parametrize("name", NETWORKS)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_what_is_left_is_that_of_a_whole_pass(name: str, data: st.DataObject) -> None:
    image, edges = drawn(data)
    with torch.inference_mode():
        assert torch.equal(
            network(name).inner(image, edges), edges.off(network(name)(image)).contiguous()
        )


@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_so_it_is_in_bf16(data: st.DataObject) -> None:
    image, edges = drawn(data)
    image = image.bfloat16().contiguous(memory_format=torch.channels_last)
    made = network("unet", torch.bfloat16)
    with torch.inference_mode():
        assert torch.equal(made.inner(image, edges), edges.off(made(image)))


def test_each_level_keeps_what_the_finer_one_reads() -> None:
    made = build("unet", 3, 5, depth=3, width=32)
    assert isinstance(made, UNet)
    found = trims(Edges(100, 0, 101, 7), (512, 512), made.score, made.levels())
    # Two convolutions read two units to each side; a coarse unit goes if both of its fine ones do.
    assert found == [Edges(10, 0, 10, 0), Edges(23, 0, 23, 0), Edges(49, 0, 49, 2)]


@pytest.mark.parametrize("name", NETWORKS)
@given(data=st.data())
@settings(max_examples=4, deadline=None)
def test_what_is_saved_is_what_the_layers_compute_less(name: str, data: st.DataObject) -> None:
    made = network(name)
    image, edges = drawn(data)
    with torch.inference_mode():
        whole = counted(made, lambda: made(image))
        inner = counted(made, lambda: made.inner(image, edges))
    shape = image.shape[-2], image.shape[-1]
    assert whole - inner == made.saved(edges, shape)
    sides = [Side(edges.top, edges.bottom, shape[0]), Side(edges.left, edges.right, shape[1])]
    expected = 2 * inner / whole * shape[0] * shape[1]
    assert pixels_computed(made, 3, SIDE, [((sides[0], sides[1]), 2)]) == pytest.approx(expected)


def counted(made: nn.Module, compute: Callable[[], object]) -> float:
    """Multiplications of all convolutions, from the shapes of what they read and make."""
    found = 0.0

    def after(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal found
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        wide, high = layer.kernel_size
        places = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        per_place = layer.in_channels * layer.out_channels * wide * high
        found += per_place * places.shape[-1] * places.shape[-2]

    kinds = nn.Conv2d | nn.ConvTranspose2d
    handles = [
        layer.register_forward_hook(after) for layer in made.modules() if isinstance(layer, kinds)
    ]
    compute()
    for handle in handles:
        handle.remove()
    return found


def test_the_reach_is_that_of_the_footprint() -> None:
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 5, padding=4, dilation=2)
    )
    found = measure(layers)
    assert reach(layers) == found.top == found.left == found.bottom == found.right == 5


def test_what_is_small_stays_whole() -> None:
    convolutions = nn.Conv2d(16, 8, 3, padding=1)
    score = nn.Conv2d(8, 5, 1)
    shape = (64, 64)
    # Of the edges one unit is read, and pairs of the others go.
    assert trims(Edges(13, 13, 13, 13), shape, score, [convolutions]) == [Edges(6, 6, 6, 6)]
    assert 16 * (64 - 24) ** 2 > FEW >= 16 * (64 - 32) ** 2
    assert trims(Edges(17, 17, 17, 17), shape, score, [convolutions]) == [WHOLE]
