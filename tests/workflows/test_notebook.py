"""A report in a notebook: what it opens is what GDAL reads, and the example runs as it stands."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import rasterio
import rioxarray
from matplotlib import pyplot
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from xarray import DataArray

from segpipe.workflows.errors import OptionError
from segpipe.workflows.results.report import Report
from segpipe.workflows.run import run
from tests import toys
from tests.conftest import ROOT

NOTEBOOK = ROOT / "examples" / "landcover.ipynb"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("maps")


@pytest.fixture(scope="module")
def scene(folder: Path) -> Path:
    return toys.write_scene(folder / "scene.tif", toys.landscape(300, 400))


@pytest.fixture(scope="module", params=["map.tif", "map2.zarr", "map3.zarr"])
def report(scene: Path, folder: Path, request: pytest.FixtureRequest) -> Report:
    """A map in each container and format."""
    name: str = request.param
    number = 3 if "3" in name else 2
    return run(
        scene, model=toys.small(), output=folder / name, zarr_format=number, precision="fp32"
    )


@pytest.fixture(scope="module")
def expected(scene: Path, folder: Path) -> Path:
    """The same map as a GeoTIFF."""
    return run(scene, model=toys.small(), output=folder / "expected.tif", precision="fp32").output


def test_it_opens_as_rioxarray_opens_it(report: Report, expected: Path) -> None:
    found = report.open()
    reference = rioxarray.open_rasterio(expected)
    assert isinstance(reference, DataArray)
    assert found.dims == ("y", "x")
    assert found.dtype == np.uint8
    assert np.array_equal(found.to_numpy(), reference.to_numpy()[0])
    assert np.array_equal(found["x"], reference["x"])
    assert np.array_equal(found["y"], reference["y"])
    assert found.rio.crs.to_epsg() == reference.rio.crs.to_epsg() == 32119
    assert found.rio.transform() == reference.rio.transform()
    assert found.rio.nodata == 255


def test_its_flags_tell_the_classes(report: Report) -> None:
    found = report.open()
    assert found.attrs["flag_values"] == [count.value for count in report.classes.values()]
    assert found.attrs["flag_meanings"].split() == [f"class_{number}" for number in range(1, 6)]
    assert found.attrs["flag_colors"].split() == list(toys.COLORS)
    for count in report.classes.values():
        assert int((found == count.value).sum()) == count.pixels


def test_it_plots_the_map_in_its_colours(report: Report, expected: Path) -> None:
    axes = report.plot(Figure().add_subplot())
    (image,) = axes.get_images()
    with rasterio.open(expected) as file:
        labels, bounds = file.read(1), file.bounds
    colors = np.array(report.legend.palette, np.uint8)[labels]
    assert np.array_equal(np.asarray(image.get_array()), colors)
    assert tuple(image.get_extent()) == (bounds.left, bounds.right, bounds.bottom, bounds.top)
    legend = axes.get_legend()
    assert legend is not None
    shown = {
        text.get_text(): to_hex(patch.get_facecolor())
        for text, patch in zip(legend.get_texts(), legend.get_patches(), strict=True)
    }
    assert shown == {name: count.color for name, count in report.classes.items()}


def test_a_plot_makes_its_own_axes(report: Report) -> None:
    mpl.use("agg")
    axes = report.plot()
    assert pyplot.gca() is axes
    pyplot.close("all")


def test_it_shows_itself(report: Report) -> None:
    shown = report._repr_html_()
    for name, count in report.classes.items():
        assert f"</span>{name}</th>" in shown
        assert f"background:{count.color}" in shown
        assert f"{count.pixels:,}</td>" in shown
    assert str(report.output) in shown
    assert "exact; stride 4" in shown


@pytest.mark.parametrize(("module", "method"), [("rioxarray", "open"), ("matplotlib", "plot")])
def test_what_is_missing_is_told_in_one_line(
    report: Report, monkeypatch: pytest.MonkeyPatch, module: str, method: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(OptionError, match=r"pip install 'segpipe\[notebook\]'"):
        getattr(report, method)()


def test_reports_are_made_without_the_extras() -> None:
    script = (
        "import sys; import segpipe.workflows.run\n"
        "assert not {'xarray', 'rioxarray', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


class TestExample:
    def test_it_is_a_notebook_without_outputs(self) -> None:
        book = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
        assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
        names = [cell["id"] for cell in book["cells"]]
        assert len(set(names)) == len(names)
        for cell in book["cells"]:
            code = cell["cell_type"] == "code"
            extra = {"execution_count", "outputs"} if code else set()
            assert set(cell) == {"cell_type", "id", "metadata", "source"} | extra
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None

    def test_it_runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "landsat7-nc-2000.tif").symlink_to(ROOT / "examples" / "landsat7-nc-2000.tif")
        monkeypatch.chdir(tmp_path)
        mpl.use("agg")
        pyplot.close("all")
        names: dict[str, Any] = {}
        book = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
        for cell in book["cells"]:
            if cell["cell_type"] == "code":
                last = execute("".join(cell["source"]), names)
        report = names["report"]
        assert_nothing_is_cut_off()
        assert (tmp_path / "landcover.tif").is_file()
        assert (tmp_path / "landcover.html").is_file()
        areas = {name.replace(" ", "_"): count.area_m2 for name, count in report.classes.items()}
        assert last == pytest.approx({name: area / 1e6 for name, area in areas.items()})


def assert_nothing_is_cut_off() -> None:
    """The plot's legend and coordinates lie within the figure."""
    figure = pyplot.gcf()
    figure.canvas.draw()
    drawn = figure.axes[0].get_tightbbox()
    assert drawn is not None
    assert min(drawn.x0, drawn.y0) >= 0
    assert drawn.x1 <= figure.bbox.x1
    assert drawn.y1 <= figure.bbox.y1
    pyplot.close("all")


def execute(source: str, names: dict[str, Any]) -> object:
    """Runs a cell as a notebook does: the value of its last line, if that is one."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is None:
        return None
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)
