"""Torch networks computed by OpenVINO, which on a CPU is several times as fast as torch."""

import copy
import importlib
import sys
import warnings
from dataclasses import astuple
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Any

import torch
from torch import Tensor, nn

from segpipe.models.architectures.trimming import WHOLE, Cuts, Edges, TrimmedNetwork
from segpipe.models.blend import Blended
from segpipe.models.converted import SlidingWindow
from segpipe.models.engine import Engine
from segpipe.models.errors import DeviceError, ModelError
from segpipe.models.formats.foreign import Foreign
from segpipe.models.work import multiplications_a_pixel

NAME = "openvino"

INSTALL = "pip install 'segpipe[openvino]'"

_EXAMPLE = 64
"""Least side in pixels of the image of zeros in which a network shows what it computes."""

_HINTS = {"fp32": "f32", "bf16": "bf16"}
"""Precisions in OpenVINO's words."""

LIGHT = 50_000
"""Multiplications for a pixel below which a decoder isn't trimmed: to cut a map is to copy it, and
where channels are few that takes longer than to convolve it."""

_LABELS, _SCORES = 0, 1
"""The graph's results."""


class Session(nn.Module):
    """Scores (1, classes, H, W) for an image (1, bands, H, W) of fp32 on the host, by OpenVINO.

    The network is traced once, in a pass over zeros, and one graph takes images of all sizes. Its
    bits depend neither on them nor on how busy the machine is. What a trimmed decoder leaves out is
    told with each image, so that edges need no graphs of their own. What a call gives lies in
    memory that the next call overwrites, so one thread calls at a time.

    Args:
        network: left as it is; its weights are shared, so it must stay so too.
        bands: channels of the image.
        stride: divides H and W.
        engine: its precision and threads are kept to.

    Attributes:
        network: a copy that evaluates, with the same weights.
        trims: whether its decoder computes less for edges that are unwanted.
        example: shape of an image.
        scored: shape of its scores.

    Raises:
        DeviceError: OpenVINO isn't installed, or can't compute this network.
        MemoryError, RuntimeError, on a call: there isn't enough memory.
        ModelError, on a call: OpenVINO refuses the image.
    """

    def __init__(self, network: nn.Module, bands: int, stride: int, engine: Engine) -> None:
        super().__init__()
        self._made_of = (network, bands, stride, engine)
        side = -(-_EXAMPLE // (2 * stride)) * 2 * stride
        example = torch.zeros(1, bands, side, side)
        # The graph reads its weights where they are, in this copy of the modules.
        self.network: nn.Module = _evaluating(network)
        self.trims: bool = (
            isinstance(network, TrimmedNetwork)
            and multiplications_a_pixel(self.network, bands, stride) >= LIGHT
        )
        self._graph = _traced(_Outputs(self.network), (example, *self._cuts(example, WHOLE)))
        self.example: torch.Size = example.shape
        with torch.no_grad():
            self.scored: torch.Size = self.network(example).shape
        self._engine = engine
        self._compiled: dict[int, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Session, self._made_of

    def forward(self, images: Tensor) -> Tensor:
        """The scores."""
        return self.inner(images, WHOLE)

    def inner(self, images: Tensor, unwanted: Edges) -> Tensor:
        """The scores without the unwanted edges."""
        return self._computed(_SCORES, images, unwanted)

    def best(self, images: Tensor, unwanted: Edges = WHOLE) -> Tensor:
        """The channel of the greatest score, (1, H, W) of uint8; the first one where several are.

        Without the unwanted edges. Faster than from the scores, which aren't written then.
        """
        return self._computed(_LABELS, images, unwanted)

    def _cuts(self, images: Tensor, unwanted: Edges) -> tuple[Tensor, ...]:
        """What the graph takes besides the image: the cuts (cut, edge), if its decoder trims."""
        if not self.trims or not isinstance(self.network, TrimmedNetwork):
            return ()
        cuts = self.network.cuts(unwanted, (images.shape[-2], images.shape[-1]))
        return (torch.tensor([astuple(cut) for cut in (*cuts.coarse, *cuts.skips, cuts.scores)]),)

    def _computed(self, result: int, images: Tensor, unwanted: Edges) -> Tensor:
        if result not in self._compiled:
            self._compiled[result] = self._compile(result)
        cuts = self._cuts(images, unwanted)
        feed = [one.contiguous().numpy() for one in (images, *cuts)]
        try:
            found = self._compiled[result](feed, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            told = _one_line(error)
            if "alloc" in told.lower():
                raise RuntimeError(f"can't allocate memory: {told}") from error
            raise ModelError(f"OpenVINO can't compute this: {told}") from error
        computed = torch.from_numpy(found[0])
        return computed if cuts else unwanted.off(computed)

    def _compile(self, result: int) -> Any:
        """What gives one of the graph's results; a result that nobody reads costs memory."""
        library = _library()
        graph = library.Model([self._graph.get_results()[result]], self._graph.get_parameters())
        options = {
            # Its own choice would be what is fast here.
            "INFERENCE_PRECISION_HINT": _HINTS[self._engine.precision],
            "INFERENCE_NUM_THREADS": self._engine.threads,
            "NUM_STREAMS": 1,
            # Pinned threads of two processes would share the first cores.
            "ENABLE_CPU_PINNING": False,
        }
        return library.Core().compile_model(graph, "CPU", options)


def refusal(
    network: nn.Module, device: str, precision: str, stride: int, width: int | None = None
) -> str | None:
    """Why OpenVINO can't compute the network so, or None where that shows when it is tried.

    `width` is that of the narrowest images, if it's known: in bf16 and with several threads
    OpenVINO reads beyond a map of a single column, and gives other numbers each time.
    """
    if isinstance(network, Blended | SlidingWindow):
        return "OpenVINO computes networks in one pass, not window by window; use --engine torch"
    if any(isinstance(one, Foreign) for one in network.modules()):
        return "OpenVINO computes torch's own networks, not those in files; use --engine auto"
    if device != "cpu":
        return f"OpenVINO computes on the CPU, not on {device}; use --engine torch or --device cpu"
    if precision not in ("auto", *_HINTS):
        return f"OpenVINO computes in fp32 or bf16, not in {precision}; use --engine torch"
    if width is not None and width <= stride:
        return f"OpenVINO computes scenes wider than {stride} pixels; use --engine torch"
    if not is_installed():
        return f"OpenVINO isn't installed; {INSTALL}, or use --engine torch"
    return None


def is_installed() -> bool:
    """Whether there is a package of that name; it isn't imported, which takes a moment."""
    try:
        return bool(version())
    except PackageNotFoundError:
        return False


def version() -> str:
    """Of the package that is installed.

    Raises:
        PackageNotFoundError: none is.
    """
    return version_of(NAME)


def on_openvino(network: nn.Module, bands: int, stride: int, engine: Engine) -> Session:
    """The network with OpenVINO in place of torch's operations.

    Raises:
        DeviceError: OpenVINO isn't there, or can't compute this network.
    """
    if isinstance(network, Session):
        return network
    why = refusal(network, engine.device, engine.precision, stride)
    if why is not None:
        raise DeviceError(why)
    return Session(network, bands, stride, engine)


class _Outputs(nn.Module):
    """The best channel (N, H, W) and all scores, in the order of `_LABELS` and `_SCORES`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, cuts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if isinstance(self.network, TrimmedNetwork) and cuts is not None:
            scores = self.network.trimmed(images, _told(cuts))
        else:
            scores = self.network(images)
        return scores.max(dim=1).indices.to(torch.uint8), scores


class _Told:
    """Edges (4) that only a graph's input tells, in their order in `Edges`."""

    def __init__(self, edges: Tensor) -> None:
        self._edges = edges

    def off(self, x: Tensor, /) -> Tensor:
        """The map without them; the tracer writes down how their numbers are read."""
        top, left, bottom, right = self._edges
        height, width = x.shape[-2:]
        return x[..., top : height - bottom, left : width - right]


def _told(cuts: Tensor) -> Cuts[_Told]:
    """The cuts out of the tensor that `Session._cuts` makes of them."""
    *maps, scores = map(_Told, cuts)
    return Cuts(maps[: len(maps) // 2], maps[len(maps) // 2 :], scores)


def _evaluating(network: nn.Module) -> nn.Module:
    """A copy of the modules, with the same weights."""
    tensors = (*network.parameters(), *network.buffers())
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors}).eval()


def _traced(network: nn.Module, example: tuple[Tensor, ...]) -> Any:
    """The network as a graph of OpenVINO's.

    Raises:
        DeviceError: OpenVINO isn't installed, or lacks an operation.
    """
    _library()
    frontend = importlib.import_module("openvino.frontend")
    decoding = importlib.import_module("openvino.frontend.pytorch.ts_decoder")
    failures = (
        frontend.GeneralFailure,
        frontend.NotImplementedFailure,
        frontend.OpConversionFailure,
        frontend.OpValidationFailure,
        RuntimeError,
    )
    torch_reader = frontend.FrontEndManager().load_by_framework("pytorch")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # The tracer's, of sizes that Python computes with.
            warnings.simplefilter("ignore")
            traced = decoding.TorchScriptPythonDecoder(
                network, example_input=example, trace_kwargs={"check_trace": False}
            )
        return torch_reader.convert(torch_reader.load(traced))
    except failures as error:
        raise DeviceError(
            f"OpenVINO can't compute this network, use --engine torch: {_one_line(error)}"
        ) from error


def _library() -> Any:
    # Whoever imports OpenVINO is reported to its makers, unless the part that does it is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(NAME)
    except ImportError as error:
        raise DeviceError(
            f"OpenVINO can't be imported: {_one_line(error)}; {INSTALL}, or use --engine torch"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
