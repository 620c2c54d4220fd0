"""How a report shows itself in a notebook: as HTML, as an xarray, as a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from segpipe.pipeline.maps.picture import paint
from segpipe.pipeline.scenes.location import Address
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.workflows.errors import OptionError
from segpipe.workflows.pages.markup import Html, element, joined
from segpipe.workflows.terminal import texts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import DataArray

    from segpipe.workflows.results.report import Report

_LONGEST = 1600
"""Rows or columns of a plot at most; no screen shows more."""

_ARRAY = "classes"


def open_map(report: Report) -> DataArray:
    """The map (y, x), lazily, with crs, nodata, `flag_values`, `flag_meanings`, `flag_colors`.

    Raises:
        OptionError: xarray or rioxarray isn't installed.
        OSError: the map isn't there any more.
    """
    try:
        import rioxarray
        import xarray
    except ImportError as error:
        raise OptionError(
            "a map opens with xarray and rioxarray, which aren't installed: "
            "pip install 'segpipe[notebook]'"
        ) from error
    found: DataArray
    if isinstance(place := report.place(report.output), Address):
        raise OptionError(
            f"{place} lies in an object store; open it with xarray.open_zarr or "
            "rioxarray.open_rasterio, which take credentials of their own"
        )
    if report.output.suffix == ".zarr":
        store = xarray.open_zarr(report.output, mask_and_scale=False, decode_coords="all")
        found = store[_ARRAY]
    else:
        bands = cast("DataArray", rioxarray.open_rasterio(report.output, masked=False))
        found = bands.squeeze("band", drop=True).rename(_ARRAY)
    legend = report.legend
    return found.assign_attrs(
        long_name=legend.title,
        flag_values=list(legend.values),
        flag_meanings=" ".join(legend.flag_meanings),
        flag_colors=" ".join(entry.color for entry in legend.entries),
    )


def plot_map(report: Report, ax: Axes | None) -> Axes:
    """The axes with the map, in the crs's coordinates where rows and columns follow them.

    Raises:
        OptionError: matplotlib isn't installed.
        PipelineError: the map can't be read any more.
    """
    try:
        from matplotlib import pyplot
        from matplotlib.patches import Patch
    except ImportError as error:
        raise OptionError(
            "plots take matplotlib, which isn't installed: pip install 'segpipe[notebook]'"
        ) from error
    if ax is None:
        _, ax = pyplot.subplots(layout="compressed")
    scene = open_scene(str(report.place(report.output)))
    grid = scene.grid
    a, b, left, d, e, top = grid.transform
    extent = (left, left + a * grid.width, top + e * grid.height, top)
    upright = b == 0 and d == 0
    ax.imshow(
        paint(scene, report.legend, _LONGEST),
        extent=extent if upright else (0, grid.width, grid.height, 0),
        interpolation="nearest",
    )
    ax.ticklabel_format(style="plain", useOffset=False)
    ax.tick_params(labelsize="small")
    ax.set_title(report.output.name)
    ax.legend(
        handles=[
            Patch(facecolor=entry.color, edgecolor="#8888", label=entry.name)
            for entry in report.legend.entries
        ],
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        borderaxespad=0,
        frameon=False,
    )
    return ax


def as_html(report: Report) -> Html:
    """A small table: the classes with colours, shares and areas, exactness, and where the map is.

    Colours and fonts are the notebook's own, in the light as in the dark.
    """
    room = "padding:.15em .6em"
    left = f"text-align:left;{room}"
    right = f"text-align:right;font-variant-numeric:tabular-nums;{room}"
    areas = any(count.area_m2 is not None for count in report.classes.values())
    titles = ("class", "pixels", "share", "area")[: 4 if areas else 3]
    head = element(
        "tr",
        *(
            element("th", title, scope="col", style=left if title == "class" else right)
            for title in titles
        ),
    )
    rows = []
    for name, count in report.classes.items():
        swatch = element(
            "span",
            style=f"display:inline-block;width:1em;height:1em;margin-right:.5em;"
            f"vertical-align:-.15em;border:1px solid #8888;background:{count.color}",
        )
        numbers = [f"{count.pixels:,}", f"{count.pixels / max(report.valid_pixels, 1):.1%}"]
        if areas:
            numbers.append(texts.area(count.area_m2))
        rows.append(
            element(
                "tr",
                element("th", swatch, name, scope="row", style=f"{left};font-weight:normal"),
                *(element("td", number, style=right) for number in numbers),
            )
        )
    return element(
        "div",
        element("p", element("strong", report.output.name), f" by {report.model}"),
        element("table", element("thead", head), element("tbody", *rows)),
        element("p", texts.exactness(report.footprint)),
        element("p", joined(element("code", str(report.place(report.output))))),
    )
