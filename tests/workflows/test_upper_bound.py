"""The coarser the labels, the less is left of them."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segpipe.models.learning.coarsening import coarsened
from segpipe.models.learning.metrics import Scores, confusion_matrix
from segpipe.pipeline.errors import InputRefusedError
from segpipe.workflows import upper_bound as module
from segpipe.workflows.errors import OptionError
from segpipe.workflows.upper_bound import FACTORS, PAPER, upper_bound
from tests import toys
from tests.workflows.conftest import Command


def test_finer_labels_keep_more(examples: Path) -> None:
    """The trend of the paper, on real land cover; nothing is lost at a factor of 1."""
    found = upper_bound(examples / "landcover-nc-1996.tif", (*FACTORS, 2, 1))
    assert list(found.mean_iou) == [128, 64, 32, 16, 8, 4, 2, 1]
    bounds = list(found.mean_iou.values())
    assert all(coarse + 0.01 < fine for coarse, fine in pairwise(bounds))
    assert bounds[-1] == 1
    assert found.values == (1, 2, 3, 4, 5, 6, 7)
    assert {scores.pixels for scores in found.scores.values()} == {216_626}
    # Fields and towns of a few pixels are finer than what stands on photographs.
    assert all(found.mean_iou[factor] < PAPER[factor] for factor in FACTORS)


@pytest.mark.parametrize("factor", [4, 10, 16])
def test_windows_give_what_the_whole_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: int
) -> None:
    coarse = np.random.default_rng(0).choice([0, 3, 200], (20, 25))
    labels = coarse.repeat(5, 0).repeat(5, 1).astype(np.uint8)
    path = toys.write_scene(tmp_path / "a.tif", labels[None], nodata=0, names=("labels",))
    monkeypatch.setattr(module, "_SIDE", 32)
    found = upper_bound(path, (factor,))
    indices = np.array([2] * 256)
    indices[3], indices[200] = 0, 1
    known = labels != 0
    best = coarsened(indices[labels], 2, factor)
    expected = confusion_matrix(indices[labels][known], best[known], 2)
    np.testing.assert_array_equal(found.scores[factor].confusion, expected)
    assert found.mean_iou[factor] == Scores(expected).mean_iou


def test_what_has_no_labels_is_refused(tmp_path: Path, examples: Path) -> None:
    with pytest.raises(InputRefusedError, match="has 3 bands, expected one of class values"):
        upper_bound(examples / "landsat8-224077-rgb.tif")
    heights = np.linspace(0, 1, 100).reshape(1, 10, 10)
    path = toys.write_scene(tmp_path / "a.tif", heights, names=("height",))
    with pytest.raises(InputRefusedError, match="fractions or more than 255 values"):
        upper_bound(path)
    empty = np.zeros((1, 10, 10), np.uint8)
    with pytest.raises(InputRefusedError, match="no pixel has a label"):
        upper_bound(toys.write_scene(tmp_path / "b.tif", empty, names=("labels",)))
    with pytest.raises(OptionError, match=r"by 1 or more, got \[0\]"):
        upper_bound(examples / "landcover-nc-1996.tif", (0,))


def test_the_command_prints_and_draws(segpipe: Command, tmp_path: Path, examples: Path) -> None:
    labels = examples / "landcover-nc-1996.tif"
    plain = segpipe("bench", "upper-bound", labels, "--plot", tmp_path / "a.png")
    assert (plain.code, plain.err) == (0, "")
    assert "216,626 pixels of 7 classes" in plain.out
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 400
    told = json.loads(segpipe("bench", "upper-bound", labels, "--json").out)
    bounds = {factor: scores["mean_iou"] for factor, scores in told["factors"].items()}
    assert list(bounds) == [str(factor) for factor in FACTORS]
    assert f"{bounds['32']:.3f}" in plain.out
