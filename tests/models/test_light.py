"""Loading a package imports neither torch's compiler nor its tools for symbols."""

import subprocess
import sys
from pathlib import Path

import pytest

from segpipe.models.architectures.registry import build, names
from segpipe.models.card import ClassInfo, ModelCard
from segpipe.models.footprint import Footprint
from segpipe.models.package import Certificate, SegmentationModel, save

HEAVY = ("torch._dynamo", "torch._inductor", "sympy")
"""Each takes from a third of a second to more than one, in every process that has the model."""

BUILD = """
import sys
import torch
from segpipe.models.architectures.registry import build, names
with torch.device("meta"):
    for name in names():
        build(name, 3, 2)
        found = set(sys.modules) & {HEAVY}
        assert not found, (name, found)
"""

LOAD = """
import sys
from segpipe.models.package import load
network = load(sys.argv[1]).network
assert not any(one.is_meta for one in (*network.parameters(), *network.buffers()))
found = set(sys.modules) & {HEAVY}
assert not found, found
"""


def _runs(program: str, *arguments: str) -> None:
    text = program.replace("{HEAVY}", repr(set(HEAVY)))
    subprocess.run([sys.executable, "-c", text, *arguments], check=True, timeout=120)


def test_no_architecture_that_a_package_may_hold_makes_torch_import_its_compiler() -> None:
    assert names()
    _runs(BUILD)


@pytest.mark.parametrize("name", ["unet-resnet18", "fcn32s-googlenet"])
def test_a_package_is_loaded_without_torchs_compiler(name: str, tmp_path: Path) -> None:
    classes = (ClassInfo(1, "a", "#000000"), ClassInfo(2, "b", "#ffffff"))
    card = ModelCard("light", ("b1", "b2", "b3"), classes, (0.0,) * 3, (1.0,) * 3)
    model = SegmentationModel(build(name, 3, 2), card)
    # What is measured here isn't the footprint.
    known = Certificate(model.network_sha256, Footprint(32, 32, 32, 32, 32, exact=True))
    save(SegmentationModel(model.network, card, certificate=known), tmp_path / "model")
    _runs(LOAD, str(tmp_path / "model"))
