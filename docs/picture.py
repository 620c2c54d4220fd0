"""Paints a scene and its map side by side, with the legend below: `make picture`."""

import argparse
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

WIDTH = 1600
"""Width of the picture in pixels; all lengths below are pixels too."""

EDGE, GUTTER, TITLE, LEGEND = 40, 40, 64, 96

SCENE_COLOURS = 128
"""As many as keep the file small; the map has but a few, so the page fits a palette of 256."""

INK, PALE, PAPER = "#1f2428", "#6a737d", "#ffffff"

Picture = NDArray[np.uint8]


def natural_colour(path: Path) -> Picture:
    """The scene as the eye sees it, (row, column, 3), white where it has no data.

    Each band is stretched between its 1st and 98th percentile.
    """
    with rasterio.open(path) as scene:
        names = [scene.descriptions.index(name) + 1 for name in ("red", "green", "blue")]
        bands = scene.read(names).astype(np.float64)
        valid = scene.dataset_mask() > 0
    low, high = np.percentile(bands[:, valid], (1, 98), axis=1)
    share = np.clip((bands - low[:, None, None]) / (high - low)[:, None, None], 0, 1)
    picture = np.full((*valid.shape, 3), 255, np.uint8)
    # A power below 1 lifts the shadows, as film does.
    picture[valid] = np.round(255 * share[:, valid] ** 0.7).T
    return picture


def painted(path: Path) -> tuple[Picture, list[tuple[str, str, float]]]:
    """The map in its own colours, (row, column, 3), and name, colour and share of each class."""
    with rasterio.open(path) as labels:
        values, colours, nodata = labels.read(1), labels.colormap(1), labels.nodata
    table = np.full((256, 3), 255, np.uint8)
    for value, colour in colours.items():
        if value != nodata:
            table[value] = colour[:3]
    legend = [
        (name, "#{:02x}{:02x}{:02x}".format(*colours[value][:3]), float(share))
        for value, name in class_names(path).items()
        if (share := (values == value).sum() / max((values != nodata).sum(), 1))
    ]
    return table[values], legend


def class_names(path: Path) -> dict[int, str]:
    """Value to name, out of the attribute table beside the map."""
    table = ElementTree.parse(path.with_name(f"{path.name}.aux.xml")).iter("Row")
    rows = [[cell.text or "" for cell in row.iter("F")] for row in table]
    return {int(row[0]): row[1] for row in rows}


def measured(path: Path) -> tuple[slice, slice]:
    """Rows and columns of the smallest rectangle around the scene's data."""
    with rasterio.open(path) as scene:
        valid = scene.dataset_mask() > 0
    rows, columns = np.flatnonzero(valid.any(axis=1)), np.flatnonzero(valid.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def compose(scene: Picture, labels: Picture, legend: list[tuple[str, str, float]]) -> Image.Image:
    """Both pictures under their titles, over the legend, on white paper."""
    side = (WIDTH - 2 * EDGE - GUTTER) // 2
    height = round(side * scene.shape[0] / scene.shape[1])
    page = Image.new("RGB", (WIDTH, EDGE // 2 + TITLE + height + LEGEND), PAPER)
    draw = ImageDraw.Draw(page)
    large, small = ImageFont.load_default(30), ImageFont.load_default(26)
    panels = (
        ("scene", "Landsat 7, natural colour", scene, Image.Resampling.BICUBIC),
        # A class between two others is neither: a map is never smoothed.
        ("map", "bundled land-cover model", labels, Image.Resampling.NEAREST),
    )
    top = EDGE // 2 + TITLE
    for index, (title, subtitle, pixels, resampling) in enumerate(panels):
        left = EDGE + index * (side + GUTTER)
        draw.text((left, top - 16), title, INK, large, anchor="ls")
        offset = draw.textlength(title + "  ", large)
        draw.text((left + offset, top - 16), subtitle, PALE, small, anchor="ls")
        panel = Image.fromarray(pixels).resize((side, height), resampling)
        page.paste(panel.quantize(SCENE_COLOURS, kmeans=1).convert("RGB"), (left, top))
    paint_legend(draw, small, legend, top + height + LEGEND // 2)
    return page


def paint_legend(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    legend: list[tuple[str, str, float]],
    middle: int,
) -> None:
    """A line of swatches with the classes' names and shares, centred on the page."""
    swatch, after, between = 28, 12, 56
    entries = [(name, colour, f"{share:.0%}") for name, colour, share in legend]
    widths = [
        swatch + after + draw.textlength(f"{name}  {share}", font) for name, _, share in entries
    ]
    left = (WIDTH - sum(widths) - between * (len(entries) - 1)) / 2
    for (name, colour, share), width in zip(entries, widths, strict=True):
        box = (left, middle - swatch / 2, left + swatch, middle + swatch / 2)
        draw.rounded_rectangle(box, 5, colour)
        text = left + swatch + after
        draw.text((text, middle), name, INK, font, anchor="lm")
        draw.text(
            (text + draw.textlength(f"{name}  ", font), middle), share, PALE, font, anchor="lm"
        )
        left += width + between


def main() -> None:
    """Paints what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene", type=Path, help="a raster with bands named red, green and blue")
    parser.add_argument("map", type=Path, help="the GeoTIFF that `segpipe run` made of it")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    arguments = parser.parse_args()
    labels, legend = painted(arguments.map)
    inside = measured(arguments.scene)
    page = compose(natural_colour(arguments.scene)[inside], labels[inside], legend)
    page.convert("P", palette=Image.Palette.ADAPTIVE).save(arguments.picture, optimize=True)


if __name__ == "__main__":
    main()
