"""Small maps, and programs that nobody here wrote which say what they read in them."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pyproj import CRS

from segpipe.pipeline.grid import Affine, Grid
from segpipe.pipeline.maps.label_store import LabelStore, ZarrFormat, create
from segpipe.pipeline.maps.layer import class_layer
from segpipe.pipeline.maps.legend import Legend, LegendEntry
from segpipe.pipeline.window import Window

Labels = NDArray[np.uint8]

LEGEND = Legend(
    "Land cover",
    (
        LegendEntry(5, "water", "#4060c8"),
        LegendEntry(1, "developed area", "#d04040"),
        LegendEntry(2, "forêt & <bois>", "#208020"),
    ),
)
CLASSES = {"1": ["developed area", "#d04040"], "2": ["forêt & <bois>", "#208020"]} | {
    "5": ["water", "#4060c8"]
}
LAYER = class_layer(LEGEND)
ATTRIBUTES = {"segpipe_model": "demo"}
NORTH_UP: Affine = (30.0, 0.0, 630000.0, 0.0, -30.0, 228000.0)


def grid(height: int, width: int, transform: Affine = NORTH_UP, epsg: int | None = 32119) -> Grid:
    crs = None if epsg is None else CRS.from_epsg(epsg).to_wkt()
    return Grid(height, width, transform, crs)


GRIDS = {
    "north-up": grid(700, 900),
    "geographic": grid(700, 900, (0.01, 0.0, 10.0, 0.0, -0.01, 50.0), 4326),
    "US feet": grid(700, 900, (100.0, 0.0, 2e6, 0.0, -100.0, 7e5), 2264),
    "south-up": grid(700, 900, (30.0, 0.0, 630000.0, 0.0, 30.0, 207000.0)),
    "rotated": grid(700, 900, (30.0, 5.0, 630000.0, 3.0, -30.0, 228000.0)),
    "no crs": grid(700, 900, NORTH_UP, None),
    "pixels": grid(700, 900, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), None),
}


def random_labels(shape: tuple[int, int], seed: int = 0) -> Labels:
    """Labels in patches of a few pixels, nodata among them."""
    values = np.array([*LEGEND.values, LEGEND.nodata], dtype=np.uint8)
    small = np.random.default_rng(seed).choice(values, [-(-length // 3) for length in shape])
    return np.asarray(small.repeat(3, 0).repeat(3, 1)[: shape[0], : shape[1]])


def counts(labels: Labels) -> dict[int, int]:
    return {value: int((labels == value).sum()) for value in LEGEND.values}


def tiles(shape: tuple[int, int], side: int) -> Iterator[Window]:
    height, width = shape
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield Window(top, left, min(side, height - top), min(side, width - left))


def stored(
    path: Path, where: Grid, labels: Labels, *, side: int = 512, zarr_format: ZarrFormat = 2
) -> LabelStore:
    """A store that holds `labels`."""
    store = create(path, where, LAYER, side=side, attributes=ATTRIBUTES, zarr_format=zarr_format)
    for window in tiles(where.shape, side):
        store.write(window, labels[window.slices])
    return store


_GDAL = """
import hashlib, json, sys
from osgeo import gdal
gdal.UseExceptions()
dataset = gdal.Open(sys.argv[1])
band = dataset.GetRasterBand(1)
table, colors, crs = band.GetDefaultRAT(), band.GetColorTable(), dataset.GetSpatialRef()
rows = range(table.GetRowCount()) if table else ()
columns = range(table.GetColumnCount()) if table else ()
print(json.dumps({
    "transform": dataset.GetGeoTransform(),
    "epsg": crs and crs.GetAuthorityCode(None),
    "nodata": band.GetNoDataValue(),
    "names": band.GetCategoryNames(),
    "colors": [colors.GetColorEntry(i)[:3] for i in range(6)] if colors else None,
    "table": [[table.GetValueAsString(row, column) for column in columns] for row in rows],
    "usages": [table.GetUsageOfCol(column) for column in columns],
    "tags": dataset.GetMetadata(),
    "pyramid": [[o.YSize, o.XSize] for o in map(band.GetOverview, range(band.GetOverviewCount()))],
    "sha256": hashlib.sha256(band.ReadAsArray().tobytes()).hexdigest(),
}))
"""

# QGIS of Debian 12 sometimes crashes when it is told to exit.
_QGIS = """
import json, os, sys
from qgis.core import QgsApplication, QgsRasterLayer
application = QgsApplication([], False)
application.initQgis()
layer = QgsRasterLayer(sys.argv[1], "map")
renderer = layer.renderer()
classes = renderer.classes() if hasattr(renderer, "classes") else []
print(json.dumps({
    "valid": layer.isValid(),
    "epsg": layer.crs().authid(),
    "extent": layer.extent().toString(3),
    "nodata": layer.dataProvider().sourceNoDataValue(1),
    "classes": {str(int(c.value)): [c.label, c.color.name()] for c in classes},
    "pyramid": layer.isValid() and layer.dataProvider().hasPyramids(),
}), flush=True)
os._exit(0)
"""


def read_by_gdal(path: Path) -> dict[str, Any]:
    """What the system's own GDAL reads; skips the test where there is none."""
    return read_by(_GDAL, "osgeo.gdal", path)


def read_by_qgis(path: Path) -> dict[str, Any]:
    """What QGIS shows of a raster that is simply opened; skips the test where there is none."""
    return read_by(_QGIS, "qgis.core", path)


def read_by(script: str, module: str, name: Path | str, home: Path | None = None) -> dict[str, Any]:
    """What a script for the system's Python prints of a raster; skips where it has no `module`."""
    python = shutil.which("python3", path="/usr/bin")
    probe = [python or "", "-c", f"import {module}"]
    if python is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip(f"the system's Python has no {module}")
    folder = str(home or Path(name).parent)
    environment = {"QT_QPA_PLATFORM": "offscreen", "HOME": folder, "LANG": "C.UTF-8"}
    done = subprocess.run(
        [python, "-c", script, str(name)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
