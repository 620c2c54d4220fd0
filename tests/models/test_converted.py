"""A classifier for every pixel: one pass, crops, and the classifier itself agree."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segpipe.models.architectures.registry import build, create, names
from segpipe.models.converted import (
    NAME,
    ConvertedClassifier,
    SlidingWindow,
    compare,
    labelling,
    sliding_window,
)
from segpipe.models.convolutionalize import convert
from segpipe.models.errors import ModelError
from segpipe.models.folding import fold
from segpipe.models.footprint import measure, receptive_field
from segpipe.models.footprints.proof import he_initialise, prove
from segpipe.models.formats.layer_graph import trace
from segpipe.models.package import SegmentationModel, load, save
from tests import toys

SIDES = {"plain": 22, "even": 20, "odd stride": 17, "rounded up": 21, "padded": 16, "coarse": 4}


def classifier(name: str) -> nn.Module:
    """Small ones: without padding, with sides and strides of all kinds, and with padding."""
    layers: dict[str, list[nn.Module]] = {
        "plain": [nn.Conv2d(3, 6, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(6, 6, 3, 2)],
        "even": [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)],
        "odd stride": [nn.Conv2d(3, 6, 5, 3), nn.ReLU()],
        "rounded up": [nn.Conv2d(3, 6, 3, 2), nn.MaxPool2d(2, ceil_mode=True), nn.ReLU()],
        "padded": [nn.Conv2d(3, 6, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(6, 6, 3)],
        "coarse": [nn.Conv2d(3, 6, 2, 6), nn.ReLU()],
    }
    stem = nn.Sequential(*layers[name]).eval()
    with torch.inference_mode():
        count = stem(torch.zeros(1, 3, SIDES[name], SIDES[name])).numel()
    network = nn.Sequential(*stem, nn.Flatten(), nn.Linear(count, 8), nn.ReLU(), nn.Linear(8, 5))
    he_initialise(network)
    return network.eval()


def made(name: str) -> ConvertedClassifier:
    network = classifier(name)
    return labelling(convert(trace(network), SIDES[name]), network)


@given(
    name=st.sampled_from(sorted(SIDES.keys() - {"padded"})),
    rows=st.integers(1, 4),
    columns=st.integers(1, 5),
    number=st.integers(1, 2),
)
@settings(max_examples=60, deadline=None)
def test_crops_give_the_scores_of_one_pass(name: str, rows: int, columns: int, number: int) -> None:
    network = made(name).double()
    size = rows * network.stride, columns * network.stride
    image = torch.randn(number, 3, *size, generator=torch.Generator().manual_seed(0)).double()
    with torch.inference_mode():
        scores, crops = network(image), sliding_window(network)(image)
    assert scores.shape == crops.shape == (number, 5, *size)
    error = float((scores - crops).abs().max())
    assert error < 1e-10


def test_padding_makes_crops_differ_from_one_pass() -> None:
    network = made("padded").double()
    image = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(0)).double()
    with torch.inference_mode():
        assert float((network(image) - SlidingWindow(network)(image)).abs().max()) > 1e-3


@pytest.mark.parametrize("name", SIDES)
def test_a_cell_has_the_score_of_the_crop_around_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, network = classifier(name).double(), made(name).double()
    monkeypatch.setattr(network, "upsampled", lambda scores: scores)
    side, stride = network.side, network.stride
    cell = side // stride + 1
    image = torch.randn(1, 3, 2 * cell * stride, (2 * cell + 1) * stride).double()
    corner = cell * stride - (side - stride) // 2
    assert abs(corner + side / 2 - (cell + 0.5) * stride) <= 0.5, "the crop's middle is the cell's"
    part = slice(corner, corner + side)
    with torch.inference_mode():
        cells = SlidingWindow(network)(image)
        assert cells.shape == (1, 5, 2 * cell, 2 * cell + 1)
        torch.testing.assert_close(cells[0, :, cell, cell], original(image[..., part, part])[0])


def test_between_cells_scores_are_interpolated() -> None:
    network = made("odd stride")
    cells = torch.randn(1, 5, 4, 6)
    scores = network.upsampled(cells)
    torch.testing.assert_close(scores[..., 1::3, 1::3], cells)
    torch.testing.assert_close(scores[..., 1, 2], (2 * cells[..., 0, 0] + cells[..., 0, 1]) / 3)


@pytest.mark.parametrize("name", SIDES)
def test_the_footprint_is_exact_and_proved(name: str) -> None:
    network = made(name)
    footprint = measure(network)
    assert footprint.exact
    assert footprint.stride == network.stride
    assert prove(network, footprint).holds
    less = replace(footprint, left=footprint.left - 1)
    assert not prove(network, less).holds, "a margin that is too small must show"


def test_the_receptive_field_is_that_of_the_score_map() -> None:
    assert made("plain").converted() is not None
    assert receptive_field(made("plain").inner) == (4, 20)


def test_the_two_ways_are_compared_as_they_are() -> None:
    same, other = (compare(made(name), 3) for name in ("plain", "padded"))
    assert same.cells == other.cells == 16
    assert same.difference < 1e-5 < 1e-2 < other.difference
    assert same.labels == 1


def test_memory_is_bounded_by_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    network = made("plain")
    window = SlidingWindow(network)
    window.batch = 7
    seen: list[int] = []
    handle = network.inner.register_forward_hook(
        lambda module, inputs, output: seen.append(len(inputs[0]))
    )
    with torch.inference_mode():
        scores = window(torch.zeros(1, 3, 16, 20))
    handle.remove()
    assert seen == [7, 7, 6]
    assert window.pixels_at_once == 7 * 22**2
    with torch.inference_mode():
        # Batches of another size may be summed in another order.
        whole = SlidingWindow(network)(torch.zeros(1, 3, 16, 20))
    torch.testing.assert_close(scores, whole, atol=1e-5, rtol=1e-5)


def test_norms_are_folded_on_crops_too() -> None:
    window, image = SlidingWindow(made("even")), torch.randn(1, 3, 8, 8)
    folded = fold(window, image)
    assert not [one for one in folded.modules() if type(one) is nn.BatchNorm2d]
    with torch.inference_mode():
        torch.testing.assert_close(folded(image), window(image), atol=1e-4, rtol=1e-4)


def test_a_package_holds_it(tmp_path: Path) -> None:
    model = SegmentationModel(made("even"), toys.card())
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    image = torch.randn(1, 3, 16, 8)
    with torch.inference_mode():
        assert torch.equal(again.network(image), model.network(image))
        assert torch.equal(
            sliding_window(again.network)(image), sliding_window(model.network)(image)
        )
    assert again.digest == model.digest
    assert again.footprint == model.footprint


def test_only_a_converted_classifier_has_crops() -> None:
    with pytest.raises(ModelError, match="only a converted classifier"):
        sliding_window(build("unet", 3, 5, depth=2, width=4))


def test_it_is_nothing_to_build_anew() -> None:
    assert NAME not in names()
    with pytest.raises(ModelError, match="lacks the option 'graph'"):
        build(NAME, 3, 5, side=3, stride=1)


@pytest.mark.parametrize(
    "changed", [{"side": 0}, {"stride": -2}, {"stride": "2"}, {"side": 1 << 20}]
)
def test_numbers_from_a_package_are_checked(changed: dict[str, int | str]) -> None:
    architecture = made("plain").architecture
    assert architecture is not None
    with pytest.raises(ModelError, match="is a whole number"):
        create(replace(architecture, options={**architecture.options, **changed}))
