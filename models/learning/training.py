"""A network learns from batches of labelled pixels, and can stop and go on between any two."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from segpipe.models.engine import DTYPES, Engine
from segpipe.models.errors import ModelError
from segpipe.models.learning.augmentation import Augmentation
from segpipe.models.learning.losses import FOCUS, LossName, make_loss
from segpipe.models.learning.sampler import Batch, Sampler
from segpipe.models.learning.training_state import Tensors, TrainingState, copy_into

WARM_UP = 1 / 25
"""The first step's rate over the highest one."""

SECOND_MOMENT = 0.999
"""AdamW's beta2."""


class DivergedError(ModelError):
    """The numbers of a network that learns have grown beyond all bounds."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how a network is trained.

    The rate rises to `learning_rate` over the first quarter of the steps and falls to nothing by
    the last one (one cycle, Smith and Topin 2019), with AdamW (Loshchilov and Hutter 2019).

    Attributes:
        steps: how many batches are learnt from, at most.
        crop: side of a crop in pixels, a multiple of the network's stride.
        seed: of crops, variations and dropout. The same seed gives the same weights on the same
            machine with the same number of threads.
        batch: crops a step.
        learning_rate: the highest rate.
        weight_decay: AdamW's.
        balance: 0 weighs all pixels alike, 1 gives all classes one weight; a class is weighted by
            its frequency to the power of `-balance`.
        loss: what is made small.
        augmentation: how crops are varied.
        check: steps from one validation to the next, where there is anything to validate on.
        patience: validations without a better score after which training stops; 0 for never.

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
    loss: LossName = "cross-entropy"
    augmentation: Augmentation = field(default_factory=Augmentation)
    check: int = 20
    patience: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "crop", "learning_rate", "check"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is positive, got {getattr(self, name)}")
        for name in ("weight_decay", "seed", "patience"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is 0 or more, got {getattr(self, name)}")
        if not 0 <= self.balance <= 1:
            raise ValueError(f"balance lies between 0 and 1, got {self.balance}")
        if self.loss not in FOCUS:
            raise ValueError(f"a loss is one of {', '.join(FOCUS)}, got {self.loss}")

    def pace(self, step: int) -> tuple[float, float]:
        """Rate and momentum of a step, counted from 0: while one rises the other one falls."""
        rise = self.steps / 4
        rising = step < rise
        share = step / rise if rising else (step - rise) / (self.steps - rise)
        # From 0 to 1 and back along cosines.
        high = (1 - math.cos(math.pi * (share if rising else 1 - share))) / 2
        low = self.learning_rate * (WARM_UP if rising else 0)
        return low + (self.learning_rate - low) * high, 0.95 - 0.1 * high


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did: its number from 1, loss and rate, and the score if it was validated."""

    number: int
    loss: float
    rate: float
    score: float | None


