"""What `evaluate` says of a map is what scikit-learn says of its pixels, at any size."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from sklearn import metrics as oracle

from segpipe.models.card import ClassInfo
from segpipe.models.learning.metrics import boundary_iou
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.grid import Grid
from segpipe.pipeline.maps import label_store, pam
from segpipe.pipeline.maps.label_store import ZarrFormat
from segpipe.pipeline.maps.layer import class_layer
from segpipe.pipeline.maps.legend import Legend, LegendEntry
from segpipe.workflows import evaluate as module
from segpipe.workflows.errors import OptionError
from segpipe.workflows.evaluate import evaluate
from segpipe.workflows.labels.label_scheme import LabelClass, LabelScheme
from tests import toys
from tests.workflows.conftest import Command

Array = NDArray[np.uint8]
NODATA = 255
VALUES = (1, 2, 7)
LEGEND = Legend(
    "toy", tuple(LegendEntry(v, name, "#123456") for v, name in zip(VALUES, "abc", strict=True))
)
# Of the reference's values 10 and 11 are one class, and 99 is none.
SCHEME = LabelScheme(
    (
        LabelClass(ClassInfo(1, "a", "#123456"), (10, 11)),
        LabelClass(ClassInfo(2, "b", "#123456"), (20,)),
        LabelClass(ClassInfo(7, "c", "#123456"), (70,)),
    ),
    ignored=(99,),
)
MEANING = {10: 1, 11: 1, 20: 2, 70: 7, 99: NODATA, 0: NODATA}


def write(path: Path, labels: Array, *, nodata: int = NODATA, named: bool = False) -> Path:
    """A GeoTIFF of labels (row, column), with the side-car that names them or without."""
    toys.write_scene(path, labels[None], nodata=nodata, names=("labels",))
    if named:
        path.with_name(f"{path.name}.aux.xml").write_bytes(pam.geotiff_pam(LEGEND, {}))
    return path


def noise(shape: tuple[int, int], values: tuple[int, ...], seed: int) -> Array:
    """Patches of values, so that there are contours and insides."""
    coarse = np.random.default_rng(seed).choice(values, (shape[0] // 4 + 1, shape[1] // 4 + 1))
    return coarse.repeat(4, 0).repeat(4, 1)[: shape[0], : shape[1]].astype(np.uint8)


sides = st.tuples(st.integers(1, 40), st.integers(1, 40))


@settings(deadline=None, max_examples=40)
@given(
    sides.flatmap(
        lambda shape: st.tuples(
            arrays(np.uint8, shape, elements=st.sampled_from([*VALUES, NODATA])),
            arrays(np.uint8, shape, elements=st.sampled_from([*MEANING])),
        )
    ),
    st.integers(7, 50),
)
def test_figures_are_those_of_scikit_learn(
    tmp_path_factory: pytest.TempPathFactory, pair: tuple[Array, Array], side: int
) -> None:
    folder = tmp_path_factory.mktemp("e")
    mapped, labels = pair
    true = np.vectorize(MEANING.__getitem__)(labels).astype(np.uint8)
    both = (mapped != NODATA) & (true != NODATA)
    files = write(folder / "map.tif", mapped), write(folder / "labels.tif", labels, nodata=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SIDE", side)
        if not both.any():
            with pytest.raises(InputRefusedError, match="no pixel in common"):
                evaluate(*files, classes=SCHEME)
            return
        found = evaluate(*files, classes=SCHEME)
    expected = oracle.confusion_matrix(true[both], mapped[both], labels=VALUES)
    np.testing.assert_array_equal(found.scores.confusion, expected)
    assert found.scores.overall_accuracy == oracle.accuracy_score(true[both], mapped[both])
    assert [entry.name for entry in found.classes] == ["a", "b", "c"]
    assert found.unmapped == (true != NODATA).sum() - both.sum()
    assert found.unreferenced == (mapped != NODATA).sum() - both.sum()


@pytest.mark.parametrize("distance", [1, 3])
def test_boundaries_are_those_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distance: int
) -> None:
    mapped, labels = (noise((70, 90), (1, 2, 7, NODATA), seed) for seed in (0, 1))
    files = write(tmp_path / "map.tif", mapped, named=True), write(tmp_path / "labels.tif", labels)
    monkeypatch.setattr(module, "SIDE", 16)
    found = evaluate(*files, boundary=distance).boundary_iou
    index = np.full(256, 9, np.uint8)
    index[[*VALUES]] = [0, 1, 2]
    assert found is not None
    np.testing.assert_allclose(found, boundary_iou(index[labels], index[mapped], 3, distance))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_zarr_map_says_what_its_classes_are(tmp_path: Path, zarr_format: ZarrFormat) -> None:
    labels = noise((256, 256), VALUES, 0)
    grid = Grid(256, 256, toys.grid(1, 1).transform, pyproj.CRS("EPSG:32119").to_wkt())
    store = label_store.create(
        tmp_path / "map.zarr",
        grid,
        class_layer(LEGEND),
        side=256,
        attributes={},
        zarr_format=zarr_format,
    )
    store.write(grid.window, labels)
    found = evaluate(tmp_path / "map.zarr", write(tmp_path / "labels.tif", labels))
    assert found.scores.overall_accuracy == 1
    assert [(entry.value, entry.name) for entry in found.classes] == [(1, "a"), (2, "b"), (7, "c")]


def test_without_names_classes_are_the_values_that_are_found(tmp_path: Path) -> None:
    mapped, labels = np.array([[3, 3, 9, 9]], np.uint8), np.array([[3, 4, 9, 255]], np.uint8)
    found = evaluate(write(tmp_path / "m.tif", mapped), write(tmp_path / "l.tif", labels))
    assert [entry.name for entry in found.classes] == ["3", "4", "9"]
    assert found.scores.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]


def test_a_reference_on_other_pixels_is_brought_onto_the_map(tmp_path: Path) -> None:
    mapped = noise((80, 80), VALUES, 0)
    coarse = toys.write_scene(
        tmp_path / "labels.tif",
        mapped[None, ::4, ::4],
        nodata=NODATA,
        transform=toys.LANDSAT @ rasterio.Affine.scale(4),
        names=("labels",),
    )
    found = evaluate(write(tmp_path / "map.tif", mapped), coarse)
    assert found.resampled
    assert found.scores.overall_accuracy == 1
    assert found.scores.pixels == 6400


def test_polygons_are_a_reference(tmp_path: Path) -> None:
    mapped = np.full((20, 20), 1, np.uint8)
    mapped[:, 10:] = 7
    a, _, c, _, e, f = toys.LANDSAT[:6]
    shapes = [
        shapely.box(c + a * left, f + e * (top + 4), c + a * (left + 8), f + e * top)
        for left, top in ((0, 0), (6, 10), (12, 15))
    ]
    pyogrio.raw.write(
        tmp_path / "fields.gpkg",
        geometry=shapely.to_wkb(np.array(shapes)),
        field_data=[np.array([1, 1, 7]), np.array(["A", "a", "c"], object)],
        fields=["code", "name"],
        geometry_type="Polygon",
        crs="EPSG:32119",
    )
    path = write(tmp_path / "map.tif", mapped, named=True)
    for attribute in ("code", "name"):
        found = evaluate(path, tmp_path / "fields.gpkg", attribute=attribute)
        assert found.scores.confusion.tolist() == [[48, 0, 16], [0, 0, 0], [0, 0, 32]]
        assert (found.unmapped, found.unreferenced) == (0, 400 - 96)
    with pytest.raises(OptionError, match="with --attribute; it has code, name"):
        evaluate(path, tmp_path / "fields.gpkg")


def test_the_bundled_example(examples: Path) -> None:
    """Labels against polygons of the same makers, 2258 pixels as rasterio burns them."""
    scheme = LabelScheme(
        tuple(
            LabelClass(ClassInfo(value, str(value), "#000000"), (value,)) for value in range(1, 8)
        )
    )
    found = evaluate(
        examples / "landcover-nc-1996.tif",
        examples / "landsat96_polygons.shp",
        classes=scheme,
        attribute="id",
    )
    assert found.scores.pixels + found.unmapped == 2258
    assert found.scores.overall_accuracy > 0.8


# What is refused


def test_what_doesnt_fit_is_refused(tmp_path: Path, examples: Path) -> None:
    labels = noise((20, 20), VALUES, 0)
    path = write(tmp_path / "map.tif", labels, named=True)
    strange = write(tmp_path / "strange.tif", np.full_like(labels, 5))
    far = tmp_path / "far.tif"
    toys.write_scene(far, labels[None], transform=rasterio.Affine(9, 0, 0, 0, -9, 0))
    for arguments, message in (
        ((path, strange), r"strange.tif: holds 5, expected 1, 2, 7; say with --classes FILE"),
        ((examples / "landsat7-nc-2000.tif", path), "has 6 bands, expected one of class values"),
        ((path, examples / "landsat7-nc-2000.tif"), "has 6 bands, expected one of class values"),
        ((path, tmp_path / "missing.tif"), "doesn't exist"),
        ((path, tmp_path / "missing.gpkg"), "doesn't exist"),
        ((path, far), "has no pixel in common with"),
    ):
        with pytest.raises(InputRefusedError, match=message):
            evaluate(*arguments)
    with pytest.raises(OptionError, match="leave out --attribute"):
        evaluate(path, path, attribute="class")
    with pytest.raises(OptionError, match="a pixel thick or more"):
        evaluate(path, path, boundary=0)


# The command


def test_the_command_prints_tables_or_json(segpipe: Command, tmp_path: Path) -> None:
    mapped, labels = (noise((40, 40), VALUES, seed) for seed in (0, 1))
    files = write(tmp_path / "map.tif", mapped, named=True), write(tmp_path / "labels.tif", labels)
    plain = segpipe("evaluate", *files, "--boundary", "2")
    assert (plain.code, plain.err) == (0, "")
    accuracy = float((mapped == labels).mean())
    assert f"overall accuracy        {accuracy:.3f}" in plain.out
    assert "boundary IoU (2 px)" in plain.out
    assert "reference \\ map" in plain.out
    told = json.loads(segpipe("evaluate", *files, "--json").out)
    expected = oracle.confusion_matrix(labels.ravel(), mapped.ravel())
    assert told["confusion_matrix"] == expected.tolist()
    assert told["classes"]["b"]["value"] == 2
    recall = oracle.recall_score(labels.ravel(), mapped.ravel(), labels=[2], average=None)[0]
    assert told["classes"]["b"]["recall"] == pytest.approx(recall, abs=1e-4)


def test_the_command_draws_the_matrix(segpipe: Command, tmp_path: Path) -> None:
    path = write(tmp_path / "map.tif", noise((40, 40), VALUES, 0), named=True)
    done = segpipe("evaluate", path, path, "--picture", tmp_path / "matrix.png")
    assert done.code == 0, done.err
    with Image.open(tmp_path / "matrix.png") as picture:
        assert min(picture.size) > 400
        assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 20
    wrong = segpipe("evaluate", path, path, "--picture", tmp_path / "matrix.svg")
    assert wrong.code == 2
    assert wrong.lines[0].endswith("name a file that ends in .png")


MEASURED = """
import resource, sys
from segpipe.workflows.evaluate import evaluate
evaluate(sys.argv[1], sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak(folder: Path, side: int) -> int:
    """Megabytes that evaluating a square map takes at most."""
    folder.mkdir()
    for name in ("map.tif", "labels.tif"):
        with rasterio.open(
            folder / name,
            "w",
            **{"driver": "GTiff", "count": 1, "height": side, "width": side, "dtype": "uint8"},
            **{"nodata": NODATA, "sparse_ok": True, "tiled": True, "compress": "zstd"},
            **{"crs": "EPSG:32119", "transform": toys.LANDSAT},
        ) as file:
            block = noise((512, 512), VALUES, len(name))
            for place in range(0, side, 2048):
                window = rasterio.windows.Window(place, place, 512, 512)
                file.write(block[: side - place, : side - place], 1, window=window)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(folder / "map.tif"), str(folder / "labels.tif")],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)


@pytest.mark.slow
def test_memory_doesnt_grow_with_the_map(tmp_path: Path) -> None:
    small, large = peak(tmp_path / "small", 4096), peak(tmp_path / "large", 20480)
    print(f"{small} MB and {large} MB")
    # Caches of blocks fill up to their limit; the large map has 25 times the pixels.
    assert large <= 1.3 * small
