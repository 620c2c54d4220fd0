"""ONNX files computed by onnxruntime, which on a CPU is faster than torch."""

import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from segpipe.models.blend import Blended
from segpipe.models.engine import Engine
from segpipe.models.errors import DeviceError, ModelError
from segpipe.models.formats.onnx_graph import INSTALL
from segpipe.models.formats.onnx_layout import Layout
from segpipe.models.formats.onnx_network import OnnxNetwork

NAME = "onnxruntime"


class Session(nn.Module):
    """Scores (N, classes, H, W) on the host for images (N, bands, H, W), by onnxruntime.

    One thread count and the deterministic kernels give the same bits for the same window. No
    library of operations is ever registered, so the file can't run code.

    Raises:
        DeviceError: onnxruntime isn't installed.
        ModelError: onnxruntime refuses the file; or, on a call, an image of this shape.
        RuntimeError, on a call: there isn't enough memory.
    """

    def __init__(self, content: bytes, layout: Layout, engine: Engine) -> None:
        super().__init__()
        self._content, self._layout, self._engine = content, layout, engine
        library = _library()
        options = library.SessionOptions()
        options.intra_op_num_threads = engine.threads
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 4
        # Threads that wait would take the cores from those that read and write.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = library.InferenceSession(
                content, options, providers=_providers(engine.device)
            )
        except _errors() as error:
            raise ModelError(f"onnxruntime refuses the file: {_one_line(error)}") from error
        (self._input,) = self._session.get_inputs()
        self._output = self._session.get_outputs()[0].name

    def __reduce__(self) -> tuple[Any, ...]:
        return Session, (self._content, self._layout, self._engine)

    def forward(self, images: Tensor) -> Tensor:
        """The scores."""
        layout = self._layout
        layout.refuse(tuple(images.shape))
        if layout.batch == 1 < len(images):
            return torch.cat([self(image[None]) for image in images])
        kind = _KINDS[self._input.type]
        feed = {self._input.name: layout.image(images).to(kind).contiguous().numpy()}
        try:
            (output,) = self._session.run([self._output], feed)
        except _errors() as error:
            found = _one_line(error)
            if any(sign in found.lower() for sign in _NO_MEMORY):
                raise RuntimeError(f"can't allocate memory: {found}") from error
            raise ModelError(f"onnxruntime can't compute this: {found}") from error
        scores = torch.from_numpy(output)
        if scores.is_floating_point():
            scores = scores.float()
        return layout.scores(scores, *images.shape[2:])


_KINDS = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
}

_NO_MEMORY = ("allocat", "bad_alloc", "out of memory")


def refusal(network: nn.Module, device: str, precision: str) -> str | None:
    """Why onnxruntime can't compute the network so, or None where it can."""
    if _inner(network) is None:
        return "onnxruntime computes models in ONNX files, this one isn't; use --engine torch"
    if importlib.util.find_spec(NAME) is None:
        return f"onnxruntime isn't installed; {INSTALL}, or use --engine torch"
    if precision not in ("auto", "fp32"):
        return (
            f"onnxruntime computes in the precision of the file, not in {precision}; use --engine "
            "torch or --precision fp32"
        )
    if device != "cpu" and _CUDA not in _library().get_available_providers():
        return (
            f"this onnxruntime has no CUDA for {device}; install onnxruntime-gpu, or use --engine "
            "torch or --device cpu"
        )
    return None


def is_portable(network: nn.Module) -> bool:
    """Whether the network is an ONNX file's, alone or blended."""
    return _inner(network) is not None


def version() -> str:
    """Of the library that is installed."""
    return str(_library().__version__)


def on_onnxruntime(network: nn.Module, engine: Engine) -> nn.Module:
    """The network with onnxruntime in place of torch's operations.

    Raises:
        DeviceError: onnxruntime isn't there, or the network isn't an ONNX file's.
        ModelError: onnxruntime refuses the file.
    """
    if isinstance(network, Blended):
        return network.around(on_onnxruntime(network.network, engine))
    if isinstance(network, Session):
        return network
    why = refusal(network, engine.device, engine.precision)
    if why is not None or not isinstance(network, OnnxNetwork):
        raise DeviceError(why or "")
    return Session(network.content, network.layout, engine)


_CUDA = "CUDAExecutionProvider"


def _inner(network: nn.Module) -> OnnxNetwork | None:
    inner = network.network if isinstance(network, Blended) else network
    return inner if isinstance(inner, OnnxNetwork) else None


def _providers(device: str) -> list[Any]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    index = int(device.partition(":")[2] or 0)
    # The kernels that a search on the clock finds would be others each time.
    options = {"device_id": index, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}
    return [(_CUDA, options), "CPUExecutionProvider"]


def _library() -> Any:
    try:
        return importlib.import_module(NAME)
    except ImportError as error:
        raise DeviceError(
            f"onnxruntime isn't installed; {INSTALL}, or use --engine torch"
        ) from error


def _errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises: classes without a common base of their own."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    names = (
        *("EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf"),
        *("ModelLoaded", "NoModel", "NoSuchFile", "NotImplemented", "RuntimeException"),
    )
    found = [getattr(state, name, None) for name in names]
    return (*(one for one in found if one is not None), ValueError, RuntimeError)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
