"""A blend over windows gives the same scores for the whole image and for its tiles."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.blend import Blended, as_tiled
from segpipe.models.card import ClassInfo, Edges, ModelCard
from segpipe.models.engine import Engine
from segpipe.models.errors import ModelError
from segpipe.models.footprint import Footprint
from segpipe.models.predictor import TorchPredictor

CLASSES = 3
WINDOW = 16
STEP = WINDOW // 2


class Pooling(nn.Module):
    """A network whose scores depend on the mean of all that it is shown."""

    def __init__(self, bands: int = 2) -> None:
        super().__init__()
        self.local = nn.Conv2d(bands, 6, 3, padding=1)
        self.all = nn.Conv2d(6, 6, 1)
        self.head = nn.Conv2d(6, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.local(images).relu()
        scores: Tensor = self.head(fine * self.all(fine.mean((2, 3), keepdim=True)).sigmoid())
        return 4 * scores


def pooling() -> Pooling:
    torch.manual_seed(3)
    return Pooling().eval()


def image(height: int, width: int) -> Tensor:
    return torch.randn(1, 2, height, width, generator=torch.Generator().manual_seed(7))


def card(window: int = WINDOW, overlap: int | None = None, edges: Edges = "zeros") -> ModelCard:
    classes = tuple(ClassInfo(value + 1, f"c{value}", "#123456") for value in range(CLASSES))
    bands = ("a", "b")
    return ModelCard("pooling", bands, classes, (0.0, 0.0), (1.0, 1.0), window, overlap, edges)


def scores(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = network(images)
    return result


def by_hand(network: nn.Module, picture: Tensor) -> Tensor:
    """Blended probabilities, pixel by pixel and window by window, in float64."""
    height, width = (max(WINDOW, -(-side // STEP) * STEP) for side in picture.shape[2:])
    padded = torch.zeros(1, 2, height, width)
    padded[..., : picture.shape[2], : picture.shape[3]] = picture
    hann = np.sin(np.pi * (np.arange(WINDOW) + 0.5) / WINDOW) ** 2
    total, weights = np.zeros((CLASSES, height, width)), np.zeros((height, width))
    rows, columns = range(0, height - STEP, STEP), range(0, width - STEP, STEP)
    for y, x in itertools.product(rows, columns):
        window = scores(network, padded[..., y : y + WINDOW, x : x + WINDOW])
        odds = window[0].double().softmax(0).numpy()
        total[:, y : y + WINDOW, x : x + WINDOW] += odds * hann[:, None] * hann
        weights[y : y + WINDOW, x : x + WINDOW] += hann[:, None] * hann
    return torch.from_numpy(total / weights)[None, :, : picture.shape[2], : picture.shape[3]]


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (1, 50), (33, 7), (8, 8), (3, 2)])
def test_probabilities_are_the_weighted_mean_of_all_windows(size: tuple[int, int]) -> None:
    found = scores(Blended(pooling(), WINDOW), image(*size))
    torch.testing.assert_close(
        found.exp().double(), by_hand(pooling(), image(*size)), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(found.exp(), found.softmax(1), rtol=1e-5, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.one_of(st.none(), st.integers(2, STEP)),
    st.sampled_from(["zeros", "mirror"]),
    st.data(),
)
def test_a_tile_has_the_scores_of_the_whole_image(
    height: int, width: int, overlap: int | None, edges: Edges, data: st.DataObject
) -> None:
    told = card(WINDOW, overlap, edges)
    tiled = as_tiled(pooling(), told, Footprint(4, 9, 9, 9, 9, exact=False))
    whole = image(height, width)

    def axis(length: int, before: int, after: int) -> tuple[slice, slice]:
        start = data.draw(st.integers(0, length - 1))
        end = data.draw(st.integers(start + 1, length))
        low = max(0, (start - before) // tiled.stride * tiled.stride)
        high = min(length, -(-(end + after) // tiled.stride) * tiled.stride)
        return slice(low, high), slice(start, end)

    rows, core_rows = axis(height, tiled.top, tiled.bottom)
    columns, core_columns = axis(width, tiled.left, tiled.right)
    inner = (
        slice(core_rows.start - rows.start, core_rows.stop - rows.start),
        slice(core_columns.start - columns.start, core_columns.stop - columns.start),
    )
    part = scores(tiled.network, whole[..., rows, columns])[(..., *inner)]
    assert torch.equal(part, scores(tiled.network, whole)[..., core_rows, core_columns])

    predictor = TorchPredictor(tiled.network, told, tiled.stride, Engine())
    pixels = whole[0].numpy()
    valid = np.random.default_rng(height).random((height, width)) > 0.1
    labels = predictor(pixels[:, rows, columns], valid[rows, columns], inner)
    expected = predictor(pixels, valid, (slice(0, height), slice(0, width)))
    np.testing.assert_array_equal(labels, expected[core_rows, core_columns])


@pytest.mark.parametrize("size", [(16, 16), (40, 53), (1, 50), (3, 2), (90, 7)])
def test_mirrored_windows_have_the_weights_of_scipys_tukey(size: tuple[int, int]) -> None:
    overlap, picture = 5, image(*size)
    step, (height, width) = WINDOW - overlap, size
    windows = pytest.importorskip("scipy.signal.windows")
    tukey = windows.tukey(WINDOW, 2 * (overlap - 1) / (WINDOW - 1))
    before, after = overlap - 1, 2 * WINDOW
    pads = ((0, 0), (0, 0), (before, after), (before, after))
    padded = torch.from_numpy(np.pad(picture.numpy(), pads, mode="symmetric"))
    total = np.zeros((CLASSES, *padded.shape[2:]))
    for y in range(0, height + before, step):
        for x in range(0, width + before, step):
            odds = scores(pooling(), padded[..., y : y + WINDOW, x : x + WINDOW]).softmax(1)
            total[:, y : y + WINDOW, x : x + WINDOW] += odds[0].numpy() * np.outer(tukey, tukey)
    expected = torch.from_numpy(total)[:, before : before + height, before : before + width]
    found = scores(Blended(pooling(), WINDOW, overlap, "mirror"), picture)[0]
    torch.testing.assert_close(found.exp().double(), expected, rtol=1e-5, atol=1e-6)


def test_a_smaller_margin_or_another_start_gives_other_scores() -> None:
    blended, picture = Blended(pooling(), WINDOW), image(64, 64)
    whole = scores(blended, picture)
    assert torch.equal(scores(blended, picture[..., 16:])[..., 8:], whole[..., 24:])
    assert not torch.equal(scores(blended, picture[..., 24:])[..., 0:8], whole[..., 24:32])
    assert not torch.equal(scores(blended, picture[..., 12:])[..., 12:], whole[..., 24:])


def test_images_of_a_batch_are_blended_one_by_one() -> None:
    blended, first, second = Blended(pooling(), WINDOW), image(30, 20), image(30, 20).flip(2)
    both = scores(blended, torch.cat([first, second]))
    assert torch.equal(both, torch.cat([scores(blended, first), scores(blended, second)]))


def test_a_window_with_larger_scores_has_no_louder_voice() -> None:
    class Shouting(nn.Module):
        """Adds the window's sum to all scores, which changes no probability."""

        def forward(self, images: Tensor) -> Tensor:
            return F.pad(images, (0, 0, 0, 0, 0, 1)) + images.sum((1, 2, 3), keepdim=True)

    class Calm(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return F.pad(images, (0, 0, 0, 0, 0, 1))

    loud, calm = (
        scores(Blended(network, WINDOW), image(40, 40)) for network in (Shouting(), Calm())
    )
    torch.testing.assert_close(loud, calm, rtol=1e-4, atol=1e-4)


def test_an_exact_network_is_left_alone() -> None:
    network = pooling()
    tiled = as_tiled(network, card(), Footprint(8, 1, 2, 3, 4, exact=True))
    assert tiled.network is network
    assert (tiled.stride, tiled.top, tiled.left, tiled.bottom, tiled.right) == (8, 1, 2, 3, 4)


@pytest.mark.parametrize(("trained", "stride", "step"), [(16, 1, 8), (17, 1, 9), (100, 32, 64)])
def test_windows_have_the_size_of_training_rounded_up(trained: int, stride: int, step: int) -> None:
    tiled = as_tiled(pooling(), card(trained), Footprint(stride, 0, 0, 0, 0, exact=False))
    assert isinstance(tiled.network, Blended)
    assert tiled.network.window == 2 * step
    assert (tiled.stride, tiled.top, tiled.left) == (step, step, step)
    assert (tiled.bottom, tiled.right) == (step, step)


@pytest.mark.parametrize(("overlap", "edges"), [(0, "zeros"), (9, "zeros"), (1, "mirror")])
def test_windows_that_overlap_too_little_or_too_much_are_refused(
    overlap: int, edges: Edges
) -> None:
    with pytest.raises(ValueError, match="overlap by half"):
        Blended(pooling(), WINDOW, overlap, edges)


@pytest.mark.parametrize("overlap", [1, 129, 2.0])
def test_a_card_refuses_such_an_overlap(overlap: int) -> None:
    with pytest.raises(ModelError, match="overlap is from 2 to 128 pixels"):
        card(256, overlap)
    with pytest.raises(ModelError, match="edges are zeros or mirror, got 'round'"):
        card(256, None, "round")  # type: ignore[arg-type]


@pytest.mark.parametrize("window", [0, 15])
def test_windows_that_cannot_be_halved_are_refused(window: int) -> None:
    with pytest.raises(ValueError, match="even and positive"):
        Blended(pooling(), window)
