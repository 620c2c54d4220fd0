"""A scene shown again and again: as many pixels as are wanted, out of a few on the disk."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from segpipe.pipeline import storage
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.scenes.location import is_remote
from segpipe.pipeline.scenes.raster import RasterSource, open_raster
from segpipe.pipeline.scenes.source import Band, Contents
from segpipe.pipeline.scenes.vrt import MAX_BYTES
from segpipe.pipeline.window import Window

_TYPES = {
    "uint8": "Byte",
    "int8": "Int8",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "float32": "Float32",
    "float64": "Float64",
}
"""What GDAL calls the dtypes of bands."""

_SOURCE_BYTES = 500
"""About what a VRT takes for a copy of a band."""


def repeat(scene: str | Path, shape: tuple[int, int], path: Path) -> None:
    """Writes a VRT of `shape` (rows, columns) that shows the scene side by side from the origin.

    The last copies are cut off. Reading it decodes the same few blocks, which GDAL then holds in
    memory, so that it costs less than a scene that is as large on the disk.

    Raises:
        InputRefusedError: the scene isn't a raster in a file of this machine, has a mask, or is so
            small that it would have to be shown too often.
        StorageError: the disk refuses.
    """
    file = Path(scene).absolute()
    if is_remote(scene) or not file.is_file():
        raise InputRefusedError(f"{scene}: no file of this machine, which alone can be repeated")
    contents = open_raster(file)
    if not isinstance(contents.source, RasterSource) or any(contents.source.masks):
        raise InputRefusedError(
            f"{file}: has a mask, and can't be repeated; write it with nodata first: gdal_translate"
        )
    grid = contents.grid
    copies = -(-shape[0] // grid.height) * -(-shape[1] // grid.width)
    if copies * len(contents.bands) * _SOURCE_BYTES > MAX_BYTES:
        raise InputRefusedError(
            f"{file}: {grid.height} x {grid.width} pixels would be repeated too often to make "
            f"{shape[0]} x {shape[1]}; take a larger scene"
        )
    text = ElementTree.tostring(_virtual(file, contents, shape))
    storage.write(path, text)


def _virtual(file: Path, contents: Contents, shape: tuple[int, int]) -> Element:
    grid = contents.grid
    root = Element("VRTDataset", rasterXSize=str(shape[1]), rasterYSize=str(shape[0]))
    if grid.crs:
        SubElement(root, "SRS").text = grid.crs
    a, b, c, d, e, f = grid.transform
    SubElement(root, "GeoTransform").text = ", ".join(map(repr, (c, a, b, f, d, e)))
    for number, band in enumerate(contents.bands, start=1):
        element = SubElement(root, "VRTRasterBand", dataType=_TYPES[band.dtype], band=str(number))
        _describe(element, band)
        for place in _places(grid.shape, shape):
            source = SubElement(element, "SimpleSource")
            SubElement(source, "SourceFilename", relativeToVRT="0").text = str(file)
            SubElement(source, "SourceBand").text = str(number)
            # With these GDAL needn't open the file once for each place.
            SubElement(
                source,
                "SourceProperties",
                RasterXSize=str(grid.width),
                RasterYSize=str(grid.height),
                DataType=_TYPES[band.dtype],
                BlockXSize=str(contents.block_shape[1]),
                BlockYSize=str(contents.block_shape[0]),
            )
            SubElement(source, "SrcRect", _rect(Window(0, 0, place.height, place.width)))
            SubElement(source, "DstRect", _rect(place))
    return root


def _describe(element: Element, band: Band) -> None:
    if band.name:
        SubElement(element, "Description").text = band.name
    if band.nodata is not None:
        SubElement(element, "NoDataValue").text = repr(band.nodata)
    if band.alpha:
        SubElement(element, "ColorInterp").text = "Alpha"
    SubElement(element, "Offset").text = repr(band.offset)
    SubElement(element, "Scale").text = repr(band.scale)


def _places(copy: tuple[int, int], shape: tuple[int, int]) -> Iterator[Window]:
    """Where the copies stand, row by row."""
    for top in range(0, shape[0], copy[0]):
        for left in range(0, shape[1], copy[1]):
            height, width = min(copy[0], shape[0] - top), min(copy[1], shape[1] - left)
            yield Window(top, left, height, width)


def _rect(window: Window) -> dict[str, str]:
    return {
        "xOff": str(window.left),
        "yOff": str(window.top),
        "xSize": str(window.width),
        "ySize": str(window.height),
    }
