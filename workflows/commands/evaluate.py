"""The command `evaluate`."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segpipe.workflows.terminal import options, texts
from segpipe.workflows.terminal.console import print_json

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.workflows.evaluate import Evaluation


@click.command(short_help="Compare a map with a reference: IoU, precision, recall, kappa.")
@click.argument("map_", metavar="MAP", type=click.Path(path_type=Path))
@click.argument("reference", type=click.Path(path_type=Path))
@click.option(
    "--classes",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="JSON that tells which values of REFERENCE make up which class of the map, as `train` "
    "takes it. By default a value means the same in both.",
)
@click.option(
    "--attribute",
    metavar="COLUMN",
    help="The column of polygons that holds the class, as a value or as a class's name.",
)
@click.option("--layer", metavar="NAME", help="The layer of polygons, where there are several.")
@click.option(
    "--boundary",
    type=click.IntRange(1),
    metavar="PIXELS",
    help="Give boundary IoU too, over what lies so near to contours.",
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    metavar="OUT.png",
    help="Draw the confusion matrix.",
)
@options.as_json
def evaluate(
    map_: Path,
    reference: Path,
    classes: Path | None,
    picture: Path | None,
    as_json: bool,
    **arguments: Any,
) -> None:
    """Compare the classes of MAP with REFERENCE, over all pixels that both know.

    REFERENCE is a raster of class values or a file of polygons (GeoPackage, Shapefile, GeoJSON,
    FlatGeobuf, KML, GML). One on other pixels, or in another crs, is brought onto the map's.

    \b
    segpipe evaluate map.tif labels.tif --classes classes.json
    segpipe evaluate map.tif fields.gpkg --attribute crop --picture matrix.png
    """  # noqa: D301
    from segpipe.workflows.evaluate import evaluate as compare
    from segpipe.workflows.labels.label_scheme import LabelScheme
    from segpipe.workflows.results.matrix_plot import draw_matrix

    scheme = LabelScheme.read(classes) if classes else None
    found = compare(map_, reference, classes=scheme, **arguments)
    if picture:
        draw_matrix(found, picture)
    print_json(found.to_dict()) if as_json else click.echo(_text(found))


def _text(found: Evaluation) -> str:
    """The figures, by class, and the confusion matrix."""
    scores = found.scores
    only = [
        f"{pixels:,} pixels only in the {name}"
        for name, pixels in (("map", found.unreferenced), ("reference", found.unmapped))
        if pixels
    ]
    how = "the reference's pixels were looked up by nearest neighbour" if found.resampled else ""
    overall: list[texts.Row] = [
        ("map", str(found.map)),
        ("reference", str(found.reference)),
        ("compared", "; ".join([f"{scores.pixels:,} pixels", *only])),
        ("resampled", how),
        ("overall accuracy", _figure(scores.overall_accuracy)),
        ("kappa", _figure(scores.kappa)),
        ("mean IoU", _figure(scores.mean_iou)),
        ("frequency-weighted IoU", _figure(scores.frequency_weighted_iou)),
    ]
    return "\n\n".join([texts.facts(overall), texts.table(_by_class(found)), _matrix(found)])


def _by_class(found: Evaluation) -> list[texts.Row]:
    scores = found.scores
    columns = {
        "IoU": scores.iou,
        "precision": scores.precision,
        "recall": scores.recall,
        "F1": scores.f1,
    }
    if found.boundary_iou is not None:
        columns[f"boundary IoU ({found.distance} px)"] = found.boundary_iou
    return [
        ("class", "reference", "map", *columns),
        *(
            (
                entry.name,
                f"{scores.reference_pixels[index]:,}",
                f"{scores.predicted_pixels[index]:,}",
                *(_figure(column[index]) for column in columns.values()),
            )
            for index, entry in enumerate(found.classes)
        ),
    ]


def _matrix(found: Evaluation) -> str:
    names = [entry.name for entry in found.classes]
    rows: list[texts.Row] = [
        ("reference \\ map", *names),
        *(
            (name, *(f"{pixels:,}" for pixels in row))
            for name, row in zip(names, found.scores.confusion.tolist(), strict=True)
        ),
    ]
    text = texts.table(rows)
    if len(text.partition("\n")[0]) > shutil.get_terminal_size().columns:
        return "  (the confusion matrix is wider than this terminal: --picture or --json shows it)"
    return text


def _figure(figure: float) -> str:
    return "-" if math.isnan(figure) else f"{figure:.3f}"
