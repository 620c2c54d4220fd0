"""Packages: what is saved comes back, and what is damaged or foreign is refused unrun."""

import json
import pickle
import re
import resource
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from segpipe.models import package, weights
from segpipe.models.architectures.registry import build
from segpipe.models.card import ClassInfo, ModelCard
from segpipe.models.errors import ModelError
from segpipe.models.footprint import Footprint
from segpipe.models.package import (
    ITEM,
    WEIGHTS,
    Certificate,
    PackageExistsError,
    SegmentationModel,
    load,
    save,
)

CARD = ModelCard(
    name="land-cover",
    bands=("red", "green", "nir"),
    classes=(ClassInfo(1, "water", "#4060c8"), ClassInfo(7, "open land", "#c0b080")),
    mean=(100.0, 110.0, 120.0),
    std=(10.0, 11.0, 12.0),
    description="Land cover from three bands",
    licence="MIT",
    metrics={"accuracy": 0.75},
)
FOOTPRINT = Footprint(4, 22, 22, 22, 22, exact=True)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The networks whose footprints were measured; measuring itself is tested elsewhere."""
    calls: list[nn.Module] = []

    def measure(network: nn.Module, bands: int = 3) -> Footprint:
        assert bands == len(CARD.bands)
        calls.append(network)
        return FOOTPRINT

    monkeypatch.setattr(package, "measure", measure)
    return calls


def small(seed: int = 0) -> SegmentationModel:
    torch.manual_seed(seed)
    return SegmentationModel(build("unet", 3, 2, depth=2, width=4), CARD)


@pytest.fixture
def folder(tmp_path: Path, measured: list[nn.Module]) -> Path:
    """A good package."""
    save(small(), tmp_path / "model")
    measured.clear()
    return tmp_path / "model"


def scores(model: SegmentationModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        result: torch.Tensor = model.network(torch.rand(1, 3, 32, 32, generator=generator))
    return result


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    item = json.loads((folder / ITEM).read_text())
    change(item["properties"]["segpipe:model"])
    (folder / ITEM).write_text(json.dumps(item))


def test_a_saved_model_comes_back(folder: Path) -> None:
    model, again = small(), load(folder)
    assert torch.equal(scores(again), scores(model))
    assert again.card == model.card
    assert again.architecture == model.architecture
    assert again.parameters == model.parameters
    assert again.digest == model.digest
    assert not again.network.training
    assert {t.device.type for t in again.network.state_dict().values()} == {"cpu"}
    assert all(parameter.requires_grad for parameter in again.network.parameters())


@pytest.mark.parametrize("name", ["unet-resnet18", "fcn-resnet50"])
@pytest.mark.usefixtures("measured")
def test_networks_of_every_kind_of_layer_come_back(name: str, tmp_path: Path) -> None:
    model = SegmentationModel(build(name, 3, 2), CARD)
    save(model, tmp_path / name)
    assert torch.equal(scores(load(tmp_path / name)), scores(model))


@pytest.mark.usefixtures("measured")
def test_the_same_model_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    save(small(), tmp_path / "twice")
    save(load(folder), tmp_path / "again")
    for name in (ITEM, WEIGHTS):
        first = (folder / name).read_bytes()
        assert (tmp_path / "twice" / name).read_bytes() == first
        assert (tmp_path / "again" / name).read_bytes() == first


@pytest.mark.usefixtures("measured")
def test_the_digest_tells_models_apart() -> None:
    model = small()
    others = [
        small(seed=1),
        SegmentationModel(model.network, replace(CARD, mean=(0.0, 0.0, 0.0))),
        SegmentationModel(build("unet", 3, 2, depth=2, width=8), CARD),
    ]
    assert len({other.digest for other in [model, *others]}) == 4
    assert small().digest == model.digest


def test_a_foreign_network_has_a_digest_of_weights_and_structure() -> None:
    def foreign(padding: int, seed: int = 0) -> SegmentationModel:
        torch.manual_seed(seed)
        return SegmentationModel(nn.Conv2d(3, 2, 3, padding=padding), CARD)

    assert foreign(1).architecture is None
    assert foreign(1).digest == foreign(1).digest
    assert len({foreign(1).digest, foreign(1, seed=1).digest, foreign(2).digest}) == 3


def test_a_foreign_network_cannot_be_saved(tmp_path: Path) -> None:
    model = SegmentationModel(nn.Conv2d(3, 2, 3, padding=1), CARD)
    with pytest.raises(ModelError, match="a package holds a registered architecture"):
        save(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_network_is_put_into_evaluation_mode() -> None:
    assert not SegmentationModel(nn.Dropout(), CARD).network.training


# The certificate


def test_the_certificate_spares_measuring(folder: Path, measured: list[nn.Module]) -> None:
    assert load(folder).footprint == FOOTPRINT
    assert not measured


def test_an_older_certificate_with_more_in_it_is_read(
    folder: Path, measured: list[nn.Module]
) -> None:
    edit(folder, lambda own: own["certificate"].update(activation_bytes=192.0))
    assert load(folder).footprint == FOOTPRINT
    assert not measured


def test_a_footprint_is_measured_once(measured: list[nn.Module]) -> None:
    model = small()
    assert model.footprint is model.footprint
    assert len(measured) == 1


def test_a_certificate_of_another_network_is_not_trusted(
    folder: Path, measured: list[nn.Module]
) -> None:
    lie = Certificate("0" * 64, replace(FOOTPRINT, left=0)).to_dict()
    edit(folder, lambda own: own.update(certificate=lie))
    assert load(folder).footprint == FOOTPRINT
    assert len(measured) == 1


# What a package says of itself


def test_the_item_has_what_stac_and_its_model_extension_ask_for(folder: Path) -> None:
    item = json.loads((folder / ITEM).read_text())
    assert item["type"] == "Feature"
    assert item["stac_version"] == "1.1.0"
    assert item["stac_extensions"] == ["https://stac-extensions.github.io/mlm/v1.5.2/schema.json"]
    assert item["id"] == "land-cover"
    assert item["geometry"] is None
    assert "bbox" not in item
    assert item["links"] == []
    own = item["properties"]
    assert own["datetime"] is None
    assert own["start_datetime"] < own["end_datetime"]
    assert own["bands"] == [{"name": "red"}, {"name": "green"}, {"name": "nir"}]
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", own["mlm:name"])
    assert own["mlm:architecture"] == "unet"
    assert own["mlm:tasks"] == ["semantic-segmentation"]
    assert own["mlm:total_parameters"] == small().parameters
    asset_only = {"mlm:artifact_type", "mlm:compile_method", "mlm:entrypoint"}
    assert not asset_only & own.keys()


def test_the_item_describes_input_and_output(folder: Path) -> None:
    own = json.loads((folder / ITEM).read_text())["properties"]
    (given,), (result,) = own["mlm:input"], own["mlm:output"]
    assert given["bands"] == ["red", "green", "nir"]
    assert given["input"] == {
        "shape": [-1, 3, -1, -1],
        "dim_order": ["batch", "bands", "height", "width"],
        "data_type": "float32",
    }
    assert given["value_scaling"][1] == {"type": "z-score", "mean": 110.0, "stddev": 11.0}
    assert result["tasks"] == ["semantic-segmentation"]
    assert result["result"]["shape"] == [-1, 2, -1, -1]
    assert result["classification:classes"] == [
        {"value": 1, "name": "water", "title": "water", "color_hint": "4060C8"},
        {"value": 7, "name": "open-land", "title": "open land", "color_hint": "C0B080"},
    ]


def test_the_resolution_of_the_training_data_is_told_as_ground_sample_distance(
    tmp_path: Path,
) -> None:
    plain = small()
    model = SegmentationModel(plain.network, replace(plain.card, resolution=28.5))
    save(model, tmp_path / "fine")
    own = json.loads((tmp_path / "fine" / ITEM).read_text())["properties"]
    assert own["gsd"] == 28.5
    assert load(tmp_path / "fine").card == model.card
    assert load(tmp_path / "fine").digest == model.digest != plain.digest


def test_one_asset_is_the_model(folder: Path) -> None:
    (asset,) = json.loads((folder / ITEM).read_text())["assets"].values()
    assert (folder / asset["href"]).is_file()
    assert "mlm:model" in asset["roles"]
    assert [band["name"] for band in asset["bands"]] == ["red", "green", "nir"]
    assert asset["mlm:artifact_type"] == "safetensors.torch.save_file"
    tensors = safetensors.torch.load_file(folder / asset["href"])
    assert tensors.keys() == small().network.state_dict().keys()


@pytest.mark.parametrize("name", ["x", "7", "ab", "8bands"])
@pytest.mark.usefixtures("measured")
def test_every_card_name_gives_a_name_that_the_extension_takes(name: str, tmp_path: Path) -> None:
    save(SegmentationModel(small().network, replace(CARD, name=name)), tmp_path / "model")
    own = json.loads((tmp_path / "model" / ITEM).read_text())["properties"]
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", own["mlm:name"])
    assert load(tmp_path / "model").card.name == name


# Writing whole or not at all


@pytest.mark.usefixtures("measured")
def test_what_is_there_is_not_replaced_unasked(folder: Path) -> None:
    before = (folder / WEIGHTS).read_bytes()
    with pytest.raises(PackageExistsError, match="already there") as caught:
        save(small(seed=1), folder)
    assert caught.value.exit_code == 5
    assert (folder / WEIGHTS).read_bytes() == before


@pytest.mark.usefixtures("measured")
def test_a_package_is_replaced_if_asked(folder: Path) -> None:
    save(small(seed=1), folder, overwrite=True)
    assert load(folder).digest == small(seed=1).digest
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.usefixtures("measured")
def test_only_a_package_is_ever_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(PackageExistsError):
        save(small(), tmp_path / "photos", overwrite=True)


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("step", ["write", "_sync", "_publish"])
def test_a_failure_leaves_nothing(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights if step == "write" else package, step, full)
    with pytest.raises(OSError, match="No space"):
        save(small(), tmp_path / "model")
    assert not list(tmp_path.iterdir())


# Refusals


def cut(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def cut_header(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:40])


def empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def remove_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def flip(folder: Path) -> None:
    path = folder / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def with_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
        change(tensors)
        safetensors.torch.save_file(tensors, folder / WEIGHTS)

    return apply


def with_item(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda folder: edit(folder, lambda own: void(change(own)))


def void(_: object) -> None:
    """Nothing: the changes above are expressions with values of their own."""


def with_text(text: str) -> Callable[[Path], None]:
    return lambda folder: void((folder / ITEM).write_text(text))


BIAS = "score.bias"

DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (cut, "can't be read as safetensors"),
    "cut header": (cut_header, "can't be read as safetensors"),
    "empty": (empty, "can't be read as safetensors"),
    "no weights": (remove_weights, "can't be read as safetensors"),
    "one bit": (flip, "isn't what was saved"),
    "missing tensor": (with_tensors(lambda t: t.pop(BIAS)), "lacks 'score.bias'"),
    "stray tensor": (with_tensors(lambda t: t.update(x=torch.ones(1))), "has a stray 'x'"),
    "wrong shape": (
        with_tensors(lambda t: t.update({BIAS: torch.ones(3)})),
        r"score.bias is F32 \[3\], this network has F32 \[2\]",
    ),
    "wrong type": (with_tensors(lambda t: t.update({BIAS: t[BIAS].double()})), "is F64"),
    "nan": (with_tensors(lambda t: t[BIAS].fill_(torch.nan)), "holds NaN or infinity"),
    "no json": (with_text("{"), "isn't JSON"),
    "deep json": (with_text("[" * 100_000), "isn't JSON"),
    "nan in json": (with_text('{"x": NaN}'), "isn't JSON: NaN"),
    "long number": (with_text("1" * 10_000), "isn't JSON"),
    "other json": (with_text("[]"), "segpipe didn't save it"),
    "other item": (with_text('{"properties": {"mlm:name": "x"}}'), "segpipe didn't save it"),
    "not text": (lambda f: void((f / ITEM).write_bytes(b"\xff\xfe{}")), "isn't JSON"),
    "no item": (lambda f: (f / ITEM).unlink(), "there is no model at"),
    "no card": (with_item(lambda own: own.pop("card")), "lacks 'card'"),
    "bad card": (with_item(lambda own: own["card"].update(std=[0, 1, 1])), "std is positive"),
    "unknown architecture": (
        with_item(lambda own: own["architecture"].update(name="os.system")),
        "no architecture is called 'os.system'",
    ),
    "unknown option": (
        with_item(lambda own: own["architecture"]["options"].update(name="x")),
        "unet has no option 'name'",
    ),
    "other option": (
        with_item(lambda own: own["architecture"]["options"].update(width=8)),
        "this network has",
    ),
    "huge option": (
        with_item(lambda own: own["architecture"]["options"].update(width=10**12)),
        "width is a whole number",
    ),
    "architecture of lists": (
        with_item(lambda own: own.update(architecture=[])),
        "an architecture is a table",
    ),
    "other bands": (
        with_item(lambda own: own["card"].update(bands=["r"], mean=[0], std=[1])),
        "the card names 1 bands, the network unet has 3",
    ),
    "other classes": (
        with_item(lambda own: own["card"]["classes"].pop()),
        "the card names 1 classes, the network unet has 2",
    ),
    "bad certificate": (
        with_item(lambda own: own["certificate"]["footprint"].update(stride=0)),
        "a certificate is",
    ),
    "other digest": (with_item(lambda own: own.update(network_sha256="x")), "isn't what was saved"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_package_is_refused_in_one_line(damage: str, folder: Path) -> None:
    apply, message = DAMAGE[damage]
    apply(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load(folder)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_no_package_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model at"):
        load(tmp_path / "missing")


class Malice:
    """A pickle of it creates a file where it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("place", [WEIGHTS, ITEM, "model.pth"])
