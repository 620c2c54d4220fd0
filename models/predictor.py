"""From raw pixels to labels on a device, in a single pass."""

import copy
import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.architectures.trimming import Edges, TrimmedNetwork
from segpipe.models.bandwidth import device_seconds
from segpipe.models.blend import Blended
from segpipe.models.card import ModelCard
from segpipe.models.certainty import CONFIDENCE, PROBABILITIES, certainty
from segpipe.models.converted import SlidingWindow
from segpipe.models.engine import Engine, Precision, find_device
from segpipe.models.errors import ModelError
from segpipe.models.folding import fold
from segpipe.models.formats import onnx_session
from segpipe.models.heap import Kept
from segpipe.models.openvino_session import NAME as OPENVINO
from segpipe.models.openvino_session import Session, on_openvino
from segpipe.models.pointwise import settle
from segpipe.models.work import Side, pixels_computed
from segpipe.models.workspace import Meter, Workspace

__all__ = ["Engine", "Precision", "TorchPredictor"]

CLASSES = "classes"
"""Name of the labels among what a predictor gives."""

ENGINES = ("auto", "torch", onnx_session.NAME, OPENVINO)
"""What a user may ask for."""

SAMPLE = 64
"""Least side in pixels of the zeros by which a network shows which layers follow each other."""

_METERED = 256
"""Least side in pixels of the window on which memory is counted."""

_CORNER = 96
"""Side in pixels of the part that is wanted where the memory of margins is counted: as little as a
decoder still trims to."""

STRIP_PIXELS = 1 << 20
"""Pixels whose arg-max is taken at once: their 64-bit channel numbers take 8 MB."""


