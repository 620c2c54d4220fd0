"""Labels of the predictor are those of one plain pass in fp32 over the whole image."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import DTypeLike, NDArray
from torch import Tensor, nn

from segpipe.models import engine as engines
from segpipe.models.card import ClassInfo, ModelCard
from segpipe.models.choice import choose_engine
from segpipe.models.engine import Engine
from segpipe.models.errors import DeviceError, ModelError
from segpipe.models.folding import fold
from segpipe.models.predictor import TorchPredictor

VALUES = (7, 0, 254, 3)
STRIDE = 4
Pixels = NDArray[np.generic]
Mask = NDArray[np.bool_]

needs_bf16 = pytest.mark.skipif(not engines.is_native("bf16", "cpu"), reason="this CPU has no bf16")


class Net(nn.Module):
    """Two poolings, a skip and batch norms with statistics of their own."""

    def __init__(self, bands: int = 3, classes: int = len(VALUES)) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(bands, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Conv2d(8, 16, 5, 4, 2, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.up = nn.ConvTranspose2d(16, 8, 4, 4)
        self.last = nn.Conv2d(8, classes, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.first(images)
        coarse = self.norm(self.second(fine)).relu()
        scores: Tensor = self.last(fine + self.up(coarse))
        return scores


def net(bands: int = 3) -> Net:
    torch.manual_seed(0)
    network = Net(bands).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            for tensor in (module.bias, module.running_mean):
                assert tensor is not None
                nn.init.normal_(tensor, std=0.3)
    return network


def card(bands: int = 3, mean: float = 90.0, std: float = 35.0) -> ModelCard:
    return ModelCard(
        name="net",
        bands=tuple(f"b{index}" for index in range(bands)),
        classes=tuple(ClassInfo(value, f"c{value}", "#123456") for value in VALUES),
        mean=tuple(mean + index for index in range(bands)),
        std=tuple(std + 3 * index for index in range(bands)),
    )


def whole(network: nn.Module, card: ModelCard, pixels: Pixels, valid: Mask) -> NDArray[np.uint8]:
    """The reference of the law, written out."""
    image = torch.from_numpy(pixels.astype(np.float32))
    for band, (mean, std) in enumerate(zip(card.mean, card.std, strict=True)):
        image[band] = (image[band] - mean) / std
    image[:, torch.from_numpy(~valid)] = 0
    _, height, width = image.shape
    padded = torch.zeros(1, len(image), -(-height // 4) * 4, -(-width // 4) * 4)
    padded[0, :, :height, :width] = image
    with torch.no_grad():
        channels = network(padded)[0].argmax(0)[:height, :width]
    values = np.array([info.value for info in card.classes], np.uint8)
    labels: NDArray[np.uint8] = values[channels.numpy()]
    return labels


def everything(pixels: Pixels) -> tuple[slice, slice]:
    return slice(0, pixels.shape[1]), slice(0, pixels.shape[2])


def scene(dtype: DTypeLike = np.uint8, height: int = 45, width: int = 67, bands: int = 3) -> Pixels:
    top = 127 if np.dtype(dtype) == np.int8 else 200
    return np.random.default_rng(5).integers(0, top, (bands, height, width)).astype(dtype)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8", ">u2", ">f4"])
def test_every_dtype_gives_the_labels_of_the_whole_image(dtype: str) -> None:
    pixels = scene(dtype)
    pixels.flags.writeable = False
    valid = np.random.default_rng(1).random(pixels.shape[1:]) > 0.1
    before = pixels.copy()
    labels = TorchPredictor(net(), card(), STRIDE, Engine())(pixels, valid, everything(pixels))
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, whole(net(), card(), pixels, valid))
    np.testing.assert_array_equal(pixels, before)
    assert len(np.unique(labels)) > 2


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32, np.float64])
def test_large_numbers_keep_the_digits_that_float32_has_no_room_for(dtype: DTypeLike) -> None:
    small = scene(np.uint16)
    base = 60_000 if dtype is np.uint16 else 2_000_000_000
    valid = np.ones(small.shape[1:], bool)
    labels = TorchPredictor(net(), card(mean=90.0 + base), STRIDE, Engine())(
        (small.astype(np.int64) + base).astype(dtype), valid, everything(small)
    )
    expected = whole(net(), card(), small, valid)
    np.testing.assert_array_equal(labels, expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_any_size_and_any_core(height: int, width: int, data: st.DataObject) -> None:
    pixels = scene(np.uint8, height, width)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = (
        data.draw(st.integers(top + 1, height)),
        data.draw(st.integers(left + 1, width)),
    )
    valid = np.random.default_rng(height).random((height, width)) > 0.2
    core = slice(top, bottom), slice(left, right)
    labels = TorchPredictor(net(), card(), STRIDE, Engine())(pixels, valid, core)
    np.testing.assert_array_equal(labels, whole(net(), card(), pixels, valid)[core])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_whole_numbers_that_a_tiny_deviation_makes_infinite_are_invalid(dtype: DTypeLike) -> None:
    pixels, tiny = scene(dtype), replace(card(), std=(1e-40,) * 3)
    valid = np.ones(pixels.shape[1:], bool)
    labels = TorchPredictor(net(), tiny, STRIDE, Engine())(pixels, valid, everything(pixels))
    expected = whole(net(), card(), pixels, ~valid)
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_not_finite_is_invalid_and_poisons_no_neighbour(
    number: float, precision: engines.Precision
) -> None:
    clean = scene(np.float64)
    spoiled, valid = clean.copy(), np.ones(clean.shape[1:], bool)
    spoiled[1, 20:23, 30] = number
    valid[20:23, 30] = False
    predictor = TorchPredictor(net(), card(), STRIDE, Engine(precision=precision))
    expected = predictor(clean, valid, everything(clean))
    for mask in (valid, np.ones_like(valid)):
        np.testing.assert_array_equal(predictor(spoiled, mask, everything(clean)), expected)


class Fixed(nn.Module):
    """Scores that are given, whatever the image."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.register_buffer("scores", scores)

    def forward(self, images: Tensor) -> Tensor:
        return self.scores  # type: ignore[return-value]


