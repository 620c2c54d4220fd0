"""What a worker does with a tile: read, predict, write, and prove it."""

import os
import resource
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segpipe.pipeline.aoi import Mask, Piece
from segpipe.pipeline.area import row_areas
from segpipe.pipeline.label_store import LabelStore
from segpipe.pipeline.layer import CLASSES
from segpipe.pipeline.plan import CHUNK, Plan, Tile
from segpipe.pipeline.predictor import Predictor
from segpipe.pipeline.receipt import Receipt, count_classes
from segpipe.pipeline.scene import Scene
from segpipe.pipeline.staging import Staging
from segpipe.pipeline.window import Window

Pixels = NDArray[np.generic]
Labels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Job:
    """What all tiles of a run have in common: names and numbers, no handles and no pixels."""

    scene: Scene
    plan: Plan
    staging: Staging
    nodata: int


def map_tile(job: Job, piece: Piece, predictor: Predictor) -> Receipt:
    """The receipt of a tile whose labels are now on the disk.

    Doing it again, even at the same time, ends with the same bytes.

    Raises:
        CorruptInputError: the scene can't be read here.
        StorageError: the labels can't be written.
        MemoryError: the device can't hold even a chunk with its margin.
    """
    start = time.perf_counter()
    tile = piece.tile
    pixels, valid = job.scene.read(tile.read)
    after_read = time.perf_counter()
    labels = label(
        job.plan, pixels, valid, tile.read, tile.core, predictor, job.nodata, piece.wanted
    )
    after_predict = time.perf_counter()
    store = LabelStore(job.staging.store)
    store.write(tile.core, labels)
    stored, sha256 = store.digest(tile.core)
    receipt = Receipt(
        tile.row,
        tile.column,
        stored,
        sha256,
        count_classes(
            labels, job.nodata, row_areas(job.plan.grid, tile.core.top, tile.core.height)
        ),
        after_read - start,
        after_predict - after_read,
        time.perf_counter() - after_predict,
        this_process(),
        peak_rss(),
    )
    job.staging.keep(receipt)
    return receipt


def label(
    plan: Plan,
    pixels: Pixels,
    valid: Mask,
    read: Window,
    core: Window,
    predictor: Predictor,
    nodata: int,
    wanted: Mask | None = None,
) -> Labels:
    """Class values of `core` (row, column), `nodata` where a pixel isn't valid or isn't wanted.

    `pixels` (band, row, column) and `valid` (row, column) cover `read`, `wanted` covers `core`.
    What isn't wanted is a measurement all the same: the network sees it.
    """
    found = layers(plan, pixels, valid, read, core, predictor, nodata, {CLASSES: None}, wanted)
    return found[CLASSES]


def layers(
    plan: Plan,
    pixels: Pixels,
    valid: Mask,
    read: Window,
    core: Window,
    predictor: Predictor,
    nodata: int,
    bands: Mapping[str, int | None],
    wanted: Mask | None = None,
) -> dict[str, Labels]:
    """Layers of `core` by name, (row, column) or (band, row, column); see `label`.

    `bands` tells which ones are made, and how many bands each has; None where it has no such axis.
    """
    inside = valid[core.relative_to(read).slices]
    if wanted is not None:
        inside = inside & wanted
    if not inside.any():
        return {
            name: np.full(_shape(count, core), nodata, np.uint8) for name, count in bands.items()
        }
    found = _predict(plan, pixels, valid, read, core, predictor, bands)
    return {name: np.where(inside, layer, np.uint8(nodata)) for name, layer in found.items()}


def is_stored(job: Job, tile: Tile) -> Receipt | None:
    """The tile's receipt if the bytes on the disk are those that it tells of, else None."""
    receipt = job.staging.receipt(tile.row, tile.column)
    if receipt is None:
        return None
    found = LabelStore(job.staging.store).digest(tile.core)
    return receipt if found == (receipt.stored, receipt.sha256) else None


def this_process() -> str:
    """The host and the number of this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def peak_rss() -> int:
    """The most memory that this process has ever held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _predict(
    plan: Plan,
    pixels: Pixels,
    valid: Mask,
    read: Window,
    core: Window,
    predictor: Predictor,
    bands: Mapping[str, int | None],
) -> dict[str, Labels]:
    inner = core.relative_to(read)
    try:
        return predictor.layers(pixels, valid, inner.slices, tuple(bands))
    except MemoryError:
        # Where all windows have one shape, `read` may be more than the core needs.
        parts: tuple[Window, ...] = core.halves() if core.pixels > CHUNK * CHUNK else (core,)
        if parts == (core,) and plan.reads(core) == read:
            raise
    whole = {name: np.empty(_shape(count, core), np.uint8) for name, count in bands.items()}
    for half in parts:
        # Each half reads what it needs and no more, on the stride: no label can change.
        part = plan.reads(half)
        rows, columns = part.relative_to(read).slices
        found = _predict(
            plan, pixels[:, rows, columns], valid[rows, columns], part, half, predictor, bands
        )
        for name, layer in found.items():
            whole[name][(..., *half.relative_to(core).slices)] = layer
    return whole


def _shape(bands: int | None, core: Window) -> tuple[int, ...]:
    return core.shape if bands is None else (bands, *core.shape)
