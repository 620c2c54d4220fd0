"""What is learnt from is what the ground holds, drawn evenly, and fed with its own statistics."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segpipe.models.learning.augmentation import Augmentation
from segpipe.models.learning.examples import IGNORED, STEP, Block, ExamplesRefusedError, windows
from segpipe.models.learning.normalisation import Moments, Normalisation
from segpipe.models.learning.sampler import Sampler
from segpipe.models.learning.survey import CELL, survey

PLAIN = Normalisation((0.0,), (1.0,))


def numbered(height: int, width: int, dead: int = 7) -> Block:
    """One band that is its own label, so that a crop that tears them apart shows."""
    labels = np.arange(height * width, dtype=np.int64).reshape(height, width) % 200
    return Block(labels[None].astype(np.float32), labels % dead != 0, labels.astype(np.uint8))


def sampler(
    *blocks: Block,
    crop: int,
    seed: int = 0,
    batch: int = 4,
    augmentation: Augmentation | None = None,
) -> Sampler:
    found = survey(blocks, 1, 256)
    return Sampler(
        blocks, found, PLAIN, crop=crop, batch=batch, seed=seed, augmentation=augmentation
    )


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(0, 1000))
def test_crops_show_the_ground_turned_but_with_its_own_labels(
    seed: int, crop: int, step: int
) -> None:
    images, targets = sampler(numbered(40, 41), crop=crop, seed=seed).batch(step)
    assert images.shape == (4, 1, crop, crop)
    known = targets != IGNORED
    assert known.flatten(1).any(dim=1).all()
    assert torch.equal(images[:, 0][known].long(), targets[known])
    assert not images[:, 0][~known].any()


def test_every_pixel_of_every_ground_and_all_eight_positions_are_drawn() -> None:
    labels = np.arange(36, dtype=np.uint8).reshape(6, 6)
    block = Block(labels[None] + np.float32(1), np.ones((6, 6), bool), labels)
    _, whole = sampler(block, crop=6, batch=200).batch(0)
    assert len({tuple(crop.flatten().tolist()) for crop in whole}) == 8
    other = Block(block.pixels, block.valid, labels + np.uint8(36))
    _, parts = sampler(block, other, crop=2, batch=500).batch(0)
    assert set(parts.flatten().tolist()) == set(range(72))
    _, still = sampler(block, crop=6, augmentation=Augmentation(turns=False)).batch(0)
    assert (still.numpy() == labels).all()


def test_labelled_pixels_have_the_same_chance_wherever_they_are() -> None:
    # Two labelled pixels in one cell and one in another, far off.
    labels = np.full((CELL, 3 * CELL), IGNORED, np.uint8)
    labels[3, 5], labels[60, 60], labels[7, 2 * CELL + 9] = 0, 1, 2
    block = Block(np.ones((1, *labels.shape), np.float32), np.ones(labels.shape, bool), labels)
    _, crops = sampler(block, crop=1, batch=3000).batch(0)
    drawn = np.bincount(crops.flatten(), minlength=3)
    # 1000 each, with a deviation of 26.
    assert np.abs(drawn - 1000).max() < 130


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    def batch(seed: int, step: int) -> list[torch.Tensor]:
        return list(sampler(numbered(50, 60), crop=8, seed=seed).batch(step))

    one = batch(1, 5)
    assert all(map(torch.equal, one, batch(1, 5)))
    assert not torch.equal(one[1], batch(1, 6)[1])
    assert not torch.equal(one[1], batch(2, 5)[1])
    stream = sampler(numbered(50, 60), crop=8, seed=1).batches(4)
    next(stream)
    assert all(map(torch.equal, one, next(stream)))
    stream.close()


@given(st.integers(0, 2**32))
def test_jitter_changes_bands_and_never_labels_or_what_is_not_valid(seed: int) -> None:
    random = np.random.default_rng(seed)
    features = random.normal(size=(3, 5, 6)).astype(np.float32)
    valid = random.random((5, 6)) < 0.7
    features[:, ~valid] = 0
    bounds = Augmentation(brightness=0.3, contrast=0.2)
    found = bounds.jittered(features, valid, random)
    assert not found[:, ~valid].any()
    assert found.dtype == np.float32
    for before, after in zip(features[:, valid], found[:, valid], strict=True):
        if len(before) > 1:
            factor, shift = np.polyfit(before.astype(float), after.astype(float), 1)
            assert 0.799 < factor < 1.201
            assert -0.301 < shift < 0.301
    np.testing.assert_array_equal(Augmentation().jittered(features, valid, random), features)


def test_zoomed_crops_show_more_or_less_of_the_ground() -> None:
    rows = np.arange(60, dtype=np.uint8).repeat(60).reshape(60, 60)
    block = Block(rows[None].astype(np.float32), np.ones((60, 60), bool), rows)
    zoomed = Augmentation(turns=False, zoom=2)
    images, labels = sampler(block, crop=16, batch=100, augmentation=zoomed).batch(0)
    assert torch.equal(images[:, 0].long(), labels)
    extents = (labels[:, -1, 0] - labels[:, 0, 0] + 1).numpy()
    assert extents.min() < 10
    assert extents.max() > 26


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(0, 2**32))
def test_moments_of_parts_add_up_to_numpys_of_the_whole(sizes: list[int], seed: int) -> None:
    # A great mean over a small deviation is where a sum of squares would lose its digits.
    random = np.random.default_rng(seed)
    parts = [random.normal(1e6, 0.5, (2, 1, size)) for size in sizes]
    total = Moments.none(2)
    for part in parts:
        shape = part.shape[1:]
        total += Moments.of(Block(part, np.ones(shape, bool), np.zeros(shape, np.uint8)))
    whole = np.concatenate(parts, axis=2)[:, 0]
    assert total.count == whole.shape[1]
    np.testing.assert_allclose(total.mean, whole.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(
        np.sqrt(total.squares / total.count), whole.std(axis=1), rtol=1e-7, atol=1e-9
    )


def test_a_survey_counts_the_whole_ground_once() -> None:
    random = np.random.default_rng(0)
    shape = (STEP + 70, 90)
    block = Block(
        random.integers(0, 255, (3, *shape), dtype=np.uint8),
        random.random(shape) < 0.8,
        random.choice([0, 1, IGNORED], shape).astype(np.uint8),
    )
    found = survey([block, block], 3, 2)
    np.testing.assert_array_equal(found.pixels, 2 * np.bincount(block.labels[block.known]))
    valid = block.pixels[:, block.valid].astype(np.float64)
    normalisation = Normalisation.of(found.moments)
    np.testing.assert_allclose(normalisation.mean, valid.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(normalisation.std, valid.std(axis=1), rtol=1e-12)
    assert found.moments.count == 2 * block.valid.sum()
    rows, columns = np.nonzero(block.known)
    cells = np.zeros_like(found.cells[0])
    np.add.at(cells, (rows // CELL, columns // CELL), 1)
    np.testing.assert_array_equal(found.cells[1], cells)
    features = normalisation(block)
    assert features.dtype == np.float32
    assert not features[:, ~block.valid].any()


def test_windows_leave_out_what_holds_nothing() -> None:
    valid = np.zeros((10, 2 * STEP + 1), bool)
    valid[4, STEP + 3] = True
    block = Block(np.zeros((1, *valid.shape)), valid, np.zeros(valid.shape, np.uint8))
    assert list(windows(block)) == [(slice(0, 10), slice(STEP, 2 * STEP))]


def test_what_cannot_be_learnt_from_is_refused() -> None:
    with pytest.raises(ExamplesRefusedError, match="48 x 50 pixels, a crop 64 x 64"):
        sampler(numbered(48, 50), crop=64)
    block = numbered(9, 9)
    unlabelled = Block(block.pixels, block.valid, np.full_like(block.labels, IGNORED))
    with pytest.raises(ExamplesRefusedError, match="no pixel of the training area has a label"):
        sampler(unlabelled, crop=4)
    with pytest.raises(ExamplesRefusedError, match="no pixel"):
        Normalisation.of(Moments.none(3))
    for constant in (3.0, 0.1):
        flat = Block(np.full((1, 9, 9), constant), block.valid, block.labels)
        with pytest.raises(ExamplesRefusedError, match="band 1 has one value"):
            Normalisation.of(Moments.of(flat) + Moments.of(flat))
    with pytest.raises(ValueError, match="shapes"):
        Block(block.pixels, block.valid[:-1], block.labels)


@pytest.mark.parametrize("wrong", [{"brightness": -1}, {"contrast": 1}, {"zoom": 0.5}])
def test_variations_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="brightness is 0 or more"):
        Augmentation(turns=True, **wrong)


def test_no_more_than_a_window_is_ever_read_at_once() -> None:
    whole = numbered(2 * STEP, 3 * STEP)
    read: list[int] = []

    class Watched:
        shape = whole.shape

        def covers(self, rows: slice, columns: slice) -> bool:
            return whole.covers(rows, columns)

        def read(self, rows: slice, columns: slice) -> Block:
            block = whole.read(rows, columns)
            read.append(block.valid.size)
            return block

    ground = Watched()
    found = survey([ground], 1, 256)
    assert sum(read) == whole.valid.size
    assert max(read) == STEP**2
    read.clear()
    drawn = Sampler([ground], found, PLAIN, crop=32, batch=9, seed=0)
    drawn.batch(0)
    assert len(read) == 18
    assert max(read) == CELL**2
