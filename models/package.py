"""A network with its card, and the folder in which both travel."""

import hashlib
import json
import os
import shutil
import uuid
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segpipe.models import weights
from segpipe.models.architectures.network import Architecture, Network, count
from segpipe.models.architectures.registry import create
from segpipe.models.card import ClassInfo, ModelCard
from segpipe.models.errors import ModelError
from segpipe.models.footprint import Footprint, measure
from segpipe.models.footprints.proof import Proof, prove
from segpipe.models.formats.foreign import FORMATS, Foreign, read_foreign
from segpipe.models.stac import Asset, model_item

__all__ = [
    "ClassInfo",
    "ModelCard",
    "PackageExistsError",
    "SegmentationModel",
    "certify",
    "load",
    "save",
]

ITEM = "model.json"
WEIGHTS = "weights.safetensors"

LARGEST_ITEM = 16 << 20
"""Bytes of a `model.json` that are read at most; the usual one has a few thousand."""


class PackageExistsError(ModelError):
    """A package is to be saved where something is already."""

    exit_code = 5


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was measured on the network of this digest.

    Attributes:
        network_sha256: whose footprint it is.
        footprint: how far an output pixel sees.
        proof: tiles compared with the whole, or None where nobody did.
    """

    network_sha256: str
    footprint: Footprint
    proof: Proof | None = None

    def to_dict(self) -> dict[str, Any]:
        """The certificate as JSON takes it."""
        return {
            "network_sha256": self.network_sha256,
            "footprint": self.footprint.to_dict(),
            **({"proof": asdict(self.proof)} if self.proof else {}),
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
                **others,
            } if stride > 0 and min(top, left, bottom, right) >= 0:
                footprint = Footprint(
                    stride, top, left, bottom, right, exact, tuple(map(str, reasons))
                )
                return cls(digest, footprint, _proof(others.get("proof")))
        raise ModelError(f"a certificate is a digest and a footprint, got {data!r:.120}")


def _proof(data: object) -> Proof | None:
    match data:
        case None:
            return None
        case {"tiles": int(tiles), "difference": float(difference)} if tiles > 0:
            return Proof(tiles, difference)
    raise ModelError(f"a proof is a number of tiles and a difference, got {data!r:.120}")


class SegmentationModel:
    """A network (N, bands, H, W) to (N, classes, H, W) and its card.

    The network is put into evaluation mode. Footprint and digests are worked out when they are
    first asked for and kept, so the weights must not change from then on.

    Args:
        network: any module; one that segpipe built knows its architecture and can be saved.
        card: what it takes and gives.
        certificate: a footprint from an earlier time, used if it is this network's.
        item: the STAC item of the package that it was read from, if it was.

    Raises:
        ModelError: card and network differ in the number of bands or classes.
    """

    def __init__(
        self,
        network: nn.Module,
        card: ModelCard,
        *,
        certificate: Certificate | None = None,
        item: Path | None = None,
    ) -> None:
        self.network = network.eval()
        self.card = card
        self.item = item
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
        if isinstance(self.network, Foreign):
            return self.network.parameter_count
        return count(self.network)

    @property
    def weight_bytes(self) -> int:
        """How much memory the weights take."""
        if isinstance(self.network, Foreign):
            return len(self.network.content)
        return sum(tensor.nbytes for tensor in self.network.state_dict().values())

    @cached_property
    def footprint(self) -> Footprint:
        """How far an output pixel sees; measured unless the certificate is this network's."""
        if known := self._known:
            return known.footprint
        bands = len(self.card.bands)
        if isinstance(self.network, Foreign):
            return self.network.footprint(bands)
        return measure(self.network, bands)

    @property
    def proof(self) -> Proof | None:
        """Tiles that were compared with the whole when the model was imported, if they were."""
        known = self._known
        return known.proof if known else None

    def prove(self) -> Proof | None:
        """Tiles compared with the whole in float64, on the model's weights and on random ones.

        None for a network that isn't exact, or that can't compute in float64. It takes seconds to
        a minute.
        """
        if not self.footprint.exact:
            return None
        bands = len(self.card.bands)
        if isinstance(self.network, Foreign):
            return self.network.prove(self.footprint, bands)
        return prove(self.network, self.footprint, bands)

    @cached_property
    def _known(self) -> Certificate | None:
        known = self._certificate
        return known if known and known.network_sha256 == self.network_sha256 else None

    @cached_property
    def network_sha256(self) -> str:
        """The digest of architecture and weights, in hex: all that the footprint depends on."""
        if isinstance(self.network, Foreign):
            return _sha256([self.network.kind, _content_sha256(self.network)])
        architecture = self.architecture
        # The text of a foreign module names its class and those of its parts, with their numbers.
        identity = repr(self.network) if architecture is None else architecture.to_dict()
        return _sha256([identity, weights.digest(self.network)])

    @cached_property
    def digest(self) -> str:
        """The sha256 of card, architecture and weights, in hex: all that labels depend on."""
        return _sha256([self.card.to_dict(), self.network_sha256])


