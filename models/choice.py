"""Which engine maps a scene: the fastest one whose labels can be trusted."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segpipe.models import openvino_session
from segpipe.models.card import ModelCard
from segpipe.models.engine import Engine, Precision, default_threads, find_device, is_native
from segpipe.models.errors import DeviceError
from segpipe.models.formats import onnx_session
from segpipe.models.formats.foreign import Foreign
from segpipe.models.predictor import ENGINES, SAMPLE, TorchPredictor

MINIMUM_AGREEMENT = 0.999
"""Share of a sample's labels that must be the same in fp32 before an engine is chosen."""

SAME_NETWORK = 0.9
"""A smaller share isn't rounding: the library computes something else."""

WORTHWHILE = 1e12
"""Multiplications of a run from which OpenVINO is tried.

On two idle cores with AMX it was ready half a second after torch, and took up to another half for
the shapes of a run's windows; it had made up for both after 0.2 to 1.8 x 10^12 multiplications in
bf16, as the network is. A number, and no clock, so that a run that is resumed has the engine with
which it was begun.
"""

Maker = Callable[[Engine], TorchPredictor]


def choose_engine(
    network: nn.Module,
    card: ModelCard,
    stride: int,
    pixels: NDArray[np.generic],
    valid: NDArray[np.bool_],
    *,
    device: str = "auto",
    precision: Precision | Literal["auto"] = "auto",
    engine: str = "auto",
    threads: int | None = None,
    area: int = 0,
    kept: Maker | None = None,
) -> Engine:
    """The fastest engine whose labels can be trusted.

    `engine="auto"` is onnxruntime for a network from an ONNX file, where it is installed and has
    the device and the precision that are asked for. For torch's own networks it is OpenVINO, if
    that is installed, `precision` is `auto`, and the run is long enough for its conversion to pay;
    else torch.

    `precision="auto"` is bf16 where the device has it and at least `MINIMUM_AGREEMENT` of the valid
    labels of the sample, `pixels` and `valid` as a predictor takes them, are those of torch in
    fp32; else fp32, for which OpenVINO needs that agreement as well. A precision that is asked for
    stays torch's. `device="auto"` is the first CUDA device, else the CPU.

    Args:
        area: pixels of the scene.
        kept: gives the predictor for an engine whose making takes long, to whoever will use it.

    Raises:
        DeviceError: what was asked for isn't there, or OpenVINO computes other labels.
        MemoryError: the device can't hold the sample.
    """
    if engine not in ENGINES:
        raise DeviceError(f"the engines are {', '.join(ENGINES)}, got {engine!r}")
    count = default_threads() if threads is None else threads
    reference = Engine(device=find_device(device), threads=count)
    if engine in ("auto", onnx_session.NAME):
        why = onnx_session.refusal(network, reference.device, precision)
        if why is None:
            return replace(reference, name=onnx_session.NAME, version=onnx_session.version())
        _refuse(why, engine)

    def made(one: Engine) -> TorchPredictor:
        return TorchPredictor(network, card, stride, one)

    trial = _Trial(pixels, valid, reference, made, kept or made)
    width = pixels.shape[-1]
    why = openvino_session.refusal(network, reference.device, precision, stride, width)
    if engine == openvino_session.NAME:
        _refuse(why, engine)
        return _openvino(trial, precision)
    asked = _by_torch(network, card, reference.device, precision)
    if asked != "auto":
        return replace(reference, precision=asked)
    if not trial.is_possible:
        return reference
    # From the fastest to the slowest.
    half = is_native("bf16", reference.device)
    tried = [replace(reference, precision="bf16")] if half else []
    if engine == "auto" and why is None and area * _work(network, card, stride) >= WORTHWHILE:
        if half:
            tried.insert(0, _by_openvino(reference, "bf16"))
        tried.append(_by_openvino(reference, "fp32"))
    return trial.first_trusted(tried)


@dataclass(frozen=True, slots=True)
class _Found:
    """An engine, and the share of the sample's labels that it shares with the reference."""

    engine: Engine
    share: float

    @property
    def is_trusted(self) -> bool:
        return self.share >= MINIMUM_AGREEMENT


