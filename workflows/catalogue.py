"""Which models there are, and the one that a user means."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from segpipe.models.architectures.registry import ARCHITECTURES, build, names, parse
from segpipe.models.card import ClassInfo, ModelCard
from segpipe.models.errors import ModelError
from segpipe.models.formats.foreign import foreign_kind, require_trust
from segpipe.models.package import SegmentationModel, load
from segpipe.workflows.code import from_code, is_code

DEFAULT = "landcover-landsat7"
"""The bundled model that runs when none is named."""

Model = SegmentationModel | str | Path
"""A model, the folder of a package, the name of a bundled one, or `package.module:function`."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Names of the bundled packages, and of the architectures with what each one is."""

    bundled: tuple[str, ...]
    architectures: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """The catalogue as `segpipe models --json` prints it."""
        return {"bundled": list(self.bundled), "architectures": self.architectures}


def catalogue() -> Catalogue:
    """What is bundled and what can be built."""
    folders = (path for path in _bundled().iterdir() if (path / "model.json").is_file())
    return Catalogue(
        tuple(sorted(path.name for path in folders)),
        {name: ARCHITECTURES[name].summary for name in names()},
    )


def find(model: Model | None, trust: str | None = None) -> SegmentationModel:
    """The model that is meant; the bundled one where none is named.

    Args:
        model: itself, a package's folder, a bundled name, or `package.module:function`.
        trust: "sha256:" and the hash of a package's file that runs code when it is loaded.

    Raises:
        ModelError: there is no such model, or its package is refused.
    """
    if isinstance(model, SegmentationModel):
        return model
    if isinstance(model, str) and is_code(model):
        return _coded(model)
    name = DEFAULT if model is None else str(model)
    if name in catalogue().bundled:
        return load(_bundled() / name)
    if is_architecture(name):
        raise ModelError(
            f"{name} is an architecture without weights; train it with "
            f"`segpipe train --architecture {name.partition(':')[0]}`, then name the package's "
            "folder"
        )
    if not Path(name).exists():
        raise ModelError(
            f"there is no model {name}: it is neither bundled nor the folder of a package; "
            "`segpipe models` lists what there is"
        )
    path = Path(name)
    if path.is_file() and (kind := foreign_kind(path)):
        require_trust(path, kind, trust)
        raise ModelError(
            f"{path} says nothing of bands and classes; make a package of it with `segpipe model "
            f"import {path} -o PACKAGE --bands NAMES --classes NAMES{_trusting(trust)}`"
        )
    return load(path, trust)


def _trusting(trust: str | None) -> str:
    return f" --trust-model {trust}" if trust else ""


def _coded(text: str) -> SegmentationModel:
    found = from_code(text)
    if isinstance(found, SegmentationModel):
        return found
    raise ModelError(
        f"{text} gives a {type(found).__name__} without bands and classes; return "
        f"SegmentationModel(network, card), or use `segpipe model import {text} -o PACKAGE`"
    )


def find_or_build(model: Model | None, trust: str | None = None) -> SegmentationModel:
    """Like `find`, but a registered name gives the network with random weights.

    It has three bands and 21 classes, as in the papers. Options follow the name as in
    `unet:depth=3,width=32`.

    Raises:
        ModelError: as `find`; or an option isn't known or out of bounds.
    """
    if not isinstance(model, str) or not is_architecture(model):
        return find(model, trust)
    name, options = parse(model)
    bands = ("red", "green", "blue")
    classes = tuple(ClassInfo(value, f"class {value}", "#808080") for value in range(21))
    card = ModelCard(
        name, bands, classes, (0.0,) * 3, (1.0,) * 3, description="random weights, not trained"
    )
    return SegmentationModel(build(name, len(bands), len(classes), **options), card)


def is_architecture(text: str) -> bool:
    """Whether it names what can be built, and so has no weights: `unet`, `unet:depth=3`."""
    return text.partition(":")[0] in names() and not is_code(text)


def _bundled() -> Path:
    # An installed wheel is always a folder, never a zip: torch couldn't be imported from one.
    return Path(str(files("segpipe.models"))) / "bundled"
