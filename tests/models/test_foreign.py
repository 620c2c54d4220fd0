"""Files of other formats: the same scores, the same footprint, and nothing is read untrusted."""

import copy
import hashlib
import io
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._python_dispatch import TorchDispatchMode

from segpipe.models.choice import choose_engine
from segpipe.models.engine import Engine
from segpipe.models.errors import DeviceError, ModelError
from segpipe.models.footprint import Footprint, measure
from segpipe.models.formats.exported_program import ExportedNetwork
from segpipe.models.formats.foreign import Foreign, foreign_kind, read_foreign
from segpipe.models.formats.torchscript import ScriptNetwork
from segpipe.models.package import ITEM, SegmentationModel, certify, load, save
from segpipe.models.pointwise import CONVOLUTIONS, settle
from segpipe.models.predictor import TorchPredictor
from tests.models.test_package import CARD, edit
from tests.toys import alive, landscape

SIDE = 64
ANY_SIZE = ({2: Dim.AUTO, 3: Dim.AUTO},)


class Sum(nn.Module):
    """Sees 3 pixels at most, by strides and a 1 x 1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 8, 2, 2)
        self.score = nn.Conv2d(8, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.score(torch.relu(self.down(torch.relu(self.first(image)))))
        return nn.functional.interpolate(scores, scale_factor=2.0)


class Branching(Sum):
    """Its path depends on the values."""

    def forward(self, image: Tensor) -> Tensor:
        scores = self.score(torch.relu(self.down(torch.relu(self.first(image)))))
        scores = nn.functional.interpolate(scores, scale_factor=2.0)
        return scores if bool(image.mean() > 0) else 2 * scores


def exported(network: nn.Module, sizes: Any = ANY_SIZE, side: int = SIDE) -> bytes:
    file = io.BytesIO()
    image = torch.zeros(1, 3, side, side)
    torch.export.save(torch.export.export(network, (image,), dynamic_shapes=sizes), file)
    return file.getvalue()


def script(network: torch.jit.ScriptModule) -> bytes:
    file = io.BytesIO()
    torch.jit.save(network, file)
    return file.getvalue()


def traced(network: nn.Module) -> Any:
    return torch.jit.trace(network, torch.zeros(1, 3, SIDE, SIDE))  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return alive(Sum())


@pytest.fixture(scope="module", params=["exported", "fixed", "traced", "frozen"])
def foreign(request: pytest.FixtureRequest, network: nn.Module) -> Foreign:
    match request.param:
        case "exported":
            return ExportedNetwork(exported(network))
        case "fixed":
            return ExportedNetwork(exported(network, None))
        case "traced":
            return ScriptNetwork(script(traced(network)))
    return ScriptNetwork(script(torch.jit.freeze(traced(network))))


def test_the_file_gives_the_network_s_scores(foreign: Foreign, network: nn.Module) -> None:
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        for one in (foreign, copy.deepcopy(foreign), pickle.loads(pickle.dumps(foreign))):
            torch.testing.assert_close(one(images), network(images))


def test_the_file_has_the_network_s_footprint(foreign: Foreign, network: nn.Module) -> None:
    found = foreign.footprint(3)
    if foreign.window is None:
        assert found == measure(network, 3)
    else:
        assert (found.exact, foreign.window) == (False, SIDE)
        assert "64 x 64" in found.reasons[0]


def test_a_package_of_a_file_comes_back(
    foreign: Foreign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = certify(SegmentationModel(foreign, CARD))
    save(model, tmp_path / "model")
    trust = "sha256:" + hashlib.sha256(foreign.content).hexdigest()
    again = load(tmp_path / "model", trust)
    assert again.digest == model.digest
    assert again.card == CARD
    assert again.parameters == model.parameters
    assert again.proof == model.proof
    with monkeypatch.context() as patch:
        patch.setattr(type(foreign), "footprint", lambda *_: pytest.fail("measured again"))
        assert again.footprint == model.footprint
    save(again, tmp_path / "again")
    assert (tmp_path / "again" / ITEM).read_bytes() == (tmp_path / "model" / ITEM).read_bytes()


def test_the_proof_is_in_the_certificate_where_it_can_be_had(network: nn.Module) -> None:
    model = certify(SegmentationModel(ExportedNetwork(exported(network)), CARD))
    assert model.proof is not None
    assert model.proof.holds
    fixed = certify(SegmentationModel(ExportedNetwork(exported(network, None)), CARD))
    assert fixed.proof is None


def test_a_proof_that_fails_marks_the_network_approximate(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = ExportedNetwork(exported(network))
    lie = Footprint(8, 0, 0, 0, 0, exact=True)
    monkeypatch.setattr(type(foreign), "footprint", lambda *_: lie)
    model = certify(SegmentationModel(foreign, CARD))
    assert not model.footprint.exact
    assert "differ from the whole" in model.footprint.reasons[0]
    assert model.proof is None


def test_a_branch_on_values_is_never_exact() -> None:
    found = ScriptNetwork(script(torch.jit.script(Branching()))).footprint(3)
    assert not found.exact


class Formats(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Whether the images of 1 x 1 convolutions came in channels_last."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.settled: list[bool] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if func in CONVOLUTIONS and args[1].shape[2:] == (1, 1):
            self.settled.append(args[0].is_contiguous(memory_format=torch.channels_last))
        return func(*args, **(kwargs or {}))


def test_one_by_one_convolutions_are_settled(foreign: Foreign, network: nn.Module) -> None:
    settled = copy.deepcopy(network)
    settle(settled)
    image = torch.randn(1, 3, SIDE, SIDE)
    with torch.inference_mode(), Formats() as formats:
        assert torch.equal(foreign(image), settled(image))
    assert formats.settled == [True, True]


def test_files_compute_in_fp32_alone(network: nn.Module) -> None:
    foreign = ExportedNetwork(exported(network))
    pixels = landscape(SIDE, SIDE)
    valid = np.ones(pixels.shape[1:], np.bool_)
    engine = choose_engine(foreign, CARD, 2, pixels, valid, device="cpu")
    assert (engine.precision, engine.agreement) == ("fp32", None)
    with pytest.raises(DeviceError, match="fp32 alone"):
        choose_engine(foreign, CARD, 2, pixels, valid, device="cpu", precision="bf16")
    labels = TorchPredictor(foreign, CARD, 2, Engine())(pixels, valid, (slice(None), slice(None)))
    assert set(labels.flat) <= {1, 7}


# What is refused


@pytest.mark.parametrize("kind", ["exported", "torchscript"])
@pytest.mark.parametrize("trust", [None, "sha256:" + "0" * 64, "yes"])
def test_nothing_of_an_untrusted_file_is_parsed(
    kind: str, trust: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object, **__: object) -> None:
        pytest.fail("the file was read")

    for where, name in ((torch.export, "load"), (torch.jit, "load"), (torch, "load")):
        monkeypatch.setattr(where, name, opened)
    path = tmp_path / "file"
    path.write_bytes(b"anything")
    digest = hashlib.sha256(b"anything").hexdigest()
    with pytest.raises(ModelError, match=f"run code.*--trust-model sha256:{digest}") as caught:
        read_foreign(path, kind, trust)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["exported", "torchscript"])
@pytest.mark.parametrize("content", [b"", b"anything", b"PK\x03\x04" + b"\0" * 100])
def test_a_damaged_file_is_refused_even_if_it_is_trusted(
    kind: str, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    trust = f"SHA256:{hashlib.sha256(content).hexdigest().upper()}"
    with pytest.raises(ModelError, match="can't read it as") as caught:
        read_foreign(path, kind, trust)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "side", "message"),
    [(({2: Dim.AUTO},), 64, "any height and width or one square"), (None, 33, "one square")],
)
def test_half_fixed_and_odd_programs_are_refused(sizes: Any, side: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ExportedNetwork(exported(nn.Conv2d(3, 2, 3, padding=1), sizes, side))


def test_a_program_of_two_images_or_two_outputs_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
            return one + other, one

    for arguments in ((torch.zeros(1, 3, 8, 8),) * 2, (torch.zeros(2, 3, 8, 8),)):
        network = Two() if len(arguments) == 2 else nn.ReLU()
        file = io.BytesIO()
        torch.export.save(torch.export.export(network, arguments), file)
        with pytest.raises(ModelError, match=r"inputs|batches of 2"):
            ExportedNetwork(file.getvalue())


def test_a_size_that_a_program_was_not_exported_for_is_a_model_s_error(network: nn.Module) -> None:
    foreign = ExportedNetwork(exported(network, None))
    with pytest.raises(ModelError, match="refuses an image of 32 x 32"):
        foreign(torch.zeros(1, 3, 32, 32))


@pytest.fixture
def folder(network: nn.Module, tmp_path: Path) -> Path:
    save(SegmentationModel(ExportedNetwork(exported(network)), CARD), tmp_path / "model")
    return tmp_path / "model"


def test_a_package_whose_file_was_changed_is_refused(folder: Path) -> None:
    path = folder / "network.pt2"
    content = bytearray(path.read_bytes())
    path.write_bytes(content + b"x")
    with pytest.raises(ModelError, match=f"has {len(content) + 1} bytes, .* has {len(content)}"):
        load(folder)
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="run code"):
        load(folder)
    path.unlink()
    with pytest.raises(ModelError, match="there is no"):
        load(folder)


@pytest.mark.parametrize(
    "file", [{"kind": "os", "size": 1}, {"kind": "onnx"}, {"kind": "onnx", "size": 1, "name": "x"}]
)
def test_a_package_names_no_other_files(file: dict[str, object], folder: Path) -> None:
    edit(folder, lambda own: own.update(file=file))
    with pytest.raises(ModelError, match="a network's file has a kind"):
        load(folder)


def test_the_kind_is_told_from_suffix_or_content(network: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"")
    (tmp_path / "b.pt").write_bytes(script(traced(network)))
    (tmp_path / "c.pt").write_bytes(exported(network))
    torch.save(network.state_dict(), tmp_path / "d.pt")
    (tmp_path / "e.pt").write_bytes(b"nothing")
    shutil.copy(tmp_path / "c.pt", tmp_path / "f.pt2")
    kinds = [foreign_kind(path) for path in sorted(tmp_path.iterdir())]
    assert kinds == ["onnx", "torchscript", "exported", None, None, "exported"]
