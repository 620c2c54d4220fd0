"""A network from elsewhere becomes a package: with a card, a footprint and its proof."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segpipe.models.architectures.network import Network
from segpipe.models.errors import ModelError
from segpipe.models.footprints.exported import REFUSALS, evaluating, first_line
from segpipe.models.formats.checkpoint import read_state
from segpipe.models.formats.foreign import Foreign, foreign_kind, read_foreign
from segpipe.models.formats.importing import code_free, import_state
from segpipe.models.package import ModelCard, SegmentationModel, certify, save
from segpipe.workflows.cards import count_of, describe
from segpipe.workflows.code import from_code, is_code
from segpipe.workflows.inspect import Inspection, inspect

SIDES = (64, 256, 512)
"""Of images on which a network shows how many classes it gives; not every one takes a small one."""


@dataclass(frozen=True, slots=True)
class Imported:
    """The package that was made, and what it holds."""

    package: Path
    inspection: Inspection

    def to_dict(self) -> dict[str, Any]:
        """The package as `segpipe model import --json` prints it."""
        return {"package": str(self.package), **self.inspection.to_dict()}


def import_model(
    source: str | Path,
    *,
    output: str | Path,
    architecture: str | None = None,
    trust_model: str | None = None,
    overwrite: bool = False,
    card_file: Path | None = None,
    band_names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    colors: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    window: int | None = None,
) -> Imported:
    """Makes a package of a network that comes without one.

    Args:
        source: a checkpoint (safetensors, or a file of `torch.save` that needs no code), an ONNX
            file, an exported program, TorchScript, or `package.module:function` that gives a
            module or a `SegmentationModel`.
        output: the package's folder; its name is the model's where the card has none.
        architecture: what a checkpoint's weights belong to, where their names don't tell.
        trust_model: "sha256:" and the file's hash, for files that run code when they are loaded.
        overwrite: replace a package that is there.
        card_file, band_names, class_names, colors, mean, std, window: see `describe`.

    Raises:
        ModelError: the source is refused, or doesn't fit the card.
        InputRefusedError: the card's file is refused.
        PackageExistsError: something is at the output already.
    """
    bands = len(band_names) if band_names else count_of(card_file, "bands")
    classes = len(class_names) if class_names else count_of(card_file, "classes")
    found = _found(str(source), architecture, bands, classes, trust_model)
    if isinstance(found, SegmentationModel):
        model = SegmentationModel(_storable(found.network, found.card), found.card)
    else:
        taken = _bands(found, bands)
        card = describe(
            Path(output).resolve().name,
            taken,
            _classes(found, taken),
            card_file=card_file,
            band_names=band_names,
            class_names=class_names,
            colors=colors,
            mean=mean,
            std=std,
            window=_window(found, window),
        )
        model = SegmentationModel(_storable(found, card), card)
    certified = certify(model)
    save(certified, output, overwrite=overwrite)
    return Imported(Path(output), inspect(certified))


def _found(
    source: str, architecture: str | None, bands: int | None, classes: int | None, trust: str | None
) -> nn.Module | SegmentationModel:
    if is_code(source):
        found = from_code(source)
        if isinstance(found, nn.Module | SegmentationModel):
            return found
        raise ModelError(f"{source} gives a {type(found).__name__}; a torch.nn.Module was expected")
    path = Path(source)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "isn't there"
        raise ModelError(
            f"{path} {what}; a network is imported from a checkpoint, .onnx, .pt2, TorchScript, or "
            "as package.module:function"
        )
    if kind := foreign_kind(path):
        return read_foreign(path, kind, trust)
    state = read_state(path)
    try:
        return import_state(state, architecture, bands, classes)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _storable(network: nn.Module, card: ModelCard) -> nn.Module:
    """The network in a form that packages can hold.

    Raises:
        ModelError: an operation of it can't be stored.
    """
    if isinstance(network, Foreign) or (isinstance(network, Network) and network.architecture):
        return network
    return code_free(network, len(card.bands), len(card.classes))


def _bands(network: nn.Module, wanted: int | None) -> int:
    """How many bands the network takes, as far as it tells; else as many as are wanted."""
    weights = (one for one in network.parameters() if one.ndim == 4)
    first = next(weights, None)
    told = None if first is None else first.shape[1]
    if isinstance(network, Foreign) and network.bands is not None:
        told = network.bands
    if isinstance(network, Network) and network.architecture:
        told = network.architecture.bands
    number = told if wanted is None else wanted
    if number is None:
        raise ModelError("the network doesn't tell how many bands it takes; name them with --bands")
    return int(number)


def _classes(network: nn.Module, bands: int) -> int:
    """How many classes the network gives for an image of so many bands."""
    refusal = "it gives no tensor"
    fixed = network.window if isinstance(network, Foreign) else None
    for side in (fixed,) if fixed else SIDES:
        try:
            with evaluating(network):
                scores = network(torch.zeros(1, bands, side, side))
        except REFUSALS as error:
            refusal = first_line(error)
            continue
        if isinstance(scores, Tensor) and scores.ndim == 4 and scores.shape[2:] == (side, side):
            return int(scores.shape[1])
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        refusal = f"it gives {shape}, and every pixel has to have its scores"
    raise ModelError(
        f"the network doesn't map an image of {bands} bands and {side} x {side} pixels: {refusal}"
    )


def _window(network: nn.Module, wanted: int | None) -> int | None:
    """The side of the windows, which a file may have fixed."""
    fixed = network.window if isinstance(network, Foreign) else None
    if fixed is None or wanted in (None, fixed):
        return fixed or wanted
    raise ModelError(f"the file takes windows of {fixed} pixels alone, --window is {wanted}")
