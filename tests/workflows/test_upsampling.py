"""The ways back to full resolution are trained and scored on the example scene."""

import math
from pathlib import Path

import pytest

from segpipe.workflows import upsampling
from segpipe.workflows.labels.label_scheme import LabelScheme
from segpipe.workflows.upsampling import WAYS, compare_upsampling, draw


def test_every_way_is_scored_on_the_part_held_out(
    examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upsampling, "WAYS", {"U-Net": "unet:depth=2,width=4"})
    scheme = LabelScheme.read(examples / "landcover-classes.json")
    heard: list[str] = []
    found = compare_upsampling(
        examples / "landsat7-nc-2000.tif",
        examples / "landcover-nc-1996.tif",
        classes=scheme,
        seconds=2,
        watch=heard.append,
    )
    (way,) = found
    assert heard == ["U-Net"]
    # How many fit into two seconds is the machine's business.
    assert way.steps >= 1
    assert 0 < way.mean_iou < 1
    assert 0 <= way.boundary_iou < 1
    assert math.isfinite(way.megapixels_per_second)
    draw(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_ways_are_those_of_the_papers() -> None:
    from segpipe.models.architectures.registry import parse

    named = {parse(text)[0] for text in WAYS.values()}
    assert named == {"fcn32s-vgg16", "fcn16s-vgg16", "fcn8s-vgg16", "segnet-vgg16", "unet"}
