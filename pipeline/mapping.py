"""What a worker does with a tile: read, predict, write, and prove it."""

import os
import resource
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segpipe.pipeline.area import row_areas
from segpipe.pipeline.maps.label_store import LabelStore, joint_digest
from segpipe.pipeline.maps.layer import CLASSES, CONFIDENCE, MEASURES, PROBABILITIES, STEPS, Layer
from segpipe.pipeline.plan import CHUNK, Plan, Tile
from segpipe.pipeline.predictor import Predictor
from segpipe.pipeline.receipt import Receipt, count_classes, count_confidence
from segpipe.pipeline.scenes.mosaic import Part, rivals
from segpipe.pipeline.scenes.scene import Scene
from segpipe.pipeline.staging import Staging
from segpipe.pipeline.vectors.aoi import Mask, Piece
from segpipe.pipeline.window import Window

Pixels = NDArray[np.generic]
Labels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Job:
    """What all tiles of a run have in common: names and numbers, no handles and no pixels.

    `layers` are stored beside the map; with `counted` receipts tell how sure the network is.
    """

    scene: Scene
    plan: Plan
    staging: Staging
    nodata: int
    layers: tuple[Layer, ...] = ()
    counted: bool = False

    @property
    def stores(self) -> tuple[LabelStore, ...]:
        """Of the map, then of each layer."""
        names = (CLASSES, *(layer.name for layer in self.layers))
        return tuple(LabelStore(self.staging.layer(name), name) for name in names)

    @property
    def bands(self) -> dict[str, int | None]:
        """What is computed, by name: how many bands, None without such an axis."""
        wanted: dict[str, int | None] = {CLASSES: None}
        wanted |= {layer.name: layer.count for layer in self.layers}
        # Probabilities tell the greatest of them too.
        if self.counted and not self.layers:
            wanted[CONFIDENCE] = len(MEASURES)
        return wanted


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
    found, reading = observe(
        job.scene,
        job.plan,
        tile.read,
        tile.core,
        predictor,
        job.nodata,
        job.bands,
        piece.wanted,
    )
    labels = found[CLASSES]
    after_predict = time.perf_counter()
    for store in job.stores:
        store.write(tile.core, found[store.array])
    stored, sha256 = joint_digest(job.stores, tile.core)
    receipt = Receipt(
        tile.row,
        tile.column,
        stored,
        sha256,
        count_classes(
            labels, job.nodata, row_areas(job.plan.grid, tile.core.top, tile.core.height)
        ),
        reading,
        after_predict - start - reading,
        time.perf_counter() - after_predict,
        this_process(),
        peak_rss(),
        count_confidence(_greatest(found), labels, job.nodata) if job.counted else None,
    )
    job.staging.keep(receipt)
    return receipt


def observe(
    scene: Scene,
    plan: Plan,
    read: Window,
    core: Window,
    predictor: Predictor,
    nodata: int,
    bands: Mapping[str, int | None],
    wanted: Mask | None = None,
) -> tuple[dict[str, Labels], float]:
    """Layers of `core` as `layers` has them, from the scene's pixels in `read`; seconds of reading.

    Rivals of a mosaic are mapped each by itself instead, see `_contest`.
    """
    if contest := rivals(scene):
        return _contest(contest, plan, core, predictor, nodata, bands, wanted)
    start = time.perf_counter()
    pixels, valid = scene.read(read)
    seconds = time.perf_counter() - start
    return layers(plan, pixels, valid, read, core, predictor, nodata, bands, wanted), seconds


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
    for layer in found.values():
        np.copyto(layer, np.uint8(nodata), where=~inside)
    return found


def is_stored(job: Job, tile: Tile) -> Receipt | None:
    """The tile's receipt if it tells all that is asked, of the bytes on the disk, else None."""
    receipt = job.staging.receipt(tile.row, tile.column)
    if receipt is None or (job.counted and receipt.confidence is None):
        return None
    stored = joint_digest(job.stores, tile.core)
    return receipt if stored == (receipt.stored, receipt.sha256) else None


def this_process() -> str:
    """The host and the number of this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def peak_rss() -> int:
    """The most memory that this process has ever held, in bytes."""
    if sys.platform == "linux":
        # An exec leaves `ru_maxrss` as it was: that of a large process which started this one.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _greatest(found: Mapping[str, Labels]) -> Labels:
    """The greatest probability of each pixel, (row, column)."""
    shares = found[CONFIDENCE][:1] if CONFIDENCE in found else found[PROBABILITIES]
    return np.asarray(shares.max(axis=0), np.uint8)


def _contest(
    parts: tuple[Part, ...],
    plan: Plan,
    core: Window,
    predictor: Predictor,
    nodata: int,
    bands: Mapping[str, int | None],
    wanted: Mask | None,
) -> tuple[dict[str, Labels], float]:
    """Layers of `core`, at each pixel those of the scene with the greatest probability there.

    Every scene is read in windows on the stride counted from its own corner, so that it has the
    labels of its own whole-image pass. Probabilities count in steps of 1/250; of equal ones the
    first scene's does.
    """
    best = np.full(core.shape, -1, np.int16)
    found = {name: np.full(_shape(count, core), nodata, np.uint8) for name, count in bands.items()}
    seconds = 0.0
    for part in parts:
        shared = part.window.intersection(core)
        if shared is None:
            continue
        place, own = shared.relative_to(core).slices, shared.relative_to(part.window)
        theirs, reading = observe(
            part.scene,
            there := replace(plan, grid=part.scene.grid),
            there.reads(own),
            own,
            predictor,
            nodata,
            {**bands, CONFIDENCE: len(MEASURES)},
            None if wanted is None else wanted[place],
        )
        sure = theirs[CONFIDENCE][0].astype(np.int16)
        sure[sure > STEPS] = 0  # scores that aren't finite lose against all that are
        wins = (theirs[CLASSES] != nodata) & (sure > best[place])
        best[place][wins] = sure[wins]
        for name, layer in found.items():
            np.copyto(layer[(..., *place)], theirs[name], where=wins)
        seconds += reading
    return found, seconds


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
        if core.pixels <= CHUNK * CHUNK:
            raise
    whole = {name: np.empty(_shape(count, core), np.uint8) for name, count in bands.items()}
    for half in core.halves():
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
