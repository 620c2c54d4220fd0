"""Scenes on one cluster: the order of outcomes, how many are open, and who computes."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from torch import nn

from segpipe.models.package import ModelCard, SegmentationModel
from segpipe.pipeline.execution.runner import Runner
from segpipe.pipeline.execution.serial import Serial
from segpipe.workflows.errors import OptionError
from segpipe.workflows.queue import in_turn
from segpipe.workflows.resident import Resident
from segpipe.workflows.workers import SharedWorkers, gpus_for, workers_for
from tests.workflows.conftest import CLASSES


@settings(max_examples=25, deadline=None)
@given(pauses=st.lists(st.integers(0, 3), max_size=12), at_once=st.integers(1, 4))
def test_outcomes_come_in_order_and_few_are_open(pauses: list[int], at_once: int) -> None:
    lock, running, told = threading.Lock(), 0, 0
    opened: list[int] = []

    def work(number: int, pause: int) -> tuple[int, int]:
        nonlocal running
        with lock:
            running += 1
            assert running <= at_once
            opened.append(number)
            assert number <= told + at_once, "a scene was opened too early"
        time.sleep(pause / 1000)
        with lock:
            running -= 1
        return number, pause

    for place, outcome in enumerate(in_turn(work, pauses, at_once)):
        told = place + 1
        assert outcome == (place, pauses[place])
    assert sorted(opened) == list(range(len(pauses)))


def test_an_error_ends_the_queue() -> None:
    begun: list[int] = []

    def work(number: int, task: str) -> str:
        begun.append(number)
        if number == 1:
            raise ZeroDivisionError
        return task

    outcomes: list[str] = []
    with pytest.raises(ZeroDivisionError):
        outcomes.extend(in_turn(work, "abcdefgh", 2))
    assert outcomes == ["a"]
    assert max(begun) <= 3


def test_shared_workers_are_opened_once_and_late() -> None:
    opened: list[str] = []
    card = ModelCard("m", ("b",), CLASSES[:1], (0.0,), (1.0,))
    resident = Resident(SegmentationModel(nn.Conv2d(1, 1, 1), card))

    @contextmanager
    def opening() -> Iterator[Runner[Resident]]:
        opened.append("in")
        yield Serial(resident)
        opened.append("out")

    with SharedWorkers(opening) as shared:
        assert opened == []
        with shared.lent() as first, shared.lent() as second:
            assert first is second
        assert opened == ["in"]
    assert opened == ["in", "out"]
    with SharedWorkers(opening):
        pass
    assert opened == ["in", "out"], "nobody needed them"


@pytest.mark.parametrize(
    ("device", "workers", "visible", "expected"),
    [
        ("auto", None, 4, ("0", "1", "2", "3")),
        ("cuda", None, 2, ("0", "1")),
        ("cuda", 2, 4, ("0", "1")),
        ("cuda:1", None, 4, ()),
        ("cpu", None, 4, ()),
        ("auto", 1, 4, ()),
        ("auto", None, 1, ()),
        ("auto", 3, 0, ()),
    ],
)
def test_each_gpu_gets_a_worker(
    device: str, workers: int | None, visible: int, expected: tuple[str, ...]
) -> None:
    assert gpus_for(device, workers, [str(index) for index in range(visible)]) == expected


def test_no_gpu_is_shared_by_accident() -> None:
    with pytest.raises(OptionError, match="3 workers would share 2 GPUs"):
        gpus_for("auto", 3, ["0", "1"])


def test_two_clusters_are_refused() -> None:
    model = SegmentationModel(
        nn.Conv2d(1, 1, 1), ModelCard("m", ("b",), CLASSES[:1], (0.0,), (1.0,))
    )
    with pytest.raises(OptionError, match="two clusters"):
        workers_for(
            model, device="cpu", scheduler="tcp://127.0.0.1:1", scheduler_file="f", workers=None
        )
