"""A network with its card, and the folder in which both travel."""

import hashlib
import json
import os
import shutil
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segpipe.models import weights
from segpipe.models.card import ClassInfo, ModelCard
from segpipe.models.errors import ModelError
from segpipe.models.exported import REFUSALS
from segpipe.models.footprint import Footprint, measure
from segpipe.models.liveness import activation_bytes
from segpipe.models.network import Architecture, Network, count
from segpipe.models.registry import create
from segpipe.models.stac import model_item

__all__ = ["ClassInfo", "ModelCard", "PackageExistsError", "SegmentationModel", "load", "save"]

ITEM = "model.json"
WEIGHTS = "weights.safetensors"

LARGEST_ITEM = 16 << 20
"""Bytes of a `model.json` that are read at most; the usual one has a few thousand."""


_UNKNOWN_ACTIVATIONS = 1024.0
"""Bytes a pixel, as a U-Net of the usual width takes."""


class PackageExistsError(ModelError):
    """A package is to be saved where something is already."""

    exit_code = 5


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was measured on the network of this digest: its footprint, and its live activations."""

    network_sha256: str
    footprint: Footprint
    activation_bytes: float

    def to_dict(self) -> dict[str, Any]:
        """The certificate as JSON takes it."""
        return {
            "network_sha256": self.network_sha256,
            "footprint": self.footprint.to_dict(),
            "activation_bytes": self.activation_bytes,
        }

    @classmethod
    def from_dict(cls, data: object) -> "Certificate":
        """The certificate that `to_dict` wrote.

        Raises:
            ModelError: it isn't one.
        """
        match data:
            case {
                "network_sha256": str(digest),
                "footprint": {
                    "stride": int(stride),
                    "top": int(top),
                    "left": int(left),
                    "bottom": int(bottom),
                    "right": int(right),
                    "exact": bool(exact),
                    "reasons": list(reasons),
                },
                "activation_bytes": float(activations),
            } if activations > 0 and stride > 0 and min(top, left, bottom, right) >= 0:
                footprint = Footprint(
                    stride, top, left, bottom, right, exact, tuple(map(str, reasons))
                )
                return cls(digest, footprint, activations)
        raise ModelError(
            f"a certificate is a digest, a footprint and activation bytes, got {data!r:.120}"
        )


class SegmentationModel:
    """A network (N, bands, H, W) to (N, classes, H, W) and its card.

    The network is put into evaluation mode. Footprint and digests are worked out when they are
    first asked for and kept, so the weights must not change from then on.

    Args:
        network: any module; one that segpipe built knows its architecture and can be saved.
        card: what it takes and gives.
        certificate: a footprint from an earlier time, used if it is this network's.

    Raises:
        ModelError: card and network differ in the number of bands or classes.
    """

    def __init__(
        self, network: nn.Module, card: ModelCard, *, certificate: Certificate | None = None
    ) -> None:
        self.network = network.eval()
        self.card = card
        self._certificate = certificate
        if self.architecture is not None:
            _agree(card, self.architecture)

    def __repr__(self) -> str:
        """Its name and size."""
        return f"<SegmentationModel {self.card.name}, {self.parameters:,} parameters>"

    @property
    def architecture(self) -> Architecture | None:
        """How the network was built, or None where segpipe didn't build it."""
        return self.network.architecture if isinstance(self.network, Network) else None

    @property
    def parameters(self) -> int:
        """How many numbers training can change."""
        return count(self.network)

    @cached_property
    def footprint(self) -> Footprint:
        """How far an output pixel sees; measured unless the certificate is this network's."""
        known = self._known
        return known.footprint if known else measure(self.network, len(self.card.bands))

    @cached_property
    def activation_bytes(self) -> float:
        """Peak bytes of live fp32 activations for a pixel; a guess for what can't be exported."""
        if known := self._known:
            return known.activation_bytes
        try:
            return activation_bytes(self.network, len(self.card.bands))
        except REFUSALS:
            return _UNKNOWN_ACTIVATIONS

    @cached_property
    def _known(self) -> Certificate | None:
        known = self._certificate
        return known if known and known.network_sha256 == self.network_sha256 else None

    @cached_property
    def network_sha256(self) -> str:
        """The digest of architecture and weights, in hex: all that the footprint depends on."""
        architecture = self.architecture
        # The text of a foreign module names its class and those of its parts, with their numbers.
        identity = repr(self.network) if architecture is None else architecture.to_dict()
        return _sha256([identity, weights.digest(self.network)])

    @cached_property
    def digest(self) -> str:
        """The sha256 of card, architecture and weights, in hex: all that labels depend on."""
        return _sha256([self.card.to_dict(), self.network_sha256])


