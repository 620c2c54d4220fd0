"""What the parts of a run take alone, with nothing beside them: no run can be faster than each."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from segpipe.models.bandwidth import Bandwidth
from segpipe.models.predictor import TorchPredictor
from segpipe.models.workspace import Meter
from segpipe.pipeline.maps.cog import write_cog
from segpipe.pipeline.maps.label_store import create
from segpipe.pipeline.maps.layer import class_layer
from segpipe.pipeline.maps.legend import Legend
from segpipe.pipeline.plan import Plan, Tile
from segpipe.pipeline.scenes.raster import open_raster
from segpipe.pipeline.scenes.scene import Scene

FORWARD, DECODING, ENCODING = "forward", "decoding", "encoding"
MEMORY, TRANSFER = "memory", "transfer"
"""Names of the parts."""

_SAMPLE = 1 << 26
"""Pixels after which a part has shown its speed."""

_METERED = 256
"""Least side in pixels of the window on which memory traffic is counted."""

_CACHE_BYTES = 16_000_000
"""GDAL's block cache while a map is encoded, as in a run."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A part of a run, and the seconds that it takes alone for all of the scene."""

    name: str
    seconds: float


def forward(predictor: TorchPredictor, plan: Plan) -> Limit:
    """Bare forward passes over as many pixels as the plan's windows take, margins included."""
    shape = plan.read_shape
    pixel = predictor.forward_seconds(*shape) / prod(shape)
    return Limit(FORWARD, pixel * predictor.pixels_computed(plan.extents.items()))


def decoding(scene: Scene, plan: Plan, threads: int) -> Limit:
    """Reading every pixel once, without margins, by so many threads that find nothing opened.

    `plan` cuts the scene into tiles; `scene` may be smaller where it is repeated, and counts for
    the whole then.
    """
    cut = replace(plan, grid=scene.grid)
    tiles = list(_some(cut))

    def read(tile: Tile) -> None:
        scene.read(tile.core)

    seconds = _by(threads, read, tiles)
    return Limit(DECODING, seconds / _pixels(tiles) * plan.grid.pixels)


def encoding(map_file: Path, plan: Plan, legend: Legend, folder: Path, threads: int) -> Limit:
    """Writing a finished map's labels, as a run does: into a store by tiles, then as a GeoTIFF."""
    contents = open_raster(map_file)
    rows = -(-_SAMPLE // (plan.grid.width * plan.side)) * plan.side
    grid = replace(plan.grid, height=min(rows, plan.grid.height))
    cut, layer = replace(plan, grid=grid), class_layer(legend)
    tiles = list(cut.tiles())
    labels = {tile: contents.source.read(tile.core, (1,), "uint8")[0][0] for tile in tiles}
    store = create(folder / "store.zarr", grid, layer, side=plan.side, attributes={})

    def write(tile: Tile) -> None:
        store.write(tile.core, np.asarray(labels[tile], np.uint8))

    staged = _by(threads, write, tiles)
    start = time.perf_counter()
    to, tags = folder / "encoded.tif", {"SEGPIPE_RUN": "bench"}
    write_cog(store, grid, layer, to, folder, counts=None, tags=tags, cache_bytes=_CACHE_BYTES)
    seconds = staged + time.perf_counter() - start
    return Limit(ENCODING, seconds / grid.pixels * plan.grid.pixels)


def memory(predictor: TorchPredictor, scene: Scene, plan: Plan, found: Bandwidth) -> Limit | None:
    """Writing all that the network's layers make, and reading it once; None where that isn't seen.

    Layers that are joined, and what stays in caches, take less: this is no bound, but what a
    network takes whose every layer goes through memory.
    """
    if predictor.engine.name != "torch":
        return None
    made = traffic(predictor, len(scene.band_indexes), scene.dtype, plan.stride)
    pixels = predictor.pixels_computed(plan.extents.items())
    return Limit(MEMORY, 2 * made * pixels / found.memory)


def transfer(scene: Scene, plan: Plan, found: Bandwidth) -> Limit | None:
    """Moving every window to the device and every label back; None on a CPU."""
    if found.to_device is None or found.from_device is None:
        return None
    to = scene.bytes_per_pixel * plan.extra_work * plan.grid.pixels / found.to_device
    return Limit(TRANSFER, to + plan.grid.pixels / found.from_device)


def traffic(predictor: TorchPredictor, bands: int, dtype: str, stride: int) -> float:
    """Bytes of all tensors that are made for a pixel, counted on a small window."""
    side = -(-_METERED // stride) * stride
    pixels = np.zeros((bands, side, side), dtype)
    everything = (slice(0, side), slice(0, side))
    meter = Meter()
    with meter:
        predictor(pixels, np.ones((side, side), np.bool_), everything)
    return meter.made / side**2


def _some(plan: Plan) -> Iterator[Tile]:
    """The first tiles: neighbours, which share blocks."""
    pixels = 0
    for tile in plan.tiles():
        yield tile
        pixels += tile.core.pixels
        if pixels >= _SAMPLE:
            return


def _pixels(tiles: Iterable[Tile]) -> int:
    return sum(tile.core.pixels for tile in tiles)


def _by(threads: int, work: Callable[[Tile], None], tiles: Iterable[Tile]) -> float:
    """Seconds until so many threads are done with the tiles."""
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        for _ in pool.map(work, tiles):
            pass
        return time.perf_counter() - start
