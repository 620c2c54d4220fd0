"""The command `view`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import webbrowser
from pathlib import Path
from types import FrameType

import click

from segpipe.workflows.terminal import options
from segpipe.workflows.terminal.console import print_json


@click.command(short_help="Look at a map in the browser.")
@click.argument("map_", metavar="OUTPUT", type=click.Path(path_type=Path))
@click.option(
    "--scene",
    metavar="SCENE",
    help="What is shown beneath the map, such as the scene that was mapped: a file, a folder or an "
    "address, as `segpipe run` takes it.",
)
@click.option(
    "--bands",
    type=options.Names(),
    help="The scene's bands for red, green and blue, or one for grey, by number (4,3,2) or by "
    "name. By default those that are named so, or the first.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Where to listen on 127.0.0.1; by default a port that is free.",
)
@click.option("--browser/--no-browser", default=True, help="Open the browser, or not.")
@options.as_json
def view(
    map_: Path,
    scene: str | None,
    bands: list[str] | None,
    port: int,
    browser: bool,
    as_json: bool,
) -> None:
    """Look at a map that segpipe wrote, GeoTIFF or Zarr: legend, opacity, a scene beneath, and the
    class under the pointer.

    A server on 127.0.0.1 gives tiles of this map to browsers of this machine, until Ctrl-C. Pixels
    are shown as they are, not warped.

    \b
    segpipe view map.tif
    segpipe view map.zarr --scene scene.tif --bands 4,3,2
    """  # noqa: D301
    from segpipe.workflows.view import view as serve

    ended = threading.Event()

    def leave(number: int, frame: FrameType | None) -> None:
        ended.set()

    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)
    with serve(map_, scene=scene, bands=bands, port=port) as viewer:
        if as_json:
            below = None if viewer.scene is None else str(viewer.scene)
            print_json({"url": viewer.url, "map": str(viewer.map), "scene": below})
        else:
            click.echo(f"{map_.name} is at {viewer.url} until you type Ctrl-C")
        sys.stdout.flush()
        if browser and _has_windows():
            webbrowser.open(viewer.url)
        ended.wait()


def _has_windows() -> bool:
    """Whether a browser would open a window; else one in the terminal would cover it."""
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
