"""Shapes, sizes and first weights of every registered network."""

import pytest
import torch
from torch import nn

from segpipe.models.architectures.layers import Upsampling, bilinear_kernel
from segpipe.models.architectures.network import Network
from segpipe.models.architectures.registry import ARCHITECTURES, MOST_BANDS, build, create, names
from segpipe.models.errors import ModelError

STRIDES = {"fcn-compact": 8, "unet": 16, "fcn-resnet50": 8, "deeplabv3-resnet50": 8}


def meta(name: str, bands: int = 3, classes: int = 21, **options: int | str) -> Network:
    with torch.device("meta"):
        return build(name, bands, classes, **options).eval()


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def part(network: nn.Module, name: str) -> nn.Module:
    module = getattr(network, name)
    assert isinstance(module, nn.Module)
    return module


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (5, 2)])
def test_scores_have_the_size_of_the_image(name: str, rows: int, columns: int) -> None:
    stride = STRIDES.get(name, 32)
    image = torch.empty(2, 5, rows * stride, columns * stride, device="meta")
    scores = meta(name, 5, 7)(image)
    assert scores.shape == (2, 7, rows * stride, columns * stride)


@pytest.mark.parametrize("name", names())
def test_every_tensor_is_in_the_state_dict(name: str) -> None:
    # A package fills a network on the meta device: what the state leaves out would stay there.
    network = meta(name)
    state = network.state_dict()
    held = dict(network.named_parameters()) | dict(network.named_buffers())
    assert state.keys() == held.keys()


@pytest.mark.parametrize("name", names())
def test_a_network_knows_how_it_was_built(name: str) -> None:
    network = meta(name, 4, 6)
    assert network.architecture is not None
    assert network.architecture.options == ARCHITECTURES[name].options
    with torch.device("meta"):
        again = create(network.architecture)
    assert [(k, v.shape) for k, v in again.state_dict().items()] == [
        (k, v.shape) for k, v in network.state_dict().items()
    ]


@pytest.mark.parametrize(
    ("name", "skips", "steps"),
    [
        ("fcn32s-vgg16", (4096,), (32,)),
        ("fcn16s-vgg16", (4096, 512), (2, 16)),
        ("fcn8s-vgg16", (4096, 512, 256), (2, 2, 8)),
    ],
)
def test_fcn_over_vgg16_is_its_encoder_its_scores_and_its_upsamplings(
    name: str, skips: tuple[int, ...], steps: tuple[int, ...]
) -> None:
    scores = sum(21 * (channels + 1) for channels in skips)
    kernels = sum(21 * (2 * step) ** 2 for step in steps)
    assert size(meta(name, upsampling="fixed")) == 134_260_544 + scores
    assert size(meta(name)) == 134_260_544 + scores + kernels


@pytest.mark.parametrize(
    ("name", "field", "centre"),
    [
        ("fcn32s-alexnet", 355, 16),
        pytest.param("fcn32s-vgg16", 404, 15.5, marks=pytest.mark.slow),
        ("fcn32s-googlenet", 907, 16),
    ],
)
def test_a_unit_sees_the_published_field_around_the_middle_that_is_told(
    name: str, field: int, centre: float
) -> None:
    encoder = part(build(name, 1, 1), "encoder").eval()
    average(encoder)
    image = torch.ones(1, 1, 32, 1152, requires_grad=True)
    encoder(image)[32][..., 18].sum().backward()
    assert image.grad is not None
    seen = image.grad[0, 0].any(dim=0).nonzero()
    first, last = int(seen.min()), int(seen.max())
    assert last - first + 1 == field
    assert (first + last) / 2 == 18 * 32 + centre


def average(module: nn.Module) -> None:
    """Takes means for maxima and equal weights, so that every pixel of the field counts."""
    for name, child in module.named_children():
        if isinstance(child, nn.MaxPool2d):
            numbers = child.kernel_size, child.stride, child.padding, child.ceil_mode
            setattr(module, name, nn.AvgPool2d(*numbers))
        elif isinstance(child, nn.Conv2d):
            nn.init.constant_(child.weight, 1 / child.weight[0].numel())
        average(child)


def test_resnets_have_the_sizes_that_he_and_others_give() -> None:
    # torchvision's counts without the 1000-class layer: 11,689,512 - 513,000 and so on.
    assert size(part(meta("unet-resnet18"), "encoder")) == 11_176_512
    assert size(part(meta("unet-resnet34"), "encoder")) == 21_284_672
    assert size(part(meta("fcn-resnet50"), "encoder")) == 23_508_032


