"""The command `convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segpipe.workflows.errors import OptionError
from segpipe.workflows.terminal import options, texts
from segpipe.workflows.terminal.console import print_json, warn

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.workflows.convert import Converted
    from segpipe.workflows.localise import Localised


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
@click.option(
    "--pooling-window",
    metavar="N",
    type=click.IntRange(1),
    help="CLASSIFIER is a package of deeplabv3-resnet50: its mean over the whole image becomes one "
    "over N x N pixels, so that tiles are exact. N is the side that it was trained on.",
)
@options.card
@click.option("--overwrite", is_flag=True, help="Replace a package that is there.")
@options.as_json
def convert(pooling_window: int | None, as_json: bool, **arguments: Any) -> None:
    """Make a package of CLASSIFIER that gives every pixel a class, in one pass over an image.

    CLASSIFIER is vgg16, alexnet, alexnet-torchvision, googlenet, resnet18, resnet34 or resnet50
    (layers named as in torchvision), or your own as MODULE:FUNCTION, which is called and gives a
    torch.nn.Module. Its linear layers become convolutions with the same weights.

    \b
    segpipe convert resnet18 -o my-model --weights resnet18.pth --classes water,land
    segpipe convert my_networks:classifier -o my-model --side 64
    segpipe convert my-deeplab -o my-local-deeplab --pooling-window 512
    """  # noqa: D301
    if pooling_window is not None:
        local = _localised(pooling_window, **arguments)
        warn(local.warnings)
        print_json(local.to_dict()) if as_json else click.echo(_local_text(local))
        return
    from segpipe.workflows.convert import convert as convert_classifier

    found = convert_classifier(**arguments)
    warn(found.warnings)
    print_json(found.to_dict()) if as_json else click.echo(_text(found))


def _localised(
    pooling_window: int, *, classifier: str, output: str, overwrite: bool, **others: object
) -> Localised:
    from segpipe.workflows.localise import localise

    if any(others.values()):
        raise OptionError(
            f"with --pooling-window, weights and card are those of {classifier}; leave out all "
            "other options but --output, --overwrite and --json"
        )
    return localise(classifier, output=output, window=pooling_window, overwrite=overwrite)


def _local_text(found: Localised) -> str:
    """A package whose pooling was made local."""
    rows: list[texts.Row] = [
        ("parameters", f"{found.parameters:,}"),
        ("pooling", f"over {found.window} x {found.window} pixels"),
        ("network", texts.exactness(found.footprint)),
    ]
    return f"{found.package}\n\n{texts.facts(rows)}"


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
