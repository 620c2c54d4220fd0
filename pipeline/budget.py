"""What a run will take of memory and disk, and the tile side that fits."""

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import psutil

from segpipe.pipeline.errors import InputRefusedError, StorageError
from segpipe.pipeline.maps.layer import Layer
from segpipe.pipeline.plan import CHUNK, Extent, Plan, window_pixels
from segpipe.pipeline.storage import free_bytes

LARGEST_SIDE = 8192
"""Beyond it the margin costs little, and a killed tile would cost much."""

_CAREFUL_SHARE = 0.6
"""How much of the free memory a run takes unless it is told: others may want some too."""

_STORED = 0.5
"""Bytes a pixel of compressed labels, even of a noisy map; overviews add a third."""

_STORED_SHARE = 0.9
"""The same for a band of probabilities, which on noise hardly shrink."""

_PLAUSIBLE = 20_000
"""No codec makes a raster of measurements this many times smaller."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What a network and a scene take of memory.

    Attributes:
        fixed: bytes that don't depend on the tile: the process itself, the weights, the caches.
        computed: bytes for each pixel of a core.
        around: bytes for each pixel that the network computes around a core.
        held: bytes for each pixel of a read window, once for every thread.
        threads: how many tiles a process holds at once.
        least: pixels of the largest window that is computed apart from tiles.
    """

    fixed: int
    computed: float
    around: float
    held: float
    threads: int
    least: int = 0

    def of(self, plan: Plan) -> int:
        """Bytes that a worker process takes at its peak."""
        held = self.held * min(self.threads, len(plan)) * prod(plan.read_shape)
        tiles = held + max(self._computed(extent) for extent in plan.extents)
        return self.fixed + int(max(tiles, self.least * (self.computed + self.held)))

    def _computed(self, extent: Extent) -> float:
        """Bytes that the network takes for a tile."""
        rows, columns = extent
        core = rows.core * columns.core
        others = rows.length * columns.length - core
        return core * self.computed + others * self.around


def choose_plan(plan: Plan, costs: Costs, limit: int, workers: int = 1) -> Plan:
    """The plan with the tile side by which so many workers are done first, within `limit` bytes.

    Time counts as pixels: those of a mean window, for each tile that the busiest worker has, and no
    less than the largest. Where sides are equal in that, the smallest is chosen.

    Raises:
        InputRefusedError: not even the smallest tile fits.
    """
    longest = -(-max(plan.grid.shape) // CHUNK) * CHUNK
    sides = range(CHUNK, min(LARGEST_SIDE, longest) + 1, CHUNK)
    plans = [replace(plan, side=side) for side in sides]
    fitting = [plan for plan in plans if costs.of(plan) <= limit]
    if not fitting:
        raise InputRefusedError(
            f"a tile of {CHUNK} pixels needs {readable(costs.of(plans[0]))} of memory and "
            f"{readable(limit)} may be used; raise it with --memory, or use a smaller model"
        )
    return min(fitting, key=lambda plan: _pixels_in_turn(plan, workers))


def _pixels_in_turn(plan: Plan, workers: int) -> int:
    """Pixels that the busiest worker computes."""
    turns = -(-len(plan) // workers)
    return max(prod(plan.read_shape), turns * window_pixels(plan.extents) // len(plan))


def memory_limit(memory: str | None, workers: int = 1) -> int:
    """The bytes that each worker may take: as told (such as `8GB`), or its part of what is free.

    Raises:
        ValueError: the text is no size.
    """
    if memory is None:
        return int(psutil.virtual_memory().available * _CAREFUL_SHARE / workers)
    from dask.utils import parse_bytes  # slow to import, and --help needs `readable` alone

    try:
        size = int(parse_bytes(memory))
    except ValueError:
        size = 0
    if size <= 0:
        raise ValueError(f"memory is a size such as 8GB, got {memory}")
    return size


def layer_bytes(plan: Plan, layer: Layer, *, cog: bool) -> int:
    """The bytes that another layer than the map takes; see `disk_bytes`."""
    return int(plan.grid.pixels * layer.count * _STORED_SHARE * (1 + 1 + 4 / 3 if cog else 1))


def disk_bytes(plan: Plan, *, cog: bool) -> int:
    """The bytes that staging and publishing a map take at their peak."""
    # A GeoTIFF is staged as chunks, then written plain, then with overviews. The chunks of Zarr
    # stay where they are; their pyramid is a third, and may be made through two files of a quarter.
    return int(plan.grid.pixels * _STORED * (1 + 1 + 4 / 3 if cog else 4 / 3 + 1 / 2))


def require_space(plan: Plan, file: Path | None, pixel_bytes: int, output: Path, need: int) -> None:
    """Refuses a run that can't end because its disk is too small.

    `file` holds all pixels of the plan's grid; None where it isn't one file that does.

    Raises:
        InputRefusedError: the scene is so small a file that its size must be a lie.
        StorageError: the disk is too small for an honest scene.
    """
    free = free_bytes(output.parent)
    if need <= free:
        return
    grid = plan.grid
    claimed = grid.pixels * pixel_bytes
    # A VRT holds no pixels of its own.
    if file and file.suffix != ".vrt" and claimed > _PLAUSIBLE * file.stat().st_size:
        raise InputRefusedError(
            f"{file} claims {grid.height} x {grid.width} pixels, {readable(claimed)}, in a file "
            f"of {readable(file.stat().st_size)}; it is damaged or made to do harm: check it with "
            "gdalinfo"
        )
    raise StorageError(
        f"the map may need {readable(need)} in {output.parent} and {readable(free)} are free; "
        "free some space, or choose another folder with -o"
    )


def readable(size: float) -> str:
    """A number of bytes as people say it, such as 1.5 GB."""
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if size < 1000 or unit == "PB":
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")
