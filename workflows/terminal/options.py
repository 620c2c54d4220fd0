"""Options that several commands share, each written once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import click

from segpipe.pipeline.scenes.location import is_remote

Command = TypeVar("Command", bound=Callable[..., Any])


class TileSide(click.ParamType[str | int]):
    """`auto`, or a multiple of 256."""

    name = "auto|N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | int:
        """The word or the number."""
        if value == "auto":
            return "auto"
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value} is neither auto nor a number", param, ctx)


class Names(click.ParamType[list[str]]):
    """Words between commas."""

    name = "A,B,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        """The words."""
        words = [word.strip() for word in str(value).split(",")]
        if not all(words):
            self.fail(f"{value!r} lacks a name; write 4,3,2 or red,green,blue", param, ctx)
        return words


class BandFiles(click.ParamType["list[str] | dict[str, str]"]):
    """Words between commas, or a file for each: NAME=FILE."""

    name = "A,B,...|A=FILE,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str] | dict[str, str]:
        """The words, or the files by name."""
        words = Names().convert(value, param, ctx)
        pairs = [word.split("=", 1) for word in words]
        if all(len(pair) == 1 for pair in pairs):
            return words
        files = {pair[0].strip(): pair[-1].strip() for pair in pairs}
        if any(len(pair) == 1 for pair in pairs) or not all((*files, *files.values())):
            self.fail(f"{value!r} lacks a name or a file; write red=B4.tif,nir=B5.tif", param, ctx)
        if len(files) != len(pairs):
            self.fail(f"{value!r} names a band twice", param, ctx)
        return files


class Resolution(click.ParamType[str | float]):
    """`auto`, `native`, or metres."""

    name = "auto|native|N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | float:
        """The word or the number."""
        if value in ("auto", "native"):
            return str(value)
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value} is neither auto nor native nor a number of metres", param, ctx)


class Duration(click.ParamType[float]):
    """Seconds, as 90s, 10m, 2h or 1d, or several of them as 1h30m; a number alone is seconds."""

    name = "DURATION"

    _SECONDS: ClassVar = {"s": 1, "m": 60, "h": 3600, "d": 86400}

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The seconds."""
        text = str(value).strip()
        parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
        if parts and "".join(map("".join, parts)) == text:
            seconds = sum(float(number) * self._SECONDS[unit] for number, unit in parts)
        elif re.fullmatch(r"\d+(?:\.\d+)?", text):
            seconds = float(text)
        else:
            seconds = 0.0
        if not seconds:
            self.fail(f"{value!r} is no time; write 90s, 10m, 2h or 1h30m", param, ctx)
        return seconds


class Numbers(click.ParamType[list[float]]):
    """Numbers between commas."""

    name = "N,N,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[float]:
        """The numbers."""
        try:
            return [float(word) for word in str(value).split(",")]
        except ValueError:
            self.fail(f"{value!r} isn't numbers between commas, such as 120.5,98", param, ctx)


class Destination(click.ParamType["str | Path"]):
    """A path on this machine, or the address of an object."""

    name = "path"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | Path:
        """The address as it is typed, or the path."""
        return value if isinstance(value, str) and is_remote(value) else Path(value)


