"""The machine at hand, as benchmarks name it: figures of one mean nothing on another."""

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from segpipe.models.engine import default_threads


@dataclass(frozen=True, slots=True)
class Machine:
    """Processor, cores that networks use, bytes of memory, the GPUs' names, and versions."""

    processor: str
    cores: int
    memory_bytes: int
    gpus: tuple[str, ...]
    python: str
    torch: str
    segpipe: str

    def to_dict(self) -> dict[str, Any]:
        """The machine as JSON takes it."""
        return asdict(self)


def machine() -> Machine:
    """What this process runs on."""
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    return Machine(
        processor=_processor(),
        cores=default_threads(),
        memory_bytes=psutil.virtual_memory().total,
        gpus=tuple(torch.cuda.get_device_name(index) for index in gpus),
        python=platform.python_version(),
        torch=torch.__version__,
        segpipe=version("segpipe"),
    )


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        for line in listed.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
