"""A network's tensors: their digest, and reading them from a file that nobody vouches for."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from segpipe.models.errors import ModelError

DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}
"""Names of the types in safetensors' header."""

PICKLE = "is a pickle or an archive of pickles, which can run code; segpipe reads safetensors only"

Entry = tuple[str, tuple[int, ...]]
"""A tensor's type and shape, as a header gives them."""


def digest(network: nn.Module) -> str:
    """The sha256, in hex, of the names, types, shapes and bytes of all tensors, by name."""
    total = hashlib.sha256()
    for name, tensor in sorted(_tensors(network).items()):
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def write(network: nn.Module, path: Path) -> None:
    """All tensors as a safetensors file; the same tensors give the same bytes.

    Raises:
        OSError: the file can't be written.
    """
    try:
        save_file(_tensors(network), path)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error


def fill(network: nn.Module, path: Path) -> None:
    """Gives a network on the meta device the tensors of a safetensors file, and nothing else.

    Only the header is read until names, types and shapes are known to be the network's, so a file
    can't take more memory than the network itself.

    Raises:
        ModelError: the file isn't safetensors, is cut short, or holds other tensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: _header_entry(file, name) for name in file.keys()}  # noqa: SIM118
            _compare(found, network, path)
            # Copies, so that no page of the network depends on what happens to the file later.
            tensors = {name: file.get_tensor(name).clone() for name in found}
    except (SafetensorError, OSError) as error:
        reason = PICKLE if is_pickle(path) else f"can't be read as safetensors: {error}"
        raise ModelError(f"{path} {reason}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{path}: {name} holds NaN or infinity; the training diverged")
    network.load_state_dict(tensors, strict=True, assign=True)


def is_pickle(path: Path) -> bool:
    """Whether a file begins as a pickle does, or as the archive of pickles that torch writes."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:
        return False
    return start == b"PK\x03\x04" or start[:1] == b"\x80"


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    state = network.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"the network keeps {name!r} beside its tensors; a package can't hold it"
            )
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _header_entry(file: safe_open, name: str) -> Entry:
    part = file.get_slice(name)  # type: ignore[no-untyped-call]
    return part.get_dtype(), tuple(part.get_shape())


def _compare(found: Mapping[str, Entry], network: nn.Module, path: Path) -> None:
    expected = {
        name: (DTYPES[tensor.dtype], tuple(tensor.shape))
        for name, tensor in network.state_dict().items()
    }
    for title, names in (
        ("lacks", expected.keys() - found),
        ("has a stray", found.keys() - expected),
    ):
        if names:
            raise ModelError(
                f"{path} {title} {min(names)!r:.80}, one of {len(names)} such tensors; it isn't "
                "this network's"
            )
    for name, (dtype, shape) in expected.items():
        if found[name] != (dtype, shape):
            raise ModelError(
                f"{path}: {name} is {found[name][0]} {list(found[name][1])}, this network has "
                f"{dtype} {list(shape)}"
            )
