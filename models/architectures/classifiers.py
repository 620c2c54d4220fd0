"""Classifiers under torchvision's names of layers, so that weights from there fit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from segpipe.models.architectures import vgg
from segpipe.models.architectures.googlenet import LEVEL3, LEVEL4, LEVEL5, Branches
from segpipe.models.architectures.layers import conv_relu, he_conv
from segpipe.models.architectures.resnet import RESNET18, RESNET34, RESNET50, Layout, ResNet
from segpipe.models.errors import ModelError

Builder = Callable[[int, int], nn.Module]


@dataclass(frozen=True, slots=True)
class Classifier:
    """A builder (bands, classes) of a network (N, bands, side, side) to scores (N, classes).

    Attributes:
        builder: makes it with random weights.
        side: of the images that it takes, in pixels.
        stem: name of the weight whose second side is the number of bands.
        head: name of the weight whose first side is the number of classes.
        spare: beginnings of names in its checkpoints that only training needs.
    """

    builder: Builder
    side: int
    stem: str
    head: str
    spare: tuple[str, ...] = ()

    def sizes(self, state: Mapping[str, Tensor]) -> tuple[int, int]:
        """The bands and classes of a state dict.

        Raises:
            ModelError: it lacks the first or the last layer.
        """
        for name in (self.stem, self.head):
            if name not in state or state[name].ndim < 2:
                raise ModelError(f"the weights lack {name!r}; they aren't this classifier's")
        return state[self.stem].shape[1], state[self.head].shape[0]

    def needed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict without what only training needs."""
        return {name: one for name, one in state.items() if not name.startswith(self.spare)}


class VGG16(nn.Module):
    """VGG16 (Simonyan and Zisserman 2015); 138,357,544 parameters with 1000 classes."""

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        layers = [
            layer
            for stage in vgg.stages(bands, conv_relu)
            for layer in (*stage.children(), nn.MaxPool2d(2))
        ]
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(vgg.STAGES[-1][1] * 7 * 7, vgg.HEAD),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(vgg.HEAD, vgg.HEAD),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(vgg.HEAD, classes),
        )

    def forward(self, image: Tensor) -> Tensor:
        """The scores, (N, classes)."""
        maps = self.avgpool(self.features(image))
        scores: Tensor = self.classifier(torch.flatten(maps, 1))
        return scores


@dataclass(frozen=True, slots=True)
class AlexNetLayout:
    """The numbers by which AlexNets differ.

    `groups` is of the second, fourth and fifth convolution; `ceil_mode` of the poolings.
    """

    channels: tuple[int, int, int, int, int]
    padding: int
    groups: int
    ceil_mode: bool


PAPER = AlexNetLayout((96, 256, 384, 384, 256), padding=0, groups=2, ceil_mode=True)
TORCHVISION = AlexNetLayout((64, 192, 384, 256, 256), padding=2, groups=1, ceil_mode=False)


class AlexNet(nn.Module):
    """AlexNet (Krizhevsky, Sutskever, Hinton 2012) without its response normalisation.

    In the paper's layout, with Caffe's poolings, 60,965,224 parameters with 1000 classes.
    """

    def __init__(self, bands: int, classes: int, layout: AlexNetLayout) -> None:
        super().__init__()
        one, two, three, four, five = layout.channels
        groups, ceil = layout.groups, layout.ceil_mode
        self.features = nn.Sequential(
            he_conv(bands, one, 11, stride=4, padding=layout.padding),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=ceil),
            he_conv(one, two, 5, padding=2, groups=groups),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=ceil),
            he_conv(two, three, 3, padding=1),
            nn.ReLU(inplace=True),
            he_conv(three, four, 3, padding=1, groups=groups),
            nn.ReLU(inplace=True),
            he_conv(four, five, 3, padding=1, groups=groups),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=ceil),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(five * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, classes),
        )

    def forward(self, image: Tensor) -> Tensor:
        """The scores, (N, classes)."""
        maps = self.avgpool(self.features(image))
        scores: Tensor = self.classifier(torch.flatten(maps, 1))
        return scores


