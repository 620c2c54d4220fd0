"""State dicts of other libraries give the scores that those libraries' structures give.

The structures are written out here as functions over a state dict with the library's own names:
torchvision's `fcn_resnet50` and `deeplabv3_resnet50`, segmentation-models-pytorch's `Unet`.
"""

import re
import sys
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.architectures.registry import build
from segpipe.models.errors import ModelError
from segpipe.models.formats.importing import import_state
from tests.toys import alive

State = Mapping[str, Tensor]


def conv(state: State, name: str, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """A convolution that keeps the size but for its stride."""
    weight = state[f"{name}.weight"]
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, padding, dilation)


def norm(state: State, name: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (
        state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(x, mean, var, weight, bias)


def block(state: State, name: str, x: Tensor, stride: int, dilation: int) -> Tensor:
    """A block of a ResNet, basic or with a bottleneck."""
    steps = [(1, 1, 1), (2, stride, dilation), (3, 1, 1)]
    if f"{name}.conv3.weight" not in state:
        steps = [(1, stride, dilation), (2, 1, dilation)]
    y = x
    for number, step, spread in steps:
        y = conv(state, f"{name}.conv{number}", y, step, spread)
        y = norm(state, f"{name}.bn{number}", y)
        y = y if number == len(steps) else y.relu()
    if f"{name}.downsample.0.weight" in state:
        x = norm(state, f"{name}.downsample.1", conv(state, f"{name}.downsample.0", x, stride))
    return (x + y).relu()


def resnet(state: State, root: str, image: Tensor, *, dilated: bool) -> list[Tensor]:
    """The maps of the stem and of the four layers."""
    maps = [norm(state, f"{root}.bn1", conv(state, f"{root}.conv1", image, 2)).relu()]
    x = F.max_pool2d(maps[0], 3, 2, 1)
    strides, dilations = ((1, 2, 1, 1), (1, 1, 2, 4)) if dilated else ((1, 2, 2, 2), (1,) * 4)
    for layer, (stride, dilation) in enumerate(zip(strides, dilations, strict=True), 1):
        prefix = f"{root}.layer{layer}."
        count = len({n.removeprefix(prefix).split(".")[0] for n in state if n.startswith(prefix)})
        for number in range(count):
            first = number == 0
            # torchvision gives the first block the dilation of the layer before.
            spread = dilations[max(layer - 2, 0)] if first else dilation
            x = block(state, f"{prefix}{number}", x, stride if first else 1, spread)
        maps.append(x)
    return maps


def unit(state: State, name: str, x: Tensor, at: int = 0, dilation: int = 1) -> Tensor:
    """Convolution, norm and ReLU that stand beside each other in a sequence."""
    y = conv(state, f"{name}.{at}", x, dilation=dilation)
    return norm(state, f"{name}.{at + 1}", y).relu()


def torchvision_fcn(state: State, image: Tensor) -> Tensor:
    x = unit(state, "classifier", resnet(state, "backbone", image, dilated=True)[-1])
    return bilinear(conv(state, "classifier.4", x), image)


def torchvision_deeplab(state: State, image: Tensor) -> Tensor:
    x = resnet(state, "backbone", image, dilated=True)[-1]
    pooled = unit(state, "classifier.0.convs.4", x.mean((2, 3), keepdim=True), at=1)
    parts = [
        *(
            unit(state, f"classifier.0.convs.{number}", x, dilation=rate)
            for number, rate in enumerate((1, 12, 24, 36))
        ),
        pooled.expand(-1, -1, *x.shape[2:]),
    ]
    y = unit(state, "classifier.0.project", torch.cat(parts, 1))
    return bilinear(conv(state, "classifier.4", unit(state, "classifier", y, at=1)), image)


def bilinear(scores: Tensor, image: Tensor) -> Tensor:
    return F.interpolate(scores, image.shape[2:], mode="bilinear", align_corners=False)


def smp_unet(state: State, image: Tensor) -> Tensor:
    *skips, x = resnet(state, "encoder", image, dilated=False)
    for number in range(5):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        if skips:
            x = torch.cat((x, skips.pop()), 1)
        for part in ("conv1", "conv2"):
            x = unit(state, f"decoder.blocks.{number}.{part}", x)
    return conv(state, "segmentation_head.0", x)


# Our names, and those of the library.
FCN = [("encoder.", "backbone."), ("head.", "classifier.")]
DEEPLAB = [
    ("encoder.", "backbone."),
    ("pyramid.branches.4.project.0.", "classifier.0.convs.4.1."),
    ("pyramid.branches.4.project.1.", "classifier.0.convs.4.2."),
    ("pyramid.branches.", "classifier.0.convs."),
    ("pyramid.project.0.", "classifier.0.project."),
    ("head.0.", "classifier.1."),
    ("head.1.", "classifier.2."),
    ("head.3.", "classifier.4."),
]
UNET = [
    ("score.", "segmentation_head.0."),
    *(
        (f"up.{number}.{ours}.", f"decoder.blocks.{number}.{theirs}.")
        for number in range(5)
        for ours, theirs in ((0, "conv1.0"), (1, "conv1.1"), (3, "conv2.0"), (4, "conv2.1"))
    ),
]
CASES: list[tuple[str, list[tuple[str, str]], Callable[[State, Tensor], Tensor]]] = [
    ("fcn-resnet50", FCN, torchvision_fcn),
    ("deeplabv3-resnet50", DEEPLAB, torchvision_deeplab),
    ("unet-resnet18", UNET, smp_unet),
    ("unet-resnet34", UNET, smp_unet),
]


def theirs(name: str, names: list[tuple[str, str]], bands: int = 3) -> dict[str, Tensor]:
    """Random weights of a registered architecture under another library's names."""
    torch.manual_seed(1)
    network = build(name, bands, 4)
    state: dict[str, Tensor] = {}
    for own, tensor in network.state_dict().items():
        value = 0.05 * torch.randn_like(tensor) if tensor.is_floating_point() else tensor
        if own.endswith("running_var"):
            value = value.abs() + 1
        old, new = next((pair for pair in names if own.startswith(pair[0])), ("", ""))
        state[new + own.removeprefix(old)] = value
    return state


@pytest.mark.parametrize(("name", "names", "reference"), CASES, ids=[case[0] for case in CASES])
def test_other_libraries_weights_give_their_scores(
    name: str, names: list[tuple[str, str]], reference: Callable[[State, Tensor], Tensor]
) -> None:
    state = theirs(name, names)
    auxiliary = {"aux_classifier.0.weight": torch.ones(1)} if "50" in name else {}
    network = import_state({**state, **auxiliary}).eval()
    assert network.architecture is not None
    assert network.architecture.name == name
    double = {key: tensor.double() for key, tensor in state.items()}
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        expected, found = reference(double, image), network.double()(image)
    assert float((found - expected).abs().max()) < 1e-9 * float(expected.std())
    assert float(expected.std()) > 1e-6


@pytest.mark.parametrize("name", ["unet", "unet-resnet18", "segnet-vgg16", "fcn-compact"])
def test_our_own_weights_are_known_by_their_names(name: str) -> None:
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in build(name, 5, 7).state_dict().items()}
    network = import_state({key: torch.zeros(shape) for key, shape in shapes.items()})
    assert network.architecture is not None
    assert network.architecture.to_dict() == build(name, 5, 7).architecture.to_dict()  # type: ignore[union-attr]


def small() -> nn.Module:
    return alive(build("unet", 3, 5, depth=2, width=4))


def test_options_say_what_names_cannot() -> None:
    state = small().state_dict()
    network = import_state({k: v.half() for k, v in state.items()}, "unet:depth=2,width=4", 3, 5)
    assert network.architecture is not None
    assert network.architecture.options == {"depth": 2, "width": 4}
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, state[name].half().to(tensor.dtype))


