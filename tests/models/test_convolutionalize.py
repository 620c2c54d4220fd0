"""One pass over an image gives what the classifier gives on every crop of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.architectures.classifiers import CLASSIFIERS
from segpipe.models.convolutionalize import Conversion, convert, converted, convolutionalize
from segpipe.models.errors import ModelError
from segpipe.models.footprints.proof import he_initialise
from segpipe.models.formats.layer_graph import trace

ROUNDING = 1e-10


def fresh(classifier: nn.Module) -> nn.Module:
    """In float64, with weights and statistics under which every path counts."""
    he_initialise(classifier)
    generator = torch.Generator().manual_seed(1)
    for name, buffer in classifier.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(generator=generator)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2, generator=generator)
    return classifier.double().eval()


def difference(classifier: nn.Module, side: int, rows: int = 2, columns: int = 3) -> float:
    """The largest one between the score map and the classifier's scores on the crops."""
    conversion = convert(trace(classifier), side)
    network = converted(classifier, conversion)
    stride = conversion.stride
    height, width = side + (rows - 1) * stride, side + (columns - 1) * stride
    image = torch.randn(
        2, conversion.bands, height, width, generator=torch.Generator().manual_seed(0)
    ).double()
    with torch.inference_mode():
        scores = network(image)
        assert scores.shape[2:] == (rows, columns)
        return max(
            float((scores[..., row, column] - classifier(_crop(image, row, column, stride, side)))
                  .abs().max())
            for row in range(rows)
            for column in range(columns)
        )  # fmt: skip


def _crop(image: Tensor, row: int, column: int, stride: int, side: int) -> Tensor:
    top, left = row * stride, column * stride
    return image[..., top : top + side, left : left + side]


# ---- structures that Hypothesis draws


@dataclass(frozen=True)
class Shape:
    channels: int
    side: int


@st.composite
def classifiers(draw: st.DrawFn) -> tuple[nn.Module, int]:
    """An unpadded classifier of drawn layers, and a side that it takes."""
    side = draw(st.integers(14, 26))
    shape = Shape(draw(st.integers(1, 3)), side)
    layers: list[nn.Module] = [nn.Conv2d(shape.channels, 4, 1)]
    shape = Shape(4, side)
    while shape.side > 6 and len(layers) < 8:
        shape = _window(draw, layers, shape)
    _ending(draw, layers, shape)
    return nn.Sequential(*layers), side


