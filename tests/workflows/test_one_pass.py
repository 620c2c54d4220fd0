"""One pass beside crops: the figures belong to the grid that they are said to be of."""

from pathlib import Path

import pytest

from segpipe.workflows.one_pass import Case, compare_one_pass, draw


def test_a_small_grid_is_measured_and_drawn(tmp_path: Path) -> None:
    found = compare_one_pass([Case("alexnet", 227, 259, 2, 2)])
    (result,) = found
    assert min(result.one_pass, result.batched, result.single) > 0
    assert 0 <= result.agreement <= 1
    # Crops see zeros at their edges: were there no difference, nothing would have been compared.
    assert 0 < result.difference < 10
    told = result.to_dict()
    assert told["over_batched"] == pytest.approx(result.batched / result.one_pass)
    assert told["classifier"] == "alexnet"
    draw(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_one_crop_is_the_whole_image() -> None:
    (result,) = compare_one_pass([Case("alexnet", 227, 227, 1, 1)])
    assert result.agreement == 1
    assert result.difference < 1e-4
