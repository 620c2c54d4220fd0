"""A network learns from labelled pixels: numpy arrays in, a trained network out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.errors import ModelError

IGNORED = 255
"""Label of a pixel that teaches nothing."""

Labels = NDArray[np.uint8]
Features = NDArray[np.float32]
Progress = Callable[[int, float], None]
"""Called after each step with the number of steps done and the step's loss."""


class ExamplesRefusedError(ModelError):
    """A network can't learn from these pixels."""

    exit_code = 3


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A rectangle of a scene and what is known about its pixels.

    Attributes:
        pixels: the scene's own numbers, (band, row, column).
        valid: True where every band holds a measurement, (row, column).
        labels: class indices, or `IGNORED`, (row, column).

    Raises:
        ValueError: the shapes don't agree.
    """

    pixels: NDArray[np.generic]
    valid: NDArray[np.bool_]
    labels: Labels

    def __post_init__(self) -> None:
        shapes = self.pixels.shape[1:], self.valid.shape, self.labels.shape
        if self.pixels.ndim != 3 or len(set(shapes)) != 1:
            raise ValueError(
                f"pixels are (band, row, column), valid and labels (row, column), got the shapes "
                f"{self.pixels.shape}, {self.valid.shape} and {self.labels.shape}"
            )

    @property
    def known(self) -> NDArray[np.bool_]:
        """True where a pixel is valid and has a label, (row, column)."""
        known: NDArray[np.bool_] = self.valid & (self.labels != IGNORED)
        return known


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Mean and standard deviation of every band, in the scene's own units."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, block: Block) -> "Normalisation":
        """The statistics over all valid pixels of a block.

        Raises:
            ExamplesRefusedError: no pixel is valid, or a band has one value only.
        """
        if not block.valid.any():
            raise ExamplesRefusedError("no pixel of the training area is valid; choose another one")
        bands = [band[block.valid].astype(np.float64) for band in block.pixels]
        found = cls(
            tuple(float(band.mean()) for band in bands), tuple(float(band.std()) for band in bands)
        )
        if constant := [index + 1 for index, std in enumerate(found.std) if std == 0]:
            raise ExamplesRefusedError(f"band {constant[0]} has one value only; leave it out")
        return found

    def __call__(self, block: Block) -> Features:
        """What the network is fed: `(x - mean) / std`, and 0 where a pixel isn't valid."""
        mean, std = (np.array(numbers)[:, None, None] for numbers in (self.mean, self.std))
        features = ((block.pixels - mean) / std).astype(np.float32)
        return np.where(block.valid, features, np.float32(0))


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how a network is trained.

    The rate rises to `learning_rate` over the first quarter of the steps and falls to nothing by
    the last one (one cycle, Smith and Topin 2019), with AdamW (Loshchilov and Hutter 2019). The
    last weights are the result: no held-out figure chooses among them.

    Attributes:
        steps: how many batches are learnt from.
        crop: side of a crop in pixels, a multiple of the network's stride.
        seed: of crops, turns and dropout. The same seed gives the same weights on the same machine
            with the same number of threads.
        batch: crops a step.
        learning_rate: the highest rate.
        weight_decay: AdamW's.
        balance: 0 weighs all pixels alike, 1 gives all classes one weight; a class is weighted by
            its frequency to the power of `-balance`.

    Raises:
        ValueError: a number is out of bounds.
    """

    steps: int
    crop: int
    seed: int
    batch: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    balance: float = 0.25

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "crop", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is positive, got {getattr(self, name)}")
        if self.weight_decay < 0 or not 0 <= self.balance <= 1 or self.seed < 0:
            raise ValueError(
                f"weight_decay and seed are 0 or more and balance lies between 0 and 1, got {self}"
            )


def fit(
    network: nn.Module,
    block: Block,
    normalisation: Normalisation,
    classes: int,
    schedule: Schedule,
    progress: Progress | None = None,
) -> tuple[float, ...]:
    """The loss of every step; `network` has learnt and is in evaluation mode.

    Crops lie inside the block around labelled pixels, and are turned and mirrored at random.

    Raises:
        ExamplesRefusedError: the block is smaller than a crop, or a class has no pixel in it.
    """
    sampler = Sampler(block, normalisation, schedule)
    weights = torch.from_numpy(class_weights(block, classes, schedule.balance))
    optimizer = torch.optim.AdamW(
        network.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, total_steps=schedule.steps, pct_start=0.25
    )
    losses: list[float] = []
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(schedule.seed)
        for step in range(schedule.steps):
            images, labels = sampler.batch()
            loss = F.cross_entropy(network(images), labels, weights, ignore_index=IGNORED)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rate.step()
            losses.append(loss.item())
            if progress:
                progress(step + 1, losses[-1])
    network.eval()
    return tuple(losses)


class Sampler:
    """Batches of random crops of a block."""

    def __init__(self, block: Block, normalisation: Normalisation, schedule: Schedule) -> None:
        side = schedule.crop
        if min(block.valid.shape) < side:
            rows, columns = block.valid.shape
            raise ExamplesRefusedError(
                f"the training area has {rows} x {columns} pixels, a crop {side} x {side}; "
                "make crops smaller or the area larger"
            )
        self.features = normalisation(block)
        self.labels = np.where(block.valid, block.labels, np.uint8(IGNORED))
        self.known = np.argwhere(block.known)
        self.schedule = schedule
        self.random = np.random.default_rng(schedule.seed)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Features (N, band, row, column) and labels (N, row, column)."""
        crops = [self._crop() for _ in range(self.schedule.batch)]
        features = np.stack([features for features, _ in crops])
        labels = np.stack([labels for _, labels in crops]).astype(np.int64)
        images = torch.from_numpy(features).contiguous(memory_format=torch.channels_last)
        return images, torch.from_numpy(labels)

    def _crop(self) -> tuple[Features, Labels]:
        side = self.schedule.crop
        centre = self.known[self.random.integers(len(self.known))]
        corner = centre - self.random.integers(side, size=2)
        top, left = np.clip(corner, 0, np.subtract(self.labels.shape, side))
        area = slice(top, top + side), slice(left, left + side)
        turns, mirrored = int(self.random.integers(4)), bool(self.random.integers(2))
        features = np.rot90(self.features[:, *area], turns, axes=(1, 2))
        labels = np.rot90(self.labels[area], turns)
        return (features[..., ::-1], labels[..., ::-1]) if mirrored else (features, labels)


