"""ResNet encoders (He et al. 2016), with dilation in place of late strides if asked for."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from segpipe.models.architectures.layers import he_conv

WIDTHS = (64, 128, 256, 512)
"""Channels inside the blocks of the four layers."""


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside an identity."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = he_conv(
            inputs, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = he_conv(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both ways."""
        y = self.relu(self.bn1(self.conv1(x)))
        total: Tensor = self.relu(self.bn2(self.conv2(y)) + self.downsample(x))
        return total


class Bottleneck(nn.Module):
    """A 3 x 3 convolution between two of 1 x 1, beside an identity."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = he_conv(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = he_conv(
            width, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = he_conv(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both ways."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        total: Tensor = self.relu(self.bn3(self.conv3(y)) + self.downsample(x))
        return total


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity, or a 1 x 1 convolution where the shape changes."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(
        he_conv(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
    )


Block = Callable[[int, int, int, int], nn.Module]


@dataclass(frozen=True, slots=True)
class Layout:
    """The numbers of a ResNet: its block, the block's expansion and the blocks of each layer."""

    block: Block
    expansion: int
    repeats: tuple[int, int, int, int]

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels that the four layers give."""
        first, second, third, fourth = (width * self.expansion for width in WIDTHS)
        return first, second, third, fourth


RESNET18 = Layout(BasicBlock, BasicBlock.expansion, (2, 2, 2, 2))
RESNET34 = Layout(BasicBlock, BasicBlock.expansion, (3, 4, 6, 3))
RESNET50 = Layout(Bottleneck, Bottleneck.expansion, (3, 4, 6, 3))


class ResNet(nn.Module):
    """The maps of the stem and of the four layers, finest first; names as in torchvision.

    Their strides are 2, 4, 8, 16, 32. With `dilated` the last two layers keep stride 8: their
    blocks are dilated by 2 and 4, the first block of each by what came before it (Chen et al.
    2017, as torchvision builds it).
    """

    def __init__(self, layout: Layout, bands: int, *, dilated: bool = False) -> None:
        super().__init__()
        self.conv1 = he_conv(bands, WIDTHS[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        strides = (1, 2, 1, 1) if dilated else (1, 2, 2, 2)
        dilations = (1, 1, 2, 4) if dilated else (1, 1, 1, 1)
        inputs = (WIDTHS[0], *layout.channels[:-1])
        before = (1, *dilations[:-1])
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _layer(layout, *numbers)
            for numbers in zip(
                inputs, WIDTHS, layout.repeats, strides, before, dilations, strict=True
            )
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """The five maps."""
        maps = [self.relu(self.bn1(self.conv1(image)))]
        x = self.maxpool(maps[0])
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps


def _layer(
    layout: Layout, inputs: int, width: int, repeats: int, stride: int, before: int, dilation: int
) -> nn.Sequential:
    first = layout.block(inputs, width, stride, before)
    outputs = width * layout.expansion
    rest = (layout.block(outputs, width, 1, dilation) for _ in range(repeats - 1))
    return nn.Sequential(first, *rest)