def test_unet_doubles_its_width_at_every_level() -> None:
    network = meta("unet", depth=2, width=8)
    widths = [module.num_features for module in network.modules() if type(module) is nn.BatchNorm2d]
    assert widths == [8, 8, 16, 16, 32, 32, 16, 16, 8, 8]


@pytest.mark.parametrize("factor", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("learned", [True, False])
def test_upsampling_starts_as_bilinear_interpolation(factor: int, learned: bool) -> None:
    coarse = torch.rand(1, 3, 6, 7)
    fine = Upsampling(3, factor, learned=learned)(coarse)
    oracle = nn.functional.interpolate(
        coarse, scale_factor=factor, mode="bilinear", align_corners=False
    )
    edge = factor // 2  # there interpolation repeats the last value, and padding is zero
    inner = (..., slice(edge, -edge), slice(edge, -edge))
    torch.testing.assert_close(fine[inner], oracle[inner])


def test_upsampling_continues_a_ramp() -> None:
    centres = torch.arange(6) * 4 + 1.5  # of blocks of four pixels
    fine = Upsampling(1, 4, learned=True)(centres.expand(1, 1, 5, 6))
    torch.testing.assert_close(fine[0, 0, 10, 2:-2], torch.arange(24.0)[2:-2])


def test_the_bilinear_kernel_shares_out_every_score_wholly() -> None:
    assert float(bilinear_kernel(8).sum()) == 64


def test_fixed_upsampling_is_no_parameter_and_learned_is() -> None:
    assert not list(Upsampling(2, 4, learned=False).parameters())
    assert len(list(Upsampling(2, 4, learned=True).parameters())) == 1


def test_fcn_scores_start_at_zero() -> None:
    network = build("fcn32s-googlenet", 1, 2)
    scores = part(network, "scores")
    assert all(not parameter.any() for parameter in scores.parameters())
    with torch.inference_mode():
        assert not network.eval()(torch.rand(1, 1, 32, 32)).any()


def test_segnet_with_transposed_convolutions_is_the_same_but_for_them() -> None:
    unpooling, transposed = meta("segnet-vgg16"), meta("segnet-vgg16", upsampling="transposed")
    own = {f"upsamplings.{n}.weight" for n in range(5)}
    assert transposed.state_dict().keys() - unpooling.state_dict().keys() == own
    assert unpooling.state_dict().keys() < transposed.state_dict().keys()
    scores = transposed(torch.empty(1, 3, 32, 64, device="meta"))
    assert scores.shape == (1, 21, 32, 64)


def test_transposed_convolutions_of_segnet_start_by_repeating_values() -> None:
    network = build("segnet-vgg16", 3, 2, upsampling="transposed")
    upsampling = part(network, "upsamplings")[-1]  # type: ignore[index]
    coarse = torch.rand(1, 64, 3, 5)
    fine = upsampling(coarse, None)
    assert fine.equal(nn.functional.interpolate(coarse, scale_factor=2, mode="nearest"))


def test_dilated_resnet_keeps_stride_8() -> None:
    scores = meta("fcn-resnet50")(torch.empty(1, 3, 8, 8, device="meta"))
    assert scores.shape[-2:] == (8, 8)


@pytest.mark.parametrize(
    ("name", "bands", "classes", "options", "message"),
    [
        ("fcn64s-vgg16", 3, 2, {}, "no architecture"),
        ("unet", 0, 2, {}, "bands"),
        ("unet", MOST_BANDS + 1, 2, {}, "bands"),
        ("unet", 3, 0, {}, "classes"),
        ("unet", 3, 256, {}, "classes"),
        ("unet", 3, 2, {"depth": 0}, "depth"),
        ("unet", 3, 2, {"depth": 99}, "depth"),
        ("unet", 3, 2, {"width": "64"}, "width"),
        ("unet", 3, 2, {"weights": 1}, "no option 'weights'; its options are: depth, width"),
        ("fcn-resnet50", 3, 2, {"depth": 1}, "its options are: none"),
        ("segnet-vgg16", 3, 2, {"upsampling": "learned"}, "unpooling or transposed"),
        ("fcn8s-vgg16", 3, 2, {"upsampling": "cubic"}, "learned or fixed"),
    ],
)
def test_what_cannot_be_built_is_refused(
    name: str, bands: int, classes: int, options: dict[str, int | str], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        meta(name, bands, classes, **options)