DESTINATION = Destination()


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """One decorator for several options, shown in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


model = click.option(
    "-m",
    "--model",
    metavar="MODEL",
    help="A package's folder or a bundled model's name (see `segpipe models`); by default the "
    "bundled land-cover model for Landsat 7.",
)
trust = click.option(
    "--trust-model",
    metavar="sha256:HASH",
    help="The hash of an exported program or a TorchScript file, which run code when they are "
    "loaded. Without it the hash is printed, and nothing of the file is read.",
)
output = click.option(
    "-o",
    "--output",
    metavar="OUTPUT",
    type=DESTINATION,
    help="NAME.tif for a cloud-optimised GeoTIFF, NAME.zarr for Zarr, on a disk or in an object "
    "store (s3://, gs://, az://). By default the scene's stem with .classes.tif, in the current "
    "folder.",
)
staging = click.option(
    "--staging",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Where a map for an object store is finished before it is sent, by default in the current "
    "folder; workers on other machines must see it.",
)
bands = click.option(
    "--bands",
    type=Names(),
    help="The scene's bands in the model's order, by number (4,3,2) or by name (red,green,blue). "
    "By default those that are named as in the model's card.",
)
band_files = click.option(
    "--bands",
    type=BandFiles(),
    help="The scene's bands in the model's order, by number (4,3,2) or by name (red,green,blue), "
    "or a file for each of the model's bands (red=B4.tif,nir=B5.tif), in SCENE where that is a "
    "folder. By default those that are named as in the model's card.",
)
scale = click.option(
    "--scale",
    type=float,
    help="For models that take reflectances: reflectance = scale * number + offset in all bands, "
    "in place of what the scene says of itself.",
)
offset = click.option(
    "--offset", type=float, help="See --scale, which it goes with; 0 if left out."
)
variable = click.option(
    "--variable", metavar="NAME", help="The variable of a Zarr store that has several."
)
time = click.option(
    "--time",
    metavar="STEP",
    help="The step of a Zarr store that has several: its number from 1, or what its date begins "
    "with, such as 2024-06.",
)
resolution = click.option(
    "--resolution",
    type=Resolution(),
    default="auto",
    show_default=True,
    help="Side in metres of the pixels that are read and mapped; native leaves the scene's own, "
    "auto takes the model's where they differ by more than 10 %.",
)
mosaic = click.option(
    "--mosaic",
    type=click.Choice(["first", "last", "confident"]),
    is_flag=False,
    flag_value="first",
    help="Map several scenes as one, on the first one's grid; where several have a valid pixel, "
    "the first (also without a word) or the last of them counts, or the one whose label by itself "
    "is the surest.",
)
tile = click.option(
    "--tile",
    type=TileSide(),
    default="auto",
    show_default=True,
    help="Side of a tile in pixels, a multiple of 256. It changes speed and memory, never the map.",
)
memory = click.option(
    "--memory",
    metavar="SIZE",
    help="The most that each process may take, such as 8GB: one, or with --workers N those and the "
    "one that drives them. By default a share of what is free.",
)
device = click.option(
    "--device",
    metavar="auto|cpu|cuda",
    default="auto",
    show_default=True,
    help="Where the network runs; auto takes a GPU where there is one.",
)
precision = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="auto takes bf16 where the hardware has it and 99.9 % of the labels of a sample agree "
    "with fp32.",
)
engine = click.option(
    "--engine",
    type=click.Choice(["auto", "torch", "openvino", "onnxruntime"]),
    default="auto",
    show_default=True,
    help="What computes the network; auto takes onnxruntime for models in ONNX files, and OpenVINO "
    "for large scenes where it is installed, the CPU has bf16 and a sample agrees with torch.",
)
aoi = click.option(
    "--aoi",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Polygons (GeoPackage, Shapefile, FlatGeobuf, GeoJSON, KML, GML) outside of which the map "
    "is nodata; tiles wholly outside are skipped. Inside, the map is as it is without.",
)
method = click.option(
    "--method",
    type=click.Choice(["one-pass", "sliding-window"]),
    default="one-pass",
    show_default=True,
    help="sliding-window runs a converted classifier on a crop for every score: the slow reference "
    "for the one pass.",
)
limits = together(
    click.option(
        "--allow-failed",
        is_flag=True,
        help="Publish the map without the tiles that failed again and again; they are nodata, and "
        "the exit code is 9 all the same.",
    ),
    click.option(
        "--tile-timeout",
        metavar="DURATION",
        type=Duration(),
        help="How long a tile may take, such as 10m; one that takes longer counts as failed. By "
        "default as long as it likes.",
    ),
    click.option(
        "--stop-after",
        metavar="DURATION",
        type=Duration(),
        help="End after this time, such as 90m or 2h, with exit code 75; no tile is begun that "
        "wouldn't be finished. The same command goes on.",
    ),
)
"""What a run puts up with, and how long."""
style = click.option(
    "--style/--no-style", default=True, help="Write a QGIS style beside the map, or not."
)
zarr_format = click.option(
    "--zarr-format",
    type=click.Choice(["2", "3"]),
    default="2",
    show_default=True,
    help="2 is read by every GDAL from 3.6 on; 3 has shards and GeoZarr.",
)
certainty = together(
    click.option(
        "--probabilities",
        metavar="OUT.tif|.zarr",
        type=DESTINATION,
        help="Write the probability of each class too.",
    ),
    click.option(
        "--confidence",
        metavar="OUT.tif|.zarr",
        type=DESTINATION,
        help="Write the greatest probability too, and its lead over the second one.",
    ),
)
polygon_form = together(
    click.option(
        "--min-area",
        metavar="M2",
        type=click.FloatRange(0),
        help="Leave out polygons that cover fewer square metres; what is left out is a gap, and "
        "told.",
    ),
    click.option(
        "--simplify",
        metavar="TOLERANCE",
        type=float,
        help="Leave out corners of polygons whose triangle is smaller than the square of this, in "
        "units of the map's crs; a pixel's side or more makes lines of stairs. Neighbours still "
        "share their borders.",
    ),
)
"""Which polygons of a map are written, and with how many corners."""
as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
)
mapping = together(
    *(model, trust, output, band_files, scale, offset, variable, time, resolution, mosaic),
    *(tile, memory, aoi, device, precision, engine),
)
"""Everything that decides how a scene is mapped, for `run` and `plan`."""

card = together(
    click.option(
        "--card",
        "card_file",
        metavar="FILE.yaml",
        type=click.Path(path_type=Path),
        help="YAML with name, bands, classes, mean, std, window, overlap, edges, "
        "description, licence, training_data, units (stored or reflectance), resolution (metres), "
        "or some of them. The options below go before it.",
    ),
    click.option(
        "--bands",
        "band_names",
        type=Names(),
        help="Names of the network's bands, in its order.",
    ),
    click.option(
        "--classes",
        "class_names",
        type=Names(),
        help="Names of the classes, in the order of the network's channels; their values in the "
        "map are the channels' numbers, from 0.",
    ),
    click.option("--colors", type=Names(), help="One #rrggbb for each class."),
    click.option(
        "--mean",
        type=Numbers(),
        help="What is taken off each band, in the scene's own numbers, or reflectances if the card "
        "says `units: reflectance`: one number, or one a band.",
    ),
    click.option("--std", type=Numbers(), help="What each band is divided by after that."),
    click.option(
        "--window",
        type=click.IntRange(1),
        help="Side in pixels of the windows that the network was trained on; networks that can't "
        "be tiled exactly run at this size.",
    ),
)
"""What makes a network usable that comes without a card; for `describe` of `workflows/cards`."""
