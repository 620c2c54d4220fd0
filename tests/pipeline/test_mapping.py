"""A tile is read, predicted, written and proved; memory that runs out changes no label."""

import subprocess
import sys
from collections.abc import Collection

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segpipe.pipeline.mapping import label, layers
from segpipe.pipeline.plan import CHUNK, Margin, Plan
from segpipe.pipeline.receipt import Receipt, count_classes, total
from tests import toys


class Neighbours:
    """A stand-in for a network: each label tells what lies `reach` pixels around it."""

    def __init__(self, reach: int, stride: int, most: int) -> None:
        self.reach, self.stride, self.most = reach, stride, most

    def __call__(
        self, pixels: NDArray[np.generic], valid: NDArray[np.bool_], core: tuple[slice, slice]
    ) -> NDArray[np.uint8]:
        height, width = valid.shape
        if height * width > self.most:
            raise MemoryError(f"{height * width} pixels")
        padded = np.pad(np.where(valid, pixels[0], 0).astype(np.int64), self.reach)
        across = np.zeros((height + 2 * self.reach, width), np.int64)
        around = np.zeros((height, width), np.int64)
        for n in range(2 * self.reach + 1):
            across += padded[:, n : n + width] * (n + 1)
        for n in range(2 * self.reach + 1):
            around += across[n : n + height] * (n + 1)
        phase = np.add.outer(np.arange(height) % self.stride, np.arange(width) % self.stride)
        labels: NDArray[np.uint8] = ((around + phase) % 250).astype(np.uint8)
        return labels[core]

    def layers(
        self,
        pixels: NDArray[np.generic],
        valid: NDArray[np.bool_],
        core: tuple[slice, slice],
        wanted: Collection[str],
    ) -> dict[str, NDArray[np.uint8]]:
        labels = self(pixels, valid, core)
        made = {"classes": labels, "confidence": np.stack([labels, 250 - labels])}
        return {name: made[name] for name in wanted}


@settings(deadline=None, max_examples=50)
@given(
    height=st.integers(1, 900),
    width=st.integers(1, 900),
    side=st.sampled_from([256, 512, 768]),
    reach=st.integers(0, 9),
    stride=st.integers(1, 16),
    most=st.sampled_from([10**9, 300_000, 130_000]),
    seed=st.integers(0, 99),
)
def test_tiles_and_halves_of_tiles_are_the_whole(
    height: int, width: int, side: int, reach: int, stride: int, most: int, seed: int
) -> None:
    pixels = toys.landscape(height, width, seed)
    valid = (pixels != 0).all(axis=0)
    plan = Plan(toys.grid(height, width), side, stride, Margin(reach, reach, reach, reach))
    everything = (slice(None), slice(None))
    whole = Neighbours(reach, stride, 10**9)(pixels, valid, everything)
    predictor = Neighbours(reach, stride, most)
    for tile in plan.tiles():
        rows, columns = tile.read.slices
        made = layers(
            plan, pixels[:, rows, columns], valid[rows, columns], tile.read, tile.core,
            predictor, 255, {"classes": None, "confidence": 2},
        )  # fmt: skip
        expected = np.where(valid, whole, 255)[tile.core.slices]
        assert np.array_equal(made["classes"], expected)
        lead = np.where(valid, 250 - whole, 255)[tile.core.slices]
        assert np.array_equal(made["confidence"], np.stack([expected, lead]))


def test_memory_that_is_too_small_for_a_chunk_is_told() -> None:
    pixels = toys.landscape(CHUNK, CHUNK)
    plan = Plan(toys.grid(CHUNK, CHUNK), CHUNK, 1, Margin(0, 0, 0, 0))
    tile = plan.tile(0, 0)
    with pytest.raises(MemoryError):
        label(plan, pixels, pixels[0] > 0, tile.read, tile.core, Neighbours(0, 1, 9), 255)


def test_where_nothing_is_valid_the_network_is_not_asked() -> None:
    pixels = np.zeros((3, 40, 50), np.uint16)
    plan = Plan(toys.grid(40, 50), CHUNK, 1, Margin(0, 0, 0, 0))
    tile = plan.tile(0, 0)
    bands = {"classes": None, "probabilities": 5}
    never = Neighbours(0, 1, 0)
    made = layers(plan, pixels, pixels[0] > 0, tile.read, tile.core, never, 255, bands)
    assert made["classes"].shape == (40, 50)
    assert made["probabilities"].shape == (5, 40, 50)
    assert all((layer == 255).all() for layer in made.values())


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_counts_and_areas_are_those_of_the_labels(seed: int, measured: bool) -> None:
    random = np.random.default_rng(seed)
    labels = random.choice(np.array([1, 2, 7, 255], np.uint8), (19, 23))
    areas = random.uniform(1, 9, 19)
    receipts = []
    for start in (0, 7, 14):
        rows = slice(start, start + 7)
        counts = count_classes(labels[rows], 255, areas[rows] if measured else None)
        receipts.append(Receipt(start, 0, 0, "", counts, 0, 0, 0, "", 0))
    found = total((Receipt.from_json(receipt.to_json()) for receipt in receipts), (1, 2, 7, 9))
    for value, count in found.items():
        mask = labels == value
        assert count.pixels == mask.sum()
        area = (mask.sum(axis=1) * areas).sum()
        assert count.area == (pytest.approx(area) if measured else None)


@given(st.binary(max_size=200))
def test_no_text_but_a_receipt_is_taken_for_one(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # which kind doesn't matter
        Receipt.from_json(text)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell no more than getrusage")
@pytest.mark.parametrize("own", [0, 900_000_000])
def test_memory_is_that_of_the_process_and_not_of_the_one_that_started_it(own: int) -> None:
    peak = "from segpipe.pipeline.mapping import peak_rss; print(peak_rss())"
    started = (
        "import subprocess, sys; held = bytearray(700_000_000); "
        "subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    )
    child = f"held = bytearray({own}); {peak}"
    told = subprocess.run(
        [sys.executable, "-c", started, child], check=True, capture_output=True, text=True
    )
    assert own <= int(told.stdout) < own + 500_000_000