def test_the_first_of_equal_channels_wins() -> None:
    scores = torch.from_numpy(np.random.default_rng(2).integers(0, 3, (1, 4, 64, 64))).float()
    pixels = scene(height=64, width=64)
    labels = TorchPredictor(Fixed(scores), card(), STRIDE, Engine())(
        pixels, np.ones((64, 64), bool), everything(pixels)
    )
    np.testing.assert_array_equal(labels, np.array(VALUES)[scores[0].numpy().argmax(0)])


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_share_a_predictor_and_get_the_same_labels(
    precision: engines.Precision, threads: int
) -> None:
    pixels = scene(height=96, width=128)
    valid = np.ones(pixels.shape[1:], bool)
    seen: list[int] = []

    class Counting(Net):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            return super().forward(images)

    network = Counting()
    network.load_state_dict(net().state_dict())
    predictor = TorchPredictor(
        network.eval(), card(), STRIDE, Engine(precision=precision, threads=threads)
    )
    seen.clear()
    cores = [(slice(start, start + 48), slice(32, 96)) for start in range(0, 48, 6)]
    before = torch.get_num_threads()
    try:
        expected = predictor(pixels, valid, everything(pixels))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(torch.set_num_threads, [1, 2, 1, 2]))
            found = list(pool.map(lambda core: predictor(pixels, valid, core), cores))
    finally:
        torch.set_num_threads(before)
    for core, labels in zip(cores, found, strict=True):
        np.testing.assert_array_equal(labels, expected[core])
    assert set(seen) == {threads}


def test_the_network_is_left_as_it_was() -> None:
    network = net().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    TorchPredictor(network, card(), STRIDE, Engine(precision="bf16"))
    assert network.training
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_a_pickled_predictor_gives_the_same_labels(precision: engines.Precision) -> None:
    pixels, valid = scene(), np.ones((45, 67), bool)
    predictor = TorchPredictor(net(), card(), STRIDE, Engine(precision=precision))
    again = pickle.loads(pickle.dumps(predictor))
    assert again.engine == predictor.engine
    np.testing.assert_array_equal(
        again(pixels, valid, everything(pixels)), predictor(pixels, valid, everything(pixels))
    )


class Raising(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, images: Tensor) -> Tensor:
        raise self.error


