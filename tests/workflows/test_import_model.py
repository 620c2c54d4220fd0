"""`segpipe model import`: what users have becomes a package that runs, or is refused unrun."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import safetensors.torch
import torch
from numpy.typing import NDArray

from segpipe.models.architectures.registry import build
from segpipe.models.package import load
from segpipe.workflows.import_model import import_model
from tests.models.test_foreign import exported, script, traced
from tests.models.test_package import Malice
from tests.toys import alive, card, landscape, whole_image, write_scene
from tests.workflows.conftest import Command

CARD = (
    *("--bands", "red,green,blue", "--classes", "a,b,c,d,e"),
    *("--mean", "6700", "--std", "2900"),
)
EXACT = ("--device", "cpu", "--precision", "fp32")
CODE = """
from pathlib import Path
from torch import nn
from segpipe.models.package import ClassInfo, ModelCard, SegmentationModel

Path("imported").touch()

def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 1))

def model():
    classes = tuple(ClassInfo(n, f"class {n}", "#808080") for n in range(5))
    return SegmentationModel(network(), ModelCard("coded", ("red", "green", "blue"), classes,
                                                  (6700.0,) * 3, (2900.0,) * 3))

def broken():
    return 1 / 0

def text():
    return "text"
"""


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return alive(build("unet", 3, 5, depth=2, width=4))


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "scene.tif", landscape(300, 280))


@pytest.fixture
def whole(network: torch.nn.Module) -> NDArray[np.uint8]:
    """The oracle's labels; values are the channels' numbers."""
    pixels = landscape(300, 280)
    valid = (pixels != 0).all(0)
    ones = whole_image(network, card(), 4, pixels, valid)
    return np.where(valid, ones - 1, np.uint8(255)).astype(np.uint8)


def labels(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as file:
        found: NDArray[np.uint8] = file.read(1)
    return found


def trust(path: Path) -> tuple[str, str]:
    return "--trust-model", f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.mark.parametrize("kind", ["ckpt", "safetensors", "pt2", "pt"])
def test_what_is_imported_maps_as_the_network_does(
    kind: str,
    segpipe: Command,
    tmp_path: Path,
    scene: Path,
    network: torch.nn.Module,
    whole: NDArray[np.uint8],
) -> None:
    path = tmp_path / f"net.{kind}"
    state = network.state_dict()
    words: tuple[str, ...] = ("--architecture", "unet:depth=2,width=4")
    match kind:
        case "ckpt":
            torch.save({"state_dict": {f"model.{n}": t for n, t in state.items()}}, path)
        case "safetensors":
            safetensors.torch.save_file(state, path)
        case "pt2":
            path.write_bytes(exported(network))
        case "pt":
            path.write_bytes(script(traced(network)))
    trusted = trust(path) if kind in ("pt2", "pt") else ()
    words = trusted or words
    made = segpipe("model", "import", path, "-o", "mine", *words, *CARD, "--json")
    assert (made.code, made.err) == (0, "")
    told = json.loads(made.out)
    assert (told["name"], told["bands"]) == ("mine", ["red", "green", "blue"])
    assert told["footprint"]["exact"]
    assert told["proof"]["holds"]
    run = segpipe("run", scene, "-m", "mine", "-o", "map.tif", "--tile", "256", *EXACT, *trusted)
    assert run.code == 0
    np.testing.assert_array_equal(labels(tmp_path / "map.tif"), whole)
    shown = segpipe("inspect", "mine", "--json", *trusted)
    assert json.loads(shown.out)["proof"] == told["proof"]


def test_a_program_of_fixed_size_is_blended_and_called_approximate(
    segpipe: Command, tmp_path: Path, scene: Path, network: torch.nn.Module
) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(exported(network, None))
    made = segpipe("model", "import", path, "-o", "mine", *CARD, *trust(path), "--json")
    told = json.loads(made.out)
    assert (told["footprint"]["exact"], told["window"], told["proof"]) == (False, 64, None)
    words = (*EXACT, *trust(path), "--json")
    run = segpipe("run", scene, "-m", "mine", "-o", "map.tif", *words)
    assert not json.loads(run.out)["footprint"]["exact"]
    wrong = segpipe("model", "import", path, "-o", "x", *CARD, *trust(path), "--window", "128")
    assert wrong.code == 4
    assert "windows of 64 pixels alone" in wrong.err


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, network: torch.nn.Module) -> Path:
    """A folder with an exported program, and the package that was made of it."""
    folder = tmp_path_factory.mktemp("program")
    path = folder / "net.pt2"
    path.write_bytes(exported(network))
    import_model(path, output=folder / "mine", trust_model=trust(path)[1])
    return folder


@pytest.mark.parametrize("command", ["import", "run file", "run", "plan", "inspect", "verify"])
def test_untrusted_files_are_named_with_their_hash(
    command: str, segpipe: Command, scene: Path, program: Path
) -> None:
    path, package = program / "net.pt2", program / "mine"
    words: tuple[str | Path, ...] = {
        "import": ("model", "import", path, "-o", "other"),
        "run file": ("run", scene, "-m", path),
        "run": ("run", scene, "-m", package),
        "plan": ("plan", scene, "-m", package),
        "inspect": ("inspect", package),
        "verify": ("verify", scene, scene, "-m", package),
    }[command]
    outcome = segpipe(*words)
    assert outcome.code == 4
    (line,) = outcome.lines
    assert " ".join(trust(path)) in line
    assert "run code" in line


def test_a_trusted_file_without_a_card_is_sent_to_the_import(
    segpipe: Command, scene: Path, program: Path
) -> None:
    path = program / "net.pt2"
    outcome = segpipe("run", scene, "-m", path, *trust(path))
    assert outcome.code == 4
    assert "segpipe model import" in outcome.err


def test_code_becomes_a_package_without_code(
    segpipe: Command, tmp_path: Path, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_a.py").write_text(CODE)
    made = segpipe("model", "import", "mine_a:network", "-o", "mine", *CARD)
    assert made.code == 0
    (tmp_path / "mine_a.py").unlink()
    (tmp_path / "imported").unlink()
    assert load(tmp_path / "mine").footprint.exact
    assert segpipe("run", scene, "-m", "mine", "-o", "map.tif", *EXACT).code == 0
    assert not (tmp_path / "imported").exists(), "the code was run again"


def test_code_runs_as_it_is_where_it_brings_a_card(
    segpipe: Command, tmp_path: Path, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_b.py").write_text(CODE)
    assert segpipe("run", scene, "-m", "mine_b:model", "-o", "map.tif", *EXACT).code == 0
    assert json.loads(segpipe("inspect", "mine_b:model", "--json").out)["name"] == "coded"
    assert segpipe("model", "import", "mine_b:model", "-o", "mine").code == 0
    assert load(tmp_path / "mine").card.name == "coded"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "scene.tif", "-m", "mine_c:network"), "without bands and classes"),
        (("run", "scene.tif", "-m", "mine_c:nothing"), "has no attribute 'nothing'"),
        (("run", "scene.tif", "-m", "nowhere.at_all:x"), "ModuleNotFoundError"),
        (("model", "import", "mine_c:broken", "-o", "x"), r"mine_c.py, line \d+: ZeroDivision"),
        (("model", "import", "mine_c:text", "-o", "x"), "gives a str"),
        (("model", "import", "nowhere.pth", "-o", "x"), "isn't there"),
        (("model", "import", ".", "-o", "x"), "is a folder"),
    ],
)
def test_code_that_gives_no_model_is_refused_in_one_line(
    words: tuple[str, ...],
    message: str,
    segpipe: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_c.py").write_text(CODE)
    write_scene(tmp_path / "scene.tif", landscape(64, 64))
    outcome = segpipe(*words)
    assert outcome.code == 4
    (line,) = outcome.lines
    assert re.search(message, line)


def test_wrong_numbers_of_classes_and_bands_are_refused(
    segpipe: Command, tmp_path: Path, network: torch.nn.Module
) -> None:
    torch.save(network.state_dict(), tmp_path / "net.pth")
    words = ("model", "import", "net.pth", "-o", "x", "--architecture", "unet:depth=2,width=4")
    for option, message in (
        (("--classes", "a,b"), "has 5 classes"),
        (("--bands", "a,b,c,d"), "has 3 bands"),
        (("--colors", "#000000"), "1 colours are named, the network has 5"),
        (("--mean", "1,2"), "2 numbers of mean are named, the network has 3"),
    ):
        outcome = segpipe(*words, *option)
        assert outcome.code == 4
        assert message in outcome.err
    assert not (tmp_path / "x").exists()


def test_a_malicious_checkpoint_is_refused_unrun(segpipe: Command, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for name in ("net.pth", "net.pt", "net.ckpt", "net.safetensors", "net.pt2"):
        torch.save(Malice(marker), tmp_path / name)
        outcome = segpipe("model", "import", name, "-o", "x", *CARD)
        assert outcome.code == 4
        assert len(outcome.lines) == 1
    assert not marker.exists()
    torch.load(tmp_path / "net.pth", weights_only=False)
    assert marker.exists(), "the pickle is harmless, so this test shows nothing"
