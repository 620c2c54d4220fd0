"""A 1 x 1 convolution gives a part of an image the bits that it gives the whole."""

import pytest
import torch
from torch import nn

from segpipe.models.pointwise import Pointwise, settle


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [(128, 256), (256, 64), (512, 21)])
def test_a_part_has_the_bits_of_the_whole(channels: tuple[int, int], stride: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(*channels, 1, stride))
    image = torch.randn(1, channels[0], 200, 252)
    with torch.no_grad():
        plain = network(image)
        settle(network)
        assert type(network[0]) is Pointwise
        whole = network(image)
        for height, width in ((128, 128), (100, 100), (64, 160), (128, 160), (40, 48)):
            part = network(image[..., :height, :width].contiguous())
            assert part.is_contiguous()
            assert torch.equal(part, whole[..., : part.shape[2], : part.shape[3]])
    torch.testing.assert_close(whole, plain, rtol=1e-4, atol=1e-5)


def test_other_convolutions_are_left_alone() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, (1, 3)), nn.ConvTranspose2d(4, 4, 1)
    )
    settle(network)
    assert not [module for module in network if isinstance(module, Pointwise)]
