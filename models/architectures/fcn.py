"""FCN-32s, FCN-16s and FCN-8s (Long, Shelhamer, Darrell 2015), and an FCN over a dilated ResNet."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.architectures import alexnet, googlenet, vgg
from segpipe.models.architectures.alexnet import AlexNet
from segpipe.models.architectures.googlenet import GoogLeNet
from segpipe.models.architectures.layers import Upsampling, conv_norm_relu, score_layer
from segpipe.models.architectures.network import FeatureMap, Network
from segpipe.models.architectures.resnet import RESNET50, ResNet
from segpipe.models.architectures.vgg import VGG16
from segpipe.models.errors import ModelError

PIXELS = FeatureMap(1, 0, 0)
"""The grid that all scores end on."""


class FCN(Network):
    """Class scores from maps of several strides, summed from coarse to fine.

    Each map is scored by a 1 x 1 convolution that starts at zero. Coarse scores are upsampled to
    the next finer stride and added there; the last sum is upsampled to pixels. Every score is
    upsampled around the middle of the pixels that its unit sees, wherever the encoder's paddings
    have put it.

    Args:
        encoder: maps an image to feature maps keyed by stride.
        maps: what the encoder gives; those with a stride below `finest` are unused.
        finest: stride of the finest map that is scored.
        classes: number of output channels.
        upsampling: "learned", which starts as bilinear interpolation, or "fixed", which stays so.
    """

    def __init__(
        self,
        encoder: nn.Module,
        maps: Sequence[FeatureMap],
        finest: int,
        classes: int,
        upsampling: str,
    ) -> None:
        super().__init__()
        if upsampling not in ("learned", "fixed"):
            raise ModelError(f"upsampling is learned or fixed, got {upsampling!r}")
        self.encoder = encoder
        scored = sorted((one for one in maps if one.stride >= finest), key=_stride, reverse=True)
        self.strides = [one.stride for one in scored]
        self.scores = nn.ModuleList(score_layer(one.channels, classes) for one in scored)
        self.upsamplings = nn.ModuleList(
            Upsampling(
                classes,
                coarse.stride // fine.stride,
                learned=upsampling == "learned",
                place=(coarse.centre - fine.centre) / fine.stride,
            )
            for coarse, fine in pairwise([*scored, PIXELS])
        )

    def converted(self) -> nn.Module:
        """The encoder up to its coarsest map, which a classifier would score."""
        return Coarsest(self.encoder, self.strides[0])

    def forward(self, image: Tensor) -> Tensor:
        """Class scores, (N, classes, H, W); H and W are multiples of the coarsest stride."""
        maps = self.encoder(image)
        scores = [
            score(maps[stride]) for stride, score in zip(self.strides, self.scores, strict=True)
        ]
        total: Tensor = self.upsamplings[0](scores[0])
        for finer, upsample in zip(scores[1:], self.upsamplings[1:], strict=True):
            total = upsample(total + finer)
        return total


class Coarsest(nn.Module):
    """The map of one stride out of those that an encoder gives."""

    def __init__(self, encoder: nn.Module, stride: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.stride = stride

    def forward(self, image: Tensor) -> Tensor:
        """The map."""
        found: Tensor = self.encoder(image)[self.stride]
        return found


def continue_from(network: FCN, coarser: FCN) -> None:
    """Gives `network` what a coarser FCN over the same encoder has learned: 32s to 16s to 8s.

    Encoder, scores and the upsamplings between scored maps are copied. The scores of further maps
    become zero, and the upsamplings around them bilinear, so that training starts from the
    predictions of the coarser network (section 4.2). What its last upsampling learned beyond
    bilinear interpolation has no place and is left behind. The predictions are the same

    - everywhere for the step from 16s to 8s over AlexNet, and for the step from 32s to 16s but in
      the last 15 rows and columns: there the fine units lie on the coarse ones, and interpolating
      twice is interpolating once;
    - over VGG16 on the pixels further than a quarter of the coarse stride from the row and the
      column of the nearest unit and from the image's edge. Nearer to it, where the interpolation
      bends, the finer network rounds the bend off: by up to an eighth of the second difference of
      the scores in either direction.

    Raises:
        ModelError: encoders, bands or classes differ, or `coarser` isn't coarser (or as coarse).
    """
    shared = len(coarser.strides)
    if network.strides[:shared] != coarser.strides:
        raise ModelError(
            f"an FCN goes on from one that scores fewer maps, strides {_text(network.strides)} "
            f"don't go on from {_text(coarser.strides)}"
        )
    last = shared if network.strides == coarser.strides else shared - 1
    pairs = [
        (network.encoder, coarser.encoder),
        *zip(network.scores, coarser.scores, strict=False),
        *zip(network.upsamplings[:last], coarser.upsamplings[:last], strict=True),
    ]
    if any(_shapes(after) != _shapes(before) for after, before in pairs):
        raise ModelError("an FCN goes on from one of the same encoder, bands and classes")
    for after, before in pairs:
        after.load_state_dict(before.state_dict())
    for upsampling in network.upsamplings[last:]:
        if isinstance(upsampling, Upsampling):
            upsampling.reset()
    with torch.no_grad():
        for weight in network.scores[shared:].parameters():
            weight.zero_()


class FCNResNet50(Network):
    """FCN over ResNet50 with output stride 8: a 3 x 3 head, upsampled bilinearly."""

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        self.encoder = ResNet(RESNET50, bands, dilated=True)
        inputs = RESNET50.channels[-1]
        self.head = nn.Sequential(
            *conv_norm_relu(inputs, inputs // 4),
            nn.Dropout(0.1),
            nn.Conv2d(inputs // 4, classes, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Class scores, (N, classes, H, W); H and W are multiples of 8."""
        scores = self.head(self.encoder(image)[-1])
        return F.interpolate(scores, scale_factor=8, mode="bilinear", align_corners=False)