def certify(model: SegmentationModel) -> SegmentationModel:
    """The same model with a certificate: footprint, and a proof where tiles are exact.

    A network whose tiles differ from the whole all the same is marked approximate.
    """
    footprint, proof = model.footprint, model.prove()
    if proof is not None and not proof.holds:
        reason = f"tiles differ from the whole by {proof.difference:.1g} deviations in float64"
        footprint = Footprint(footprint.stride, 0, 0, 0, 0, exact=False, reasons=(reason,))
        proof = None
    certificate = Certificate(model.network_sha256, footprint, proof)
    return SegmentationModel(model.network, model.card, certificate=certificate)


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
        content = _write_network(model.network, staging)
        # safetensors lets nobody else read what it writes.
        shutil.copymode(staging / ITEM, content)
        for path in (staging / ITEM, content, staging):
            _sync(path)
        _publish(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def load(folder: str | Path, trust: str | None = None) -> SegmentationModel:
    """The model that `save` wrote.

    Nothing in the folder is run, but for an exported program or TorchScript whose hash is in
    `trust`, as "sha256:" and 64 hexadecimal digits.

    Raises:
        ModelError: there is no package, it is damaged, its parts don't belong together, or it
            needs to be trusted.
    """
    path = Path(folder)
    item = _read_item(path)
    if isinstance(item.network, Architecture):
        content = path / WEIGHTS
        network: nn.Module = _filled(item.network, content)
    else:
        content = path / item.network.name
        network = item.network.read(content, trust)
    model = SegmentationModel(
        network, item.card, certificate=item.certificate, item=(path / ITEM).absolute()
    )
    if model.network_sha256 != item.network_sha256:
        raise ModelError(
            f"{content} isn't what was saved: its digest is {model.network_sha256}, {ITEM} "
            f"has {item.network_sha256!r:.80}; get the package again"
        )
    return model


def _filled(architecture: Architecture, content: Path) -> Network:
    with torch.device("meta"):
        network = create(architecture)
    # An option that is younger than the package has its default, and no part in the digest.
    network.architecture = architecture
    weights.fill(network, content)
    return network


@dataclass(frozen=True, slots=True)
class _File:
    """The file of another format that holds a package's network."""

    kind: str
    size: int

    @property
    def name(self) -> str:
        return f"network{FORMATS[self.kind].suffix}"

    @classmethod
    def from_dict(cls, data: object) -> "_File":
        match data:
            case {"kind": str(kind), "size": int(size), **others} if kind in FORMATS and not others:
                return cls(kind, size)
        raise ModelError(
            f"a network's file has a kind ({', '.join(FORMATS)}) and a size, got {data!r:.120}"
        )

    def read(self, path: Path, trust: str | None) -> Foreign:
        """The network, if the file has the size that was written."""
        if not path.is_file():
            raise ModelError(f"there is no {path}, which {ITEM} names; get the package again")
        if (size := path.stat().st_size) != self.size:
            raise ModelError(
                f"{path} has {size} bytes, {ITEM} has {self.size}; get the package again"
            )
        return read_foreign(path, self.kind, trust)


@dataclass(frozen=True, slots=True)
class _Item:
    """What `model.json` says."""

    card: ModelCard
    network: Architecture | _File
    network_sha256: str
    certificate: Certificate


def _write_network(network: nn.Module, folder: Path) -> Path:
    """The file that was written."""
    if isinstance(network, Foreign):
        path = folder / _File(network.kind, len(network.content)).name
        path.write_bytes(network.content)
    else:
        path = folder / WEIGHTS
        weights.write(network, path)
    return path


def _item(model: SegmentationModel) -> dict[str, Any]:
    title, asset, told = _network_item(model)
    item = model_item(model.card, title, model.parameters, asset)
    certificate = Certificate(model.network_sha256, model.footprint, model.proof)
    item["properties"]["segpipe:model"] = {
        "card": model.card.to_dict(),
        **told,
        "network_sha256": model.network_sha256,
        "certificate": certificate.to_dict(),
    }
    return item


def _network_item(model: SegmentationModel) -> tuple[str, Asset, dict[str, Any]]:
    """What the network is called, its file, and what `load` needs to know of it."""
    network, architecture = model.network, model.architecture
    if isinstance(network, Foreign):
        file, form = _File(network.kind, len(network.content)), FORMATS[network.kind]
        asset = Asset(file.name, form.media_type, form.artifact_type, form.framework)
        return network.kind, asset, {"file": asdict(file)}
    if architecture is None:
        raise ModelError(
            f"{model.card.name}: a package holds a registered architecture, this network is a "
            f"{type(network).__name__}; build it with segpipe.models.architectures.registry.build"
        )
    asset = Asset(WEIGHTS, "application/vnd.safetensors", "safetensors.torch.save_file")
    return architecture.name, asset, {"architecture": architecture.to_dict()}


def _read_item(folder: Path) -> _Item:
    path = folder / ITEM
    own = _own(_read_json(folder), path)
    try:
        return _Item(
            ModelCard.from_dict(own["card"]),
            _File.from_dict(own["file"])
            if "file" in own
            else Architecture.from_dict(own["architecture"]),
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


def _content_sha256(network: Foreign) -> str:
    return hashlib.sha256(network.content).hexdigest()


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