class Learner:
    """A network that learns on a device; all it has come to is its `state`.

    What is random in a step, dropout for one, depends on the seed and the step's number only.
    On a CPU the same steps give the same bits, whether or not the learner was stopped between
    them; a GPU's sums have no fixed order.

    Args:
        network: learns in place.
        weights: of the classes, in the loss.
        schedule: how it learns.
        engine: where, with which numbers and with how many threads. Below fp32 the weights stay
            in fp32, and torch's autocast picks the operations that are computed with fewer digits.
    """

    def __init__(
        self, network: nn.Module, weights: Tensor, schedule: Schedule, engine: Engine
    ) -> None:
        self._device = torch.device(engine.device)
        self._dtype = None if engine.precision == "fp32" else DTYPES[engine.precision]
        if torch.get_num_threads() != engine.threads:
            torch.set_num_threads(engine.threads)
        self.network = network
        network.to(device=self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.schedule = schedule
        self._loss = make_loss(schedule.loss, weights.to(self._device))
        self._optimizer = torch.optim.AdamW(
            network.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        self._losses: list[float] = []
        self._checks: list[tuple[int, float]] = []
        self._best: Tensors = {}

    @property
    def losses(self) -> tuple[float, ...]:
        """The loss of every step that is done."""
        return tuple(self._losses)

    @property
    def checks(self) -> tuple[tuple[int, float], ...]:
        """Step and score of every validation."""
        return tuple(self._checks)

    @property
    def done(self) -> int:
        """How many steps are done."""
        return len(self._losses)

    @property
    def best(self) -> int | None:
        """The step after which the network was validated best, the first of several."""
        return max(self._checks, key=lambda check: check[1])[0] if self._checks else None

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or the score stopped to rise."""
        since = sum(step > (self.best or 0) for step, _ in self._checks)
        stale = 0 < self.schedule.patience <= since
        return stale or self.done >= self.schedule.steps

    @property
    def is_check_due(self) -> bool:
        """Whether the network is to be validated now: every few steps, and after the last one."""
        return self.done % self.schedule.check == 0 or self.done == self.schedule.steps

    def learn(self, batch: Batch) -> float:
        """The loss of one more step.

        Raises:
            DivergedError: it isn't finite; nothing was learnt from it.
        """
        images, labels = (tensor.to(self._device) for tensor in batch)
        self.network.train()
        with (
            self._chance(),
            torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None),
        ):
            loss = self._loss(self.network(images), labels)
        if not math.isfinite(loss.item()):
            raise DivergedError(
                f"the loss of step {self.done + 1} is {loss.item()}: training diverged; lower the "
                f"learning rate, which rises to {self.schedule.learning_rate:g}"
            )
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in self._optimizer.param_groups:
            group["lr"], momentum = self.schedule.pace(self.done)
            group["betas"] = momentum, SECOND_MOMENT
        self._optimizer.step()
        self._losses.append(loss.item())
        return self._losses[-1]

    def judge(self, score: float) -> None:
        """Takes the score of the network as it is; a higher one is better."""
        self._checks.append((self.done, score))
        if self.best == self.done:
            self._best = {name: value.clone() for name, value in self.network.state_dict().items()}

    def take_best(self) -> None:
        """Gives the network the weights that were validated best; the last ones without any."""
        if self._best:
            copy_into(self.network.state_dict(), self._best)
        self.network.eval()

    def state(self) -> TrainingState:
        """All that decides the steps to come."""
        return TrainingState(
            torch.tensor(self._losses, dtype=torch.float64),
            torch.tensor(self._checks, dtype=torch.float64).reshape(-1, 2),
            self.network.state_dict(),
            self._best,
            self._moments(),
        )

    def restore(self, state: TrainingState) -> None:
        """Goes on from a state of a learner of the same network and schedule that is new.

        Raises:
            CheckpointError: it's that of another network.
        """
        copy_into(self.network.state_dict(), state.network)
        if state.best:
            self._best = {name: value.clone() for name, value in self.network.state_dict().items()}
            copy_into(self._best, state.best)
        self._losses = state.losses.tolist()
        self._checks = [(int(step), score) for step, score in state.checks.tolist()]
        self._start_optimizer({int(name.partition(".")[0]) for name in state.optimizer})
        copy_into(self._moments(), state.optimizer)

    def _moments(self) -> Tensors:
        states = self._optimizer.state
        return {
            f"{index}.{name}": value
            for index, parameter in enumerate(self.network.parameters())
            for name, value in states[parameter].items()
        }

    def _start_optimizer(self, learnt: set[int]) -> None:
        """Lets the optimizer make tensors for these parameters, in its own memory formats."""
        parameters = list(self.network.parameters())
        before = [parameter.detach().clone() for parameter in parameters]
        for index in learnt & set(range(len(parameters))):
            parameters[index].grad = torch.zeros_like(parameters[index])
        self._optimizer.step()
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)

    @contextlib.contextmanager
    def _chance(self) -> Iterator[None]:
        seed = np.random.SeedSequence([self.schedule.seed, self.done]).generate_state(1)
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(seed[0]))
            yield


def fit(
    learner: Learner,
    sampler: Sampler,
    *,
    validate: Callable[[nn.Module], float] | None = None,
    keep: Callable[[Learner], None] | None = None,
    watch: Callable[[Step], None] | None = None,
) -> None:
    """The learner's network has learnt what is left of its schedule, and is in evaluation mode.

    With `validate` it ends with the weights whose score was highest, otherwise with the last ones.

    Args:
        learner: new, or restored from any state.
        sampler: gives the batch of every step.
        validate: the score of a network; higher is better. It may put the network into
            evaluation mode.
        keep: called after every step, when the learner's state can be kept.
        watch: told of every step.
    """
    with contextlib.closing(sampler.batches(learner.done)) as batches:
        while not learner.finished:
            rate, _ = learner.schedule.pace(learner.done)
            loss, score = learner.learn(next(batches)), None
            if validate and learner.is_check_due:
                score = validate(learner.network)
                learner.judge(score if math.isfinite(score) else -math.inf)
            if watch:
                watch(Step(learner.done, loss, rate, score))
            if keep:
                keep(learner)
    learner.take_best()
