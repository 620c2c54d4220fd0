"""What lives once in every worker process, and what is done with it."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segpipe.models.blend import TiledNetwork
from segpipe.models.card import NODATA, ModelCard
from segpipe.models.engine import Engine, Precision
from segpipe.models.heap import keep_freed_memory
from segpipe.models.predictor import TorchPredictor, choose_engine
from segpipe.pipeline.mapping import Job, map_tile, observe
from segpipe.pipeline.maps.label_store import LabelStore
from segpipe.pipeline.maps.layer import CLASSES
from segpipe.pipeline.plan import Margin, Plan
from segpipe.pipeline.receipt import Receipt
from segpipe.pipeline.scenes.scene import Scene
from segpipe.pipeline.vectors.aoi import Mask, Piece
from segpipe.pipeline.window import Window

_SAMPLE = 512
"""Side in pixels of the window on which a precision has to prove itself."""


class Resident:
    """A network with its card, and the predictor that is made of them when the first tile comes.

    It travels to a worker once, without its predictor. `shares` is what `gives_shares` says of
    the network, None where nobody asks for probabilities.
    """

    def __init__(self, tiled: TiledNetwork, card: ModelCard, shares: bool | None = None) -> None:
        keep_freed_memory()
        self.tiled = tiled
        self.card = card
        self.shares = shares
        self._lock = threading.Lock()
        self._predictor: TorchPredictor | None = None

    def __reduce__(self) -> tuple[type["Resident"], tuple[TiledNetwork, ModelCard, bool | None]]:
        return Resident, (self.tiled, self.card, self.shares)

    def predictor(self, engine: Engine) -> TorchPredictor:
        """The predictor for this engine; one a process."""
        with self._lock:
            if self._predictor is None or self._predictor.engine != engine:
                self._predictor = None  # frees the old weights before there are new ones
                tiled = self.tiled
                self._predictor = TorchPredictor(
                    tiled.network, self.card, tiled.stride, engine, self.shares
                )
            return self._predictor


def decide_engine(
    scene: Scene,
    plan: Plan,
    device: str,
    precision: Precision | Literal["auto"],
    engine: str,
    resident: Resident,
) -> Engine:
    """How the worker computes: what was asked for, or what the hardware does well and rightly.

    The samples are the scene's own, whatever part of it is mapped: an area of interest mustn't
    change the precision, and so a label.
    """
    reads = (scene.read(plan.reads(core)) for core in _samples(plan))
    pixels, valid = max(reads, key=lambda read: int(read[1].sum()))
    return choose_engine(
        resident.tiled.network,
        resident.card,
        resident.tiled.stride,
        pixels,
        valid,
        device=device,
        precision=precision,
        engine=engine,
    )


def map_one(job: Job, engine: Engine, resident: Resident, piece: Piece) -> Receipt:
    """The receipt of a tile that this worker has mapped."""
    return map_tile(job, piece, resident.predictor(engine))


def recompute(
    scene: Scene,
    plan: Plan,
    engine: Engine,
    resident: Resident,
    core: Window,
    wanted: Mask | None = None,
) -> NDArray[np.uint8]:
    """The labels of `core`, (row, column), from one window with twice the margin.

    `wanted` (row, column) tells which pixels of the core have one; None for all.
    """
    if wanted is not None and not wanted.any():
        return np.full(core.shape, NODATA, np.uint8)
    margin = plan.margin
    double = Margin(2 * margin.top, 2 * margin.left, 2 * margin.bottom, 2 * margin.right)
    wide = replace(plan, margin=double)
    predictor = resident.predictor(engine)
    bands = {CLASSES: None}
    found, _ = observe(scene, wide, wide.reads(core), core, predictor, NODATA, bands, wanted)
    return found[CLASSES]


def count_differing(
    scene: Scene,
    plan: Plan,
    store: LabelStore,
    engine: Engine,
    resident: Resident,
    core: Window,
    wanted: Mask | None = None,
) -> int:
    """How many stored labels of `core` aren't those of `recompute`."""
    expected = recompute(scene, plan, engine, resident, core, wanted)
    return int(np.count_nonzero(store.read(core) != expected))


def _samples(plan: Plan) -> Iterator[Window]:
    """Windows at the centre of the scene and of its quarters."""
    height, width = plan.grid.shape
    for down, across in ((2, 2), (1, 1), (1, 3), (3, 1), (3, 3)):
        yield around(plan, height * down // 4, width * across // 4, _SAMPLE)


def around(plan: Plan, row: int, column: int, side: int) -> Window:
    """A window of at most `side` pixels around a pixel, inside the raster."""
    height, width = min(side, plan.grid.height), min(side, plan.grid.width)
    top = min(max(row - height // 2, 0), plan.grid.height - height)
    left = min(max(column - width // 2, 0), plan.grid.width - width)
    return Window(top, left, height, width)
