"""`segpipe convert`: packages of classifiers, and the maps that both methods make of them."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio.windows import Window as Block

from segpipe.models.architectures.classifiers import CLASSIFIERS, Classifier
from segpipe.models.errors import ModelError
from segpipe.models.package import load
from segpipe.workflows import convert as module
from segpipe.workflows.convert import convert
from tests import toys
from tests.workflows.conftest import Command

CODE = """
import torch
from torch import nn

def unpadded():
    torch.manual_seed(2)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2), nn.BatchNorm2d(8, momentum=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 25, 16), nn.ReLU(),
        nn.Dropout(), nn.Linear(16, 5), nn.BatchNorm1d(5, momentum=1),
    )
    # Every class wins somewhere.
    network(nn.functional.interpolate(torch.randn(64, 3, 8, 8), 32) - 0.5)
    return network

def padded():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 5))

def text():
    return "a classifier"

def strange():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(7200, 5))
"""
SIDE = 32


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current folder, another one for every test."""
    name = f"networks_{abs(hash(tmp_path)):x}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return name


class Small(torch.nn.Sequential):
    def __init__(self, bands: int, classes: int) -> None:
        super().__init__(
            torch.nn.Conv2d(bands, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, classes)
        )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered classifier that takes no time."""
    entry = Classifier(Small, 8, "0.weight", "2.weight", spare=("aux.",))
    monkeypatch.setattr(module, "CLASSIFIERS", {**CLASSIFIERS, "small": entry})


def test_both_methods_make_the_same_map(
    code: str, examples: Path, tmp_path: Path, segpipe: Command
) -> None:
    scene = tmp_path / "crop.tif"
    with rasterio.open(examples / "landsat8-224077-rgb.tif") as file:
        block = Block(600, 500, 300, 290)
        toys.write_scene(scene, file.read(window=block), transform=file.window_transform(block))
    card = ("--bands", "red,green,blue", "--mean", "7060,7450,7860", "--std", "720,310,250")
    made = segpipe(
        "convert", f"{code}:unpadded", "-o", "model", "--side", str(SIDE), *card, "--json"
    )
    assert made.code == 0, made.err
    facts = json.loads(made.out)
    assert facts["padded"] == []
    assert (facts["side"], facts["stride"]) == (SIDE, 4)
    assert facts["agreement"]["labels"] == 1
    maps = []
    for method, side in (("one-pass", "256"), ("one-pass", "512"), ("sliding-window", "256")):
        output = tmp_path / f"{method}-{side}.tif"
        ran = segpipe(
            "run", scene, "-m", "model", "-o", output, "--method", method, "--precision", "fp32",
            "--tile", side,
        )  # fmt: skip
        assert ran.code == 0, ran.err
        with rasterio.open(output) as file:
            maps.append(file.read(1))
            assert file.tags()["SEGPIPE_METHOD"] == method
    assert len(np.unique(maps[0])) > 2, "a map of one class would prove nothing"
    assert np.count_nonzero(maps[0] != maps[1]) == 0
    assert np.count_nonzero(maps[0] != maps[2]) == 0


def test_a_begun_run_does_not_go_on_with_the_other_method(code: str, tmp_path: Path) -> None:
    from segpipe.models.engine import Engine
    from segpipe.workflows.plan import prepare
    from segpipe.workflows.reading.inputs import Reading
    from segpipe.workflows.stages import fingerprint_of

    scene = toys.write_scene(tmp_path / "scene.tif", toys.landscape(60, 70))
    convert(f"{code}:unpadded", output="model", side=SIDE, band_names=("red", "green", "blue"))
    one, other = (
        fingerprint_of(
            prepare(
                scene,
                model="model",
                output=None,
                reading=Reading(),
                tile=256,
                memory=None,
                method=how,
            ),
            Engine(),
            2,
        )
        for how in ("one-pass", "sliding-window")
    )
    assert one != other
    assert {**one, "options": {}} == {**other, "options": {}}


def test_a_sliding_window_s_map_is_verified_by_a_sliding_window(
    code: str, tmp_path: Path, segpipe: Command
) -> None:
    scene = toys.write_scene(tmp_path / "scene.tif", toys.landscape(60, 70))
    card = ("--bands", "red,green,blue", "--mean", "500,500,500", "--std", "300,300,300")
    made = segpipe("convert", f"{code}:padded", "-o", "model", "--side", str(SIDE), *card)
    assert made.code == 0, made.err
    by_crops = ("-m", "model", "--method", "sliding-window")
    output = tmp_path / "map.tif"
    assert segpipe("run", scene, *by_crops, "--precision", "fp32", "-o", output).code == 0
    assert segpipe("verify", scene, output, *by_crops, "--precision", "fp32").code == 0
    # A padded classifier's crops see zeros that the one pass doesn't.
    assert segpipe("verify", scene, output, "-m", "model", "--precision", "fp32").code == 10


def test_other_models_have_no_crops(tiny_model: Path, tmp_path: Path, segpipe: Command) -> None:
    scene = toys.write_scene(tmp_path / "scene.tif", toys.landscape(60, 70))
    found = segpipe("run", scene, "-m", tiny_model, "--method", "sliding-window")
    assert found.code == 4
    assert len(found.lines) == 1
    assert "only a converted classifier" in found.lines[0]


def test_padding_is_told(code: str, segpipe: Command) -> None:
    found = segpipe("convert", f"{code}:padded", "-o", "model", "--side", str(SIDE))
    assert found.code == 0, found.err
    text = " ".join(found.out.split())
    assert "isn't the classifier on every crop: 1 layers (0, ...)" in text
    assert "sliding-window" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [("text", "gives a str"), ("strange", "1 can't be made"), ("missing", "fails")],
)
def test_what_is_no_classifier_is_refused(
    code: str, name: str, message: str, segpipe: Command
) -> None:
    found = segpipe("convert", f"{code}:{name}", "-o", "model", "--side", str(SIDE))
    assert found.code == 4
    assert len(found.lines) == 1
    assert message in found.lines[0]
    assert not Path("model").exists()


def test_an_unknown_name_is_refused_with_the_known_ones(segpipe: Command) -> None:
    found = segpipe("convert", "vgg17", "-o", "model")
    assert found.code == 4
    assert "vgg16" in found.lines[0]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_come_from_a_state_dict(suffix: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = Small(4, 3).state_dict()
    path = tmp_path / f"weights{suffix}"
    whole = {**state, "aux.weight": torch.ones(2)}
    save_file(whole, path) if suffix == ".safetensors" else torch.save(whole, path)
    found = convert("small", output=tmp_path / "model", weights=path)
    assert found.warnings == ()
    assert (len(found.card.bands), len(found.card.classes)) == (4, 3)
    stored = load(tmp_path / "model").network.state_dict()
    for name, tensor in state.items():
        assert torch.equal(stored[f"inner.{name}"].flatten(), tensor.flatten()), name


@pytest.mark.usefixtures("small")
def test_random_weights_are_told(tmp_path: Path) -> None:
    found = convert("small", output=tmp_path / "model", class_names=["water", "land"])
    assert "random weights" in found.warnings[0]
    assert [info.name for info in found.card.classes] == ["water", "land"]
    assert found.card.window == 8


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"3.weight": torch.ones(1)}, "stray '3.weight'"),
        ({"0.bias": None}, "lacks '0.bias'"),
        ({"0.bias": torch.ones(5)}, "0.bias is"),
        ({"2.weight": None}, "lack '2.weight'"),
        ({"0.bias": torch.full((4,), torch.nan)}, "NaN"),
    ],
)
def test_weights_of_something_else_are_refused(
    change: dict[str, torch.Tensor | None], message: str, tmp_path: Path
) -> None:
    state = {**Small(3, 2).state_dict(), **change}
    path = tmp_path / "weights.pth"
    torch.save({name: one for name, one in state.items() if one is not None}, path)
    with pytest.raises(ModelError, match=message):
        convert("small", output=tmp_path / "model", weights=path)
    assert not (tmp_path / "model").exists()


class Marker:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_malicious_pickle_runs_nothing(tmp_path: Path, segpipe: Command) -> None:
    marker, weights = tmp_path / "marker", tmp_path / "weights.pth"
    torch.save({"features.0.weight": Marker(marker)}, weights)
    found = segpipe("convert", "alexnet", "-o", "model", "--weights", weights)
    assert found.code == 4
    assert len(found.lines) == 1
    weights.write_bytes(pickle.dumps(Marker(marker)))
    found = segpipe("convert", "alexnet", "-o", "model", "--weights", weights)
    assert found.code == 4
    assert not marker.exists()


def test_a_package_that_is_there_stays(code: str, segpipe: Command) -> None:
    first = segpipe("convert", f"{code}:unpadded", "-o", "model", "--side", str(SIDE))
    assert first.code == 0, first.err
    again = segpipe("convert", f"{code}:unpadded", "-o", "model", "--side", str(SIDE))
    assert again.code == 5
    forced = segpipe(
        "convert", f"{code}:unpadded", "-o", "model", "--side", str(SIDE), "--overwrite"
    )
    assert forced.code == 0
