"""Batches of crops around labelled pixels, read from the ground when they are wanted."""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from segpipe.models.learning.augmentation import Augmentation
from segpipe.models.learning.examples import IGNORED, Block, ExamplesRefusedError, Ground, Labels
from segpipe.models.learning.normalisation import Features, Normalisation
from segpipe.models.learning.survey import CELL, Survey

Batch = tuple[Tensor, Tensor]
"""Features (N, band, row, column) and class indices or `IGNORED` (N, row, column)."""


class Sampler:
    """Draws crops so that each labelled pixel of all ground has the same chance to be in one.

    A batch depends on the seed and on the number of its step only, so training can go on at any
    step without a generator's state.

    Args:
        grounds: where crops are read; any thread may read them.
        survey: of the same grounds.
        normalisation: what the features come from.
        crop: side of a crop in pixels.
        batch: crops in a batch.
        seed: of places and variations.
        augmentation: how crops are varied.

    Raises:
        ExamplesRefusedError: a ground is smaller than a crop, or no pixel has a label.
    """

    def __init__(
        self,
        grounds: Sequence[Ground],
        survey: Survey,
        normalisation: Normalisation,
        *,
        crop: int,
        batch: int,
        seed: int,
        augmentation: Augmentation | None = None,
    ) -> None:
        for rows, columns in (ground.shape for ground in grounds):
            if min(rows, columns) < crop:
                raise ExamplesRefusedError(
                    f"a scene has {rows} x {columns} pixels, a crop {crop} x {crop}; "
                    "make crops smaller or take a larger scene"
                )
        self._grounds = grounds
        self._ends = [np.cumsum(cells, dtype=np.int64) for cells in survey.cells]
        self._totals = np.cumsum([ends[-1] for ends in self._ends])
        if not self._totals[-1]:
            raise ExamplesRefusedError("no pixel of the training area has a label")
        self._columns = [cells.shape[1] for cells in survey.cells]
        self._normalisation = normalisation
        self._crop_side, self._batch, self._seed = crop, batch, seed
        self._augmentation = augmentation or Augmentation()

    def batches(self, first: int) -> Generator[Batch, None, None]:
        """The batches of step `first` and all later ones; the next is read during this one."""
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self.batch, first)
            while True:
                first += 1
                now, coming = coming, reader.submit(self.batch, first)
                yield now.result()

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        random = np.random.default_rng([self._seed, step])
        crops = [self._crop(random) for _ in range(self._batch)]
        features = np.stack([features for features, _ in crops])
        labels = np.stack([labels for _, labels in crops]).astype(np.int64)
        images = torch.from_numpy(features).contiguous(memory_format=torch.channels_last)
        return images, torch.from_numpy(labels)

    def _crop(self, random: np.random.Generator) -> tuple[Features, Labels]:
        ground, centre = self._labelled_pixel(random)
        block = self._around(ground, centre, random)
        features = self._normalisation(block)
        labels = np.where(block.valid, block.labels, np.uint8(IGNORED))
        varied = self._augmentation.jittered(features, block.valid, random)
        return self._augmentation.turned(varied, labels, random)

    def _labelled_pixel(self, random: np.random.Generator) -> tuple[Ground, tuple[int, int]]:
        number = int(random.integers(self._totals[-1]))
        index = int(np.searchsorted(self._totals, number, side="right"))
        number -= int(self._totals[index - 1]) if index else 0
        ground, ends = self._grounds[index], self._ends[index]
        cell = int(np.searchsorted(ends, number, side="right"))
        number -= int(ends[cell - 1]) if cell else 0
        top, left = (CELL * place for place in divmod(cell, self._columns[index]))
        height, width = ground.shape
        there = ground.read(
            slice(top, min(top + CELL, height)), slice(left, min(left + CELL, width))
        )
        row, column = np.argwhere(there.known)[number].tolist()
        return ground, (top + row, left + column)

    def _around(
        self, ground: Ground, centre: tuple[int, int], random: np.random.Generator
    ) -> Block:
        """A crop that holds the pixel, somewhere, at the size that the network sees."""
        side = min(self._augmentation.side(self._crop_side, random), *ground.shape)
        corner = np.subtract(centre, random.integers(side, size=2))
        top, left = np.clip(corner, 0, np.subtract(ground.shape, side)).tolist()
        block = ground.read(slice(top, top + side), slice(left, left + side))
        return block if side == self._crop_side else block.resized(self._crop_side)
