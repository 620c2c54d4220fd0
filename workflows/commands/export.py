"""The command `export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from segpipe.workflows import options, texts
from segpipe.workflows.console import print_json

if TYPE_CHECKING:  # --help needn't wait for the libraries
    from segpipe.workflows.export import ExportedMap
    from segpipe.workflows.polygons import PolygonFile


@click.command(short_help="Turn a map into polygons, or from GeoTIFF to Zarr and back.")
@click.argument("map_", metavar="MAP", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="OUTPUT",
    required=True,
    type=click.Path(path_type=Path),
    help="NAME.gpkg or NAME.fgb for polygons in a GeoPackage or FlatGeobuf, NAME.tif for a "
    "cloud-optimised GeoTIFF, NAME.zarr for Zarr.",
)
@click.option(
    "--min-area",
    metavar="M2",
    type=click.FloatRange(0),
    help="Leave out polygons that cover fewer square metres. What is left out is a gap, and told.",
)
@options.style
@options.zarr_format
@click.option("--overwrite", is_flag=True, help="Replace an output that is there.")
@options.as_json
def export(
    map_: Path,
    output: Path,
    min_area: float | None,
    style: bool,
    zarr_format: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn MAP into polygons, or into another kind of raster, without predicting again.

    Polygons are made of any raster of class values. They run along the pixels' edges; pixels of a
    class are one polygon if they share an edge. Neighbours share all their vertices, and the areas
    add up to those of the map.

    From GeoTIFF to Zarr and back goes what segpipe made: the legend and the origin go along, and
    the file is as `segpipe run` would have written it.

    \b
    segpipe export map.tif -o areas.gpkg
    segpipe export map.zarr -o areas.fgb --min-area 10000
    segpipe export map.zarr -o map.tif
    """  # noqa: D301
    from segpipe.workflows.export import export_map
    from segpipe.workflows.polygons import write_polygons

    if output.suffix not in (".tif", ".zarr"):
        areas = write_polygons(map_, output, min_area=min_area or 0, overwrite=overwrite)
        print_json(areas.to_dict()) if as_json else click.echo(_polygons(areas))
        return
    if min_area is not None:
        raise click.UsageError(f"--min-area is for polygons and {output.name} is a raster")
    raster = export_map(
        map_,
        output,
        style=style,
        zarr_format=3 if zarr_format == "3" else 2,
        overwrite=overwrite,
    )
    print_json(raster.to_dict()) if as_json else click.echo(_raster(raster))


def _polygons(found: PolygonFile) -> str:
    """The classes of a file, and what was left out."""
    rows: list[texts.Row] = [("value", "class", "polygons", "area", "left out")]
    for name, total in found.classes.items():
        small = f"{total.small:,} of {texts.area(total.small_area_m2)}" if total.small else ""
        polygons = f"{total.polygons:,}"
        rows.append((str(total.value), name, polygons, texts.area(total.area_m2), small))
    return f"{found.output}: {found.polygons:,} polygons\n\n{texts.table(rows)}"


def _raster(found: ExportedMap) -> str:
    rows: list[texts.Row] = [("class", "pixels")]
    rows += [(name, f"{pixels:,}") for name, pixels in found.classes.items()]
    return f"{found.output}\n\n{texts.table(rows)}"
