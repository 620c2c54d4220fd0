"""The command `model`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segpipe.workflows.terminal import options, texts
from segpipe.workflows.terminal.console import print_json

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.workflows.import_model import Imported


@click.group(short_help="Make packages of networks that come from elsewhere.")
def model() -> None:
    """Make packages of networks that come from elsewhere."""


@model.command("import", short_help="Make a package of a checkpoint, an exported file or code.")
@click.argument("source")
@click.option(
    "-o",
    "--output",
    metavar="PACKAGE",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the package that is made.",
)
@click.option(
    "--architecture",
    metavar="NAME",
    help="What a checkpoint's weights belong to, where their names don't tell: a name that "
    "`segpipe models` lists, with options as in unet:depth=3,width=32, or "
    "smp:arch=fpn,encoder=resnet34 for segmentation-models-pytorch.",
)
@options.card
@options.trust
@click.option("--overwrite", is_flag=True, help="Replace a package that is there.")
@options.as_json
def import_(source: str, as_json: bool, **arguments: Any) -> None:
    """Make a package of SOURCE, which `run` and all other commands take.

    SOURCE is a checkpoint (safetensors or torch.save, of a registered architecture, torchvision's
    fcn_resnet50 and deeplabv3_resnet50, or segmentation-models-pytorch), an ONNX file, an exported
    program (.pt2), TorchScript, or code as package.module:function.

    \b
    segpipe model import net.onnx -o clouds --bands blue,green,red,nir --classes clear,cloud
    segpipe model import best.ckpt -o roads --card roads.yaml
    segpipe model import mycode:network -o mine --bands r,g,b --classes land,water
    """  # noqa: D301
    from segpipe.workflows.import_model import import_model

    found = import_model(source, **arguments)
    print_json(found.to_dict()) if as_json else click.echo(_text(found))


def _text(found: Imported) -> str:
    """The package and what was measured."""
    what = found.inspection
    card = what.card
    rows: list[texts.Row] = [
        ("model", card.name),
        ("parameters", f"{what.sizes.total:,}"),
        ("bands", ", ".join(card.bands)),
        ("classes", ", ".join(f"{info.value} {info.name}" for info in card.classes)),
        ("network", texts.exactness(what.footprint)),
    ]
    if proof := what.proof:
        rows.append(
            ("proof", f"{proof.tiles} tiles in float64 equal the whole to {proof.difference:.1g}")
        )
    return f"{found.package}\n\n{texts.facts(rows)}"
