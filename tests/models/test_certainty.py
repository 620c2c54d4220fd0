"""Probabilities are those of a softmax in float64, to half a step, wherever a pixel stands."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from segpipe.models import certainty as certainties
from segpipe.models.blend import Blended
from segpipe.models.certainty import CONFIDENCE, PROBABILITIES, certainty, gives_shares
from segpipe.models.engine import Engine
from segpipe.models.footprints.exported import ExportError, export
from segpipe.models.predictor import TorchPredictor
from tests.models.test_predictor import STRIDE, card, everything, net, scene

BOTH = (PROBABILITIES, CONFIDENCE)
HALF = 0.51 / 250


def told(scores: Tensor, *, shares: bool = False) -> tuple[Tensor, Tensor]:
    """Probabilities and confidence, as bytes."""
    found = certainty(scores, BOTH, shares=shares, pinned=False)
    return found[PROBABILITIES], found[CONFIDENCE]


def random_scores(classes: int, height: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(classes, height, width, generator=generator) * 4


sizes = st.integers(1, 70)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 7), sizes, sizes, st.integers(0, 99), st.sampled_from(["fp32", "bf16"]))
def test_they_are_those_of_a_softmax_in_float64(
    classes: int, height: int, width: int, seed: int, precision: str
) -> None:
    scores = random_scores(classes, height, width, seed)
    if precision == "bf16":
        scores = scores.bfloat16()
    expected = scores.double().softmax(dim=0)
    best = torch.cat([expected, torch.zeros(1, height, width)]).sort(dim=0, descending=True).values
    probabilities, confidence = told(scores)
    assert (probabilities / 250 - expected).abs().max() <= HALF
    assert (confidence[0] / 250 - best[0]).abs().max() <= HALF
    assert (confidence[1] / 250 - (best[0] - best[1])).abs().max() <= HALF


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(30, 90), st.integers(30, 90), st.data())
def test_a_pixel_has_the_same_in_every_window(
    classes: int, height: int, width: int, data: st.DataObject
) -> None:
    scores = random_scores(classes, height, width, 0)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    part = (slice(None), slice(top, None), slice(left, data.draw(st.integers(left + 1, width))))
    for whole, cut in zip(told(scores), told(scores[part]), strict=True):
        assert torch.equal(whole[part], cut)


@pytest.mark.parametrize("at_once", [1, 700, 10**7])
def test_strips_change_nothing(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = random_scores(4, 57, 83, 1)
    expected = told(scores)
    monkeypatch.setattr(certainties, "_AT_ONCE", at_once)
    for found, whole in zip(told(scores), expected, strict=True):
        assert torch.equal(found, whole)


def test_the_greatest_probability_is_that_of_the_label() -> None:
    pixels = scene()
    valid = np.ones(pixels.shape[1:], np.bool_)
    predictor = TorchPredictor(net(), card(), STRIDE, Engine(), shares=False)
    found = predictor.layers(pixels, valid, everything(pixels), ("classes", *BOTH))
    values = np.array([info.value for info in card().classes])
    channel = (found["classes"][None] == values[:, None, None]).argmax(axis=0)
    chosen = np.take_along_axis(found[PROBABILITIES], channel[None], axis=0)[0]
    assert np.array_equal(chosen, found[CONFIDENCE][0])
    assert np.array_equal(found["classes"], predictor(pixels, valid, everything(pixels)))
    assert set(predictor.layers(pixels, valid, everything(pixels), [CONFIDENCE])) == {CONFIDENCE}


def test_a_layer_that_nobody_knows_is_named() -> None:
    pixels = scene()
    predictor = TorchPredictor(net(), card(), STRIDE, Engine())
    with pytest.raises(ValueError, match=r"\['doubt'\]"):
        predictor.layers(pixels, pixels[0] > 0, everything(pixels), ["classes", "doubt"])


def test_one_class_is_certain() -> None:
    probabilities, confidence = told(random_scores(1, 3, 4, 0))
    assert (probabilities == 250).all()
    assert (confidence == 250).all()


def test_scores_that_are_no_numbers_have_no_probability() -> None:
    scores = torch.tensor([[[1.0, float("nan"), float("-inf")]], [[0.0, 0.0, 3.0]]])
    probabilities, confidence = told(scores)
    assert probabilities[:, 0, 1].tolist() == [255, 255]
    assert confidence[:, 0, 1].tolist() == [255, 255]
    assert probabilities[:, 0, 2].tolist() == [0, 250]


def test_probabilities_stay_what_they_are() -> None:
    shares = random_scores(4, 9, 11, 3).softmax(dim=0)
    probabilities, _ = told(shares, shares=True)
    assert (probabilities / 250 - shares).abs().max() <= HALF


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (net(), False),
        (nn.Sequential(net(), nn.Softmax(dim=1)), True),
        (nn.Sequential(net(), nn.Softmax(dim=1), nn.Upsample(scale_factor=2.0)), True),
        (nn.Sequential(net(), nn.LogSoftmax(dim=1)), False),
        (nn.Sequential(net(), nn.Sigmoid()), True),
        (nn.Sequential(net(), nn.Softmax(dim=1), nn.Conv2d(4, 4, 1)), False),
        (Blended(nn.Sequential(net(), nn.Softmax(dim=1)), 8), False),
    ],
)
def test_what_a_network_gives_is_told_by_its_last_operation(
    network: nn.Module, expected: bool
) -> None:
    assert gives_shares(network, 3, 64) == expected


class Unfollowed(nn.Module):
    """What the network gives, by a way that depends on numbers: it can't be traced."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """The network's own scores."""
        scores: Tensor = self.network(image)
        return scores if float(image.sum()) > 1e9 else scores.clone()


@pytest.mark.parametrize("last", [nn.Softmax(dim=1), nn.Sigmoid(), nn.Identity()])
def test_a_network_that_cannot_be_followed_is_tried(last: nn.Module) -> None:
    network = Unfollowed(nn.Sequential(net(), last))
    with pytest.raises(ExportError):
        export(network, 3, 64, 64)
    assert gives_shares(network, 3, STRIDE) == (not isinstance(last, nn.Identity))


def test_networks_are_traced_one_at_a_time() -> None:
    networks = [nn.Sequential(net(), last) for last in (nn.Softmax(dim=1), nn.Identity())] * 2
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda network: gives_shares(network, 3, STRIDE), networks)
        assert list(found) == [True, False, True, False]


def test_probabilities_need_to_know_what_scores_are() -> None:
    pixels = scene()
    predictor = TorchPredictor(net(), card(), STRIDE, Engine())
    with pytest.raises(ValueError, match="told `shares`"):
        predictor.layers(pixels, pixels[0] > 0, everything(pixels), [CONFIDENCE])


def test_a_softmax_is_not_taken_twice() -> None:
    pixels, plain = scene(), net()
    valid = np.ones(pixels.shape[1:], np.bool_)
    shared = nn.Sequential(plain, nn.Softmax(dim=1))
    first, second = (
        TorchPredictor(
            network, card(), STRIDE, Engine(), shares=gives_shares(network, 3, STRIDE)
        ).layers(pixels, valid, everything(pixels), BOTH)
        for network in (plain, shared)
    )
    for name in BOTH:
        # Torch's softmax has other last bits, which may round to the next step.
        assert np.abs(first[name].astype(int) - second[name]).max() <= 1
    # Of a second softmax over four classes no more than 0.4 would be left.
    assert first[PROBABILITIES].max() > 130
