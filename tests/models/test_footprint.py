"""Footprints: published figures, what breaks the law, and random networks against oracles."""

import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.architectures.registry import build
from segpipe.models.errors import ModelError
from segpipe.models.footprint import Footprint, measure, receptive_field
from segpipe.models.footprints.nan_frame import find_extents
from segpipe.models.footprints.proof import find_stride, prove


class Lambda(nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, image: Tensor) -> Tensor:
        return self.function(image)


@pytest.mark.parametrize(
    ("name", "stride", "before", "after"),
    [
        ("fcn32s-vgg16", 32, 208, 208),
        ("fcn8s-vgg16", 32, 220, 220),
        ("segnet-vgg16", 32, 187, 187),
        ("fcn-resnet50", 8, 228, 220),
        ("unet", 16, 94, 94),
        ("unet-resnet18", 32, 287, 255),
    ],
)
def test_known_networks(name: str, stride: int, before: int, after: int) -> None:
    with torch.device("meta"):
        network = build(name, 3, 5)
    start = time.process_time()
    assert measure(network) == Footprint(stride, before, before, after, after, exact=True)
    assert time.process_time() - start < 5


def test_dead_activations_do_not_hide_anything() -> None:
    network = build("unet", 3, 2, width=8).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            alive = torch.rand(module.num_features, generator=torch.Generator().manual_seed(0))
            module.bias.data[alive < 0.9] = -1e3
    expected = Footprint(16, 94, 94, 94, 94, exact=True)
    assert measure(network) == expected
    assert find_extents(network, 3) == (94, 94, 94, 94)


def squeeze_and_excitation(image: Tensor) -> Tensor:
    return image * image.mean((2, 3), keepdim=True).sigmoid()


def coordinates(image: Tensor) -> Tensor:
    rows = torch.linspace(-1, 1, image.shape[2]).view(1, 1, -1, 1).expand_as(image[:, :1])
    return F.avg_pool2d(torch.cat([image, rows], 1), 3, 1, 1)


def pyramid(image: Tensor) -> Tensor:
    parts = F.adaptive_avg_pool2d(image, 6)
    return image + F.interpolate(parts, image.shape[2:], mode="bilinear")


