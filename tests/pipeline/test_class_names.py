"""The names in a map's side-car are those that GDAL reads from it."""

from dataclasses import replace
from pathlib import Path

import pytest

from segpipe.pipeline.maps import label_store, pam
from segpipe.pipeline.maps.class_names import class_names
from segpipe.pipeline.maps.label_store import ZarrFormat
from segpipe.pipeline.maps.layer import class_layer
from segpipe.pipeline.maps.legend import Legend, LegendEntry
from tests import toys

LEGEND = Legend(
    "map", (LegendEntry(7, "sea & <sand>", "#000000"), LegendEntry(1, "forêt", "#ffffff"))
)
NAMES = {1: "forêt", 7: "sea & <sand>"}


def test_names_of_a_geotiff(tmp_path: Path) -> None:
    assert class_names(tmp_path / "a.tif") == {}
    (tmp_path / "a.tif.aux.xml").write_bytes(pam.geotiff_pam(LEGEND, {}))
    assert class_names(tmp_path / "a.tif") == NAMES


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_names_of_a_zarr_store(tmp_path: Path, zarr_format: ZarrFormat) -> None:
    path = tmp_path / "a.zarr"
    grid = replace(toys.grid(10, 10), crs=None)
    label_store.create(
        path, grid, class_layer(LEGEND), side=512, attributes={}, zarr_format=zarr_format
    )
    assert class_names(path) == NAMES


@pytest.mark.parametrize(
    "text",
    [
        "",
        "words",
        "<PAMDataset/>",
        "<PAMDataset><CategoryNames/></PAMDataset>",
        '<!DOCTYPE a [<!ENTITY b "c">]>'
        "<P><CategoryNames><Category>&b;</Category></CategoryNames></P>",
    ],
)
def test_an_unsound_side_car_names_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.tif.aux.xml").write_text(text)
    assert class_names(tmp_path / "a.tif") == {}
