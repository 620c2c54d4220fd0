"""On which device, with which numbers and with how many threads a network runs."""

import os
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import psutil
import torch

from segpipe.models.errors import DeviceError

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True, slots=True)
class Engine:
    """How labels were computed: all that can change a label besides scene and model.

    Attributes:
        name: the library that runs the network, "torch", "openvino" or "onnxruntime".
        device: "cpu" or "cuda:N".
        precision: the numbers that the network computes with.
        threads: how many threads the network uses on a CPU; another number may change last bits.
        agreement: share of a sample's valid labels that were the same in fp32, from 0 to 1; None
            where nothing was compared.
        version: of the library, "" for torch.

    Raises:
        DeviceError: the precision has another name, or there is no thread to compute with.
    """

    name: str = "torch"
    device: str = "cpu"
    precision: Precision = "fp32"
    threads: int = 1
    agreement: float | None = None
    version: str = ""

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise DeviceError(f"a precision is fp32, bf16 or fp16, got {self.precision!r}")
        if self.threads < 1:
            raise DeviceError(f"a network computes with 1 thread or more, got {self.threads}")

    @property
    def tensors_on(self) -> str:
        """The device that holds torch's tensors; other libraries take theirs from the host."""
        return self.device if self.name == "torch" else "cpu"

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers that torch holds; others take fp32, whatever they compute with."""
        return DTYPES[self.precision] if self.name == "torch" else torch.float32

    def to_dict(self) -> dict[str, Any]:
        """The engine as JSON takes it."""
        return asdict(self)


def default_threads() -> int:
    """How many threads a network uses on this machine: one for each core this process may use.

    Not torch's own count, which is 1 in the workers that Dask starts with OMP_NUM_THREADS=1.
    """
    if hasattr(os, "sched_getaffinity"):
        usable = len(os.sched_getaffinity(0))
    else:
        usable = os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or usable, usable)


def find_device(wanted: str) -> str:
    """The device's full name, "cpu" or "cuda:N", for "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        DeviceError: it isn't there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return "cuda:0" if count else "cpu"
    if wanted == "cpu":
        return wanted
    names = [f"cuda:{index}" for index in range(count)]
    name = "cuda:0" if wanted == "cuda" else wanted
    if name not in names:
        raise DeviceError(
            f"the device {wanted!r} isn't there; torch {torch.__version__} finds "
            f"{', '.join(['cpu', *names])}: use --device auto or --device cpu"
        )
    return name


def visible_gpus() -> tuple[str, ...]:
    """The CUDA devices of this machine, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in named.split(",") if name.strip()]
    return tuple((names or [str(index) for index in range(count)])[:count])


def is_native(precision: Precision, device: str) -> bool:
    """Whether the device computes in this precision itself, and so faster than in fp32."""
    if precision == "fp32":
        return True
    if device != "cpu":
        return precision == "fp16" or torch.cuda.get_device_capability(device) >= (8, 0)
    return not _CPU_FEATURES[precision].isdisjoint(_cpu_features())


_CPU_FEATURES: dict[Precision, frozenset[str]] = {
    "bf16": frozenset({"amx_bf16", "avx512_bf16", "bf16"}),
    "fp16": frozenset({"amx_fp16", "avx512_fp16", "fp16_arith"}),
}


def _cpu_features() -> set[str]:
    if hasattr(torch.cpu, "get_capabilities"):
        return {name for name, there in torch.cpu.get_capabilities().items() if there is True}
    # An older torch can be asked for single features only, fp16 not among them.
    return {"avx512_bf16"} if torch.cpu._is_avx512_bf16_supported() else set()
