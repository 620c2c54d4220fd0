"""What STAC's extensions ask of the fields that segpipe writes, as JSON Schema, without a network.

The schemas of STAC itself come with pystac. Those of the extensions are written here from their
specifications (classification 1.1.0, file 2.1.0, processing 1.2.0, projection 2.0.0, raster 2.0.0,
render 2.0.0): shorter, for no more than these fields, and stricter, as a field of an extension's
prefix that isn't listed is refused.
"""

from typing import Any

from pystac.validation import JsonSchemaSTACValidator, validate_dict

Schema = dict[str, Any]

_NUMBER: Schema = {"type": "number"}
_TEXT: Schema = {"type": "string", "minLength": 1}


def _list(items: Schema, *lengths: int) -> Schema:
    found: Schema = {"type": "array", "items": items, "minItems": 1}
    if lengths:
        found["oneOf"] = [{"minItems": length, "maxItems": length} for length in lengths]
    return found


def _table(required: tuple[str, ...], **properties: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": properties}


def _extension(name: str, version: str, prefix: str, fields: dict[str, Schema]) -> Schema:
    """Fields may stand in an item's properties, in assets, in their bands, and in a collection."""
    uri = f"https://stac-extensions.github.io/{name}/v{version}/schema.json"
    held: Schema = {
        "type": "object",
        "properties": {f"{prefix}:{field}": schema for field, schema in fields.items()},
        "patternProperties": {f"^(?!{prefix}:)": {}},
        "additionalProperties": False,
    }
    with_bands = {"allOf": [held, {"properties": {"bands": _list(held)}}]}
    assets = {"type": "object", "additionalProperties": with_bands}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": uri,
        "type": "object",
        "required": ["type", "stac_extensions"],
        "properties": {
            "stac_extensions": {"type": "array", "contains": {"const": uri}},
            "properties": held,
            "assets": assets,
            "item_assets": assets,
        },
    }


_CLASS = _table(
    ("value", "description"),
    value={"type": "integer"},
    description=_TEXT,
    name={"type": "string", "pattern": "^[0-9A-Za-z_-]+$"},
    title=_TEXT,
    color_hint={"type": "string", "pattern": "^[0-9A-F]{6}$"},
    nodata={"type": "boolean"},
    count={"type": "integer", "minimum": 0},
    percentage={"type": "number", "minimum": 0, "maximum": 100},
)

_COLOR = _list({"type": "integer", "minimum": 0, "maximum": 255}, 4)

_RENDER = _table(
    ("assets",),
    assets=_list(_TEXT),
    title=_TEXT,
    nodata={"type": ["number", "string"]},
    colormap={
        "type": "object",
        "patternProperties": {"^[0-9]+$": _COLOR},
        "additionalProperties": False,
    },
    resampling=_TEXT,
)

SCHEMAS = [
    _extension(
        "classification",
        "1.1.0",
        "classification",
        {"classes": {**_list(_CLASS), "uniqueItems": True}},
    ),
    _extension(
        "file",
        "2.1.0",
        "file",
        {
            "size": {"type": "integer", "minimum": 0},
            "checksum": {"type": "string", "pattern": "^[a-f0-9]+$"},
        },
    ),
    _extension(
        "processing",
        "1.2.0",
        "processing",
        {
            "level": _TEXT,
            "lineage": _TEXT,
            "software": {"type": "object", "additionalProperties": _TEXT},
            "expression": _table(("format", "expression"), format=_TEXT),
        },
    ),
    _extension(
        "projection",
        "2.0.0",
        "proj",
        {
            "code": {"type": ["string", "null"], "pattern": "^[A-Za-z0-9_]+:[A-Za-z0-9_.]+$"},
            "wkt2": {"type": ["string", "null"]},
            "bbox": _list(_NUMBER, 4, 6),
            "shape": _list({"type": "integer"}, 2),
            "transform": _list(_NUMBER, 6, 9),
        },
    ),
    _extension(
        "raster",
        "2.0.0",
        "raster",
        {
            "sampling": {"enum": ["area", "point"]},
            "spatial_resolution": _NUMBER,
            "scale": _NUMBER,
            "offset": _NUMBER,
        },
    ),
    {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "https://stac-extensions.github.io/render/v2.0.0/schema.json",
        "type": "object",
        "required": ["properties", "assets"],
        "properties": {
            "properties": {
                "required": ["renders"],
                "properties": {"renders": {"type": "object", "additionalProperties": _RENDER}},
            }
        },
    },
]


def validate(document: dict[str, Any]) -> list[str]:
    """The addresses of the schemas that an item or a collection fulfils: STAC's, and extensions'.

    Raises:
        STACValidationError: it breaks one of them.
        GetSchemaError: it names an extension that isn't here.
    """
    validator = JsonSchemaSTACValidator()
    validator.schema_cache |= {schema["$id"]: schema for schema in SCHEMAS}
    # Not `pystac.read_dict(...).validate()`: that one takes other versions of extensions instead.
    return [str(address) for address in validate_dict(document, validator=validator)]
