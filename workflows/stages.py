"""The stages of a run whose tiles are mapped: check a seam, publish."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from segpipe.models.card import NODATA
from segpipe.models.engine import Engine
from segpipe.pipeline import storage
from segpipe.pipeline.errors import DamagedError, StorageError, VerificationError
from segpipe.pipeline.execution.runner import Runner
from segpipe.pipeline.failure import Failure, told
from segpipe.pipeline.fingerprint import Fields, digest
from segpipe.pipeline.journal import Journal
from segpipe.pipeline.mapping import Job
from segpipe.pipeline.maps.checksums import list_checksums
from segpipe.pipeline.maps.cog import write_cog
from segpipe.pipeline.maps.label_store import LabelStore, create
from segpipe.pipeline.maps.layer import CLASSES, Layer, class_layer
from segpipe.pipeline.maps.publish import publish_cog, publish_zarr
from segpipe.pipeline.maps.pyramid import write_pyramid
from segpipe.pipeline.receipt import ClassCount, Receipt
from segpipe.pipeline.staging import Staging
from segpipe.pipeline.vectors.aoi import Mask
from segpipe.pipeline.window import Window
from segpipe.workflows.plan import Preparation
from segpipe.workflows.resident import Resident, Use, around, count_differing, double_margin
from segpipe.workflows.results.report import SeamCheck

FAILED_TAG = "SEGPIPE_FAILED_TILES"
"""How a map says that tiles of it failed and are nodata."""

ALGORITHM = 1
"""Raised whenever a change here or below can change a label."""

_SEAM = 128
"""Side in pixels of the window that is computed again across a corner of tiles."""

_SEAMS = 64
"""How many corners are looked at for the one with the most pixels of an area of interest."""

_GLANCE = 64
"""Side in pixels of the window that tells scenes on one grid apart."""

ROUNDING = 1e-3
"""Share of labels that may differ where windows of two shapes round differently."""

_PUBLISHED = 7 / 3
"""Bytes for each staged one while a GeoTIFF is made: the plain file, and one with overviews."""

_WITH_PYRAMID = 5 / 2
"""Bytes for each staged one while a store gets its pyramid: coarser pixels are fewer, but pack
worse. Measured with files on the way, on a noisy map: 2.3 in format 2, 1 in format 3."""

_CACHE_BYTES = 16_000_000
"""GDAL's block cache while a map is published."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        done: tiles that are stored.
        resumed: how many of them an earlier process stored.
        tiles: how many there are.
        tile_pixels: pixels of the scene that a tile owns, on average.
        dashboard: the address of Dask's dashboard, if there is one.
        failed: tiles that were given up.
    """

    done: int
    resumed: int
    tiles: int
    tile_pixels: float
    dashboard: str | None = None
    failed: int = 0


Watcher = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has its engine, its folder and its workers; `id` is what `run_id` gives.

    `remarks` are what its report warns of besides what is known without workers, `failed` the tiles
    that its map is published without.
    """

    id: str
    ready: Preparation
    use: Use
    engine: Engine
    staged: Staging
    runner: Runner[Resident]
    journal: Journal = field(default_factory=Journal)
    remarks: tuple[str, ...] = ()
    failed: tuple[Failure, ...] = ()

    @property
    def job(self) -> Job:
        """What every tile needs to know."""
        ready = self.ready
        layers = tuple(layer for layer, _ in ready.certainty.layers(ready.model.card))
        counted = ready.certainty.counted
        return Job(ready.scene, ready.plan, self.staged, NODATA, layers, counted)

    @property
    def is_published(self) -> bool:
        """Whether an earlier process ended after it began to publish what it had finished."""
        return any(
            self._verified(layer.name).exists()
            and output.exists()
            and not self._staged(layer.name, output).exists()
            for layer, output in self._layers
        )

    @property
    def _layers(self) -> tuple[tuple[Layer, Path], ...]:
        """What is published and where, the map last of all."""
        ready = self.ready
        beside = ready.certainty.layers(ready.model.card)
        return (*beside, (class_layer(ready.legend), ready.output))

    def _staged(self, name: str, output: Path) -> Path:
        """The finished layer before it gets the output's name."""
        if output.suffix != ".tif":
            return self.staged.layer(name)
        # Two layers may go to files of one name in different folders.
        folder = self.staged.scratch if name == CLASSES else self.staged.scratch / name
        return folder / output.name

    def _verified(self, name: str) -> Path:
        """The file that tells that a layer is finished."""
        return self.staged.folder / ("verified" if name == CLASSES else f"verified-{name}")

    def receipts(self) -> Iterator[Receipt]:
        """The receipts of all tiles that are mapped, in the plan's order."""
        failed = {failure.place for failure in self.failed}
        for tile in self.ready.selection.tiles():
            if (tile.row, tile.column) in failed:
                continue
            receipt = self.staged.receipt(tile.row, tile.column)
            if receipt is None:
                again = "type the same command again"
                if self.is_published:
                    again = "map it anew with --new-run --overwrite"
                raise StorageError(
                    f"tile {tile.name} has lost its receipt in {self.staged.folder}; {again}"
                )
            yield receipt

    def check_seam(self) -> SeamCheck | None:
        """Computes a window across a corner of tiles again; None where no corner is mapped.

        Raises:
            VerificationError: more labels differ than rounding explains.
        """
        plan = self.ready.plan
        if len(plan) == 1:
            return None
        core, wanted = self._seam()
        if not self._is_whole(core):
            return None
        pixels = core.pixels if wanted is None else int(wanted.sum())
        if not pixels:
            return None
        store = LabelStore(self.staged.store)
        compare = partial(count_differing, self.ready.scene, plan, store, self.use, self.engine)
        differing = self.runner.call(partial(compare, core=core, wanted=wanted))
        if differing > ROUNDING * pixels:
            raise VerificationError(
                f"{differing} of {pixels} labels at {core} change with the window they are "
                "computed from, none should; please report this model"
            )
        self.journal.note("seam", pixels=pixels, differing=differing)
        found = SeamCheck(pixels, differing)
        storage.write(self._seam_note, json.dumps(asdict(found)).encode())
        return found

    def noted_seam(self) -> SeamCheck | None:
        """What an earlier process found at the seam; once a map is published nobody can look."""
        if not self._seam_note.exists():
            return None
        return SeamCheck(**json.loads(self._seam_note.read_bytes()))

    @property
    def _seam_note(self) -> Path:
        return self.staged.folder / "seam.json"

    def _seam(self) -> tuple[Window, Mask | None]:
        """A window across a corner of tiles with as many wanted pixels as can be, and these."""
        plan, selection = self.ready.plan, self.ready.selection
        if selection.places is None and not self.failed:
            cores = [plan.tile(plan.rows.count // 2, plan.columns.count // 2).core]
        else:
            step = -(-len(selection) // _SEAMS)
            cores = [tile.core for tile in itertools.islice(selection.tiles(), 0, None, step)]
        windows = [around(plan, core.top, core.left, _SEAM) for core in cores]
        masked = [(window, selection.wanted(window)) for window in windows]
        return max(
            masked,
            key=lambda pair: (
                self._is_whole(pair[0]),
                0 if pair[1] is None else np.count_nonzero(pair[1]),
            ),
        )

    def _is_whole(self, window: Window) -> bool:
        """Whether nothing that its labels depend on belongs to a tile that failed."""
        plan = self.ready.plan
        read = double_margin(plan).reads(window)
        return not any(plan.tile(*failure.place).read.intersection(read) for failure in self.failed)

    def publish(self, counts: dict[int, ClassCount], *, style: bool, overwrite: bool) -> None:
        """Puts the layers under their outputs' names, and last of all the map."""
        pixels = {value: count.pixels for value, count in counts.items()}
        # All are finished before the first goes: chunks that left can't be checked any more.
        for layer, output in self._layers:
            staged, cog = self._staged(layer.name, output), output.suffix == ".tif"
            if staged.exists() or not self._verified(layer.name).exists():
                # What an earlier process made is made again: no receipt tells whether it's whole.
                self._finish(layer, staged, pixels, cog=cog)
                storage.write(self._verified(layer.name), b"")
        for layer, output in self._layers:
            staged = self._staged(layer.name, output)
            publish = publish_cog if output.suffix == ".tif" else publish_zarr
            publish(staged, output, layer, pixels, style=style, overwrite=overwrite)

    def _finish(self, layer: Layer, staged: Path, pixels: dict[int, int], *, cog: bool) -> None:
        """Makes what will be published of a layer whose chunks are all there."""
        ready, store = self.ready, LabelStore(self.staged.layer(layer.name), layer.name)
        grid, scratch = ready.plan.grid, staged.parent if cog else self.staged.scratch
        storage.make_folder(scratch)
        # Seen here, where there are words for it: GDAL on a full disk chatters.
        stored = sum(receipt.stored for receipt in self.receipts())
        storage.require_free(scratch, (_PUBLISHED if cog else _WITH_PYRAMID) * stored)
        if cog:
            write_cog(
                store,
                grid,
                layer,
                staged,
                scratch,
                counts=pixels if layer.legend else None,
                tags={
                    **provenance(ready, self.engine, self.id),
                    **({FAILED_TAG: told(self.failed)} if self.failed else {}),
                },
                cache_bytes=_CACHE_BYTES,
            )
        else:
            write_pyramid(store, grid, layer, scratch, cache_bytes=_CACHE_BYTES)
            list_checksums(store.path, store.array)


def fingerprint_of(ready: Preparation, engine: Engine, zarr_format: int) -> Fields:
    """What decides the bytes of the map."""
    asked = asked_of(ready, zarr_format)
    return {
        **asked,
        "options": {**asked["options"], "tile": ready.plan.side},
        "engine": {
            "name": engine.name,
            "version": engine.version,
            "device": engine.device.partition(":")[0],
            "precision": engine.precision,
            "threads": engine.threads,
            "algorithm": ALGORITHM,
            "torch": version("torch"),
        },
        "plan": ready.plan.digest,
    }


def asked_of(ready: Preparation, zarr_format: int) -> Fields:
    """What decides the map, before an engine and a side of tiles are chosen for it."""
    aoi = ready.selection.aoi
    scales = [[band.scale, band.offset] for band in ready.scene.bands]
    layers = {
        name: _container(output, zarr_format) for name, output in ready.certainty.places.items()
    }
    return {
        "input": ready.scene.identity(),
        "model": {"name": ready.model.card.name, "sha256": ready.model.digest},
        "options": {
            "bands": list(ready.scene.band_names),
            "format": _container(ready.output, zarr_format),
            "method": ready.method,
            **({"scaling": scales} if ready.model.card.units == "reflectance" else {}),
            **({"aoi": aoi.sha256} if aoi else {}),
            **({"layers": layers} if layers else {}),
        },
    }


def _container(output: Path, zarr_format: int) -> str:
    return f"zarr {zarr_format}" if output.suffix == ".zarr" else "cog"


def run_id(ready: Preparation) -> str:
    """Eight hex digits that name a run in its logs, in its map and on Dask's pages.

    They follow from what is mapped and with which model, as far as the map itself depends on it:
    neither a file's name, format and time nor tiles, engine and cluster have a part in it. Of the
    scene a window at its centre is read, if it can be.
    """
    plan, aoi = ready.plan, ready.selection.aoi
    height, width = plan.grid.shape
    try:
        pixels, _ = ready.scene.read(around(plan, height // 2, width // 2, _GLANCE))
        seen = hashlib.sha256(pixels.tobytes()).hexdigest()
    except DamagedError:
        seen = "damaged"
    return digest(
        {
            "grid": plan.grid.to_dict(),
            "pixels": seen,
            "model": ready.model.digest,
            "method": ready.method,
            "aoi": aoi.sha256 if aoi else None,
        }
    )[:8]


def create_stores(
    ready: Preparation, engine: Engine, run: str, zarr_format: int, path: Path
) -> None:
    """An empty map at `path` with its grid and its legend, and every other layer beside it."""
    layers = [
        (layer, Staging(path.parent).layer(layer.name), output)
        for layer, output in ready.certainty.layers(ready.model.card)
    ]
    for layer, store, output in (*layers, (class_layer(ready.legend), path, ready.output)):
        create(
            store,
            ready.plan.grid,
            layer,
            side=ready.plan.side,
            attributes=provenance(ready, engine, run),
            zarr_format=3 if zarr_format == 3 and output.suffix == ".zarr" else 2,
        )


def provenance(ready: Preparation, engine: Engine, run: str) -> dict[str, str]:
    """What a map says of its origin; the same for every tile side and every cluster."""
    footprint, aoi = ready.model.footprint, ready.selection.aoi
    return {
        "SEGPIPE_VERSION": version("segpipe"),
        "SEGPIPE_RUN": run,
        "SEGPIPE_MODEL": ready.model.card.name,
        "SEGPIPE_MODEL_SHA256": ready.model.digest,
        "SEGPIPE_METHOD": ready.method,
        "SEGPIPE_PRECISION": engine.precision,
        "SEGPIPE_DEVICE": engine.device.partition(":")[0],
        "SEGPIPE_FOOTPRINT": (
            f"stride {footprint.stride}, top {footprint.top}, left {footprint.left}, "
            f"bottom {footprint.bottom}, right {footprint.right}"
        ),
        "SEGPIPE_EXACT": "exact"
        if footprint.exact
        else f"approximate: {'; '.join(footprint.reasons)}",
        **({"SEGPIPE_AOI_SHA256": aoi.sha256} if aoi else {}),
    }