def class_weights(block: Block, classes: int, balance: float) -> NDArray[np.float32]:
    """A weight for each class; their mean over the block's labelled pixels is 1.

    Raises:
        ExamplesRefusedError: a class has no pixel.
    """
    pixels = np.bincount(block.labels[block.known], minlength=classes)
    if len(pixels) > classes or not pixels.all():
        raise ExamplesRefusedError(
            f"each of the {classes} classes needs labelled pixels in the training area, found "
            f"{pixels.tolist()}; hold out another part, or merge classes"
        )
    weights: NDArray[np.float64] = (pixels / pixels.sum()) ** -balance
    return (weights / np.average(weights, weights=pixels)).astype(np.float32)


def predict_whole(
    network: nn.Module, normalisation: Normalisation, block: Block, stride: int
) -> Labels:
    """Class indices (row, column) of a block in one forward pass, as `segpipe run` defines them.

    The block is padded with zeros at the bottom and the right to a multiple of `stride`.
    """
    height, width = block.valid.shape
    features = np.pad(normalisation(block), ((0, 0), (0, -height % stride), (0, -width % stride)))
    with torch.inference_mode():
        scores: Tensor = network(torch.from_numpy(features)[None])
    labels: Labels = scores[0, :, :height, :width].argmax(dim=0).numpy().astype(np.uint8)
    return labels
