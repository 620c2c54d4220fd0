"""What lives once in every worker process, and what is done with it."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from segpipe.models.blend import TiledNetwork, as_tiled
from segpipe.models.card import NODATA, ModelCard
from segpipe.models.choice import choose_engine
from segpipe.models.converted import sliding_window
from segpipe.models.engine import Engine, Precision
from segpipe.models.errors import ModelError
from segpipe.models.footprint import Footprint
from segpipe.models.heap import keep_freed_memory
from segpipe.models.package import SegmentationModel
from segpipe.models.predictor import TorchPredictor
from segpipe.pipeline.errors import DamagedError
from segpipe.pipeline.mapping import Job, is_stored, map_tile, observe
from segpipe.pipeline.maps.label_store import LabelStore
from segpipe.pipeline.maps.layer import CLASSES
from segpipe.pipeline.plan import Margin, Plan, Tile
from segpipe.pipeline.receipt import Receipt
from segpipe.pipeline.scenes.scene import Scene
from segpipe.pipeline.vectors.aoi import Mask, Piece
from segpipe.pipeline.window import Window

Method = Literal["one-pass", "sliding-window"]
"""How a converted classifier is run; every other network is run in one pass."""

_SAMPLE = 512
"""Side in pixels of the window on which a precision has to prove itself."""

_ENGINES = 2
"""Engines for which a process keeps weights."""


@dataclass(frozen=True, slots=True)
class Use:
    """How a run uses a model: small, told with every task, and without its weights.

    Attributes:
        model: the model's digest; whoever computes has to have this one.
        card: the model's, with mean and deviation in the scene's own numbers.
        footprint: the network's.
        method: how a converted classifier is run.
        shares: what `gives_shares` says of the network, None where nobody asks for probabilities.
    """

    model: str
    card: ModelCard
    footprint: Footprint
    method: Method = "one-pass"
    shares: bool | None = None

    def tiled(self, network: nn.Module) -> TiledNetwork:
        """The network as tiles run it: itself, its blend, or the classifier on crops.

        Tiles of crops are those of the one pass: a crop lies inside of what that reads for its
        score, so its margin does for both.
        """
        tiled = as_tiled(network, self.card, self.footprint)
        if self.method == "one-pass":
            return tiled
        return replace(tiled, network=sliding_window(tiled.network))


class Resident:
    """A model, and the predictor that is made of it when the first tile comes.

    It travels to a worker process once, without its predictor, and is there for all scenes. What
    has travelled works its digest out again.
    """

    def __init__(self, model: SegmentationModel) -> None:
        keep_freed_memory()
        self.model = model
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._predictors: dict[tuple[Method, Engine, bool | None], TorchPredictor] = {}

    @classmethod
    def of(cls, network: nn.Module, card: ModelCard) -> "Resident":
        """A model that nobody has measured yet, as it comes out of a parcel."""
        return cls(SegmentationModel(network, card))

    def __reduce__(self) -> tuple[Callable[..., "Resident"], tuple[nn.Module, ModelCard]]:
        return Resident.of, (self.model.network, self.model.card)

    def predictor(self, use: Use, engine: Engine) -> TorchPredictor:
        """The predictor for this use and this engine.

        Scenes that follow each other are on a worker at once, and may have two precisions: the
        weights are kept for two engines, and one of them computes at a time.

        Raises:
            ModelError: this isn't the model that is asked for.
        """
        # What it was compared with makes no other predictor.
        wanted = (use.method, replace(engine, agreement=None), use.shares)
        with self._lock:
            if self.model.digest != use.model:
                raise ModelError(
                    f"a worker was to have the model {use.model[:16]} and has "
                    f"{self.model.digest[:16]}; type the same command again"
                )
            found = self._predictors.pop(wanted, None)
            if found is None:
                for oldest in list(self._predictors)[: 1 - _ENGINES]:
                    del self._predictors[oldest]  # frees weights before there are new ones
                tiled = use.tiled(self.model.network)
                found = TorchPredictor(
                    tiled.network, use.card, tiled.stride, engine, use.shares, self._turn
                )
            self._predictors[wanted] = found
        return found.for_card(use.card)


def decide_engine(
    scene: Scene,
    plan: Plan,
    device: str,
    precision: Precision | Literal["auto"],
    engine: str,
    use: Use,
    resident: Resident,
) -> Engine:
    """How the worker computes: what was asked for, or what the hardware does well and rightly.

    The samples are the scene's own, whatever part of it is mapped: an area of interest mustn't
    change the precision, and so a label.
    """
    pixels, valid = _sample(scene, plan)
    tiled = use.tiled(resident.model.network)
    return choose_engine(
        tiled.network,
        use.card,
        tiled.stride,
        pixels,
        valid,
        device=device,
        precision=precision,
        engine=engine,
        area=plan.grid.pixels,
        kept=partial(resident.predictor, use),
    )


def map_one(job: Job, use: Use, engine: Engine, resident: Resident, piece: Piece) -> Receipt:
    """The receipt of a tile that this worker has mapped, or another that died before it told."""
    if stored := is_stored(job, piece.tile):
        return stored
    return map_tile(job, piece, resident.predictor(use, engine))


def recompute(
    scene: Scene,
    plan: Plan,
    use: Use,
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
    wide = double_margin(plan)
    predictor = resident.predictor(use, engine)
    bands = {CLASSES: None}
    found, _ = observe(scene, wide, wide.reads(core), core, predictor, NODATA, bands, wanted)
    return found[CLASSES]


def count_differing(
    scene: Scene,
    plan: Plan,
    store: LabelStore,
    use: Use,
    engine: Engine,
    resident: Resident,
    core: Window,
    wanted: Mask | None = None,
) -> int:
    """How many stored labels of `core` aren't those of `recompute`."""
    expected = recompute(scene, plan, use, engine, resident, core, wanted)
    return int(np.count_nonzero(store.read(core) != expected))


def count_changed(
    job: Job, use: Use, engine: Engine, resident: Resident, piece: Piece
) -> tuple[Tile, int]:
    """A tile, and how many of its stored labels aren't those that are computed for it now."""
    tile = piece.tile
    found, _ = observe(
        job.scene,
        job.plan,
        tile.read,
        tile.core,
        resident.predictor(use, engine),
        job.nodata,
        {CLASSES: None},
        piece.wanted,
    )
    stored = LabelStore(job.staging.store).read(tile.core)
    return tile, int(np.count_nonzero(stored != found[CLASSES]))


def double_margin(plan: Plan) -> Plan:
    """The plan with twice its margin, with which a margin that is too small shows."""
    margin = plan.margin
    double = Margin(2 * margin.top, 2 * margin.left, 2 * margin.bottom, 2 * margin.right)
    return replace(plan, margin=double)


def _sample(scene: Scene, plan: Plan) -> tuple[NDArray[np.generic], Mask]:
    """The one of some windows with the most valid pixels, and which of them are.

    Without margins: what rounding does to a label doesn't depend on where its window ends, and the
    margin of a deep network would be most of the work.

    Raises:
        DamagedError: none of them can be read.
    """
    reads = []
    damage = None
    for window in _samples(plan):
        try:
            reads.append(scene.read(window))
        except DamagedError as error:
            damage = error
            continue
        if reads[-1][1].all():
            break
    if damage is not None and not reads:
        raise damage
    return max(reads, key=lambda read: int(read[1].sum()))


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
