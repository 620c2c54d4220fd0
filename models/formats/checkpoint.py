"""Weights in files that other programs wrote, read without running any code."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from segpipe.models.errors import ModelError
from segpipe.models.footprints.exported import REFUSALS, first_line

LARGEST = 8 << 30
"""Bytes of tensors that are taken into memory at most; the largest usual network has one GB."""

NESTS = ("state_dict", "model_state_dict", "model", "network", "net", "ema", "weights")
"""Under which keys trainers keep the weights beside their own state; Lightning uses the first."""

PREFIXES = ("module.", "model.", "network.", "net.", "_orig_mod.")
"""What wrappers put before all names: DataParallel, modules of Lightning, torch.compile."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU, without what wrappers added to the names.

    Takes safetensors, and files of `torch.save` whose pickle needs no code: a state dict, or one
    that a trainer keeps beside its own state.

    Raises:
        ModelError: the file is damaged, needs code to be read, is too large, or holds no weights.
    """
    try:
        size = path.stat().st_size
        found = _safetensors(path) if _is_safetensors(path) else _torch_file(path, size)
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror or error}") from error
    state = _stripped(_tensors(path, found))
    _require_small(path, state)
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{path}: {name} holds NaN or infinity; the training diverged")
    return state


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _safetensors(path: Path) -> dict[str, Tensor]:
    if path.stat().st_size > LARGEST:
        raise _too_large(path)
    try:
        with safe_open(path, framework="pt") as file:
            # Copies, so that no page of the network depends on what happens to the file later.
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{path} can't be read as safetensors: {error}") from error


def _torch_file(path: Path, size: int) -> object:
    if size > LARGEST:
        raise _too_large(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # torch packs nothing: an archive that unpacks to more isn't from there.
            if sum(entry.file_size for entry in archive.infolist()) > size:
                raise ModelError(f"{path} unpacks to more than it holds; torch didn't save it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on versions of the pickle format
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needs = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"needs code to be read ({needs[1]})" if needs else "isn't a file of torch.save"
        raise ModelError(
            f"{path} {what}, and nothing of it was run; save the weights alone, with "
            "torch.save(network.state_dict(), FILE) or as safetensors"
        ) from error
    except (*REFUSALS, EOFError, MemoryError) as error:
        raise ModelError(
            f"{path} can't be read as a checkpoint of torch: {first_line(error)}"
        ) from error


def _tensors(path: Path, found: object) -> Mapping[str, Tensor]:
    """The state dict in what a trainer saved."""
    for _ in range(len(NESTS)):
        if not isinstance(found, Mapping):
            break
        nest = next((key for key in NESTS if isinstance(found.get(key), Mapping)), None)
        if nest is None:
            break
        found = found[nest]
    if not isinstance(found, Mapping) or not found:
        raise ModelError(f"{path} holds a {type(found).__name__} and no tensors by their names")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ModelError(
                f"{path} holds {name!r:.80}, a {type(tensor).__name__}, beside or instead of "
                "weights; save the network's state_dict() alone"
            )
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise ModelError(f"{path}: {name} is a sparse or quantised tensor; save it dense")
    return found


def _stripped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((one for one in PREFIXES if all(n.startswith(one) for n in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return dict(state)


def _require_small(path: Path, state: Mapping[str, Tensor]) -> None:
    # A tensor may repeat one number of its storage to any size.
    if sum(tensor.numel() * tensor.element_size() for tensor in state.values()) > LARGEST:
        raise _too_large(path)


def _too_large(path: Path) -> ModelError:
    return ModelError(f"{path} holds more than {LARGEST >> 30} GB of weights; no network here does")
