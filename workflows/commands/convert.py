"""The command `convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segpipe.workflows import options, texts
from segpipe.workflows.console import print_json, warn

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.workflows.convert import Converted


@click.command(short_help="Make a package of a classifier: the same weights, for every pixel.")
@click.argument("classifier")
@click.option(
    "-o", "--output", metavar="PACKAGE", required=True, help="Folder of the model that is made."
)
@click.option(
    "--side",
    type=click.IntRange(1),
    help="Side in pixels of the images that the classifier was trained on; that of its paper, or "
    "224, by default.",
)
@click.option(
    "--weights",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The classifier's state dict: safetensors, or a file of torch.save. No code in it is run.",
)
@options.card
@click.option("--overwrite", is_flag=True, help="Replace a package that is there.")
@options.as_json
def convert(as_json: bool, **arguments: Any) -> None:
    r"""Make a package of CLASSIFIER that gives every pixel a class, in one pass over an image.

    CLASSIFIER is vgg16, alexnet, alexnet-torchvision, googlenet, resnet18, resnet34 or resnet50
    (layers named as in torchvision), or your own as MODULE:FUNCTION, which is called and gives a
    torch.nn.Module. Its linear layers become convolutions with the same weights.

    \b
    segpipe convert resnet18 -o my-model --weights resnet18.pth --classes water,land
    segpipe convert my_networks:classifier -o my-model --side 64
    """
    from segpipe.workflows.convert import convert as convert_classifier

    found = convert_classifier(**arguments)
    warn(found.warnings)
    print_json(found.to_dict()) if as_json else click.echo(_text(found))


def _text(found: Converted) -> str:
    """A package that was made of a classifier."""
    card = found.card
    rows: list[texts.Row] = [
        ("parameters", f"{found.parameters:,}"),
        ("bands", ", ".join(card.bands)),
        ("classes", ", ".join(f"{info.value} {info.name}" for info in card.classes)),
        (
            "scores",
            f"one for {found.stride} x {found.stride} pixels, of the "
            f"{found.side} x {found.side} around them",
        ),
        ("network", texts.exactness(found.footprint)),
        ("one pass", _agreement(found)),
    ]
    return f"{found.package}\n\n{texts.facts(rows)}"


def _agreement(found: Converted) -> str:
    measured = found.agreement
    figures = (
        f"on {measured.cells} crops of noise, scores differ by {measured.difference:.2g} of their "
        f"spread at most and {measured.labels:.0%} of the labels agree"
    )
    if not found.padded:
        return f"equals the classifier on every crop, but for rounding: {figures}"
    return (
        f"isn't the classifier on every crop: {len(found.padded)} layers ({found.padded[0]}, ...) "
        "meet a crop's edges, where a crop has zeros and the image has pixels; "
        f"{figures}. The crops' own map: segpipe run --method sliding-window"
    )
