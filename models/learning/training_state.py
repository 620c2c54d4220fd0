"""A training between two steps: all that is needed to go on as if nothing had happened."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from segpipe.models.errors import ModelError

Tensors = Mapping[str, Tensor]

PARTS = ("network", "best", "optimizer")

REMEDY = "add --new-run to start again"


class CheckpointError(ModelError):
    """A checkpoint isn't this training's, or is damaged."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """What training has come to; the batches to come need no more than their numbers.

    Attributes:
        losses: of every step that is done, in float64.
        checks: a row for each validation, (step, score), in float64.
        network: tensors of the network.
        best: tensors of the network when it was validated best; none before the first validation.
        optimizer: tensors of the optimizer, as `INDEX.NAME` for the parameter of that index.
    """

    losses: Tensor
    checks: Tensor
    network: Tensors
    best: Tensors
    optimizer: Tensors

    def to_bytes(self) -> bytes:
        """The state as a safetensors file: numbers only, nothing that could be run."""
        tensors = {"losses": self.losses, "checks": self.checks}
        for part in PARTS:
            entries: Tensors = getattr(self, part)
            tensors |= {f"{part}/{name}": tensor for name, tensor in entries.items()}
        return safetensors.torch.save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        )

    @classmethod
    def read(cls, path: Path) -> "TrainingState":
        """The state that was written to a file.

        Raises:
            CheckpointError: it can't be read, or isn't one.
        """
        try:
            tensors = safetensors.torch.load_file(path)
            losses, checks = tensors.pop("losses"), tensors.pop("checks")
        except (SafetensorError, OSError, KeyError) as error:
            raise CheckpointError(
                f"{path} can't be read as a checkpoint ({error}); {REMEDY}"
            ) from error
        if (losses.dtype, checks.dtype) != (torch.float64, torch.float64) or (
            (losses.ndim, checks.shape[1:]) != (1, (2,))
        ):
            raise CheckpointError(f"{path} holds no losses or no checks; {REMEDY}")
        network, best, optimizer = (_part(tensors, name) for name in PARTS)
        return cls(losses, checks, network, best, optimizer)


def copy_into(targets: Tensors, found: Tensors) -> None:
    """Gives tensors the numbers of those of the same names.

    Raises:
        CheckpointError: names, types or shapes differ.
    """
    if targets.keys() != found.keys():
        names = ", ".join(sorted(targets.keys() ^ found.keys())[:3])
        raise CheckpointError(f"the checkpoint isn't this network's: {names} differ; {REMEDY}")
    for name, target in targets.items():
        if (target.dtype, target.shape) != (found[name].dtype, found[name].shape):
            raise CheckpointError(
                f"the checkpoint isn't this network's: {name} is {found[name].dtype} "
                f"{list(found[name].shape)}, not {target.dtype} {list(target.shape)}; {REMEDY}"
            )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(found[name])


def _part(tensors: Tensors, part: str) -> Tensors:
    prefix = f"{part}/"
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
