"""A map in the browser, over a tile server of this machine: legend, opacity, a scene beneath."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from segpipe.pipeline.scenes.location import Place, place_of
from segpipe.workflows.errors import OptionError
from segpipe.workflows.viewer.view_layers import lay_beneath, open_map
from segpipe.workflows.viewer.view_page import make_page

if TYPE_CHECKING:
    from segpipe.workflows.viewer.view_server import RunningServer

_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Viewer:
    """A map that is served on this machine until it is closed; shows itself in a notebook.

    Attributes:
        map: the map's file or folder, absolute.
        scene: what lies beneath, likewise or an address; None where nothing does.
        url: where a browser finds it.
    """

    map: Path
    scene: Place | None
    url: str
    _server: RunningServer

    def close(self) -> None:
        """Ends the server and frees its port; may be called again."""
        self._server.close()

    def __enter__(self) -> Viewer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _repr_html_(self) -> str:
        return f'<iframe src="{self.url}" title="{self.url}" width="100%" height="600"></iframe>'


def view(
    map: str | Path,  # noqa: A002 - as on the command line
    *,
    scene: str | Path | None = None,
    bands: Sequence[str | int] | None = None,
    port: int = 0,
) -> Viewer:
    """Serves a map to browsers of this machine, on 127.0.0.1, until it is closed.

    The map is shown in its own pixels, not warped. Only this map and this scene can be asked for,
    and nothing is loaded from elsewhere.

        with view("map.tif", scene="scene.tif") as viewer:
            print(viewer.url)

    Args:
        map: a GeoTIFF or Zarr of class values, with its legend beside it.
        scene: what lies beneath, as `run` takes it, on any grid; its bands are stretched between
            their 2nd and 98th percentile under the map.
        bands: one of its bands, or three for red, green and blue, by number from 1 or by name.
        port: where to listen; 0 takes a port that is free.

    Raises:
        InputRefusedError: the map or the scene can't be read, or they don't overlap.
        CorruptInputError: pixels can't be read.
        OptionError: the port is taken or no port, or a package isn't installed.
    """
    try:
        from segpipe.workflows.viewer.view_server import HOST, application, listen, start
    except ImportError as error:
        raise OptionError(
            f"a viewer takes titiler.core and uvicorn, and {error.name} isn't installed: "
            "pip install 'segpipe[view]'"
        ) from error
    if not 0 <= port <= _LAST_PORT:
        raise OptionError(f"a port is a number from 0 to {_LAST_PORT}, got {port}")
    if bands is not None and scene is None:
        raise OptionError("--bands are those of a scene; name one with --scene")
    place = Path(map).absolute()
    shown = open_map(place)
    chosen = None if bands is None else tuple(str(band) for band in bands)
    below = None if scene is None else lay_beneath(scene, chosen, shown)
    # A file's name may be bytes that are no text.
    name = place.name.encode(errors="replace").decode()
    app = application(shown, below, make_page(shown, below, name))
    try:
        running = start(app, listen(port))
    except OSError as error:
        raise OptionError(
            f"port {port} of 127.0.0.1 can't be had ({error}); choose another with --port, or "
            "leave it out"
        ) from error
    return Viewer(
        place,
        None if scene is None else place_of(scene),
        f"http://{HOST}:{running.port}/",
        running,
    )
