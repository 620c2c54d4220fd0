"""A model as a STAC item with the Machine Learning Model extension, for catalogues and people."""

import re
from dataclasses import dataclass
from typing import Any

from segpipe.models.card import ClassInfo, ModelCard

STAC_VERSION = "1.1.0"
EXTENSIONS = ("https://stac-extensions.github.io/mlm/v1.5.2/schema.json",)

# Weights have no place and no date of their own; STAC asks for a span where there is no date.
ANYTIME = {
    "datetime": None,
    "start_datetime": "1900-01-01T00:00:00Z",
    "end_datetime": "9999-12-31T23:59:59Z",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """The file beside an item that holds the network, and what the extension says of it."""

    href: str
    media_type: str
    artifact_type: str
    framework: str = "PyTorch"


def model_item(card: ModelCard, architecture: str, parameters: int, asset: Asset) -> dict[str, Any]:
    """The item that describes a network of this architecture in the file `asset` beside it."""
    bands = [{"name": band} for band in card.bands]
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": list(EXTENSIONS),
        "id": card.name,
        "geometry": None,
        "properties": {
            **ANYTIME,
            **({"description": card.description} if card.description else {}),
            **({"license": _licence(card.licence)} if card.licence else {}),
            **({} if card.resolution is None else {"gsd": card.resolution}),
            "bands": bands,
            "mlm:name": _name(card.name),
            "mlm:architecture": architecture,
            "mlm:tasks": ["semantic-segmentation"],
            "mlm:framework": asset.framework,
            "mlm:total_parameters": parameters,
            "mlm:input": [_input(card)],
            "mlm:output": [_output(card)],
        },
        "links": [],
        "assets": {
            "weights": {
                "href": f"./{asset.href}",
                "type": asset.media_type,
                "title": "Weights",
                "roles": ["mlm:model", "mlm:weights"],
                # The extension wants the bands among the properties; STAC itself allows them there
                # only if an asset has them too.
                "bands": bands,
                "mlm:artifact_type": asset.artifact_type,
            }
        },
    }


def _input(card: ModelCard) -> dict[str, Any]:
    return {
        "name": "scene",
        "bands": list(card.bands),
        "input": {
            "shape": [-1, len(card.bands), -1, -1],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        **_units(card),
        "value_scaling": [
            {"type": "z-score", "mean": mean, "stddev": std}
            for mean, std in zip(card.mean, card.std, strict=True)
        ],
        "resize_type": None,
        "pre_processing_function": None,
    }


def _units(card: ModelCard) -> dict[str, Any]:
    """Which numbers are scaled, where they aren't those that files hold."""
    if card.units == "stored":
        return {}
    return {"description": "Reflectances: the bands' scales and offsets are applied first."}


def _output(card: ModelCard) -> dict[str, Any]:
    return {
        "name": "scores",
        "tasks": ["semantic-segmentation"],
        "result": {
            "shape": [-1, len(card.classes), -1, -1],
            "dim_order": ["batch", "classes", "height", "width"],
            "data_type": "float32",
        },
        "classification:classes": [class_object(info) for info in card.classes],
        "post_processing_function": None,
    }


def class_object(info: ClassInfo) -> dict[str, Any]:
    """A class as the classification extension writes it."""
    # The classification extension allows letters, digits, hyphens and underscores in a name.
    name = re.sub(r"[^0-9A-Za-z_-]+", "-", info.name).strip("-")
    return {
        "value": info.value,
        "name": name or f"class-{info.value}",
        "title": info.name,
        "color_hint": info.color[1:].upper(),
    }


def _name(name: str) -> str:
    # The extension wants three characters or more, the first of them a letter.
    return name if re.fullmatch(r"[A-Za-z].{2,}", name) else f"model-{name}"


def _licence(licence: str) -> str:
    # STAC takes one SPDX identifier; expressions and free text stay in the card.
    return licence if re.fullmatch(r"[\w.+-]+", licence) else "other"