def test_counters_of_batches_may_be_missing() -> None:
    state = {k: v for k, v in small().state_dict().items() if "num_batches" not in k}
    assert import_state(state, "unet:depth=2,width=4")


def without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in small().state_dict().items() if key != name}


NAMED = "unet:depth=2,width=4"
BAD: dict[str, tuple[dict[str, Tensor], str | None, int | None, int | None, str]] = {
    "missing": (without("score.bias"), NAMED, None, None, "lacks 'score.bias' for unet"),
    "stray": (
        {**small().state_dict(), "x": torch.ones(1)},
        NAMED,
        None,
        None,
        "has a stray 'x' for unet",
    ),
    "both": (
        {**without("score.bias"), "x": torch.ones(1)},
        NAMED,
        None,
        None,
        "lacks 'score.bias', has a stray 'x'",
    ),
    "shape": (dict(small().state_dict()), "unet:depth=2", None, None, "is .*, unet has"),
    "rank": (
        {**small().state_dict(), "up.0.0.weight": torch.ones(1)},
        NAMED,
        None,
        None,
        r"up.0.0.weight is \[1\], unet has \[8, 16, 3, 3\]",
    ),
    "bands": (dict(small().state_dict()), NAMED, 4, None, "has 3 bands .* and 4 are named"),
    "classes": (dict(small().state_dict()), NAMED, 3, 2, "has 5 classes .* and 2 are named"),
    "unknown": ({"x": torch.ones(1)}, None, None, None, "nearest architecture"),
    "name": (dict(small().state_dict()), "nothing", None, None, "no architecture is called"),
    "smp words": ({}, "smp:fpn", 3, 5, "is written as smp:arch=fpn"),
    "smp counts": ({}, "smp:arch=fpn,encoder=resnet18", None, 5, "name both"),
}


@pytest.mark.parametrize("kind", BAD)
def test_weights_that_fit_nothing_are_refused_in_one_line(kind: str) -> None:
    state, name, bands, classes, message = BAD[kind]
    with pytest.raises(ModelError, match=message) as caught:
        import_state(state, name, bands, classes)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_a_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ModelError, match=re.escape("pip install 'segpipe[smp]'")):
        import_state({}, "smp:arch=fpn,encoder=resnet18", 3, 2)


class Library:
    """A library that builds one network, by the words that it is asked with."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def create_model(self, arch: str, encoder: str, **options: object) -> nn.Module:
        self.asked = [arch, encoder, options]
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))


def test_the_library_s_networks_need_no_library_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", library)
    original = library.create_model("", "")
    text = "smp:arch=fpn,encoder=resnet18,decoder_channels=64"
    network = import_state(original.state_dict(), text, 3, 2)
    options = {"encoder_weights": None, "in_channels": 3, "classes": 2, "decoder_channels": 64}
    assert library.asked == ["fpn", "resnet18", options]
    assert network.architecture is not None, "a package can hold it"
    image = torch.randn(1, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(network(image), original(image))
