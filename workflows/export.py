"""A map in another container, as the run that made it would have written it, or with changes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.pipeline import storage
from segpipe.pipeline.errors import (
    CorruptInputError,
    FingerprintMismatchError,
    InputRefusedError,
    StorageError,
    VerificationError,
)
from segpipe.pipeline.maps.checksums import list_checksums
from segpipe.pipeline.maps.cog import write_cog
from segpipe.pipeline.maps.label_store import STORE_MARKS, LabelStore, ZarrFormat, create
from segpipe.pipeline.maps.layer import class_layer
from segpipe.pipeline.maps.legend import Legend
from segpipe.pipeline.maps.map_facts import MapFacts
from segpipe.pipeline.maps.publish import publish_cog, publish_zarr, put_back
from segpipe.pipeline.maps.pyramid import write_pyramid
from segpipe.pipeline.scenes.scene import Scene
from segpipe.workflows.errors import OptionError
from segpipe.workflows.labels.reference import open_labels
from segpipe.workflows.results.edit import Edit, Watcher, unwatched, watched

_SIDE = 2048
"""Side in pixels of what is copied at once: a whole number of chunks, shards and blocks."""

_CACHE_BYTES = 16_000_000


@dataclass(frozen=True, slots=True)
class ExportedMap:
    """A map that was written anew, and the pixels of each class by name."""

    output: Path
    map: Path
    classes: dict[str, int]
    edit: Edit

    def to_dict(self) -> dict[str, Any]:
        """The result as `segpipe export --json` prints it."""
        return {
            "output": str(self.output),
            "map": str(self.map),
            "edits": self.edit.steps,
            "classes": {name: {"pixels": pixels} for name, pixels in self.classes.items()},
        }


def export_map(
    map: str | Path,  # noqa: A002 - as on the command line
    output: str | Path,
    *,
    reclass: str | Path | None = None,
    sieve: int | None = None,
    style: bool = True,
    zarr_format: ZarrFormat = 2,
    overwrite: bool = False,
    watch: Watcher = unwatched,
) -> ExportedMap:
    """Writes a map as Zarr or as a cloud-optimised GeoTIFF, with legend and origin.

    Args:
        map: a map by segpipe, with its side-cars; or with `reclass` a raster of any class values.
        output: ends in `.tif` or in `.zarr`.
        reclass: a file of classes, such as `examples/landcover-classes.json`, that says which of
            the map's values make up which class of the new one.
        sieve: areas of fewer pixels take the class of a neighbour, after `reclass`.
        style: whether to write a QGIS style beside the output.
        zarr_format: 2 or 3, for Zarr.
        overwrite: replace an output that is there.
        watch: is told which share of the map has been copied.

    Raises:
        InputRefusedError: the map can't be read, isn't of bytes, has no legend, or holds a value
            that `reclass` doesn't name.
        FingerprintMismatchError: there is such an output.
        OptionError: the output is of no format that is written, or is the map itself.
        CorruptInputError: pixels can't be read, or are of no class.
        StorageError: the disk refuses.
        VerificationError: what was written isn't what the map holds.
    """
    place = _target(Path(output).absolute(), Path(map), overwrite=overwrite)
    edit = Edit.of(reclass, sieve)
    labels = edit.apply(open_labels(Path(map)))
    if labels.dtype != "uint8":
        raise InputRefusedError(
            f"{map}: holds {labels.dtype}, expected the bytes of a map by segpipe"
        )
    facts = edit.facts(Path(map))
    folder = place.with_name(f".{place.name}.export")
    # An export that was killed may have set aside what it was about to replace.
    put_back(folder)
    storage.remove(folder)
    storage.make_folder(folder)
    try:
        counts = _write(watched(labels, watch), facts, place, folder, style, zarr_format, overwrite)
    finally:
        storage.remove(folder)
    pixels = {entry.name: counts[entry.value] for entry in facts.legend.entries}
    return ExportedMap(place, Path(map), pixels, edit)


def _target(place: Path, source: Path, *, overwrite: bool) -> Path:
    """The output, where it may be written and whoever replaces it loses nothing but a map."""
    if place.exists() and source.exists() and place.samefile(source):
        raise OptionError(f"{place} is the map itself; name another output with -o")
    if place.is_dir() and not any((place / name).is_file() for name in STORE_MARKS):
        raise OptionError(f"{place} is a folder and no Zarr store; name another output with -o")
    if place.exists() and not overwrite:
        raise FingerprintMismatchError(
            f"{place} exists; name another output with -o, or replace it with --overwrite"
        )
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise StorageError(f"the folder {place.parent} can't be written to; choose another with -o")
    return place


def _write(
    labels: Scene,
    facts: MapFacts,
    place: Path,
    folder: Path,
    style: bool,
    zarr_format: ZarrFormat,
    overwrite: bool,
) -> dict[int, int]:
    """Publishes the map; gives the pixels of each class."""
    cog, grid, legend = place.suffix == ".tif", labels.grid, facts.legend
    layer = class_layer(legend)
    store = create(
        folder / "store.zarr",
        grid,
        layer,
        side=_SIDE,
        attributes=facts.tags,
        zarr_format=2 if cog else zarr_format,
    )
    counts = _copy(labels, legend, store)
    publish, staged = publish_zarr, store.path
    if cog:
        publish, staged = publish_cog, folder / place.name
        write_cog(
            store,
            grid,
            layer,
            staged,
            folder,
            counts=counts,
            tags=facts.tags,
            cache_bytes=_CACHE_BYTES,
        )
    else:
        write_pyramid(store, grid, layer, folder, cache_bytes=_CACHE_BYTES)
        list_checksums(store.path, store.array)
    publish(staged, place, layer, counts, style=style, overwrite=overwrite)
    return counts


def _copy(labels: Scene, legend: Legend, store: LabelStore) -> dict[int, int]:
    """Puts the map into the store and compares it; gives the pixels of each class."""
    histogram = np.zeros(256, np.int64)
    for window in labels.grid.window.squares(_SIDE):
        pixels, valid = labels.read(window)
        values: NDArray[np.uint8] = np.where(valid, pixels[0], legend.nodata).astype(np.uint8)
        store.write(window, values)
        if not np.array_equal(store.read(window), values):
            raise VerificationError(
                f"{store.path} doesn't hold what was written at {window}; check the disk and type "
                "the same command again"
            )
        histogram += np.bincount(values.ravel(), minlength=256)
    counts = {value: int(histogram[value]) for value in legend.values}
    if strange := labels.grid.pixels - sum(counts.values()) - int(histogram[legend.nodata]):
        raise CorruptInputError(
            f"{labels.path}: {strange:,} pixels have values that its legend doesn't name; get the "
            "map again with its side-cars"
        )
    return counts