def _window(draw: st.DrawFn, layers: list[nn.Module], shape: Shape) -> Shape:
    kernel, stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dilation = draw(st.integers(1, 2)) if kernel > 1 else 1
    kind = draw(st.sampled_from(["convolution", "maximum", "mean"]))
    channels = shape.channels
    if kind == "convolution":
        channels = draw(st.integers(1, 4))
        layers.append(nn.Conv2d(shape.channels, channels, kernel, stride, dilation=dilation))
        layers.extend(
            draw(st.sampled_from([[], [nn.ReLU(inplace=True)], [nn.BatchNorm2d(channels)]]))
        )
    elif kind == "maximum":
        layers.append(nn.MaxPool2d(kernel, stride, dilation=dilation))
    else:
        dilation = 1
        layers.append(nn.AvgPool2d(kernel, stride))
    return Shape(channels, (shape.side - dilation * (kernel - 1) - 1) // stride + 1)


def _ending(draw: st.DrawFn, layers: list[nn.Module], shape: Shape) -> None:
    parts = [one for one in range(1, shape.side + 1) if shape.side % one == 0]
    side = shape.side
    match draw(st.sampled_from(["flatten", "parts", "whole"])):
        case "parts":
            side = draw(st.sampled_from(parts))
            layers.append(nn.AdaptiveAvgPool2d(side))
        case "whole":
            side = 1
            layers.append(draw(st.sampled_from(
                [nn.AvgPool2d(shape.side), nn.MaxPool2d(shape.side), nn.AdaptiveMaxPool2d(1)]
            )))  # fmt: skip
    hidden = draw(st.integers(1, 5))
    layers += [nn.Flatten(), nn.Dropout(), nn.Linear(shape.channels * side**2, hidden)]
    layers += draw(st.sampled_from([[], [nn.ReLU()], [nn.BatchNorm1d(hidden), nn.Sigmoid()]]))
    layers += [nn.Linear(hidden, 4), draw(st.sampled_from([nn.Identity(), nn.Softmax(-1)]))]


@given(drawn=classifiers())
@settings(max_examples=60, deadline=None)
def test_every_score_is_that_of_its_crop(drawn: tuple[nn.Module, int]) -> None:
    classifier, side = drawn
    classifier = fresh(classifier)
    conversion = convert(trace(classifier), side)
    assert conversion.padded == ()
    assert conversion.classes == 4
    assert difference(classifier, side) < ROUNDING


# ---- structures as people write them


class Residual(nn.Module):
    """Branches that meet in sums and joins, written with functions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2)
        self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.fc = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(image * 2 - 1)), 3, 2)
        y = F.relu(self.one(x) * self.scale + x)
        z = torch.cat([y, self.two(x)], dim=1)
        z = F.adaptive_avg_pool2d(z, (1, 1))
        scores: Tensor = F.softmax(self.fc(z.view(z.size(0), -1)), dim=1)
        return scores


class Joined(nn.Module):
    """Two poolings of one map, joined after they were flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2)
        self.fc = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image).relu()
        flat = torch.cat((x.mean((2, 3)), F.avg_pool2d(x, 6).squeeze(3).squeeze(2)), -1)
        scores: Tensor = self.fc(F.dropout(flat, 0.5, self.training))
        return scores


class Mean(Joined):
    """As `Joined`, with means in both of their forms."""

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image).relu()
        flat = torch.cat((x.mean((-1, -2)), torch.mean(x, [2, 3], keepdim=True).flatten(1)), 1)
        scores: Tensor = self.fc(flat)
        return scores


def fully() -> nn.Module:
    """A classifier without a linear layer, as SqueezeNet is."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def rounded_up() -> nn.Module:
    """Poolings that round up, where a crop has nothing left over."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.MaxPool2d(2, ceil_mode=True), nn.Flatten(), nn.Linear(36, 5)
    )


PLAIN: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "residual": (Residual, 15),
    "mean": (Mean, 13),
    "fully convolutional": (fully, 14),
    "rounded up": (rounded_up, 13),
}


@pytest.mark.parametrize("name", PLAIN)
def test_functions_branches_and_means(name: str) -> None:
    make, side = PLAIN[name]
    classifier = fresh(make())
    assert convert(trace(classifier), side).padded == ()
    assert difference(classifier, side) < ROUNDING


def test_the_weights_are_the_same() -> None:
    classifier = fresh(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 4)))
    network = convolutionalize(classifier, 5)
    for name, weight in classifier.named_parameters():
        assert torch.equal(network.get_parameter(name).flatten(), weight.flatten()), name
    assert isinstance(network.get_submodule("2"), nn.Conv2d)


# ---- the networks of the papers


def size(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def meta(name: str) -> tuple[nn.Module, Conversion]:
    with torch.device("meta"):
        classifier = CLASSIFIERS[name].builder(3, 1000).eval()
    return classifier, convert(trace(classifier), CLASSIFIERS[name].side)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # As torchvision counts them; the paper's AlexNet as Caffe does.
        ("vgg16", 138_357_544),
        ("alexnet", 60_965_224),
        ("alexnet-torchvision", 61_100_840),
        ("googlenet", 6_624_904),
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
    ],
)
def test_classifiers_have_the_published_sizes(name: str, parameters: int) -> None:
    assert size(meta(name)[0]) == parameters


