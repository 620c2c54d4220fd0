"""The command `inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segpipe.workflows.terminal import options, texts
from segpipe.workflows.terminal.console import print_json

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.models.architectures.network import Sizes
    from segpipe.workflows.inspect import Inspection


@click.command(short_help="Show a MODEL's bands, classes and footprint, and whether it is exact.")
@click.argument("model", required=False)
@click.option(
    "--prove",
    is_flag=True,
    help="Compare tiles with the whole image in float64, on its own weights and on random ones.",
)
@options.trust
@options.as_json
def inspect(model: str | None, as_json: bool, **arguments: Any) -> None:
    """Show a MODEL's parameters, bands, classes and footprint, and whether tiles can be exact.

    MODEL is a package's folder, a bundled model or an architecture (see `segpipe models`), which
    may come with options, as in unet:depth=3,width=32; the default is the bundled land-cover model.
    """
    from segpipe.workflows.inspect import inspect as inspect_model

    found = inspect_model(model, **arguments)
    print_json(found.to_dict()) if as_json else click.echo(_text(found))


def _text(found: Inspection) -> str:
    """A model."""
    card, metrics = found.card, found.card.metrics
    rows: list[texts.Row] = [
        ("model", card.name),
        ("parameters", _parameters(found.sizes)),
        ("bands", ", ".join(card.bands)),
        ("takes", "reflectances" if card.units == "reflectance" else "the numbers in the file"),
        ("classes", ", ".join(f"{info.value} {info.name}" for info in card.classes)),
        ("network", texts.exactness(found.footprint)),
        ("receptive field", _receptive_field(found.receptive_field)),
        ("licence", card.licence),
        ("trained on", card.training_data),
        ("about", card.description),
    ]
    forest = metrics.get("random_forest", {})
    for name in ("overall_accuracy", "mean_iou"):
        if name in metrics:
            beside = f"; a per-pixel forest {forest[name]:.3f}" if name in forest else ""
            title = name.replace("_", " ").replace("iou", "IoU")
            rows.append((title, f"{metrics[name]:.3f} on data held out{beside}"))
    if proof := found.proof:
        verdict = "hold" if proof.holds else "DO NOT HOLD: please report this network"
        rows.append(
            ("proof", f"{proof.tiles} tiles in float64, off by {proof.difference:.1g}: {verdict}")
        )
    return texts.facts(rows)


def _parameters(sizes: Sizes) -> str:
    parts = [f"{sizes.total:,}"]
    if sizes.upsampling:
        parts.append(f"{sizes.total - sizes.upsampling:,} without upsampling kernels")
    if sizes.encoder is not None:
        parts.append(f"{sizes.encoder:,} in the encoder")
    return "; ".join(parts)


def _receptive_field(pixels: int | None) -> str:
    return "" if pixels is None else f"{pixels} pixels, of a unit of the encoder's last map"
