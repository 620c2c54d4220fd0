"""The NaN frame against extents that are known by construction."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from segpipe.models.footprints.nan_frame import find_extents


class Thresholded(nn.Module):
    """Negates an image whose sum is positive; the sum of NaN isn't."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.where(image.sum() > 0, -image, image)


@settings(max_examples=15, deadline=None)
@given(*[st.integers(0, 20)] * 4)
def test_padding_shows_how_far_a_kernel_sees(top: int, left: int, bottom: int, right: int) -> None:
    kernel = nn.Conv2d(1, 1, (top + bottom + 1, left + right + 1), bias=False)
    network = nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), kernel, nn.ReLU())
    assert find_extents(network, 1) == (top, left, bottom, right)


def test_a_dead_network_shows_them_too() -> None:
    convolution = nn.Conv2d(1, 1, 5, padding=2)
    nn.init.constant_(convolution.bias, -1e3) if convolution.bias is not None else None
    assert find_extents(nn.Sequential(convolution, nn.ReLU()), 1) == (2, 2, 2, 2)


@pytest.mark.parametrize(
    "network",
    [nn.GroupNorm(1, 2), nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), Thresholded()],
    ids=["normalised", "wrapped", "compared"],
)
def test_what_sees_the_whole_image_has_no_extents(network: nn.Module) -> None:
    assert find_extents(network, 2) is None


def test_an_output_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="not the image's"):
        find_extents(nn.MaxPool2d(2), 3)


def test_a_longer_strip_is_tried_for_a_network_that_sees_far() -> None:
    class Far(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.nn.functional.max_pool2d(image, (1, 301), 1, (0, 150))

    assert find_extents(Far(), 1) == (0, 150, 0, 150)
