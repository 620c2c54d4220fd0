"""The float64 proof holds for the right footprint and for no smaller one."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.architectures.registry import build
from segpipe.models.footprint import Footprint, measure
from segpipe.models.footprints.proof import TOLERANCE, find_stride, he_initialise, prove


class Halved(nn.Module):
    """Means of 2 x 2 pixels, for an image of any size."""

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        means = F.avg_pool2d(image, 2, ceil_mode=True)
        return F.interpolate(means, scale_factor=2)[..., :height, :width]


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    torch.manual_seed(0)
    return build("unet", 3, 2, width=2, depth=3).eval()


@pytest.mark.parametrize("side", ["top", "left", "bottom", "right"])
def test_a_margin_of_one_pixel_less_fails(unet: nn.Module, side: str) -> None:
    footprint = measure(unet)
    assert prove(unet, footprint).holds
    short = replace(footprint, **{side: getattr(footprint, side) - 1})
    proof = prove(unet, short)
    assert not proof.holds
    assert proof.difference > 100 * TOLERANCE


def test_a_smaller_stride_fails() -> None:
    network = Halved()
    assert prove(network, Footprint(2, 0, 0, 1, 1, exact=True)).holds
    assert not prove(network, Footprint(1, 8, 8, 8, 8, exact=True)).holds


def test_dead_activations_do_not_pass_a_short_margin(unet: nn.Module) -> None:
    dead = build("unet", 3, 2, width=2, depth=3).eval()
    for module in dead.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, -1e3)
    footprint = measure(dead)
    assert prove(dead, footprint).holds
    assert not prove(dead, replace(footprint, left=footprint.left - 1)).holds


def test_a_global_network_is_refuted() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.InstanceNorm2d(4))
    assert not prove(network, Footprint(1, 64, 64, 64, 64, exact=True)).holds


def test_the_network_keeps_its_weights(unet: nn.Module) -> None:
    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    prove(unet, measure(unet))
    after = unet.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_the_smallest_shift_is_the_stride(unet: nn.Module) -> None:
    found = measure(unet)
    assert find_stride(unet, 3, (found.top, found.left, found.bottom, found.right)) == found.stride
    assert find_stride(nn.Conv2d(3, 1, 1), 3, (0, 0, 0, 0)) == 1


def test_he_initialisation_revives_a_dead_network() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).double()
    for weight in network.parameters():
        nn.init.constant_(weight, -1)
    he_initialise(network)
    alive = network(torch.randn(1, 3, 32, 32, dtype=torch.float64)) > 0
    assert 0.2 < alive.double().mean() < 0.8
