"""Inside an area of interest a map is what it is without one; outside, it is nodata for free."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.features
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segpipe.models.work import pixels_computed
from segpipe.pipeline.errors import FingerprintMismatchError, InputRefusedError
from segpipe.pipeline.plan import Margin, Plan
from segpipe.pipeline.scenes.scene import Scene, open_scene
from segpipe.pipeline.window import Window
from segpipe.workflows.plan import plan
from segpipe.workflows.run import run
from segpipe.workflows.stages import Progress
from segpipe.workflows.verify import verify
from tests import toys
from tests.workflows.conftest import Command

HEIGHT, WIDTH = 700, 900
Corners = Sequence[tuple[float, float]]
Labels = NDArray[np.uint8]

CORNER = [(300.25, 280.5), (610.25, 300.0), (560.75, 505.5)]
"""A triangle in the middle column of tiles of 256, and across seams."""


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint16]:
    return toys.landscape(HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, pixels: NDArray[np.uint16]) -> Path:
    return toys.write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", pixels)


@pytest.fixture(scope="module")
def whole(pixels: NDArray[np.uint16]) -> Labels:
    """The map without an area of interest, in one pass."""
    model, valid = toys.small(), (pixels != 0).all(axis=0)
    return toys.whole_image(model.network, model.card, model.footprint.stride, pixels, valid)


def write(path: Path, layer: Sequence[Corners], crs: str | None = "EPSG:32119") -> Path:
    """A file of polygons whose corners are (column, row) of the scene."""
    a, _, c, _, e, f = tuple(toys.LANDSAT)[:6]
    shapes = [shapely.Polygon([(c + a * x, f + e * y) for x, y in ring]) for ring in layer]
    pyogrio.raw.write(
        path,
        geometry=shapely.to_wkb(np.array(shapes, object)),
        field_data=[],
        fields=[],
        geometry_type="Polygon",
        crs=crs,
    )
    return path


@pytest.fixture
def aoi(tmp_path: Path) -> Path:
    return write(tmp_path / "aoi.gpkg", [CORNER])


def inside(layer: Sequence[Corners]) -> NDArray[np.bool_]:
    """Where GDAL burns the polygons when it is given all of them at once, in pixels."""
    shapes = [shapely.Polygon(ring) for ring in layer]
    burnt = rasterio.features.rasterize(shapes, out_shape=(HEIGHT, WIDTH))
    return np.asarray(burnt > 0)


def labels(path: Path) -> Labels:
    with rasterio.open(path) as file:
        found: Labels = file.read(1)
    return found


def expected(whole: Labels, layer: Sequence[Corners]) -> Labels:
    return np.where(inside(layer), whole, np.uint8(255))


across, down = (st.integers(-80, 4 * length + 80) for length in (WIDTH, HEIGHT))
rings = st.lists(
    st.tuples(across.map(lambda n: n / 4), down.map(lambda n: n / 4)), min_size=3, max_size=6
)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(rings, min_size=1, max_size=3).filter(lambda layer: inside(layer).sum() > 9))
def test_inside_the_labels_are_those_of_the_whole_map(
    tmp_path_factory: pytest.TempPathFactory, scene: Path, whole: Labels, layer: list[Corners]
) -> None:
    folder, model = tmp_path_factory.mktemp("law"), toys.small()
    path = write(folder / "aoi.gpkg", layer)
    found = set()
    for side in (256, 512):
        output = folder / str(side) / "map.tif"
        output.parent.mkdir()
        run(scene, model=model, output=output, aoi=path, tile=side, precision="fp32")
        assert np.array_equal(labels(output), expected(whole, layer)), side
        found.add(output.read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize("number", [2, 3])
def test_a_zarr_store_holds_the_same(
    scene: Path, aoi: Path, whole: Labels, tmp_path: Path, number: int
) -> None:
    output = tmp_path / "map.zarr"
    run(
        scene,
        model=toys.small(),
        output=output,
        aoi=aoi,
        tile=256,
        precision="fp32",
        zarr_format=number,
    )
    found, _ = open_scene(output).read(Window(0, 0, HEIGHT, WIDTH))
    assert np.array_equal(found[0], expected(whole, [CORNER]))


def test_the_report_counts_what_is_inside(
    scene: Path, aoi: Path, whole: Labels, tmp_path: Path
) -> None:
    model, output = toys.small(), tmp_path / "map.tif"
    planned = plan(scene, model=model, output=output, aoi=aoi, tile=256, precision="fp32")
    report = run(scene, model=model, output=output, aoi=aoi, tile=256, precision="fp32")
    made = expected(whole, [CORNER])
    data = report.to_dict()
    assert data["pixels"] == made.size
    assert data["aoi_pixels"] == inside([CORNER]).sum()
    assert data["valid_pixels"] == np.count_nonzero(made != 255)
    for count in data["classes"].values():
        assert count["pixels"] == np.count_nonzero(made == count["value"])
        assert count["area_m2"] == pytest.approx(count["pixels"] * 28.5**2)
    touched = {(row // 256, column // 256) for row, column in np.argwhere(inside([CORNER]))}
    assert planned.tiles == report.tiles == len(touched) < 12
    cut = Plan(toys.grid(HEIGHT, WIDTH), 256, model.footprint.stride, planned.margin)
    windows = [((cut.rows.stretch(row), cut.columns.stretch(column)), 1) for row, column in touched]
    computed = pixels_computed(model.network, 3, model.footprint.stride, windows)
    assert computed < sum(rows.length * columns.length for (rows, columns), _ in windows)
    assert planned.extra_work == pytest.approx(computed / inside([CORNER]).sum())
    assert report.seam is not None
    assert 0 < report.seam.pixels < 128 * 128
    assert report.seam.differing == 0


def test_tiles_outside_are_not_read(
    scene: Path, aoi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows: Counter[Window] = Counter()
    read = Scene.read

    def counted(self: Scene, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        windows[window] += 1
        return read(self, window)

    model = toys.small()
    # With samples or a seam it could read the same windows for another reason.
    monkeypatch.setattr("segpipe.workflows.stages._SEAM", 1)
    monkeypatch.setattr("segpipe.workflows.resident._SAMPLE", 1)
    monkeypatch.setattr(Scene, "read", counted)
    report = run(scene, model=model, output=tmp_path / "map.tif", aoi=aoi, tile=256)
    cut = plan_of(scene, report.footprint.stride, report.footprint.top)
    reads = {tile.read: tile for tile in cut.tiles()}
    done = {(reads[window].row, reads[window].column) for window in windows if window in reads}
    assert done == {(row // 256, column // 256) for row, column in np.argwhere(inside([CORNER]))}
    assert all(count == 1 for window, count in windows.items() if window in reads)


def plan_of(scene: Path, stride: int, margin: int) -> Plan:
    return Plan(open_scene(scene).grid, 256, stride, Margin(margin, margin, margin, margin))


class StoppedError(Exception):
    """Somebody pulled the plug."""


def stop_after(count: int, also: Callable[[], object] = lambda: None) -> Callable[[Progress], None]:
    def watch(progress: Progress) -> None:
        if progress.done == count:
            also()
            raise StoppedError

    return watch


def test_a_run_is_resumed_with_its_own_area_alone(scene: Path, aoi: Path, tmp_path: Path) -> None:
    model, output = toys.small(), tmp_path / "map.tif"
    other = write(tmp_path / "other.gpkg", [[(x + 1, y) for x, y in CORNER]])
    straight = tmp_path / "straight.tif"
    run(scene, model=model, output=straight, aoi=aoi, tile=256)
    with pytest.raises(StoppedError):
        run(scene, model=model, output=output, aoi=aoi, tile=256, watch=stop_after(2))
    for changed in (other, None):
        with pytest.raises(FingerprintMismatchError, match=r"options\.aoi was"):
            run(scene, model=model, output=output, aoi=changed, tile=256)
    report = run(scene, model=model, output=output, aoi=aoi, tile=256)
    assert 2 <= report.tiles_resumed <= report.tiles
    assert output.read_bytes() == straight.read_bytes()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_workers_need_no_file_of_polygons(
    scene: Path, aoi: Path, tmp_path: Path, workers: int
) -> None:
    model = toys.small()
    straight = run(scene, model=model, output=tmp_path / "a.tif", aoi=aoi, tile=256)
    output = tmp_path / "b.tif"
    removed = run(
        scene,
        model=model,
        output=output,
        aoi=aoi,
        tile=256,
        workers=workers,
        watch=lambda progress: aoi.unlink(missing_ok=True),
    )
    assert not aoi.exists()
    assert output.read_bytes() == straight.output.read_bytes()
    assert removed.tiles == straight.tiles


def test_a_map_is_verified_inside_and_is_nodata_outside(
    scene: Path, aoi: Path, tmp_path: Path
) -> None:
    model, output = toys.small(), tmp_path / "map.tif"
    run(scene, model=model, output=output, aoi=aoi, tile=256, precision="fp32")
    found = verify(scene, output, model=model, aoi=aoi, precision="fp32", windows=3)
    assert found.holds
    assert found.pixels > 0
    forged = labels(output)
    assert forged[2, 2] == 255
    forged[2, 2] = 1
    with rasterio.open(output) as file:
        profile = {**file.profile, "driver": "GTiff"}
    with rasterio.open(tmp_path / "forged.tif", "w", **profile) as file:
        file.write(forged, 1)
    forgery = verify(
        scene, tmp_path / "forged.tif", model=model, aoi=aoi, precision="fp32", windows=None
    )
    assert (forgery.differing, forgery.absent, forgery.first) == (1, 0, "row 0, column 0")


def test_the_commands_take_it(
    segpipe: Command, tiny_model: Path, scene: Path, aoi: Path, tmp_path: Path
) -> None:
    words = (scene, "-m", tiny_model, "--aoi", aoi, "--precision", "fp32", "--tile", "256")
    planned = json.loads(segpipe("plan", *words, "--json").out)
    made = json.loads(segpipe("run", *words, "-o", "map.tif", "--json").out)
    assert planned["tiles"] == made["tiles"] < 12
    assert 0 < made["valid_pixels"] <= made["aoi_pixels"] < made["pixels"]
    checked = ("verify", scene, "map.tif", "-m", tiny_model, "--precision", "fp32")
    assert segpipe(*checked, "--aoi", aoi).code == 0
    without = segpipe(*checked)
    assert without.code == 10
    assert "name the --aoi" in without.lines[-1]


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_what_is_no_area_ends_with_one_line(
    segpipe: Command, tiny_model: Path, scene: Path, tmp_path: Path
) -> None:
    away = write(tmp_path / "away.gpkg", [[(9000, 9000), (9100, 9000), (9000, 9100)]])
    placeless = write(tmp_path / "placeless.shp", [CORNER], None)
    words = tmp_path / "words.geojson"
    words.write_text("words")
    for path, told in (
        (away, "doesn't touch the raster"),
        (placeless, "has no crs"),
        (words, "not a file of polygons"),
        (tmp_path / "none.gpkg", "doesn't exist"),
    ):
        outcome = segpipe("run", scene, "-m", tiny_model, "--aoi", path, "-o", "map.tif")
        assert outcome.code == InputRefusedError.exit_code, path
        assert len(outcome.lines) == 1
        assert told in outcome.lines[0]
        assert not list(tmp_path.glob("*map.tif*"))
