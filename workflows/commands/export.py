"""The command `export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from segpipe.workflows.terminal import options, texts
from segpipe.workflows.terminal.console import print_json

if TYPE_CHECKING:  # --help needn't wait for the libraries
    from segpipe.workflows.export import ExportedMap
    from segpipe.workflows.polygons import PolygonFile


@click.command(short_help="Turn a map into polygons, other classes, or another kind of raster.")
@click.argument("map_", metavar="MAP", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="OUTPUT",
    required=True,
    type=click.Path(path_type=Path),
    help="NAME.gpkg, NAME.fgb or NAME.parquet for polygons in a GeoPackage, FlatGeobuf or "
    "GeoParquet, NAME.tif for a cloud-optimised GeoTIFF, NAME.zarr for Zarr.",
)
@click.option(
    "--reclass",
    metavar="FILE.json",
    type=click.Path(path_type=Path),
    help="Classes, each with value, name, color and labels: the values of MAP that it is made of. "
    'Values under "ignored" become nodata.',
)
@click.option(
    "--sieve",
    metavar="N",
    type=click.IntRange(2),
    help="Give areas of fewer than N pixels to their largest neighbour, after --reclass.",
)
@options.polygon_form
@options.style
@options.zarr_format
@click.option("--overwrite", is_flag=True, help="Replace an output that is there.")
@options.as_json
@click.option("--quiet", is_flag=True, help="Show no progress.")
def export(
    map_: Path,
    output: Path,
    reclass: Path | None,
    sieve: int | None,
    min_area: float | None,
    simplify: float | None,
    style: bool,
    zarr_format: str,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Turn MAP into polygons, or into another kind of raster, without predicting again.

    Polygons are made of any raster of class values. They run along the pixels' edges; pixels of a
    class are one polygon if they share an edge. Neighbours share all their vertices, also those
    that are left after --simplify, and the areas add up to those of the map.

    From GeoTIFF to Zarr and back goes what segpipe made: the legend and the origin go along, and
    the file is as `segpipe run` would have written it. With --reclass it may be any raster of class
    values. What was changed is told in the output's tags.

    \b
    segpipe export map.tif -o areas.gpkg
    segpipe export map.zarr -o areas.parquet --sieve 9 --simplify 30
    segpipe export map.zarr -o map.tif
    segpipe export map.tif -o forest.tif --reclass forest.json
    """  # noqa: D301
    from segpipe.workflows.export import export_map
    from segpipe.workflows.polygons import write_polygons
    from segpipe.workflows.results.edit import unwatched
    from segpipe.workflows.terminal.progress import SharePrinter

    watch = unwatched if quiet or as_json else SharePrinter()
    if output.suffix not in (".tif", ".zarr"):
        areas = write_polygons(
            map_,
            output,
            min_area=min_area,
            simplify=simplify,
            reclass=reclass,
            sieve=sieve,
            overwrite=overwrite,
            watch=watch,
        )
        print_json(areas.to_dict()) if as_json else click.echo(_polygons(areas))
        return
    for option, value in (("--min-area", min_area), ("--simplify", simplify)):
        if value is not None:
            raise click.UsageError(f"{option} is for polygons and {output.name} is a raster")
    raster = export_map(
        map_,
        output,
        reclass=reclass,
        sieve=sieve,
        style=style,
        zarr_format=3 if zarr_format == "3" else 2,
        overwrite=overwrite,
        watch=watch,
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