class TorchPredictor:
    """Turns the pixels of a read window into the class values of its core, (row, column).

    Bands are fed as `(x - mean) / std`; invalid pixels, and all that isn't finite, as 0 in every
    band; zeros follow at the bottom and the right up to a multiple of `stride`. Where channels tie,
    the first one wins. Threads may share a predictor: the network runs for one of them at a time,
    with the engine's number of threads. `network` itself is left as it is. `shares` is what
    `gives_shares` says of it; it is needed for probabilities and confidence alone. Predictors that
    were given one lock, `turn`, run one at a time.

    Raises:
        DeviceError: the engine's device isn't there.
        MemoryError, on a call: the device can't hold these pixels; a smaller window may pass.
        ModelError, on a call: the network's scores aren't one channel a class for every pixel.
        ValueError, on a call: bands, mask and card don't fit together.
    """

    def __init__(
        self,
        network: nn.Module,
        card: ModelCard,
        stride: int,
        engine: Engine,
        shares: bool | None = None,
        turn: AbstractContextManager[bool] | None = None,
    ) -> None:
        self._device = torch.device(find_device(engine.tensors_on))
        # A blend completes its windows by itself, and may mirror the image's edges in them.
        self._stride = 1 if isinstance(network, Blended) else stride
        self._engine, self._shares = engine, shares
        # Contiguous fp32 has the bits of a plain forward pass; channels_last is faster, but moves
        # a label in ten million.
        exact = engine.dtype is torch.float32 and self._device.type == "cpu"
        self._format = torch.contiguous_format if exact else torch.channels_last
        self._normalise_by(card)
        self._network = self._prepared(network)
        values = [info.value for info in card.classes]
        self._values = torch.tensor(values, dtype=torch.uint8, device=self._device)
        self._lock: AbstractContextManager[bool] = threading.Lock() if turn is None else turn
        self._kept = Kept()
        cuda = self._device.type == "cuda"
        self._stream = torch.cuda.Stream(self._device) if cuda else None  # type: ignore[no-untyped-call]
        if self._stream is not None:
            # Weights and statistics came on the default stream.
            self._stream.wait_stream(torch.cuda.default_stream(self._device))

    def __reduce__(
        self,
    ) -> tuple[type["TorchPredictor"], tuple[nn.Module, ModelCard, int, Engine, bool | None]]:
        made_of = (self._network, self._card, self._stride, self._engine, self._shares)
        return TorchPredictor, made_of

    @property
    def engine(self) -> Engine:
        """How the labels are computed."""
        return self._engine

    @property
    def trims(self) -> bool:
        """Whether less is computed for pixels of a window that aren't wanted."""
        if isinstance(self._network, Session):
            return self._network.trims
        return isinstance(self._network, TrimmedNetwork)

    def for_card(self, card: ModelCard) -> "TorchPredictor":
        """The same weights for numbers of another mean and deviation."""
        if card == self._card:
            return self
        other = object.__new__(TorchPredictor)
        other.__dict__ |= self.__dict__
        other._normalise_by(card)
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.default_stream(self._device))
        return other

    def __call__(
        self, pixels: NDArray[np.generic], valid: NDArray[np.bool_], core: tuple[slice, slice]
    ) -> NDArray[np.uint8]:
        """Class values of `core`, (row, column).

        Args:
            pixels: the scene's own numbers, (band, row, column), in the card's order of bands.
            valid: True where every band holds a measurement, (row, column).
            core: rows and columns of `pixels` that are wanted.
        """
        return self.layers(pixels, valid, core, (CLASSES,))[CLASSES]

    def layers(
        self,
        pixels: NDArray[np.generic],
        valid: NDArray[np.bool_],
        core: tuple[slice, slice],
        wanted: Collection[str],
    ) -> dict[str, NDArray[np.uint8]]:
        """The layers of `core` that are wanted, by name, from one pass.

        `classes` are the labels, (row, column). `probabilities` are those of the card's classes in
        its order, (class, row, column), and `confidence` is the greatest of them, then its lead
        over the second one, (2, row, column): both as round(250 p), 255 where scores aren't finite.
        Invalid pixels hold what the network says of them.

        Args:
            pixels, valid, core: as for a call.
            wanted: names of layers.

        Raises:
            ValueError: no layer has this name, or nobody said whether scores are shares.
        """
        bands = len(self._card.bands)
        if pixels.ndim != 3 or len(pixels) != bands or valid.shape != pixels.shape[1:]:
            raise ValueError(
                f"{self._card.name} takes {bands} bands and a mask of their size, got pixels of "
                f"shape {pixels.shape} and a mask of shape {valid.shape}"
            )
        if unknown := set(wanted) - {CLASSES, PROBABILITIES, CONFIDENCE}:
            raise ValueError(f"there are no layers {sorted(unknown)}")
        if self._shares is None and set(wanted) - {CLASSES}:
            raise ValueError("probabilities need a predictor that was told `shares`")
        try:
            return self._predict(pixels, valid, core, wanted)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            found = str(error).partition("\n")[0]
        # Not before here are the tensors of the failed pass free to go.
        torch.cuda.empty_cache()
        raise MemoryError(found)

    def forward_seconds(self, height: int, width: int, repeats: int = 3) -> float:
        """Seconds of a bare forward pass over numbers that are on the device, the mean of some."""
        bands = len(self._card.bands)
        images = torch.randn(1, bands, height, width, device=self._device)
        images = images.to(self._engine.dtype).contiguous(memory_format=self._format)
        with self._lock, torch.inference_mode(), _settings(self._engine):
            start = 0.0
            for number in range(repeats + 1):
                if number == 1:  # the first pass only warms up
                    start = time.perf_counter()
                self._scores(images)
                if self._stream is not None:
                    torch.cuda.synchronize(self._device)
        return (time.perf_counter() - start) / repeats

    def busy_seconds(
        self, pixels: NDArray[np.generic], valid: NDArray[np.bool_], repeats: int = 3
    ) -> float:
        """Seconds that a CUDA device is at work for these pixels, by its own events.

        From fetching them to giving the labels back; the fastest of some times.
        """
        raw, usable = self._staged(pixels), self._staged(valid)

        def work() -> None:
            self._labels(self._scores(self._normalised(raw, usable))[0])

        with (
            self._lock,
            torch.inference_mode(),
            _settings(self._engine),
            torch.cuda.stream(self._stream),
        ):
            work()  # warms up
            return min(device_seconds(self._device, work) for _ in range(repeats))

    def pixels_computed(self, windows: Iterable[tuple[tuple[Side, Side], int]]) -> float:
        """Pixels whose plain pass takes as many multiplications as all windows do.

        Args:
            windows: rows and columns of each window, and how many there are.
        """
        network = self._network
        if isinstance(network, Session) and network.trims:
            network = network.network
        return pixels_computed(network, len(self._card.bands), self._stride, windows)

    def workspace(self, dtype: str, wanted: Collection[str] = (CLASSES,)) -> Workspace:
        """Bytes of all tensors in `layers` at their most, for pixels of this dtype.

        They are counted in a pass over a small window, and the same each time. What another library
        than torch takes isn't seen.
        """
        if not isinstance(self._network, Blended | SlidingWindow):
            side = -(-_METERED // self._stride) * self._stride
            whole = self._metered(side, dtype, wanted, side) / side**2
            part = self._metered(side, dtype, wanted, _CORNER) / side**2 if self.trims else whole
            return Workspace(0.0, whole, min(part, whole))
        # These compute windows of their own, one by one, whatever the size of the image.
        side = self._network.window if isinstance(self._network, Blended) else _METERED
        small, large = ((n**2, self._metered(n, dtype, wanted, n)) for n in (side, 2 * side))
        return Workspace.through(small, large)

    def _metered(self, side: int, dtype: str, wanted: Collection[str], core: int) -> int:
        """Bytes of the tensors of a pass over a square window, of which one corner is wanted."""
        pixels = np.zeros((len(self._card.bands), side, side), dtype)
        corner = (slice(0, core), slice(0, core))
        meter = Meter()
        with meter:
            self.layers(pixels, np.ones((side, side), np.bool_), corner, wanted)
        return meter.peak

    def _predict(
        self,
        pixels: NDArray[np.generic],
        valid: NDArray[np.bool_],
        core: tuple[slice, slice],
        wanted: Collection[str],
    ) -> dict[str, NDArray[np.uint8]]:
        raw, usable = self._staged(pixels), self._staged(valid)
        further = [name for name in wanted if name != CLASSES]
        found: dict[str, Tensor] = {}
        with (
            self._lock,
            torch.inference_mode(),
            _settings(self._engine),
            torch.cuda.stream(self._stream),
        ):
            self._kept.before()
            images = self._normalised(raw, usable)
            if further or not isinstance(self._network, Session):
                scores = self._inner(images, core)
                if CLASSES in wanted:
                    found[CLASSES] = self._labels(scores)
            elif CLASSES in wanted:
                best = self._network.best(images, _unwanted(images, core))[0]
                found[CLASSES] = self._named(lambda rows: best[rows].long(), *best.shape)
            if further:
                pinned = self._stream is not None
                found |= certainty(scores, further, shares=bool(self._shares), pinned=pinned)
            finished = self._stream.record_event() if self._stream else None
            self._kept.after()
        # Outside of the lock: the next tile's work is queued before this one's has ended.
        if finished is not None:
            finished.synchronize()
        return {name: layer.numpy() for name, layer in found.items()}

    def _normalise_by(self, card: ModelCard) -> None:
        self._card = card
        self._mean = _column(card.mean).to(self._device)
        self._std = _column(card.std).to(self._device)

    def _prepared(self, network: nn.Module) -> nn.Module:
        engine = self._engine
        if engine.name == onnx_session.NAME:
            return onnx_session.on_onnxruntime(network, engine)
        if engine.name == OPENVINO:
            session = on_openvino(network, len(self._card.bands), self._stride, engine)
            self._require(session.scored, session.example)
            return session
        if engine.precision == "fp32":
            ready = copy.deepcopy(network).eval()
            if self._device.type == "cpu":
                settle(ready)
        else:
            side = -(-SAMPLE // (2 * self._stride)) * 2 * self._stride
            weight = next(network.parameters(), torch.empty(0))
            sample = weight.new_zeros(1, len(self._card.bands), side, side)
            ready = fold(network, sample)
        ready = ready.to(device=self._device, dtype=engine.dtype)
        return ready.to(memory_format=self._format).requires_grad_(False)  # type: ignore[call-overload, no-any-return]

    def _staged(self, array: NDArray[np.generic]) -> Tensor:
        """The array as a tensor that the device can fetch by itself."""
        native = array.dtype.newbyteorder("=")
        tensor = torch.from_numpy(np.require(array, native, ("C", "W")))
        return tensor.pin_memory() if self._stream else tensor

    def _normalised(self, raw: Tensor, valid: Tensor) -> Tensor:
        """The network's input, (1, band, row, column), padded to a multiple of the stride."""
        # A float32 holds every number of these kinds; others keep their digits until the mean is
        # taken off.
        narrow = (torch.uint8, torch.int8, torch.uint16, torch.int16, torch.float16, torch.float32)
        kind = torch.float32 if raw.dtype in narrow else torch.float64
        there = raw.to(self._device, non_blocking=True).to(kind)
        normal = (there - self._mean.to(kind)).div_(self._std.to(kind)).to(self._engine.dtype)
        usable = valid.to(self._device, non_blocking=True)
        if not self._stays_finite(raw.dtype):
            usable = usable & normal.isfinite().all(0)
        normal.masked_fill_(~usable, 0)
        height, width = normal.shape[1:]
        padded = F.pad(normal, (0, -width % self._stride, 0, -height % self._stride))
        return padded[None].contiguous(memory_format=self._format)

    def _inner(self, images: Tensor, core: tuple[slice, slice]) -> Tensor:
        """Scores of the core, (class, row, column)."""
        if not isinstance(self._network, TrimmedNetwork | Session):
            return self._scores(images)[(0, slice(None), *core)]
        edges = _unwanted(images, core)
        scores = self._network.inner(images, edges)
        self._require(scores.shape, edges.off(images).shape)
        return scores[0]

    def _stays_finite(self, kind: torch.dtype) -> bool:
        """Whether every number of this kind is finite when it's normalised.

        To look at each of them takes half of what normalising takes.
        """
        if kind.is_floating_point or kind is torch.bool:
            return False
        span = torch.iinfo(kind)
        reach = max(
            abs(limit - mean) / std
            for limit in (span.min, span.max)
            for mean, std in zip(self._card.mean, self._card.std, strict=True)
        )
        return reach < torch.finfo(self._engine.dtype).max / 2

    def _scores(self, images: Tensor) -> Tensor:
        scores: Tensor = self._network(images)
        self._require(scores.shape, images.shape)
        return scores

    def _require(self, scores: torch.Size, images: torch.Size) -> None:
        """Passes if scores of this shape can be those of such images."""
        expected = (1, len(self._card.classes), *images[2:])
        if scores != expected:
            raise ModelError(
                f"{self._card.name}: scores of shape {expected} were expected for an input of "
                f"shape {tuple(images)}, got {tuple(scores)}; the card's classes and the network's "
                "channels must match, and every pixel has scores"
            )

    def _labels(self, scores: Tensor) -> Tensor:
        """Class values for (class, row, column), on the host."""
        # `max` gives the channels that `argmax` does, three to eight times as fast on a CPU.
        return self._named(lambda rows: scores[:, rows].max(dim=0).indices, *scores.shape[1:])

    def _named(self, best: Callable[[slice], Tensor], height: int, width: int) -> Tensor:
        """Class values for what `best` says of some rows: channels (row, column) of int64."""
        labels = torch.empty(
            (height, width), dtype=torch.uint8, pin_memory=self._stream is not None
        )
        rows = max(1, STRIP_PIXELS // width)
        for top in range(0, height, rows):
            strip = slice(top, top + rows)
            labels[strip].copy_(torch.take(self._values, best(strip)), non_blocking=True)
        return labels


def _unwanted(images: Tensor, core: tuple[slice, slice]) -> Edges:
    """What of the images' pixels lies around the core."""
    height, width = images.shape[-2:]
    (top, bottom, _), (left, right, _) = core[0].indices(height), core[1].indices(width)
    return Edges(top, left, height - bottom, width - right)


def _settings(engine: Engine) -> AbstractContextManager[None]:
    """Torch's own switches as the engine says; those of a GPU for the length of a pass."""
    if engine.device != "cpu":
        return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    # Every thread has its own count: one that Dask started may have another.
    if torch.get_num_threads() != engine.threads:
        torch.set_num_threads(engine.threads)
    return nullcontext()


_NO_MEMORY = (
    "allocate memory",  # the CPU's allocator
    "not enough memory",  # the same on Windows
    "ALLOC_FAILED",  # cuDNN and cuBLAS
    "32-bit index math",  # a kernel that takes tensors of less than 2^31 elements
)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a smaller window may pass."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        sign in str(error) for sign in _NO_MEMORY
    )


def _column(numbers: tuple[float, ...]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)[:, None, None]