def attention(image: Tensor) -> Tensor:
    tokens = F.avg_pool2d(image, 64).flatten(2).transpose(1, 2)
    seen = F.scaled_dot_product_attention(tokens, tokens, tokens).transpose(1, 2)
    shape = (image.shape[2] // 64, image.shape[3] // 64)
    return image + F.interpolate(seen.reshape(*seen.shape[:2], *shape), scale_factor=64)


def softmax_over_places(image: Tensor) -> Tensor:
    pooled = F.avg_pool2d(image, 8)
    return F.interpolate(pooled.flatten(2).softmax(-1).view_as(pooled), scale_factor=8)


class Named(nn.Module):
    """A network with a module in a place that has a name."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 4, 3, padding=1)
        self.neck = nn.ModuleList([nn.Identity(), module])

    def forward(self, image: Tensor) -> Tensor:
        image = self.stem(image)
        for module in self.neck:
            image = module(image)
        return image


GLOBAL: list[tuple[nn.Module, str]] = [
    (nn.GroupNorm(2, 4), "group_norm in neck.1 normalises over the whole image"),
    (nn.InstanceNorm2d(4), "instance_norm in neck.1 normalises over the whole image"),
    (
        nn.BatchNorm2d(4, track_running_stats=False),
        "batch_norm in neck.1 normalises over the whole image",
    ),
    (
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Upsample(scale_factor=4)),
        "adaptive_avg_pool2d in neck.1.0 averages over the whole image",
    ),
    (
        nn.Sequential(nn.AdaptiveMaxPool2d(1)),
        "adaptive_max_pool2d in neck.1.0 takes the maximum of the whole image",
    ),
    (Lambda(squeeze_and_excitation), "mean in neck.1 averages over the whole image"),
    (
        Lambda(pyramid),
        "adaptive_avg_pool2d in neck.1 averages over parts of the image that grow with it",
    ),
    (
        Lambda(attention),
        "scaled_dot_product_attention in neck.1 attends to the whole image",
    ),
    (Lambda(softmax_over_places), "softmax in neck.1 normalises over the whole image"),
    (Lambda(lambda x: x - x.amax()), "amax in neck.1 takes the extremes of the whole image"),
    (
        nn.Sequential(
            nn.AvgPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        ),
        "upsample_bilinear2d in neck.1.1 has align_corners=True, which ties its places to the "
        "image's corners",
    ),
    (
        Lambda(coordinates),
        "cat in neck.1 combines the image with values that are tied to places in it",
    ),
    (
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        "pad in neck.1 wraps around the image",
    ),
    (Lambda(lambda x: x.roll(1, 2)), "roll in neck.1 wraps around the image"),
    (Lambda(lambda x: x + x.flip(3)), "flip in neck.1 mirrors the image"),
    (
        nn.Conv2d(4, 4, 3),
        "the output has 4478 x 8958 pixels for an image of 4480 x 8960",
    ),
]


@pytest.mark.parametrize(("module", "reason"), GLOBAL, ids=[reason for _, reason in GLOBAL])
def test_what_breaks_the_law_is_named(module: nn.Module, reason: str) -> None:
    found = measure(Named(module), 4)
    assert not found.exact
    assert found.reasons == (reason,)
    assert (found.top, found.left, found.bottom, found.right) == (0, 0, 0, 0)


def test_the_stride_of_an_approximate_network_is_that_of_the_rest() -> None:
    with torch.device("meta"):
        network = build("deeplabv3-resnet50", 3, 5)
    found = measure(network)
    assert found.stride == 8
    assert len(found.reasons) == 1
    assert found.reasons[0].startswith("adaptive_avg_pool2d in ")


def test_a_cumulative_sum_is_found_by_running_it() -> None:
    found = measure(Lambda(lambda x: x.cumsum(-1)))
    assert found.reasons == (
        "an output pixel sees the whole image (cumsum in the network itself isn't known)",
    )


def test_an_unknown_local_operation_is_measured_by_running_it() -> None:
    def median(image: Tensor) -> Tensor:
        patches = F.unfold(F.pad(image, (2, 0, 0, 0)), (1, 3))
        return patches.view(1, 3, 3, *image.shape[2:]).sum(2)

    assert measure(Lambda(median)) == Footprint(1, 0, 2, 0, 0, exact=True)


@pytest.mark.parametrize(
    "function",
    [lambda x: x.view(1, 3, 224, 224), lambda x: x if x.sum() > 0 else -x],
    ids=["of one size", "with a path for each image"],
)
def test_what_can_not_be_followed_is_never_exact(function: Callable[[Tensor], Tensor]) -> None:
    found = measure(Lambda(function))
    assert not found.exact
    assert found.reasons[0].startswith("the network's structure can't be read: ")


def test_json_carries_a_footprint() -> None:
    found = Footprint(8, 1, 2, 3, 4, exact=False, reasons=("because",))
    assert Footprint.from_dict(found.to_dict()) == found


def vgg16(bands: int) -> nn.Module:
    """The convolutions of VGG16 and its first fully connected layer as a convolution."""
    layers: list[nn.Module] = []
    for count, width in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        layers += [nn.LazyConv2d(width, 3, padding=1) for _ in range(count)]
        layers.append(nn.MaxPool2d(2))
    network = nn.Sequential(*layers, nn.LazyConv2d(8, 7))
    network(torch.zeros(1, bands, 224, 224))
    return network


def alexnet(bands: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(bands, 4, 11, 4, 2),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(4, 4, 5, padding=2),
        nn.MaxPool2d(3, 2),
        *(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(4, 4, 6),
    )


@pytest.mark.parametrize(("network", "field"), [(vgg16, 404), (alexnet, 355)])
def test_receptive_fields_are_the_papers(network: Callable[[int], nn.Module], field: int) -> None:
    assert receptive_field(network(3), 3) == (32, field)


def test_a_global_unit_has_no_receptive_field() -> None:
    with pytest.raises(ModelError, match="adaptive_avg_pool2d in 0 averages over the whole image"):
        receptive_field(nn.Sequential(nn.AdaptiveAvgPool2d(1)), 3)


@st.composite
def stacks(draw: st.DrawFn) -> nn.Module:
    """Layers down and up again, so that the output has the image's size, around an odd skip."""
    down: list[nn.Module] = []
    factor = 1
    for _ in range(draw(st.integers(1, 4))):
        kernel, dilation = draw(st.integers(0, 2)) * 2 + 1, draw(st.integers(1, 2))
        stride = draw(st.sampled_from([1, 1, 2])) if factor < 8 else 1
        kind = draw(st.sampled_from(["conv", "max", "average"]))
        if kind == "conv":
            padding = dilation * (kernel - 1) // 2
            down += [nn.Conv2d(2, 2, kernel, stride, padding, dilation), nn.ReLU(inplace=True)]
        elif kind == "max":
            down.append(nn.MaxPool2d(3, stride, 1))
        else:
            down.append(nn.AvgPool2d(stride))
        factor *= stride
    up: list[nn.Module] = []
    while factor > 1:
        step = draw(st.sampled_from([one for one in (2, 4, 8) if one <= factor]))
        factor //= step
        up.append(
            draw(
                st.sampled_from(
                    [
                        nn.Upsample(scale_factor=step),
                        nn.Upsample(scale_factor=step, mode="bilinear"),
                        nn.Upsample(scale_factor=step, mode="bicubic"),
                        nn.ConvTranspose2d(2, 2, 2 * step, step, step // 2),
                        nn.ConvTranspose2d(2, 2, step + 1, step, 1, output_padding=1),
                        nn.Sequential(nn.Conv2d(2, 2 * step**2, 1), nn.PixelShuffle(step)),
                    ]
                )
            )
        )
    return Branched(nn.Sequential(*down, *up), draw(st.integers(0, 6)))


class Branched(nn.Module):
    """A branch and one convolution beside it, whose reach may be the larger one."""

    def __init__(self, branch: nn.Module, reach: int) -> None:
        super().__init__()
        self.branch = branch
        self.beside = nn.Conv2d(2, 2, (1, reach + 1), padding=(0, reach))
        self.reach = reach

    def forward(self, image: Tensor) -> Tensor:
        beside: Tensor = self.beside(image)
        branch: Tensor = self.branch(image)
        return branch + beside[..., : image.shape[-1]]


@settings(max_examples=12, deadline=None)
@given(stacks())
def test_random_networks_agree_with_every_oracle(network: nn.Module) -> None:
    found = measure(network, 2)
    extents = (found.top, found.left, found.bottom, found.right)
    assert found.exact
    assert extents == find_extents(network, 2)
    # Where a unit is silent by chance, values show a smaller one.
    shown = find_stride(network, 2, extents)
    assert shown
    assert found.stride % shown == 0
    assert prove(network, found, 2).holds
    # A maximum may by chance not lie in the one column that a margin lacks.
    if not any(isinstance(module, nn.MaxPool2d) for module in network.modules()):
        for side in range(4):
            top, left, bottom, right = (e - (at == side) for at, e in enumerate(extents))
            short = Footprint(found.stride, top, left, bottom, right, exact=True)
            if extents[side]:
                assert not prove(network, short, 2).holds
