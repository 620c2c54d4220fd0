"""What every tool is given: one network, one scene, and what its numbers mean."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.package import SegmentationModel
from segpipe.pipeline.scenes.scene import Scene, open_scene

Labels = NDArray[np.uint8]
"""Class values, (row, column)."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """What a tool made of the subject.

    Attributes:
        labels: a class value for every pixel; those of invalid pixels don't count.
        patch: side of the patches or tiles that it computed, 0 where it had none.
        note: how it computed, for people.
    """

    labels: Labels
    patch: int = 0
    note: str = ""


class Padded(nn.Module):
    """A network for images of any size: zeros follow up to a multiple of `stride`."""

    def __init__(self, network: nn.Module, stride: int) -> None:
        super().__init__()
        self.network, self.stride = network, stride

    def forward(self, image: Tensor) -> Tensor:
        """Scores (N, classes, H, W) for (N, bands, H, W)."""
        height, width = image.shape[-2:]
        scores: Tensor = self.network(
            F.pad(image, (0, -width % self.stride, 0, -height % self.stride))
        )
        return scores[..., :height, :width]


class Normalising(nn.Module):
    """A network that takes the scene's own numbers."""

    def __init__(self, subject: "Subject") -> None:
        super().__init__()
        self.subject, self.network = subject, subject.network()

    def forward(self, pixels: Tensor) -> Tensor:
        """Scores (N, classes, H, W) for (N, bands, H, W)."""
        scores: Tensor = self.network(self.subject.normalised(pixels))
        return scores


@dataclass(frozen=True, slots=True)
class Subject:
    """A model and a scene; it travels to a process as one file."""

    model: SegmentationModel
    scene: Scene

    def network(self) -> nn.Module:
        """The network in fp32, on normalised images of any size."""
        return Padded(self.model.network, self.model.footprint.stride)

    def pixels(self) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """All of the scene, (band, row, column), and where it's valid, (row, column)."""
        return self.scene.read(self.scene.grid.window)

    def image(self) -> Tensor:
        """All of the scene as the network takes it, (band, row, column)."""
        pixels, _ = self.pixels()
        return self.normalised(torch.from_numpy(pixels.astype(np.float32)))

    def normalised(self, pixels: Tensor) -> Tensor:
        """The scene's own numbers (..., band, row, column) as the network takes them.

        Where a band is nodata or isn't finite, every band is 0.
        """
        card = self.model.card
        mean, std = (torch.tensor(each)[:, None, None] for each in (card.mean, card.std))
        normal = (pixels - mean) / std
        valid = normal.isfinite().all(-3, keepdim=True)
        for band, nodata in enumerate(self.scene.nodata):
            if nodata is not None:
                valid &= pixels[..., band : band + 1, :, :] != nodata
        return normal.masked_fill_(~valid, 0)

    def labelled(self, scores: Tensor) -> Labels:
        """The class values of scores (class, row, column); the first of equal ones."""
        return np.take(self.values, scores.argmax(0).numpy())

    @property
    def values(self) -> Labels:
        """The class value of each of the network's channels."""
        return np.array([info.value for info in self.model.card.classes], np.uint8)


def written(path: str | Path) -> Labels:
    """The first band of a raster that a tool wrote."""
    scene = open_scene(path, ["1"], ("labels",))
    pixels, _ = scene.read(scene.grid.window)
    return np.asarray(pixels[0], np.uint8)
