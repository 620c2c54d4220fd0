"""How good a network is on a part of some scenes, mapped as `segpipe run` maps them."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from segpipe.models.blend import as_tiled
from segpipe.models.card import NODATA, ModelCard
from segpipe.models.engine import Engine
from segpipe.models.footprint import Footprint
from segpipe.models.learning.metrics import Scores, confusion_matrix
from segpipe.models.predictor import TorchPredictor
from segpipe.pipeline.mapping import label
from segpipe.pipeline.plan import Margin, Plan
from segpipe.workflows.labels.labelled import ScenePart

SIDE = 512
"""Side in pixels of the tiles that are mapped."""


def score(
    network: nn.Module,
    card: ModelCard,
    footprint: Footprint,
    parts: Sequence[ScenePart],
    engine: Engine,
) -> Scores:
    """The figures of a network on the labelled pixels of these parts.

    The network sees the scenes as they are, what lies around the parts included; only tiles that
    hold such a pixel are mapped. `network` is put into evaluation mode.
    """
    tiled = as_tiled(network.eval(), card, footprint)
    predictor = TorchPredictor(tiled.network, card, tiled.stride, engine)
    margin = Margin(tiled.top, tiled.left, tiled.bottom, tiled.right)
    index = np.zeros(256, np.uint8)
    index[[info.value for info in card.classes]] = range(len(card.classes))
    matrix = np.zeros((len(card.classes), len(card.classes)), np.int64)
    for part in parts:
        scene = part.whole.scene
        plan = Plan(scene.grid, SIDE, tiled.stride, margin)
        for tile in plan.tiles():
            if not part.covers(*tile.core.slices):
                continue
            block = part.read(*tile.core.slices)
            known = block.known
            if known.any():
                pixels, valid = scene.read(tile.read)
                values = label(plan, pixels, valid, tile.read, tile.core, predictor, NODATA)
                matrix += confusion_matrix(
                    block.labels[known], index[values[known]], len(card.classes)
                )
    return Scores(matrix)
