"""segpipe itself, from the scene's file to the published map."""

import tempfile
from pathlib import Path
from typing import Literal

from segpipe.models.engine import Precision
from segpipe.workflows.peers.subject import Mapped, Subject, written
from segpipe.workflows.run import run


def labels(
    subject: Subject, *, precision: Precision | Literal["auto"], engine: str, tile: str | int
) -> Mapped:
    """The labels of a run, with starting, writing and publishing."""
    with tempfile.TemporaryDirectory(prefix="segpipe-peers-") as folder:
        report = run(
            subject.scene.path,
            model=subject.model,
            output=Path(folder) / "map.tif",
            bands=subject.scene.band_indexes,
            resolution="native",
            tile=tile,
            precision=precision,
            engine=engine,
        )
        found = written(report.output)
    used = report.engine
    return Mapped(found, report.tile, f"{used.name}, {used.precision}")
