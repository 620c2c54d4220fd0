"""Training learns, from what it's given and from nothing else, the same way every time."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from segpipe.models.architectures.network import Network
from segpipe.models.architectures.registry import build
from segpipe.models.engine import Engine, Precision
from segpipe.models.learning.examples import IGNORED, Block, ExamplesRefusedError
from segpipe.models.learning.losses import LossName, class_weights, make_loss
from segpipe.models.learning.normalisation import Normalisation
from segpipe.models.learning.sampler import Sampler
from segpipe.models.learning.survey import survey
from segpipe.models.learning.training import DivergedError, Learner, Schedule, Step, fit
from segpipe.models.learning.training_state import CheckpointError, TrainingState

SCHEDULE = Schedule(steps=25, crop=16, seed=3, batch=8, learning_rate=2e-2)
SHORT = replace(SCHEDULE, steps=6, check=2)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from threads, which wait for each other under load."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


def course(
    block: Block, schedule: Schedule = SCHEDULE, precision: Precision = "fp32"
) -> tuple[Learner, Sampler]:
    found = survey([block], 2, 2)
    sampler = Sampler(
        [block],
        found,
        Normalisation.of(found.moments),
        crop=schedule.crop,
        batch=schedule.batch,
        seed=schedule.seed,
    )
    weights = class_weights(found.pixels, schedule.balance)
    engine = Engine(precision=precision, threads=torch.get_num_threads())
    return Learner(untrained(), weights, schedule, engine), sampler


def learnt(block: Block, schedule: Schedule = SHORT) -> nn.Module:
    learner, sampler = course(block, schedule)
    fit(learner, sampler)
    return learner.network


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def accuracy(network: nn.Module, block: Block, learnt_from: Block) -> float:
    normalisation = Normalisation.of(survey([learnt_from], 2, 2).moments)
    with torch.inference_mode():
        labels = network(torch.from_numpy(normalisation(block))[None])[0].argmax(0).numpy()
    return float((labels == block.labels)[block.known].mean())


@pytest.mark.parametrize(
    ("loss", "precision"), [("cross-entropy", "fp32"), ("focal", "fp32"), ("cross-entropy", "bf16")]
)
def test_a_plain_problem_is_learnt_and_carries_over(loss: LossName, precision: Precision) -> None:
    block, unseen = stripes(), stripes(seed=9, side=44)
    learner, sampler = course(block, replace(SCHEDULE, loss=loss), precision)
    fit(learner, sampler)
    assert len(learner.losses) == SCHEDULE.steps
    assert np.mean(learner.losses[-5:]) < learner.losses[0] / 2
    assert accuracy(learner.network, unseen, block) > 0.9
    assert not learner.network.training
    assert {tensor.dtype for tensor in learner.network.parameters()} == {torch.float32}


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first = learnt(stripes())
    torch.rand(5)  # The global generator's state plays no part, and isn't changed.
    state = torch.get_rng_state()
    assert same(first, learnt(stripes()))
    assert torch.equal(state, torch.get_rng_state())
    assert not same(first, learnt(stripes(), replace(SHORT, seed=4)))


def test_what_is_not_valid_or_ignored_changes_nothing() -> None:
    block = stripes()
    pixels, labels = block.pixels.copy(), block.labels.copy()
    pixels[:, ~block.valid] = 7
    labels[~block.valid] = 1 - labels[~block.valid]
    assert same(learnt(block), learnt(Block(pixels, block.valid, labels)))


@pytest.mark.parametrize("stop", range(SHORT.steps + 1))
def test_a_learner_that_is_restored_ends_with_the_same_bits(stop: int, tmp_path: Path) -> None:
    scores = iter([0.3, 0.5, 0.4])
    whole, sampler = course(stripes(), SHORT)
    states: list[bytes] = [whole.state().to_bytes()]
    fit(
        whole,
        sampler,
        validate=lambda network: next(scores),
        keep=lambda learner: states.append(learner.state().to_bytes()),
    )
    file = tmp_path / "checkpoint"
    file.write_bytes(states[stop])
    again, sampler = course(stripes(), SHORT)
    again.restore(TrainingState.read(file))
    left = iter([0.3, 0.5, 0.4][stop // 2 :])
    last: list[bytes] = []
    fit(
        again,
        sampler,
        validate=lambda network: next(left),
        keep=lambda learner: last.append(learner.state().to_bytes()),
    )
    assert same(whole.network, again.network)
    assert (whole.losses, whole.checks) == (again.losses, again.checks)
    assert last[-1:] == states[-1:] or stop == SHORT.steps


def test_a_training_that_diverges_says_so() -> None:
    learner, sampler = course(stripes(), replace(SCHEDULE, learning_rate=1e30))
    with pytest.raises(DivergedError, match=r"lower the learning rate, which rises to 1e\+30"):
        fit(learner, sampler)


def test_the_best_validated_weights_are_kept_and_the_last_ones_without_validation() -> None:
    scores = iter([0.3, 0.5, 0.4])
    best: list[dict[str, torch.Tensor]] = []

    def validate(network: nn.Module) -> float:
        best.append({name: value.clone() for name, value in network.state_dict().items()})
        return next(scores)

    learner, sampler = course(stripes(), SHORT)
    fit(learner, sampler, validate=validate)
    assert learner.checks == ((2, 0.3), (4, 0.5), (6, 0.4))
    assert learner.best == 4
    found = learner.network.state_dict()
    assert all(torch.equal(found[name], best[1][name]) for name in found)
    assert same(learnt(stripes()), learnt(stripes(), replace(SHORT, check=1)))
    assert not same(learnt(stripes()), learner.network)


def test_training_stops_when_the_score_stops_to_rise() -> None:
    scores = iter([0.3, 0.5, 0.5, 0.4])
    learner, sampler = course(stripes(), replace(SCHEDULE, check=2, patience=2))
    fit(learner, sampler, validate=lambda network: next(scores))
    assert learner.done == 8
    assert learner.best == 4
    assert learner.finished


def test_watchers_are_told_every_step() -> None:
    told: list[Step] = []
    learner, sampler = course(stripes(), SHORT)
    fit(learner, sampler, validate=lambda network: 0.5, watch=told.append)
    assert [step.number for step in told] == [1, 2, 3, 4, 5, 6]
    assert tuple(step.loss for step in told) == learner.losses
    assert [step.score for step in told] == [None, 0.5] * 3


@given(st.integers(1, 60))
def test_the_rate_rises_for_a_quarter_and_falls_to_nothing(steps: int) -> None:
    schedule = replace(SCHEDULE, steps=steps)
    rates, momenta = zip(*map(schedule.pace, range(steps + 1)), strict=True)
    top = int(np.argmax(rates))
    assert abs(top - steps / 4) <= 1
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert max(rates) <= schedule.learning_rate * (1 + 1e-12)
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()
    assert min(momenta) >= 0.85 - 1e-12
    assert max(momenta) <= 0.95 + 1e-12


@given(st.integers(0, 2**32))
def test_losses_are_torchs_and_the_papers(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 3, 5, 4, generator=generator) * 3
    labels = torch.randint(3, (2, 5, 4), generator=generator)
    labels[0, :2] = IGNORED
    weights = torch.rand(3, generator=generator) + 0.1
    plain = F.cross_entropy(scores, labels, weights, ignore_index=IGNORED)
    torch.testing.assert_close(make_loss("cross-entropy", weights)(scores, labels), plain)
    sure = scores.softmax(1).gather(1, (labels % 3)[:, None])[:, 0].double()
    weight = weights[labels % 3].double() * (labels != IGNORED)
    focal = (weight * (1 - sure) ** 2 * -sure.log()).sum() / weight.sum()
    found = make_loss("focal", weights)(scores, labels)
    torch.testing.assert_close(found.double(), focal, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["cross-entropy", "focal"])
def test_a_batch_without_labels_teaches_nothing(name: LossName) -> None:
    scores = torch.randn(1, 2, 3, 3, requires_grad=True)
    loss = make_loss(name, torch.ones(2))(scores, torch.full((1, 3, 3), IGNORED))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert scores.grad is not None
    assert not scores.grad.any()


@given(st.lists(st.integers(1, 50), min_size=2, max_size=5), st.floats(0, 1))
def test_class_weights_balance_classes(pixels: list[int], balance: float) -> None:
    weights = class_weights(np.array(pixels), balance).numpy().astype(np.float64)
    assert np.average(weights, weights=pixels) == pytest.approx(1, rel=1e-5)
    share = weights * np.power(pixels, balance)
    np.testing.assert_allclose(share, share[0], rtol=1e-5)


def test_a_class_without_pixels_is_refused() -> None:
    with pytest.raises(ExamplesRefusedError, match=r"each of the 3 classes .* 0\]"):
        class_weights(np.array([5, 6, 0]), 0.5)


def test_checkpoints_that_are_damaged_or_of_another_network_are_refused(tmp_path: Path) -> None:
    learner, sampler = course(stripes(), SHORT)
    fit(learner, sampler)
    data = learner.state().to_bytes()
    file = tmp_path / "checkpoint"
    for damaged in (b"", data[:-1], b"\x80\x02cos\nsystem\n", b"\xff" * 8 + data[8:]):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"can't be read .* --new-run"):
            TrainingState.read(file)
    file.write_bytes(data)
    other = Learner(
        build("fcn-compact", 2, 2, depth=2, width=8), torch.ones(2), SHORT, Engine(threads=1)
    )
    with pytest.raises(CheckpointError, match="isn't this network's"):
        other.restore(TrainingState.read(file))


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"crop": 0},
        {"check": 0},
        {"seed": -1},
        {"patience": -1},
        {"balance": 1.5},
        {"learning_rate": -1},
    ],
)
def test_a_schedule_out_of_bounds_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"positive|0 or more|between"):
        replace(SCHEDULE, **wrong)
