"""How much memory a run takes: what its tensors take, and all around them."""

from collections.abc import Collection
from dataclasses import replace

from segpipe.models.engine import Engine
from segpipe.models.openvino_session import NAME as OPENVINO
from segpipe.models.package import SegmentationModel
from segpipe.models.predictor import TorchPredictor
from segpipe.models.workspace import Workspace
from segpipe.pipeline.budget import Costs
from segpipe.pipeline.plan import Margin, Plan
from segpipe.pipeline.scenes.scene import Scene
from segpipe.workflows.resident import Resident, Use, around

THREADS = 3
"""Threads of an embedded worker: one reads, one predicts, one writes."""

_PROCESS_BYTES = 1_000_000_000
"""Python, torch with its kernels, GDAL with its block cache, and Dask in one process take half of
it. The rest is for gaps in the heap, which are large beside the tensors of small tiles."""

_LIBRARY_BYTES = 200_000_000
"""What another library than torch takes to be there: code, kernels, and its own form of a graph."""

_WEIGHTS = 5
"""Copies of the weights: the model's own, the device's in its precision and layout, and one more
while that is made, or while a layer's are brought into the order of a kernel. Those that travel to
a process are there twice besides: in the parcel, and in the message that it came in."""

_KEPT = 1.6
"""Memory that a process holds over what its tensors take: gaps between blocks that are kept, which
may grow by a quarter (`heap.GROWTH`), and what kernels take for themselves."""

_OPENVINO = 1.25
"""How much more OpenVINO keeps: it holds blocks for the shapes of all windows."""

_SAMPLE, _SEAM = 512, 128
"""Sides of the windows that `resident` and `stages` compute apart from tiles, without margins."""


def workspace(
    engine: Engine, use: Use, dtype: str, wanted: Collection[str], resident: Resident
) -> Workspace:
    """What a worker's tensors take for pixels of this dtype and the layers that are wanted."""
    if engine.name == "torch":
        return resident.predictor(use, engine).workspace(dtype, wanted)
    # Another library's memory can't be seen; it has the same layers, and torch computes them too.
    tiled, seen = use.tiled(resident.model.network), replace(engine, name="torch", version="")
    predictor = TorchPredictor(tiled.network, use.card, tiled.stride, seen, use.shares)
    taken = predictor.workspace(dtype, wanted)
    if resident.predictor(use, engine).trims:
        return taken
    return replace(taken, per_other=taken.per_pixel)


def costs(
    model: SegmentationModel,
    scene: Scene,
    plan: Plan,
    engine: Engine,
    found: Workspace,
    layer_bands: int,
) -> Costs:
    """What a worker process takes for tiles of whatever side.

    Args:
        model: whose weights are held.
        scene: which pixels are read.
        plan: its grid, stride and margin.
        engine: how the labels are computed.
        found: what the tensors take.
        layer_bands: bands of all layers beside the map.
    """
    library = 0 if engine.name == "torch" else _LIBRARY_BYTES
    weights = _WEIGHTS * model.weight_bytes
    kept = _KEPT * (_OPENVINO if engine.name == OPENVINO else 1)
    return Costs(
        fixed=_PROCESS_BYTES + library + weights + int(kept * found.fixed),
        computed=kept * found.per_pixel,
        around=kept * found.per_other,
        # A layer is there once in pixels and once in the bytes of its files.
        held=scene.bytes_per_pixel + 2 * (1 + layer_bands),
        threads=THREADS,
        least=max(_sample(plan, engine), _seam(plan)),
    )


def _sample(plan: Plan, engine: Engine) -> int:
    """Pixels of the window on which a precision proves itself, as ones of this engine."""
    if engine.agreement is None:
        return 0
    centre = around(plan, plan.grid.height // 2, plan.grid.width // 2, _SAMPLE)
    # It's computed in fp32 too, which takes twice the memory.
    return centre.pixels * (1 if engine.precision == "fp32" else 2)


def _seam(plan: Plan) -> int:
    """Pixels of the window by which seams are checked."""
    margin = plan.margin
    double = Margin(2 * margin.top, 2 * margin.left, 2 * margin.bottom, 2 * margin.right)
    centre = around(plan, plan.grid.height // 2, plan.grid.width // 2, _SEAM)
    return replace(plan, margin=double).reads(centre).pixels
