"""The tile server of a viewer: one map, one scene, one page, to this machine alone.

It takes no address from a request, so it can't be made to read anything else; and it answers only
to its own names, so that no page from elsewhere reads it through a name that was bent to 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import uvicorn
from anyio import to_thread
from attrs import define
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from numpy.typing import NDArray
from rasterio.transform import Affine
from rio_tiler.errors import TileOutsideBounds
from rio_tiler.models import ImageData
from starlette.middleware.trustedhost import TrustedHostMiddleware
from titiler.core.errors import add_exception_handlers
from titiler.core.factory import BaseFactory
from titiler.core.resources.enums import ImageType
from titiler.core.utils import render_image

from segpipe.pipeline.errors import PipelineError
from segpipe.workflows.viewer.view_layers import MapLayer, SceneLayer, degrees, place
from segpipe.workflows.viewer.view_page import Page

HOST = "127.0.0.1"
_NAMES = [HOST, "localhost"]
_THREADS = 4
_PATIENCE = 20
_ANYWHERE = Affine(1, 0, 0, 0, -1, 1)

_HEADERS = {
    # Another map may stand on the same port tomorrow.
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Hidden = Annotated[str, Query(pattern=r"^(\d{1,3}(,\d{1,3}){0,255})?$")]
Answer = Callable[[Request], Awaitable[Response]]


@define(kw_only=True)
class MapTiler(BaseFactory):
    """The addresses below which a map, and the scene beneath it, are served."""

    map: MapLayer
    scene: SceneLayer | None

    def register_routes(self) -> None:
        """Called by titiler."""
        self.router.get("/tiles/map/{level}/{row}/{column}.png")(self.map_tile)
        if self.scene is not None:
            self.router.get("/tiles/scene/{level}/{row}/{column}.png")(self.scene_tile)
        self.router.get("/point")(self.point)

    def map_tile(self, level: int, row: int, column: int, hide: Hidden = "") -> Response:
        """A tile in the legend's colours, transparent where no class is, or a hidden one."""
        labels = self.map.tile(level, row, column)
        if labels is None:
            raise TileOutsideBounds(f"the map has no tile {level}/{row}/{column}")
        hidden = {int(value) for value in hide.split(",") if value}
        shown = {
            value: (0, 0, 0, 0) if value in hidden else color
            for value, color in enumerate(self.map.legend.palette)
        }
        return _png(labels[np.newaxis], np.zeros(labels.shape, np.bool_), shown)

    def scene_tile(self, level: int, row: int, column: int) -> Response:
        """A tile of the scene, transparent where it has no measurement."""
        found = None if self.scene is None else self.scene.tile(level, row, column)
        if found is None:
            raise TileOutsideBounds(f"the map has no tile {level}/{row}/{column}")
        pixels, valid = found
        return _png(pixels, ~valid)

    def point(self, row: int, column: int) -> JSONResponse:
        """What a pixel is and where its centre lies; null for what isn't known."""
        grid = self.map.grid
        if not (0 <= row < grid.height and 0 <= column < grid.width):
            raise TileOutsideBounds(f"the map has no pixel at row {row}, column {column}")
        value = self.map.value(row, column)
        names = {entry.value: entry.name for entry in self.map.legend.entries}
        x, y = place(grid, row + 0.5, column + 0.5)
        longitude, latitude = degrees(grid, row + 0.5, column + 0.5) or (None, None)
        return JSONResponse(
            {
                "row": row,
                "column": column,
                "value": value,
                "name": None if value is None else names.get(value),
                "x": x,
                "y": y,
                "longitude": longitude,
                "latitude": latitude,
            }
        )


def application(map_layer: MapLayer, scene: SceneLayer | None, page: Page) -> FastAPI:
    """All that is served: the page at /, tiles and points."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=_few_threads)
    app.include_router(MapTiler(map=map_layer, scene=scene).router)
    add_exception_handlers(app, {TileOutsideBounds: 404})
    headers = {**_HEADERS, "Content-Security-Policy": page.policy}

    @app.get("/")
    def index() -> HTMLResponse:
        return HTMLResponse(page.html)

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    @app.exception_handler(PipelineError)
    def refuse(request: Request, error: PipelineError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 500)

    @app.middleware("http")
    async def guard(request: Request, answer: Answer) -> Response:
        response = await answer(request)
        response.headers.update(headers)
        return response

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=_NAMES, www_redirect=False)
    return app


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server in a thread of this process, with its port."""

    port: int
    server: uvicorn.Server
    thread: threading.Thread

    def close(self) -> None:
        """Ends it and frees its port; may be called again."""
        self.server.should_exit = True
        self.thread.join(_PATIENCE)


def listen(port: int) -> socket.socket:
    """A socket on 127.0.0.1; 0 takes a port that is free.

    Raises:
        OSError: the port is taken, or needs rights.
    """
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((HOST, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise OSError(str(error)) from error
    return bound


def start(app: FastAPI, bound: socket.socket) -> RunningServer:
    """Serves on a bound socket until it is closed; returns when it answers.

    Raises:
        OSError: it doesn't come up.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",
        access_log=False,
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [bound]}, name="segpipe view", daemon=True
    )
    thread.start()
    deadline = time.monotonic() + _PATIENCE
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            server.should_exit = True
            bound.close()
            raise OSError("the server doesn't come up")
        time.sleep(0.01)
    return RunningServer(int(bound.getsockname()[1]), server, thread)


@contextlib.asynccontextmanager
async def _few_threads(app: FastAPI) -> AsyncIterator[None]:
    """Each thread keeps its own file open, and reading is what takes the time."""
    to_thread.current_default_thread_limiter().total_tokens = _THREADS
    yield


def _png(
    pixels: NDArray[np.uint8],
    hidden: NDArray[np.bool_],
    colors: dict[int, tuple[int, int, int, int]] | None = None,
) -> Response:
    """Bands (band, row, column) as a picture, transparent where hidden."""
    mask = np.broadcast_to(hidden, pixels.shape)
    image = ImageData(np.ma.MaskedArray(pixels, mask))
    # A picture without a transform makes rasterio warn, from whichever thread.
    data, kind = render_image(image, colors, ImageType.pngraw, transform=_ANYWHERE)
    return Response(data, media_type=kind)