@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_is_refused_unread(place: str, archive: bool, folder: Path) -> None:
    marker = folder.parent / "marker"
    if archive:
        torch.save(Malice(marker), folder / place)
    else:
        (folder / place).write_bytes(pickle.dumps(Malice(marker)))
    wanted = "isn't JSON" if place == ITEM else "is a pickle"
    with pytest.raises(ModelError, match=wanted) as caught:
        load(folder / place if place.endswith(".pth") else folder)
    assert caught.value.exit_code == 4
    assert not marker.exists()
    pickle.loads(pickle.dumps(Malice(marker)))
    assert marker.exists(), "the pickle is harmless, so this test shows nothing"


def claim(folder: Path, entry: dict[str, Any], length: int) -> None:
    """Weights whose header claims `length` bytes for one tensor; the file is sparse."""
    header = json.dumps({BIAS: entry}).encode()
    with (folder / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + length)


@pytest.mark.parametrize("length", [0, 17 * 2**30])
def test_a_header_that_claims_17_gb_takes_no_memory(length: int, folder: Path) -> None:
    bytes_claimed = 17 * 2**30
    entry = {"dtype": "F32", "shape": [bytes_claimed // 4], "data_offsets": [0, bytes_claimed]}
    claim(folder, entry, length)
    before = peak_rss()
    tracemalloc.start()
    with pytest.raises(ModelError, match=r"weights\.safetensors"):
        load(folder)
    assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    tracemalloc.stop()
    assert peak_rss() - before < 64 * 2**20


def peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_card_that_does_not_fit_its_network_is_refused() -> None:
    with pytest.raises(ModelError, match="the card names 3 bands, the network unet has 4"):
        SegmentationModel(build("unet", 4, 2, depth=1, width=2), CARD)
    with pytest.raises(ModelError, match="the card names 2 classes, the network unet has 5"):
        SegmentationModel(build("unet", 3, 5, depth=1, width=2), CARD)