class Greedy(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.empty(1 << 58)


@pytest.mark.parametrize(
    "network",
    [
        Greedy(),
        Raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")),
        Raising(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")),
    ],
)
def test_no_memory_is_a_memory_error(network: nn.Module) -> None:
    predictor = TorchPredictor(network, card(), STRIDE, Engine())
    with pytest.raises(MemoryError) as caught:
        predictor(scene(), np.ones((45, 67), bool), (slice(0, 1), slice(0, 1)))
    # Else the tensors of the failed pass live as long as the error.
    assert caught.value.__context__ is None


def test_other_errors_stay_what_they_are() -> None:
    predictor = TorchPredictor(Raising(RuntimeError("of another kind")), card(), STRIDE, Engine())
    with pytest.raises(RuntimeError, match="another kind"):
        predictor(scene(), np.ones((45, 67), bool), (slice(0, 1), slice(0, 1)))


@pytest.mark.parametrize("shape", [(1, 3, 48, 68), (1, 4, 24, 34)])
def test_scores_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    predictor = TorchPredictor(Fixed(torch.zeros(shape)), card(), STRIDE, Engine())
    with pytest.raises(ModelError, match=r"\(1, 4, 48, 68\) were expected"):
        predictor(scene(), np.ones((45, 67), bool), (slice(0, 1), slice(0, 1)))


@pytest.mark.parametrize(("bands", "height"), [(1, 45), (3, 44)])
def test_pixels_that_do_not_fit_the_card_are_refused(bands: int, height: int) -> None:
    predictor = TorchPredictor(net(), card(), STRIDE, Engine())
    with pytest.raises(ValueError, match="takes 3 bands"):
        predictor(scene(bands=bands), np.ones((height, 67), bool), (slice(0, 1), slice(0, 1)))


class Fragile(nn.Module):
    """Tells even from odd pixels by a digit that bf16 has not got."""

    def forward(self, images: Tensor) -> Tensor:
        level = images[:, :1] + 1024
        return torch.cat([level, torch.full_like(level, 1025.5)], dim=1)


def chosen(network: nn.Module, card: ModelCard, valid: Mask | None = None) -> Engine:
    pixels = scene(np.uint8, 64, 64, len(card.bands)) % 4
    mask = np.ones((64, 64), bool) if valid is None else valid
    return choose_engine(network, card, STRIDE, pixels, mask, device="cpu", threads=1)


@needs_bf16
def test_bf16_is_chosen_where_it_agrees_with_fp32_and_not_elsewhere() -> None:
    two = ModelCard(
        "two", ("b",), tuple(ClassInfo(v, str(v), "#000000") for v in (1, 2)), (0.0,), (1.0,)
    )
    fragile = chosen(Fragile(), two)
    assert fragile.precision == "fp32"
    assert fragile.agreement is not None
    assert fragile.agreement < 0.9
    assert chosen(Fragile(), two, np.zeros((64, 64), bool)) == Engine(threads=1)
    steady = ModelCard("steady", ("b",), two.classes, (-1000.0,), (1.0,))
    assert chosen(Fragile(), steady) == Engine(precision="bf16", threads=1, agreement=1.0)
    assert chosen(net(), card()).agreement is not None


def test_without_hardware_for_it_bf16_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_cpu_features", set)
    assert chosen(net(), card()) == Engine(threads=1)
    pixels, valid = scene(), np.ones((45, 67), bool)
    with pytest.raises(DeviceError, match="no fp16"):
        choose_engine(net(), card(), STRIDE, pixels, valid, device="cpu", precision="fp16")
    asked = choose_engine(net(), card(), STRIDE, pixels, valid, device="cpu", precision="bf16")
    assert (asked.precision, asked.agreement) == ("bf16", None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "tpu"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(DeviceError, match=f"'{device}' isn't there"):
        choose_engine(net(), card(), STRIDE, scene(), np.ones((45, 67), bool), device=device)


@pytest.mark.parametrize(("precision", "threads"), [("fp64", 1), ("fp32", 0)])
def test_engines_that_cannot_be_are_refused(precision: str, threads: int) -> None:
    with pytest.raises(DeviceError, match="got"):
        Engine(precision=precision, threads=threads)  # type: ignore[arg-type]


def test_threads_are_counted_alike_where_dask_has_set_one(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = engines.default_threads()
    code = "from segpipe.models.engine import default_threads; print(default_threads())"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) == expected >= 1


def test_an_engine_is_json() -> None:
    assert Engine(agreement=0.9995).to_dict() == {
        "name": "torch",
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "agreement": 0.9995,
        "version": "",
    }


def test_folding_keeps_the_scores_and_leaves_no_batch_norm() -> None:
    images = torch.randn(1, 3, 32, 32)
    folded = fold(net(), images)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        torch.testing.assert_close(folded(images), net()(images), rtol=1e-5, atol=1e-5)


class Twisted(Net):
    """Reads a convolution twice, runs a norm twice, and a norm without a convolution."""

    def forward(self, images: Tensor) -> Tensor:
        fine = self.first[1](self.first[1](self.first[0](images)))
        raw = self.second(fine)
        scores: Tensor = self.last(fine + self.up(self.norm(raw) + raw))
        return scores


def test_folding_leaves_alone_what_others_read() -> None:
    network = Twisted()
    network.load_state_dict(net().state_dict())
    images = torch.randn(1, 3, 32, 32)
    folded = fold(network.eval(), images)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images), rtol=0, atol=0)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_gives_the_cpus_labels_but_for_near_ties(
    dtype: str, precision: engines.Precision
) -> None:
    pixels = scene(dtype, 200, 300)
    valid = np.random.default_rng(1).random(pixels.shape[1:]) > 0.1
    predictor = TorchPredictor(net(), card(), STRIDE, Engine(device="cuda", precision=precision))
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(predictor, pixels, valid, everything(pixels)) for _ in range(8)]
        found = [call.result() for call in calls]
    expected = whole(net(), card(), pixels, valid)
    for labels in found:
        np.testing.assert_array_equal(labels, found[0])
        assert np.mean(labels == expected) > (0.9999 if precision == "fp32" else 0.97)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_full_gpu_is_a_memory_error_and_the_next_tile_passes() -> None:
    class Wide(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            if images.shape[-1] > 64:
                return torch.empty(1 << 44, device=images.device)
            return images[:, :1].repeat(1, 4, 1, 1)

    predictor = TorchPredictor(Wide(), card(), STRIDE, Engine(device="cuda"))
    with pytest.raises(MemoryError):
        predictor(scene(width=128), np.ones((45, 128), bool), (slice(0, 45), slice(0, 128)))
    small = predictor(scene(width=64), np.ones((45, 64), bool), (slice(0, 45), slice(0, 64)))
    assert (small == VALUES[0]).all()
