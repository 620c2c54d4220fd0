"""docs/networks.md tells the truth about every registered network."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from segpipe.models.architectures.network import Network, Sizes, sizes
from segpipe.models.architectures.registry import build, names, parse
from segpipe.models.footprint import Footprint, measure
from segpipe.models.footprints.proof import prove
from tests.conftest import ROOT

PAGE = Path(ROOT) / "docs" / "networks.md"
ROW = re.compile(r"\| `(.+)` \| ([\d,]+) \| ([\d,]+) \| (\d+) \| ([\d, ]+) \| (yes|no) \|")


@dataclass(frozen=True)
class Row:
    """What the page says of a network."""

    name: str
    parameters: int
    without_upsampling: int
    stride: int
    margin: tuple[int, int, int, int]
    exact: bool


def number(text: str) -> int:
    return int(text.replace(",", ""))


def rows() -> list[Row]:
    found = (ROW.fullmatch(line) for line in PAGE.read_text(encoding="utf-8").splitlines())
    return [row(*match.groups()) for match in found if match]


def row(name: str, parameters: str, without: str, stride: str, margin: str, exact: str) -> Row:
    top, left, bottom, right = map(int, margin.split(", "))
    return Row(
        name,
        number(parameters),
        number(without),
        int(stride),
        (top, left, bottom, right),
        exact == "yes",
    )


def network(text: str, classes: int = 21) -> Network:
    name, options = parse(text)
    return build(name, 3, classes, **options).eval()


def test_every_network_is_on_the_page() -> None:
    assert {one.name.partition(":")[0] for one in rows()} == set(names())


@pytest.mark.parametrize("told", rows(), ids=lambda one: one.name)
def test_the_page_has_the_numbers_of_the_network(told: Row) -> None:
    with torch.device("meta"):
        built = network(told.name)
    found, counted = measure(built), sizes(built)
    assert found.exact == told.exact
    assert bool(found.reasons) != told.exact
    assert found.stride == told.stride
    assert (found.top, found.left, found.bottom, found.right) == told.margin
    assert counted.total == told.parameters
    assert counted.total - counted.upsampling == told.without_upsampling


@pytest.mark.slow
@pytest.mark.parametrize("told", [one for one in rows() if one.exact], ids=lambda one: one.name)
def test_tiles_of_every_exact_network_equal_the_whole_image(told: Row) -> None:
    top, left, bottom, right = told.margin
    footprint = Footprint(told.stride, top, left, bottom, right, exact=True)
    # Two classes: the networks are the same up to their scores.
    proof = prove(network(told.name, classes=2), footprint)
    assert proof.tiles >= 12
    assert proof.holds


def test_sizes_count_upsampling_of_every_kind_apart() -> None:
    with torch.device("meta"):
        fixed, learned = network("fcn8s-alexnet:upsampling=fixed"), network("fcn8s-alexnet")
        unet = network("unet:depth=1,width=4")
    assert sizes(fixed).upsampling == 0
    assert sizes(learned) == Sizes(
        sizes(fixed).total + sizes(learned).upsampling,
        sizes(fixed).encoder,
        21 * (3**2 + 3**2 + 15**2),
    )
    assert sizes(unet).upsampling == 8 * 4 * 2 * 2 + 4
    assert sizes(unet).encoder is None
    assert sizes(nn.Conv2d(3, 2, 1)) == Sizes(8, None, 0)
