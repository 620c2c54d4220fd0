"""Memory of a pass is counted: exactly, and the same each time."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from segpipe.models.engine import Engine, Precision
from segpipe.models.predictor import TorchPredictor
from segpipe.models.workspace import Meter, Workspace
from tests import toys

FLOAT = 4


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=12))
def test_the_peak_is_that_of_a_ledger(steps: list[tuple[int, bool]]) -> None:
    kept: list[Tensor] = []
    sizes: list[int] = []
    peak = 0
    with Meter() as meter:
        for size, keep in steps:
            kept.append(torch.zeros(size))
            sizes.append(size)
            peak = max(peak, FLOAT * sum(sizes))
            kept[-1].view(-1).mul_(2)  # neither a view nor a change in place takes memory
            if not keep:
                kept.pop()
                sizes.pop()
    assert meter.peak == peak


def test_a_convolution_copies_image_and_result() -> None:
    image = torch.zeros(1, 2, 8, 8)
    with Meter() as meter:
        result = nn.functional.conv2d(image, torch.zeros(3, 2, 1, 1))
    weights = FLOAT * 3 * 2
    own_layout = FLOAT * 16 * 8 * 8
    assert meter.peak == weights + result.nbytes + 2 * own_layout


def test_a_skip_that_was_used_takes_nothing() -> None:
    network = toys.model("unet", depth=1, width=16).network
    image = torch.zeros(1, 3, 64, 64)
    with torch.inference_mode(), Meter() as meter:
        network(image)
    # At the convolution over what was joined: that, the result, and the convolution's copies.
    # Neither the skip, 16 channels more, nor the coarser level are there any more.
    joined, result = 32, 16
    assert meter.peak == FLOAT * 64 * 64 * (joined + result + joined + result)


def predictor(precision: Precision = "fp32", architecture: str = "unet") -> TorchPredictor:
    model = toys.model(architecture, depth=2, width=16)
    return TorchPredictor(model.network, model.card, 4, Engine(precision=precision), shares=False)


def test_the_same_each_time_and_half_of_it_in_half_the_precision() -> None:
    full, half = predictor(), predictor("bf16")
    assert full.workspace("uint16") == full.workspace("uint16")
    # Numbers that are normalised are float32 in both.
    assert 0.4 < half.workspace("uint16").per_pixel / full.workspace("uint16").per_pixel < 0.7


@pytest.mark.parametrize("side", [128, 512])
def test_memory_grows_with_the_pixels(side: int) -> None:
    found = predictor()
    expected = found.workspace("uint16").per_pixel * side**2
    pixels, valid = np.ones((3, side, side), np.uint16), np.ones((side, side), np.bool_)
    with Meter() as meter:
        found(pixels, valid, (slice(0, side), slice(0, side)))
    assert meter.peak == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("core", [128, 256, 384])
def test_margins_take_less_than_cores(core: int) -> None:
    side, model = 512, toys.model("unet", depth=2, width=16)
    found = TorchPredictor(model.network, model.card, 4, Engine())
    taken = found.workspace("uint16")
    assert taken.per_other < taken.per_pixel
    start = (side - core) // 2
    inside = slice(start, start + core)
    pixels, valid = np.ones((3, side, side), np.uint16), np.ones((side, side), np.bool_)
    with Meter() as meter:
        found(pixels, valid, (inside, inside))
    most = taken.per_pixel * core**2 + taken.per_other * (side**2 - core**2)
    assert 0.6 * most < meter.peak <= most


@given(st.floats(0, 1e9), st.floats(0, 1e4))
def test_a_workspace_goes_through_two_passes(fixed: float, slope: float) -> None:
    small, large = ((n, int(fixed + slope * n)) for n in (256**2, 512**2))
    found = Workspace.through(small, large)
    for pixels, size in (small, large):
        assert found.fixed + found.per_pixel * pixels == pytest.approx(size, rel=1e-6, abs=1)