class NormedConv(nn.Module):
    """A convolution that keeps the size, with batch normalisation and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = he_conv(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """The map."""
        return nn.functional.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four branches joined by channel; that of 5 x 5 has kernels of 3 x 3, as torchvision's."""

    def __init__(self, inputs: int, channels: Branches) -> None:
        super().__init__()
        self.branch1 = NormedConv(inputs, channels.one, 1)
        self.branch2 = nn.Sequential(
            NormedConv(inputs, channels.reduce3, 1),
            NormedConv(channels.reduce3, channels.three, 3),
        )
        self.branch3 = nn.Sequential(
            NormedConv(inputs, channels.reduce5, 1), NormedConv(channels.reduce5, channels.five, 3)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, 1, 1, ceil_mode=True), NormedConv(inputs, channels.pool, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The joined maps, of the input's size."""
        return torch.cat((self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)), 1)


class GoogLeNet(nn.Module):
    """GoogLeNet (Szegedy et al. 2015) with batch normalisation, without auxiliary classifiers."""

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        self.conv1 = NormedConv(bands, 64, 7, stride=2)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = NormedConv(64, 64, 1)
        self.conv3 = NormedConv(64, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception3a, self.inception3b = _level(192, LEVEL3)
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        (
            self.inception4a,
            self.inception4b,
            self.inception4c,
            self.inception4d,
            self.inception4e,
        ) = _level(LEVEL3[-1].outputs, LEVEL4)
        self.maxpool4 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.inception5a, self.inception5b = _level(LEVEL4[-1].outputs, LEVEL5)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(LEVEL5[-1].outputs, classes)

    def forward(self, image: Tensor) -> Tensor:
        """The scores, (N, classes)."""
        x = image
        # In the order in which they were named above, which is that of the network.
        for layer in self.children():
            x = torch.flatten(x, 1) if layer is self.dropout else x
            x = layer(x)
        return x


class ResNetClassifier(ResNet):
    """A ResNet (He et al. 2016) with global average pooling and one linear layer."""

    def __init__(self, layout: Layout, bands: int, classes: int) -> None:
        super().__init__(layout, bands)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(layout.channels[-1], classes)

    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override] # scores, not maps
        """The scores, (N, classes)."""
        maps = super().forward(image)
        scores: Tensor = self.fc(torch.flatten(self.avgpool(maps[-1]), 1))
        return scores


def _level(inputs: int, modules: tuple[Branches, ...]) -> list[Inception]:
    before = (inputs, *(channels.outputs for channels in modules[:-1]))
    return [Inception(count, channels) for count, channels in zip(before, modules, strict=True)]


def _alexnet(layout: AlexNetLayout) -> Builder:
    return lambda bands, classes: AlexNet(bands, classes, layout)


def _resnet(layout: Layout) -> Classifier:
    def build(bands: int, classes: int) -> nn.Module:
        return ResNetClassifier(layout, bands, classes)

    return Classifier(build, 224, "conv1.weight", "fc.weight")


CLASSIFIERS: Mapping[str, Classifier] = MappingProxyType(
    {
        "vgg16": Classifier(VGG16, 224, "features.0.weight", "classifier.6.weight"),
        "alexnet": Classifier(_alexnet(PAPER), 227, "features.0.weight", "classifier.6.weight"),
        "alexnet-torchvision": Classifier(
            _alexnet(TORCHVISION), 224, "features.0.weight", "classifier.6.weight"
        ),
        "googlenet": Classifier(
            GoogLeNet, 224, "conv1.conv.weight", "fc.weight", spare=("aux1.", "aux2.")
        ),
        "resnet18": _resnet(RESNET18),
        "resnet34": _resnet(RESNET34),
        "resnet50": _resnet(RESNET50),
    }
)
"""By name."""
