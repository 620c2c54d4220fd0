"""The styles that QGIS loads by itself: for a raster `BASENAME.qml`, for polygons a table."""

from xml.etree import ElementTree as ET

from segpipe.pipeline.maps.legend import Legend

_VIRIDIS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")
"""Colours that rise evenly in lightness, for every eye (Smith and van der Walt 2015)."""

_DOCTYPE = b"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"


def qgis_style(legend: Legend) -> bytes:
    """A paletted renderer with exactly the legend's classes, in the words of QGIS 3."""
    root = ET.Element("qgis", version="3.22", styleCategories="Symbology")
    pipe = ET.SubElement(root, "pipe")
    renderer = ET.SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1"
    )
    ET.SubElement(renderer, "rasterTransparency")
    palette = ET.SubElement(renderer, "colorPalette")
    for entry in legend.entries:
        ET.SubElement(
            palette,
            "paletteEntry",
            value=str(entry.value),
            label=entry.name,
            color=entry.color,
            alpha="255",
        )
    return _text(root)


def share_style() -> bytes:
    """A renderer of the first band in colours from 0, dark blue, to 1, yellow (viridis)."""
    root = ET.Element("qgis", version="3.22", styleCategories="Symbology")
    pipe = ET.SubElement(root, "pipe")
    renderer = ET.SubElement(
        pipe,
        "rasterrenderer",
        type="singlebandpseudocolor",
        band="1",
        opacity="1",
        alphaBand="-1",
        classificationMin="0",
        classificationMax="1",
    )
    ET.SubElement(renderer, "rasterTransparency")
    shader = ET.SubElement(
        ET.SubElement(renderer, "rastershader"),
        "colorrampshader",
        colorRampType="INTERPOLATED",
        classificationMode="1",
        clip="0",
        minimumValue="0",
        maximumValue="1",
    )
    for number, color in enumerate(_VIRIDIS):
        value = f"{number / (len(_VIRIDIS) - 1):g}"
        ET.SubElement(shader, "item", value=value, label=value, color=color, alpha="255")
    return _text(root)


def polygon_style(legend: Legend, column: str) -> bytes:
    """A categorised renderer: each class filled with its colour, by its value in `column`."""
    root = ET.Element("qgis", version="3.22", styleCategories="Symbology")
    renderer = ET.SubElement(root, "renderer-v2", type="categorizedSymbol", attr=column)
    categories = ET.SubElement(renderer, "categories")
    symbols = ET.SubElement(renderer, "symbols")
    for number, entry in enumerate(legend.entries):
        ET.SubElement(
            categories,
            "category",
            symbol=str(number),
            value=str(entry.value),
            type="integer",
            label=entry.name,
            render="true",
        )
        symbol = ET.SubElement(symbols, "symbol", type="fill", name=str(number), alpha="1")
        layer = ET.SubElement(symbol, "layer", attrib={"class": "SimpleFill"}, enabled="1")
        options = ET.SubElement(layer, "Option", type="Map")
        fill = {
            "color": ",".join(map(str, entry.rgba)),
            "outline_style": "no",
            "style": "solid",
        }
        for name, value in fill.items():
            ET.SubElement(options, "Option", type="QString", name=name, value=value)
    return _text(root)


def _text(root: ET.Element) -> bytes:
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8")
    return _DOCTYPE + text + b"\n"
