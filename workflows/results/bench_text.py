"""Benchmarks in words: the same tables for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segpipe.pipeline.budget import readable
from segpipe.workflows.terminal import texts

if TYPE_CHECKING:  # --help needn't wait for torch
    from segpipe.workflows.bench import Benchmark
    from segpipe.workflows.machine import Machine
    from segpipe.workflows.sweep import Row, Sweep

_LIMITS = {
    "forward": "bare forward passes, margins included",
    "decoding": "each pixel of the scene once",
    "encoding": "the finished map",
    "memory": "what layers make, written and read",
    "transfer": "windows to the device, labels back",
}
_STAGES = {
    "read": "reading, beside the network",
    "predict": "predicting, waiting for the device included",
    "write": "writing, beside the network",
    "publish": "publishing",
}
_RATIOS = {
    "over_forward": "run over forward passes",
    "over_forward_without_margins": "the same on the scene's pixels alone",
    "over_slowest_limit": "run over its slowest limit",
    "extra_work": "pixels computed for each wanted",
    "device_busy": "device busy",
    "scheduling_share": "scheduling",
}
_SHARES = {"device_busy": 1, "scheduling_share": 2}
"""Ratios that are told in percent, with so many digits."""


@dataclass(frozen=True, slots=True)
class Text:
    """What a benchmark says: facts, tables whose first row is a heading, and remarks."""

    title: str
    facts: Sequence[texts.Row]
    tables: Sequence[Sequence[texts.Row]]
    remarks: Sequence[str] = ()

    def for_terminal(self) -> str:
        """Columns that line up."""
        parts = [texts.facts(self.facts), *map(texts.table, self.tables)]
        if self.remarks:
            parts.append("\n".join(f"  {remark}" for remark in self.remarks))
        return "\n\n".join(parts)

    def as_markdown(self, command: str) -> str:
        """A page that names the command which gives it again."""
        parts = [
            f"# {self.title}",
            f"    {command}",
            "\n".join(f"- *{name}*: {value}" for name, value in self.facts),
            *map(_markdown, self.tables),
        ]
        if self.remarks:
            parts.append("\n".join(f"- {remark}" for remark in self.remarks))
        return "\n\n".join(parts) + "\n"


def benchmark_text(found: Benchmark) -> Text:
    """One run beside what its parts take alone."""
    run, (height, width) = found.run, found.shape
    report = run.report
    facts = [
        ("scene", f"{found.scene}, {height:,} x {width:,} pixels"),
        ("network", f"{found.model} on {report['device']}, by {report['engine']}"),
        ("machine", _machine(found.machine)),
        ("tiles", f"{texts.tiles(report['tiles'], report['tile'])}, in {report['precision']}"),
        ("run", f"{run.seconds:.2f} s, {run.megapixels_per_second:.2f} Mpx/s"),
        ("to first tile", f"{run.start:.2f} s, with the start of the process"),
        ("memory", f"{readable(run.peak_rss_bytes)} at most"),
        ("bandwidth", _bandwidth(found)),
    ]
    told = found.to_dict()
    bounds: list[texts.Row] = [("alone", "seconds", "of the run", "Mpx/s", "what")]
    bounds += [
        (
            name,
            f"{limit['seconds']:.2f}",
            f"{limit['share']:.1%}",
            f"{limit['megapixels_per_second']:.2f}",
            _LIMITS[name],
        )
        for name, limit in told["limits"].items()
    ]
    stages: list[texts.Row] = [("in the run", "seconds", "of the run", "what")]
    stages += [
        (name, f"{report['seconds'][name]:.2f}", f"{share:.1%}", _STAGES[name])
        for name, share in found.shares.items()
    ]
    ratios: list[texts.Row] = [("ratio", "value")]
    ratios += [(_RATIOS[name], _ratio(name, value)) for name, value in found.ratios.items()]
    return Text(f"{found.model}: a run and its limits", facts, (bounds, stages, ratios))


def sweep_text(found: Sweep) -> Text:
    """Runs that differ in one thing; ratios are to the first one."""
    rows: list[texts.Row] = [(found.axis, *_HEADING)]
    for row, run, ratios in found.measured:
        report = run.report
        rows.append(
            (
                _value(found.axis, row),
                f"{report['tiles']:,}",
                f"{run.seconds:.2f}",
                f"{run.megapixels_per_second:.2f}",
                f"{ratios.speed:.2f}",
                f"{row.extra_work:.2f}",
                f"{run.busy / run.seconds:.0%}",
                f"{run.cpu:.1f}",
                f"{run.peak_rss_bytes / 1e9:.2f}",
                f"{ratios.memory:.2f}",
                "-" if row.differing is None else f"{row.differing}",
            )
        )
    facts = [
        ("scene", found.scene),
        ("network", found.model),
        ("machine", _machine(found.machine)),
        ("columns", _COLUMNS),
    ]
    remarks = [f"{row.value}: {row.left_out}" for row in found.rows if row.left_out]
    return Text(f"{found.model}: over {found.axis}", facts, (rows,), remarks)


_HEADING = (
    *("tiles", "seconds", "Mpx/s", "speed", "computed", "busy", "CPU s", "memory", "of 1st"),
    "differ",
)
_COLUMNS = (
    "speed and memory (GB) over those of the first row; pixels computed for each wanted; share of "
    "the time in which the network ran; seconds of all cores, process and all; labels that differ "
    "from the first row's map"
)


def _value(axis: str, row: Row) -> str:
    """What was varied, and what it came to where the run chose it."""
    if row.run is None:
        return row.value
    if axis == "size":
        return f"{row.run.pixels:,}"
    return f"auto: {row.run.report['tile']}" if row.value == "auto" else row.value


def _ratio(name: str, value: float) -> str:
    return f"{value:.{_SHARES[name]}%}" if name in _SHARES else f"{value:.3f}"


def _machine(found: Machine) -> str:
    gpus = f", {', '.join(found.gpus)}" if found.gpus else ""
    return (
        f"{found.processor}, {found.cores} cores, {readable(found.memory_bytes)}{gpus}; torch "
        f"{found.torch}, segpipe {found.segpipe}"
    )


def _bandwidth(found: Benchmark) -> str:
    speeds = found.bandwidth
    told = f"memory {speeds.memory / 1e9:.1f} GB/s"
    if speeds.to_device and speeds.from_device:
        there, back = speeds.to_device / 1e9, speeds.from_device / 1e9
        told += f", bus {there:.1f} GB/s there, {back:.1f} GB/s back"
    return told


def _markdown(rows: Sequence[texts.Row]) -> str:
    """A table in pipes."""
    heading, *body = rows
    lines = (heading, ["---"] * len(heading), *body)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