@pytest.mark.parametrize(
    ("name", "side", "scores"),
    [
        ("vgg16", 224, 1),
        ("vgg16", 384, 6),
        ("alexnet", 227, 1),
        ("alexnet", 500, 10),
        ("resnet18", 384, 6),
        ("googlenet", 384, 6),
    ],
)
def test_score_maps_have_the_size_that_the_papers_give(name: str, side: int, scores: int) -> None:
    with torch.device("meta"):
        classifier = CLASSIFIERS[name].builder(3, 1000).eval()
        network = convolutionalize_on_meta(classifier, CLASSIFIERS[name].side)
        assert network(torch.empty(1, 3, side, side)).shape == (1, 1000, scores, scores)
    assert meta(name)[1].stride == 32


def convolutionalize_on_meta(classifier: nn.Module, side: int) -> nn.Module:
    from segpipe.models.formats.layer_graph import LayerGraph

    return LayerGraph(3, 1000, graph=convert(trace(classifier), side).graph.to_json()).eval()


def test_padded_layers_are_named_and_the_difference_is_real() -> None:
    assert len(meta("vgg16")[1].padded) == 13
    assert meta("alexnet")[1].padded == ("features.3", "features.6", "features.8", "features.10")
    small = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))
    assert convert(trace(small.eval()), 16).padded == ("0",)
    assert difference(fresh(small), 16) > 0.01


def test_a_window_that_a_crop_cuts_short_counts_as_padded() -> None:
    classifier = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.MaxPool2d(2, ceil_mode=True), nn.Flatten(), nn.Linear(64, 5)
    )
    assert convert(trace(classifier.eval()), 9).padded == ("1",)


# ---- what can't be converted


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(3, 3, 1)
        self.fc = nn.Linear(3, 2)

    def forward(self, image: Tensor) -> Tensor:
        x = image * self.gate(F.adaptive_avg_pool2d(image, 1)).sigmoid()
        scores: Tensor = self.fc(x.mean((2, 3)))
        return scores


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        x: Tensor = self.conv(image)
        return x.transpose(1, 2).mean((2, 3))


def after(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), *layers)


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "a global gate": (Gate(), "operator.mul can't be made convolutional: its parts are maps of"),
    "a group norm": (after(nn.GroupNorm(2, 4)), "^1 can't .* GroupNorm"),
    "transposed axes": (Transposed(), "Tensor.transpose"),
    "a linear layer on a map": (after(nn.Linear(14, 2)), "^1 can't .* columns"),
    "uneven parts": (after(nn.AdaptiveAvgPool2d(4)), "^1 can't .* uneven"),
    "places told apart": (after(nn.Flatten(), nn.BatchNorm1d(784)), "^2 can't .* places"),
    "a softmax over rows": (after(nn.Softmax(2)), "^1 can't .* channels"),
    "a softmax over places": (after(nn.Flatten(), nn.Softmax(1)), "^2 can't .* channels"),
    "strides of two kinds": (after(nn.MaxPool2d(2, (1, 2))), "^1 can't .* strides"),
    "a pooling into parts, then a convolution": (
        after(nn.AdaptiveAvgPool2d(7), nn.Conv2d(4, 4, 3)),
        "^2 can't .* linear",
    ),
    "a map as its output": (after(), "gives \\[4, 14, 14\\]"),
    "an upsampling": (after(nn.Upsample(scale_factor=2)), "^1 can't .* Upsample"),
    "another side": (after(nn.Flatten(), nn.Linear(100, 2)), "^2 doesn't take .* own side"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_named(name: str) -> None:
    classifier, message = REFUSED[name]
    with pytest.raises(ModelError, match=message):
        convolutionalize(classifier.eval(), 16)


@pytest.mark.parametrize("side", [0, -1, 5000, 2.5])
def test_a_side_is_a_number_of_pixels(side: Any) -> None:
    with pytest.raises(ModelError, match="side is a whole number"):
        convolutionalize(fully(), side)
