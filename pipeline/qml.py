"""The style that QGIS loads by itself from `BASENAME.qml` beside a raster."""

from xml.etree import ElementTree as ET

from segpipe.pipeline.legend import Legend

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
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8")
    return _DOCTYPE + text + b"\n"
