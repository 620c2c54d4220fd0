"""FCN-32s, FCN-16s and FCN-8s (Long, Shelhamer, Darrell 2015), and an FCN over a dilated ResNet."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models import alexnet, googlenet, vgg
from segpipe.models.alexnet import AlexNet
from segpipe.models.errors import ModelError
from segpipe.models.googlenet import GoogLeNet
from segpipe.models.layers import Upsampling, conv_norm_relu, score_layer
from segpipe.models.network import Network
from segpipe.models.resnet import RESNET50, ResNet
from segpipe.models.vgg import VGG16


class FCN(Network):
    """Class scores from maps of several strides, summed from coarse to fine.

    Each map is scored by a 1 x 1 convolution that starts at zero. Coarse scores are upsampled to
    the next finer stride and added there; the last sum is upsampled to pixels.

    Args:
        encoder: maps an image to feature maps keyed by stride.
        channels: of each of these maps, by stride; those with a stride below `finest` are unused.
        finest: stride of the finest map that is scored.
        classes: number of output channels.
        upsampling: "learned", which starts as bilinear interpolation, or "fixed", which stays so.
    """

    def __init__(
        self,
        encoder: nn.Module,
        channels: Mapping[int, int],
        finest: int,
        classes: int,
        upsampling: str,
    ) -> None:
        super().__init__()
        if upsampling not in ("learned", "fixed"):
            raise ModelError(f"upsampling is learned or fixed, got {upsampling!r}")
        self.encoder = encoder
        self.strides = sorted((stride for stride in channels if stride >= finest), reverse=True)
        self.scores = nn.ModuleList(score_layer(channels[s], classes) for s in self.strides)
        steps = zip(self.strides, [*self.strides[1:], 1], strict=True)
        self.upsamplings = nn.ModuleList(
            Upsampling(classes, coarse // fine, learned=upsampling == "learned")
            for coarse, fine in steps
        )

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
    return FCN(AlexNet(bands), alexnet.CHANNELS, 32, classes, upsampling)


def fcn32s_googlenet(bands: int, classes: int, *, upsampling: str = "learned") -> Network:
    """FCN-32s over GoogLeNet: one upsampling from the last pooling."""
    return FCN(GoogLeNet(bands), googlenet.CHANNELS, 32, classes, upsampling)


def fcn32s_vgg16(bands: int, classes: int, *, upsampling: str = "learned") -> Network:
    """FCN-32s over VGG16: one upsampling from conv7."""
    return FCN(VGG16(bands), vgg.CHANNELS, 32, classes, upsampling)


def fcn16s_vgg16(bands: int, classes: int, *, upsampling: str = "learned") -> Network:
    """FCN-16s over VGG16: conv7 and pool4."""
    return FCN(VGG16(bands), vgg.CHANNELS, 16, classes, upsampling)


def fcn8s_vgg16(bands: int, classes: int, *, upsampling: str = "learned") -> Network:
    """FCN-8s over VGG16: conv7, pool4 and pool3."""
    return FCN(VGG16(bands), vgg.CHANNELS, 8, classes, upsampling)