def fcn32s_alexnet(bands: int, classes: int, *, upsampling: str = "learned") -> Network:
    """FCN-32s over AlexNet: one upsampling from conv7."""
    return FCN(AlexNet(bands), alexnet.MAPS, 32, classes, upsampling)


def fcn16s_alexnet(bands: int, classes: int, *, upsampling: str = "learned") -> Network:
    """FCN-16s over AlexNet: conv7 and pool2."""
    return FCN(AlexNet(bands), alexnet.MAPS, 16, classes, upsampling)


def fcn8s_alexnet(bands: int, classes: int, *, upsampling: str = "learned") -> Network:
    """FCN-8s over AlexNet: conv7, pool2 and pool1."""
    return FCN(AlexNet(bands), alexnet.MAPS, 8, classes, upsampling)


def fcn32s_googlenet(bands: int, classes: int, *, upsampling: str = "learned") -> Network:
    """FCN-32s over GoogLeNet: one upsampling from the last pooling."""
    return FCN(GoogLeNet(bands), googlenet.MAPS, 32, classes, upsampling)


def fcn32s_vgg16(
    bands: int, classes: int, *, upsampling: str = "learned", width: int = vgg.WIDTH
) -> Network:
    """FCN-32s over VGG16: one upsampling from conv7."""
    return FCN(VGG16(bands, width), vgg.maps(width), 32, classes, upsampling)


def fcn16s_vgg16(
    bands: int, classes: int, *, upsampling: str = "learned", width: int = vgg.WIDTH
) -> Network:
    """FCN-16s over VGG16: conv7 and pool4."""
    return FCN(VGG16(bands, width), vgg.maps(width), 16, classes, upsampling)


def fcn8s_vgg16(
    bands: int, classes: int, *, upsampling: str = "learned", width: int = vgg.WIDTH
) -> Network:
    """FCN-8s over VGG16: conv7, pool4 and pool3."""
    return FCN(VGG16(bands, width), vgg.maps(width), 8, classes, upsampling)


def _stride(one: FeatureMap) -> int:
    return one.stride


def _text(strides: Sequence[int]) -> str:
    return ", ".join(map(str, strides))


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}
