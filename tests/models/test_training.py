"""Training learns, from what it's given and from nothing else, the same way every time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segpipe.models.metrics import Scores, confusion_matrix
from segpipe.models.network import Network
from segpipe.models.registry import build
from segpipe.models.training import (
    IGNORED,
    Block,
    ExamplesRefusedError,
    Normalisation,
    Sampler,
    Schedule,
    class_weights,
    fit,
    predict_whole,
)

SCHEDULE = Schedule(steps=25, crop=16, seed=3, batch=8, learning_rate=2e-2)


def stripes(seed: int = 0, side: int = 48) -> Block:
    """Two bands; the class is which of them is brighter, but for a strip that isn't valid."""
    random = np.random.default_rng(seed)
    labels = np.repeat(random.integers(2, size=-(-side // 8)), 8)[None, :side].repeat(side, 0)
    labels[: side // 2] = 1 - labels[: side // 2]
    pixels = np.where(np.stack([labels, 1 - labels]), 180, 60) + random.normal(
        0, 25, (2, side, side)
    )
    valid = np.ones((side, side), bool)
    valid[:, :5] = False
    return Block(pixels.clip(0, 255).astype(np.uint8), valid, labels.astype(np.uint8))


def untrained() -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return build("fcn-compact", 2, 2, depth=2, width=4)


def learnt(block: Block, schedule: Schedule = SCHEDULE) -> Network:
    network = untrained()
    fit(network, block, Normalisation.of(block), 2, schedule)
    return network


def same(one: Network, other: Network) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_plain_problem_is_learnt_and_carries_over() -> None:
    block, unseen = stripes(), stripes(seed=9, side=44)
    network = untrained()
    losses = fit(network, block, Normalisation.of(block), 2, SCHEDULE)
    predicted = predict_whole(network, Normalisation.of(block), unseen, stride=4)
    known = unseen.known
    scores = Scores(confusion_matrix(unseen.labels[known], predicted[known], 2))
    assert len(losses) == SCHEDULE.steps
    assert np.mean(losses[-5:]) < losses[0] / 2
    assert scores.overall_accuracy > 0.9
    assert not network.training


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    short = replace(SCHEDULE, steps=3)
    first = learnt(stripes(), short)
    torch.rand(5)  # The global generator's state plays no part, and isn't changed.
    state = torch.get_rng_state()
    assert same(first, learnt(stripes(), short))
    assert torch.equal(state, torch.get_rng_state())
    assert not same(first, learnt(stripes(), replace(short, seed=4)))


def test_what_is_not_valid_or_ignored_changes_nothing() -> None:
    short = replace(SCHEDULE, steps=3)
    block = stripes()
    pixels, labels = block.pixels.copy(), block.labels.copy()
    pixels[:, ~block.valid] = 7
    labels[~block.valid] = 1 - labels[~block.valid]
    assert same(learnt(block, short), learnt(Block(pixels, block.valid, labels), short))


def test_progress_is_told_every_step() -> None:
    told: list[tuple[int, float]] = []
    block = stripes()
    schedule = replace(SCHEDULE, steps=3)
    losses = fit(
        untrained(),
        block,
        Normalisation.of(block),
        2,
        schedule,
        lambda step, loss: told.append((step, loss)),
    )
    assert told == list(enumerate(losses, start=1))


def test_statistics_are_those_of_numpy_over_all_valid_pixels() -> None:
    block = stripes()
    normalisation = Normalisation.of(block)
    valid = block.pixels[:, block.valid].astype(np.float64)
    np.testing.assert_allclose(normalisation.mean, valid.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(normalisation.std, valid.std(axis=1), rtol=1e-12)
    features = normalisation(block)
    assert features.dtype == np.float32
    assert not features[:, ~block.valid].any()
    np.testing.assert_allclose(features[:, block.valid].std(axis=1), 1, rtol=1e-5)


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_crops_show_the_block_turned_but_with_its_own_labels(seed: int, crop: int) -> None:
    # A pixel's number is its label, so a crop that tears them apart shows.
    labels = np.arange(40 * 41, dtype=np.int64).reshape(40, 41) % 200
    block = Block(labels[None].astype(np.float32), labels % 7 != 0, labels.astype(np.uint8))
    sampler = Sampler(block, Normalisation((0.0,), (1.0,)), Schedule(1, crop, seed, batch=4))
    images, targets = sampler.batch()
    assert images.shape == (4, 1, crop, crop)
    known = targets != IGNORED
    assert known.flatten(1).any(dim=1).all()
    assert torch.equal(images[:, 0][known].long(), targets[known])
    assert not images[:, 0][~known].any()


def test_every_pixel_and_all_eight_positions_are_drawn() -> None:
    labels = np.arange(36, dtype=np.uint8).reshape(6, 6)
    block = Block(labels[None] + np.float32(1), np.ones((6, 6), bool), labels)
    sampler = Sampler(block, Normalisation((0.0,), (1.0,)), Schedule(1, 6, 0, batch=200))
    _, whole = sampler.batch()
    assert len({tuple(crop.flatten().tolist()) for crop in whole}) == 8
    _, parts = Sampler(block, Normalisation((0.0,), (1.0,)), Schedule(1, 2, 0, batch=200)).batch()
    assert set(parts.flatten().tolist()) == set(range(36))


@given(st.lists(st.integers(1, 50), min_size=2, max_size=5), st.floats(0, 1))
def test_class_weights_balance_classes(pixels: list[int], balance: float) -> None:
    labels = np.repeat(np.arange(len(pixels)), pixels)[None].astype(np.uint8)
    block = Block(labels[None], np.ones(labels.shape, bool), labels)
    weights = class_weights(block, len(pixels), balance).astype(np.float64)
    assert np.average(weights, weights=pixels) == pytest.approx(1, rel=1e-5)
    share = weights * np.power(pixels, balance)
    np.testing.assert_allclose(share, share[0], rtol=1e-5)


def test_a_whole_prediction_is_one_pass_over_the_padded_block() -> None:
    block = stripes()
    block = Block(block.pixels[:, :37, :35], block.valid[:37, :35], block.labels[:37, :35])
    normalisation = Normalisation.of(block)
    network = untrained().eval()
    image = torch.zeros(1, 2, 40, 36)
    image[0, :, :37, :35] = torch.from_numpy(normalisation(block))
    with torch.inference_mode():
        expected = network(image)[0].argmax(0)[:37, :35]
    np.testing.assert_array_equal(predict_whole(network, normalisation, block, 4), expected)


def test_what_cannot_be_learnt_from_is_refused() -> None:
    block = stripes()
    with pytest.raises(ExamplesRefusedError, match="48 x 48 pixels, a crop 64 x 64"):
        fit(untrained(), block, Normalisation.of(block), 2, replace(SCHEDULE, crop=64))
    with pytest.raises(ExamplesRefusedError, match=r"each of the 3 classes .* 0\]"):
        fit(untrained(), block, Normalisation.of(block), 3, SCHEDULE)
    with pytest.raises(ExamplesRefusedError, match="no pixel"):
        Normalisation.of(Block(block.pixels, np.zeros_like(block.valid), block.labels))
    with pytest.raises(ExamplesRefusedError, match="band 1 has one value"):
        Normalisation.of(Block(np.ones_like(block.pixels), block.valid, block.labels))
    with pytest.raises(ValueError, match="shapes"):
        Block(block.pixels, block.valid[:-1], block.labels)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"crop": 0}, {"seed": -1}, {"balance": 1.5}, {"learning_rate": -1}]
)
def test_a_schedule_out_of_bounds_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"positive|between"):
        replace(SCHEDULE, **wrong)
