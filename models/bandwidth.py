"""How fast memory moves: on a device, and between it and the host."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_BYTES = 1 << 28
"""Of the array that is moved: beyond what caches hold."""

_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes a second, the best of some tries.

    Attributes:
        memory: read and written on the device while an array is copied there.
        to_device, from_device: over the bus, to and from pinned memory; None on a CPU, which has
            the host's.
    """

    memory: float
    to_device: float | None = None
    from_device: float | None = None


def bandwidth(device: str, threads: int, size: int = _BYTES) -> Bandwidth:
    """How fast the device, "cpu" or "cuda:N", moves `size` bytes; a CPU with so many threads."""
    if device == "cpu":
        torch.set_num_threads(threads)
        source = torch.ones(size, dtype=torch.uint8)
        return Bandwidth(2 * size / _copying(torch.empty_like(source), source, _clocked))
    pinned = torch.ones(size, dtype=torch.uint8, pin_memory=True)
    source = pinned.to(device)
    target = torch.empty_like(source)

    def on_device(copy: Callable[[], Tensor]) -> float:
        return device_seconds(device, copy)

    return Bandwidth(
        2 * size / _copying(target, source, on_device),
        size / _copying(target, pinned, on_device),
        size / _copying(pinned, source, on_device),
    )


def device_seconds(device: str | torch.device, work: Callable[[], object]) -> float:
    """Seconds that a CUDA device takes for what `work` queues on the current stream.

    The events are the device's own, so that neither the call nor the wait for its end counts.
    """
    stream = torch.cuda.current_stream(device)
    first, last = _event(), _event()
    first.record(stream)
    work()
    last.record(stream)
    last.synchronize()
    return float(first.elapsed_time(last)) / 1000


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _copying(
    target: Tensor, source: Tensor, timed: Callable[[Callable[[], Tensor]], float]
) -> float:
    """Seconds of the fastest copy."""

    def copy() -> Tensor:
        return target.copy_(source, non_blocking=True)

    copy()  # warms up
    return min(timed(copy) for _ in range(_REPEATS))


def _clocked(work: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