def save(model: SegmentationModel, folder: str | Path, *, overwrite: bool = False) -> None:
    """Writes a package that `load` reads; it appears complete or not at all.

    The same model gives the same bytes. The footprint is measured if it wasn't yet, and goes into
    the package as a certificate for this architecture and these weights.

    Raises:
        PackageExistsError: something of that name is there, and it isn't a package that
            `overwrite` allows to replace.
        ModelError: segpipe couldn't build the network again.
        OSError: the folder can't be written.
    """
    target = Path(folder)
    if os.path.lexists(target) and not (overwrite and (target / ITEM).is_file()):
        raise PackageExistsError(f"{target} is already there; choose another name or remove it")
    text = json.dumps(_item(model), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = _beside(target)
    staging.mkdir()
    try:
        (staging / ITEM).write_text(text, encoding="utf-8")
        weights.write(model.network, staging / WEIGHTS)
        # safetensors lets nobody else read what it writes.
        shutil.copymode(staging / ITEM, staging / WEIGHTS)
        for path in (staging / ITEM, staging / WEIGHTS, staging):
            _sync(path)
        _publish(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def load(folder: str | Path) -> SegmentationModel:
    """The model that `save` wrote; nothing in the folder is ever run.

    Raises:
        ModelError: there is no package, it is damaged, or its parts don't belong together.
    """
    path = Path(folder)
    card, architecture, digest, certificate = _read_item(path)
    with torch.device("meta"):
        network = create(architecture)
    # An option that is younger than the package has its default, and no part in the digest.
    network.architecture = architecture
    weights.fill(network, path / WEIGHTS)
    model = SegmentationModel(network, card, certificate=certificate)
    if model.network_sha256 != digest:
        raise ModelError(
            f"{path / WEIGHTS} isn't what was saved: its digest is {model.network_sha256}, {ITEM} "
            f"has {digest!r:.80}; get the package again"
        )
    return model


def _item(model: SegmentationModel) -> dict[str, Any]:
    if model.architecture is None:
        raise ModelError(
            f"{model.card.name}: a package holds a registered architecture, this network is a "
            f"{type(model.network).__name__}; build it with segpipe.models.registry.build"
        )
    item = model_item(model.card, model.architecture, model.parameters, WEIGHTS)
    item["properties"]["segpipe:model"] = {
        "card": model.card.to_dict(),
        "architecture": model.architecture.to_dict(),
        "network_sha256": model.network_sha256,
        "certificate": Certificate(
            model.network_sha256, model.footprint, model.activation_bytes
        ).to_dict(),
    }
    return item


def _read_item(folder: Path) -> tuple[ModelCard, Architecture, str, Certificate]:
    path = folder / ITEM
    own = _own(_read_json(folder), path)
    try:
        return (
            ModelCard.from_dict(own["card"]),
            Architecture.from_dict(own["architecture"]),
            own["network_sha256"],
            Certificate.from_dict(own["certificate"]),
        )
    except KeyError as error:
        raise ModelError(
            f"{path} lacks {error} of 'segpipe:model'; save the model again"
        ) from error
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _own(item: object, path: Path) -> dict[str, Any]:
    match item:
        case {"properties": {"segpipe:model": dict(own)}}:
            return own
    raise ModelError(f"{path} has no 'segpipe:model' among its properties; segpipe didn't save it")


def _read_json(folder: Path) -> object:
    if folder.is_file():
        what = weights.PICKLE if weights.is_pickle(folder) else "is a file"
        raise ModelError(f"{folder} {what}; a model is a folder with {ITEM} and {WEIGHTS}")
    path = folder / ITEM
    if not path.is_file():
        raise ModelError(f"there is no model at {folder}: a model is a folder with {ITEM}")
    try:
        if path.stat().st_size > LARGEST_ITEM:
            raise ModelError(f"{path} has more than {LARGEST_ITEM} bytes; segpipe didn't save it")
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} isn't JSON: {error}") from error


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a number of JSON")


def _agree(card: ModelCard, architecture: Architecture) -> None:
    for title, told, built in (
        ("bands", len(card.bands), architecture.bands),
        ("classes", len(card.classes), architecture.classes),
    ):
        if told != built:
            raise ModelError(
                f"{card.name}: the card names {told} {title}, the network {architecture.name} has "
                f"{built}"
            )


def _sha256(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")


def _publish(staging: Path, target: Path) -> None:
    if target.exists():
        old = _beside(target)
        target.rename(old)
        try:
            staging.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        staging.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