class _Trial:
    """Compares engines with the reference on a sample that has a valid pixel."""

    def __init__(
        self,
        pixels: NDArray[np.generic],
        valid: NDArray[np.bool_],
        reference: Engine,
        made: Maker,
        kept: Maker,
    ) -> None:
        self._pixels, self._valid = pixels, valid
        self.reference, self._made, self._kept = reference, made, kept

    @property
    def is_possible(self) -> bool:
        """Whether the sample has a valid pixel."""
        return bool(self._valid.any())

    def of(self, engine: Engine) -> _Found:
        """How well the engine does.

        Raises:
            DeviceError: it can't compute this network.
        """
        # First, so that the one is there no more when the other is made.
        predictor = (self._made if engine.name == "torch" else self._kept)(engine)
        share = float(np.mean(self._labels(predictor) == self._expected))
        return _Found(replace(engine, agreement=share), share)

    def first_trusted(self, engines: Sequence[Engine]) -> Engine:
        """The first of them that does well, else the reference and how well the last one did."""
        share = None
        for engine in engines:
            with suppress(DeviceError):  # OpenVINO may lack an operation
                found = self.of(engine)
                if found.is_trusted:
                    return found.engine
                share = found.share
        return replace(self.reference, agreement=share)

    @cached_property
    def _expected(self) -> NDArray[np.uint8]:
        return self._labels(self._made(self.reference))

    def _labels(self, predictor: TorchPredictor) -> NDArray[np.uint8]:
        height, width = self._valid.shape
        everything = (slice(0, height), slice(0, width))
        labels: NDArray[np.uint8] = predictor(self._pixels, self._valid, everything)[self._valid]
        return labels


def _by_torch(
    network: nn.Module, card: ModelCard, device: str, precision: Precision | Literal["auto"]
) -> Precision | Literal["auto"]:
    """The precision that torch computes in, or "auto" where it may choose.

    Raises:
        DeviceError: network or device haven't the one that is asked for.
    """
    if any(isinstance(one, Foreign) and not one.casts for one in network.modules()):
        if precision not in ("auto", "fp32"):
            raise DeviceError(
                f"the file of {card.name} computes in fp32 alone; leave out --precision {precision}"
            )
        return "fp32"
    if precision == "fp16" and not is_native(precision, device):
        raise DeviceError("this CPU has no fp16; use --precision auto, bf16 or fp32")
    return precision


def _refuse(why: str | None, engine: str) -> None:
    """Passes if there is no reason, or another engine will do.

    Raises:
        DeviceError: there is one.
    """
    if why is not None and engine != "auto":
        raise DeviceError(why)


def _openvino(trial: _Trial, precision: Precision | Literal["auto"]) -> Engine:
    """OpenVINO, as it was asked for.

    Raises:
        DeviceError: it can't compute this network, or computes something else.
    """
    native = is_native("bf16", trial.reference.device)
    if not trial.is_possible:
        return _by_openvino(trial.reference, "fp32" if precision == "auto" else precision)
    found = None
    if precision == "bf16" or (precision == "auto" and native):
        found = trial.of(_by_openvino(trial.reference, "bf16"))
    if found is None or (precision == "auto" and not found.is_trusted):
        found = trial.of(_by_openvino(trial.reference, "fp32"))
    if found.share < SAME_NETWORK:
        raise DeviceError(
            f"OpenVINO gives {found.share:.1%} of a sample's labels as torch does, so it computes "
            "another network; use --engine torch"
        )
    return found.engine


def _by_openvino(reference: Engine, precision: Precision) -> Engine:
    name, version = openvino_session.NAME, openvino_session.version()
    return replace(reference, name=name, version=version, precision=precision)


def _work(network: nn.Module, card: ModelCard, stride: int) -> float:
    """Multiplications for a pixel."""
    side = -(-SAMPLE // (2 * stride)) * 2 * stride
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        network(torch.zeros(1, len(card.bands), side, side))
    # An addition counts too.
    return counter.get_total_flops() / 2 / side**2
