"""What the commands print for people."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from segpipe.pipeline.budget import readable

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.models.engine import Engine
    from segpipe.models.footprint import Footprint
    from segpipe.workflows.bench import Benchmark
    from segpipe.workflows.catalogue import Catalogue
    from segpipe.workflows.inspect import Inspection
    from segpipe.workflows.plan import PlanReport
    from segpipe.workflows.report import Report
    from segpipe.workflows.train import TrainingReport
    from segpipe.workflows.verify import Verification

Row = Sequence[str]


def report(found: Report) -> str:
    """A published map."""
    resumed = f", {found.tiles_resumed} of them from before" if found.tiles_resumed else ""
    engine = found.engine
    lines = [
        f"{found.output}",
        "",
        f"  {_tiles(found.tiles, found.tile)}{resumed}; {found.seconds.total:.1f} s, "
        f"{found.megapixels_per_second:.2f} Mpx/s, {readable(found.peak_rss_bytes)} of memory",
        f"  {found.model} on {engine.device} in {_precision(engine)}",
        f"  {_exactness(found.footprint)}",
        "",
    ]
    rows: list[Row] = [("value", "class", "pixels", "share", "area")]
    for name, count in found.classes.items():
        share = count.pixels / max(found.valid_pixels, 1)
        area = "" if count.area_m2 is None else f"{count.area_m2 / 1e6:,.2f} km2"
        rows.append((str(count.value), name, f"{count.pixels:,}", f"{share:.1%}", area))
    missing = found.pixels - found.valid_pixels
    rows.append(("255", "(no data)", f"{missing:,}", "", ""))
    return "\n".join([*lines, _table(rows)])


def plan(found: PlanReport) -> str:
    """What a run would do."""
    margin = found.margin
    return _facts(
        [
            ("output", str(found.output)),
            ("tiles", _tiles(found.tiles, found.tile)),
            ("each reads", f"{found.read[0]} x {found.read[1]} pixels"),
            (
                "margin",
                f"top {margin.top}, left {margin.left}, bottom {margin.bottom}, "
                f"right {margin.right}",
            ),
            ("extra work", f"{found.extra_work:.2f} pixels computed for each pixel of the scene"),
            ("memory", f"{readable(found.memory_bytes)} a worker"),
            ("disk", f"{readable(found.disk_bytes)} at most"),
            ("time", f"about {_duration(found.seconds)} on this machine"),
            ("network", _exactness(found.footprint)),
        ]
    )


def inspection(found: Inspection) -> str:
    """A model."""
    card, metrics = found.card, found.card.metrics
    rows: list[Row] = [
        ("model", card.name),
        ("parameters", f"{found.parameters:,}"),
        ("bands", ", ".join(card.bands)),
        ("classes", ", ".join(f"{info.value} {info.name}" for info in card.classes)),
        ("network", _exactness(found.footprint)),
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
    return _facts(rows)


def catalogue(found: Catalogue) -> str:
    """What is bundled and what can be built."""
    lines = ["Bundled, ready to run:", *(f"  {name}" for name in found.bundled), ""]
    lines += ["Architectures, for `segpipe train --architecture` and `segpipe inspect`:"]
    rows = [(name, summary) for name, summary in found.architectures.items()]
    return "\n".join(lines) + "\n" + _table(rows)


def verification(found: Verification) -> str:
    """What was compared and what differed."""
    verdict = "the map holds" if found.holds else "the map does not hold"
    return (
        f"{found.windows} windows, {found.pixels:,} labels compared, "
        f"{found.differing:,} differ: {verdict}"
    )


def _precision(engine: Engine) -> str:
    if engine.agreement is None:
        return engine.precision
    share = f"{engine.agreement:.2%} of a sample's labels"
    if engine.precision == "fp32":
        return f"fp32, as half precision gave only {share} alike"
    return f"{engine.precision}, where {share} are those of fp32"


def _exactness(footprint: Footprint) -> str:
    if not footprint.exact:
        return f"approximate, for {'; '.join(footprint.reasons)}"
    return (
        f"exact; stride {footprint.stride}, a pixel sees {footprint.top} up, {footprint.left} "
        f"left, {footprint.bottom} down, {footprint.right} right"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _tiles(count: int, side: int) -> str:
    return f"{count:,} tile{'s' * (count != 1)} of {side} x {side} pixels"


def _facts(rows: Sequence[Row]) -> str:
    """Names, and beside them texts as wide as the terminal allows."""
    indent = 4 + max(len(name) for name, _ in rows)
    width = max(shutil.get_terminal_size().columns - 1, indent + 40)
    return "\n".join(
        textwrap.fill(
            text,
            width,
            initial_indent=f"  {name}".ljust(indent),
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name, text in rows
        if text
    )


def _table(rows: Sequence[Row]) -> str:
    """Columns that line up; numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  "
        + "  ".join(_cell(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _cell(text: str, width: int) -> str:
    number = text[:1].isdigit() and text[-1:] in "0123456789%2"
    return text.rjust(width) if number else text.ljust(width)


def benchmark(found: Benchmark) -> str:
    """One run beside what its parts take alone."""
    rows: list[Row] = [
        ("scene", f"{found.pixels:,} pixels, {found.tiles} tiles of {found.tile}"),
        ("network", f"{found.model} on {found.device} in {found.precision}"),
        ("end to end", f"{found.end_to_end:.2f} s, {found.megapixels_per_second:.2f} Mpx/s"),
        ("network alone", f"{found.forward:.2f} s on the same pixels, margins included"),
        ("over network", f"{found.over_forward:.3f}"),
        ("extra work", f"{found.extra_work:.2f} pixels computed for each pixel of the scene"),
        ("reading", f"{found.read:.2f} s, beside the network"),
        ("predicting", f"{found.predict:.2f} s, waiting for the device included"),
        ("writing", f"{found.write:.2f} s, beside the network"),
        ("publishing", f"{found.publish:.2f} s"),
        ("scheduling", f"{found.scheduling_share:.2%} of the whole"),
        ("memory", readable(found.peak_rss_bytes)),
    ]
    return _table(rows)


def training(found: TrainingReport) -> str:
    """A trained model and its figures beside those of the forest."""
    forest = found.forest
    names = [info.name for info in found.card.classes]
    rows: list[Row] = [
        ("held out", "network", "forest" if forest else ""),
        *(
            (title, f"{network:.3f}", f"{other:.3f}" if other is not None else "")
            for title, network, other in (
                (
                    "overall accuracy",
                    found.network.overall_accuracy,
                    forest and forest.overall_accuracy,
                ),
                ("mean IoU", found.network.mean_iou, forest and forest.mean_iou),
            )
        ),
        *(
            (
                f"IoU of {name}",
                f"{found.network.iou[index]:.3f}",
                f"{forest.iou[index]:.3f}" if forest else "",
            )
            for index, name in enumerate(names)
        ),
    ]
    return f"{found.package}, made in {_duration(found.seconds)}\n\n{_table(rows)}"
