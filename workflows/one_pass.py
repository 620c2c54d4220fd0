"""What one pass saves: a converted classifier beside itself on overlapping crops."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.architectures.classifiers import CLASSIFIERS
from segpipe.models.convolutionalize import convolutionalize
from segpipe.models.engine import default_threads, is_native
from segpipe.models.heap import keep_freed_memory
from segpipe.models.pointwise import settle
from segpipe.workflows.results.plots import COLORS, figure

STRIDE = 32
"""Pixels between neighbouring crops: the stride of both classifiers."""

CLASSES = 1000
BANDS = 3

REPEATS = 2
"""How often each way is timed; the fastest time counts."""


@dataclass(frozen=True, slots=True)
class Case:
    """A classifier, the side of what it sees, and the side of the image that it is slid over."""

    classifier: str
    crop: int
    image: int
    cells: int
    batch: int


CASES = (Case("alexnet", 227, 500, 10, 50), Case("vgg16", 224, 384, 6, 12))
"""The comparison of Long, Shelhamer and Darrell 2015, section 4.1, and a deeper network.

Their batches held all crops; these hold what is fastest on a CPU or nearly so.
"""


@dataclass(frozen=True, slots=True)
class OnePass:
    """Seconds for one grid of scores, by one pass and by crops, and how far their scores differ.

    Attributes:
        case: what was measured.
        one_pass: the converted classifier on the whole image.
        batched: the classifier on all crops, some at a time.
        single: the classifier on one crop after the other.
        half: one pass in bf16, which `segpipe run` takes where the hardware has it, else None.
        difference: largest difference of a score, over the scores' standard deviation; crops of a
            padded network see zeros where the whole image goes on.
        agreement: share of the cells whose best class is the same.
    """

    case: Case
    one_pass: float
    batched: float
    single: float
    difference: float
    agreement: float
    half: float | None = None

    @property
    def over_batched(self) -> float:
        """How many times as fast one pass is as crops in batches."""
        return self.batched / self.one_pass

    @property
    def over_single(self) -> float:
        """How many times as fast one pass is as crops one by one."""
        return self.single / self.one_pass

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON takes them."""
        return {
            **asdict(self.case),
            **{key: value for key, value in asdict(self).items() if key != "case"},
            "over_batched": self.over_batched,
            "over_single": self.over_single,
        }


def compare_one_pass(cases: Sequence[Case] = CASES, *, seed: int = 0) -> tuple[OnePass, ...]:
    """Each classifier in one pass and on crops, in fp32 on this machine's CPU.

    Weights and images are random: what is computed costs the same whatever they are.
    """
    keep_freed_memory()
    torch.set_num_threads(default_threads())
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        return tuple(_measured(case) for case in cases)


def draw(found: Sequence[OnePass], path: str | Path) -> None:
    """A PNG with a bar for each way of computing a grid, in seconds."""
    ways = ("one pass", "crops in batches", "crops one by one")
    with figure(path, 160, 80) as axes:
        for row, result in enumerate(found):
            seconds = (result.one_pass, result.batched, result.single)
            for way, (title, value) in enumerate(zip(ways, seconds, strict=True)):
                place = row + (way - 1) * 0.26
                label = title if row == 0 else None
                axes.barh(place, value, 0.24, color=COLORS[way], label=label)
                times = f" {value:.2f} s" + (f", {value / seconds[0]:.1f} x" if way else "")
                axes.text(value, place, times, va="center", fontsize=8)
        axes.set_yticks(range(len(found)), [_title(result.case) for result in found])
        axes.invert_yaxis()
        axes.set_xlabel("seconds for one grid of scores")
        axes.margins(x=0.24)
        axes.legend(loc="center right")


def _title(case: Case) -> str:
    return f"{case.classifier}\n{case.cells} x {case.cells} of {case.image} px"


def _measured(case: Case) -> OnePass:
    classifier = CLASSIFIERS[case.classifier].builder(BANDS, CLASSES).eval()
    whole = convolutionalize(classifier, case.crop)
    settle(whole)  # as `segpipe run` computes it
    image = torch.randn(1, BANDS, case.image, case.image)
    crops = _crops(image, case)
    scores, one_pass = _timed(whole, (image,))
    batched, batched_seconds = _timed(classifier, torch.split(crops, case.batch))
    _, single_seconds = _timed(classifier, torch.split(crops, 1))
    half = _half(classifier, case, image) if is_native("bf16", "cpu") else None
    of_crops = batched.T.reshape(CLASSES, case.cells, case.cells)
    return OnePass(
        case,
        one_pass,
        batched_seconds,
        single_seconds,
        float((scores[0] - of_crops).abs().max() / of_crops.std()),
        float((scores[0].argmax(0) == of_crops.argmax(0)).float().mean()),
        half,
    )


def _half(classifier: nn.Module, case: Case, image: Tensor) -> float:
    """Seconds of one pass in bf16."""
    network = convolutionalize(copy.deepcopy(classifier), case.crop).to(torch.bfloat16)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    halved = image.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    return _timed(network, (halved,))[1]


def _crops(image: Tensor, case: Case) -> Tensor:
    """A crop for every cell; where the last ones look beyond the image, they see zeros."""
    side = case.crop + (case.cells - 1) * STRIDE
    more = max(side - case.image, 0)
    wide = F.pad(image, (0, more, 0, more))
    grid = wide.unfold(2, case.crop, STRIDE).unfold(3, case.crop, STRIDE)
    cells = grid[0, :, : case.cells, : case.cells]
    return cells.permute(1, 2, 0, 3, 4).reshape(-1, BANDS, case.crop, case.crop)


def _timed(network: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> tuple[Tensor, float]:
    """The outputs for all batches, and the seconds they took the fastest time."""
    network(batches[0])  # warms up
    outputs, seconds = torch.empty(0), math.inf
    for _ in range(REPEATS):
        start = time.perf_counter()
        outputs = torch.cat([network(batch) for batch in batches])
        seconds = min(seconds, time.perf_counter() - start)
    return outputs, seconds
