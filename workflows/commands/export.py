"""The command `export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segpipe.workflows import options, texts
from segpipe.workflows.console import print_json

if TYPE_CHECKING:  # --help needn't wait for the libraries
    from segpipe.workflows.polygons import PolygonFile


@click.command(short_help="Turn a map into polygons with class names and areas.")
@click.argument("map_", metavar="MAP", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="OUTPUT",
    required=True,
    type=click.Path(path_type=Path),
    help="NAME.gpkg for a GeoPackage, NAME.fgb for FlatGeobuf.",
)
@click.option(
    "--min-area",
    metavar="M2",
    type=click.FloatRange(0),
    default=0,
    help="Leave out polygons that cover fewer square metres. What is left out is a gap, and told.",
)
@click.option("--overwrite", is_flag=True, help="Replace an output that is there.")
@options.as_json
def export(map_: Path, as_json: bool, **arguments: Any) -> None:
    """Turn the classes of MAP into polygons, without predicting again.

    MAP is a raster of class values, by segpipe or anybody. Polygons run along the pixels' edges;
    pixels of a class are one polygon if they share an edge. Neighbours share all their vertices,
    and the areas add up to those of the map.

    \b
    segpipe export map.tif -o areas.gpkg
    segpipe export map.zarr -o areas.fgb --min-area 10000
    """  # noqa: D301
    from segpipe.workflows.polygons import write_polygons

    found = write_polygons(map_, **arguments)
    print_json(found.to_dict()) if as_json else click.echo(_text(found))


def _text(found: PolygonFile) -> str:
    """The classes of a file, and what was left out."""
    rows: list[texts.Row] = [("value", "class", "polygons", "area", "left out")]
    for name, total in found.classes.items():
        small = f"{total.small:,} of {_area(total.small_area_m2)}" if total.small else ""
        polygons = f"{total.polygons:,}"
        rows.append((str(total.value), name, polygons, _area(total.area_m2), small))
    return f"{found.output}: {found.polygons:,} polygons\n\n{texts.table(rows)}"


def _area(area: float | None) -> str:
    return "" if area is None else f"{area / 1e6:,.2f} km2"
