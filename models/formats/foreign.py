"""Networks that are kept in a file of another format, and which of these files can run code."""

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from torch import nn

from segpipe.models.errors import ModelError
from segpipe.models.footprint import Footprint, measure
from segpipe.models.footprints.exported import REFUSALS
from segpipe.models.footprints.proof import Proof, prove


class Foreign(nn.Module):
    """A network (N, bands, H, W) to (N, classes, H, W) that is read from the bytes of a file.

    It is copied and pickled as these bytes.

    Attributes:
        kind: a key of `FORMATS`.
        casts: whether it computes in half precision where its weights are cast to it. Graphs name
            the types of their numbers here and there, which no cast of the weights reaches.
        content: the file.
        window: side in pixels of the only images that it takes, or None where it takes any.
        bands: how many bands it takes, or None where the file doesn't tell.
    """

    kind: ClassVar[str]
    casts: ClassVar[bool] = False
    window: int | None = None
    bands: int | None = None

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.content = content

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.content,)

    @property
    def parameter_count(self) -> int:
        """How many numbers training could have changed."""
        return sum(parameter.numel() for parameter in self.parameters())

    def footprint(self, bands: int) -> Footprint:
        """How far an output pixel sees."""
        if self.window is not None:
            reason = f"the file takes images of {self.window} x {self.window} pixels and no others"
            return Footprint(1, 0, 0, 0, 0, exact=False, reasons=(reason,))
        return measure(self, bands)

    def prove(self, footprint: Footprint, bands: int) -> Proof | None:
        """Tiles compared with the whole in float64; None where the file can't compute in it."""
        try:
            return prove(self, footprint, bands)
        except REFUSALS:
            return None


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file: what people call it, its suffix, its STAC words, how its bytes are read."""

    title: str
    suffix: str
    framework: str
    media_type: str
    artifact_type: str
    runs_code: bool
    read: Callable[[bytes], Foreign]


def _onnx(content: bytes) -> Foreign:
    from segpipe.models.formats.onnx_network import OnnxNetwork

    return OnnxNetwork(content)


def _exported(content: bytes) -> Foreign:
    from segpipe.models.formats.exported_program import ExportedNetwork

    return ExportedNetwork(content)


def _torchscript(content: bytes) -> Foreign:
    from segpipe.models.formats.torchscript import ScriptNetwork

    return ScriptNetwork(content)


_TORCH_FILE = "application/octet-stream; application=pytorch"

FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "onnx": Format(
            "an ONNX model",
            ".onnx",
            "ONNX",
            "application/octet-stream; application=onnx",
            "onnx.save",
            runs_code=False,
            read=_onnx,
        ),
        "exported": Format(
            "an exported program",
            ".pt2",
            "PyTorch",
            _TORCH_FILE,
            "torch.export.save",
            runs_code=True,
            read=_exported,
        ),
        "torchscript": Format(
            "TorchScript",
            ".ts",
            "PyTorch",
            _TORCH_FILE,
            "torch.jit.save",
            runs_code=True,
            read=_torchscript,
        ),
    }
)


def foreign_kind(path: Path) -> str | None:
    """The kind of a file, by its suffix or by the names in an archive; None if it is another."""
    for kind, form in FORMATS.items():
        if path.suffix.lower() == form.suffix:
            return kind
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile, NotImplementedError):
        return None
    if "constants.pkl" in names:
        return "torchscript"
    return "exported" if names & {"archive_format", "models/model.json"} else None


def read_foreign(path: Path, kind: str, trust: str | None = None) -> Foreign:
    """The network in a file of this kind.

    Nothing of a file that can run code is parsed unless `trust` is "sha256:" and the file's hash.

    Raises:
        ModelError: the file can't be read, isn't trusted, or doesn't hold such a network.
    """
    digest = require_trust(path, kind, trust)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror or error}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise ModelError(f"{path} changed while it was read; try again when it is finished")
    try:
        return FORMATS[kind].read(content)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def require_trust(path: Path, kind: str, trust: str | None) -> str:
    """The file's sha256 in hex, if a file of this kind runs no code or `trust` is its hash.

    Raises:
        ModelError: the file can't be read, or isn't trusted.
    """
    form = FORMATS[kind]
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror or error}") from error
    wanted = f"sha256:{digest}"
    if not form.runs_code or (trust is not None and trust.strip().lower() == wanted):
        return digest
    given = "" if trust is None else f"; {trust!r:.80} was given"
    raise ModelError(
        f"{path} is {form.title}, and such files run code when they are loaded{given}; if you "
        f"trust where it is from, add --trust-model {wanted}"
    )
