"""Servers on loopback: files over http with every fault that a network has, and S3 by moto."""

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from segpipe.pipeline.scenes import object_store

Fault = int | str
"""A status, "reset", "cut" (half of what was promised), "stall", or an address to be sent to."""


RETRIES = 2


def hide_settings(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Takes away the machine's own settings; what fails is tried again soon, `RETRIES` times."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setitem(object_store.BACKOFF, "init_backoff", timedelta(milliseconds=1))
    monkeypatch.setitem(object_store.RETRY, "max_retries", RETRIES)


@dataclass
class Files:
    """What a server serves, which faults come next, and what it was asked.

    Attributes:
        folder: the files.
        url: the server's address, without a slash at the end.
        faults: the next requests fail with these, in order; with None they don't.
        asked: the path and the range of every request; first and last byte, None for the whole.
        partial: whether it serves parts of files.
        etags: ETags by path that differ from the usual one.
    """

    folder: Path
    url: str = ""
    faults: list[Fault | None] = field(default_factory=list)
    asked: list[tuple[str, tuple[int, int] | None]] = field(default_factory=list)
    partial: bool = True
    etags: dict[str, str] = field(default_factory=dict)

    def ranges(self, suffix: str = "") -> list[tuple[int, int]]:
        """The ranges that were asked for of paths with this ending."""
        return [where for path, where in self.asked if where and path.endswith(suffix)]


class BaseHandler(BaseHTTPRequestHandler):
    """Keeps connections, can break them off, and says nothing."""

    protocol_version = "HTTP/1.1"

    def break_off(self) -> None:
        """Resets the connection."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""


class _Handler(BaseHandler):
    def __init__(self, files: Files, *rest: object) -> None:
        self.files = files
        super().__init__(*rest)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_PROPFIND(self) -> None:
        self._fail(405)

    def _answer(self, *, body: bool) -> None:
        path = unquote(self.path.partition("?")[0]).strip("/")
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        where = (int(match[1]), int(match[2])) if match else None
        self.files.asked.append((path, where))
        fault = self.files.faults.pop(0) if self.files.faults else None
        if fault is not None and fault != "cut":
            self._fail(fault)
            return
        file = self.files.folder / path
        if not file.is_file():
            self._fail(404)
            return
        data = file.read_bytes()
        start, end = 0, len(data)
        if where is not None and self.files.partial:
            start, end = where[0], min(where[1] + 1, len(data))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("ETag", self.files.etags.get(path, f'"{len(data)}"'))
        self.send_header("Last-Modified", "Thu, 20 Jul 2000 15:31:00 GMT")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if body:
            self.wfile.write(data[start : (start + end) // 2 if fault == "cut" else end])
        if fault == "cut":
            self.close_connection = True

    def _fail(self, fault: Fault) -> None:
        if fault == "reset":
            self.break_off()
            return
        self.send_response(302 if isinstance(fault, str) else fault)
        if isinstance(fault, str):
            self.send_header("Location", fault)
        self.send_header("Content-Length", "0")
        self.end_headers()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing: connections that break off are what is tested."""


@contextmanager
def serving(folder: Path, host: str = "127.0.0.1") -> Iterator[Files]:
    """A server of this folder's files."""
    files = Files(folder)
    with running(partial(_Handler, files), host) as files.url:
        yield files


@contextmanager
def running(handler: Callable[..., BaseHandler], host: str = "127.0.0.1") -> Iterator[str]:
    """The address of a server whose requests are handled so, without a slash at the end."""
    server = _Quiet((host, 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def bucket(name: str, folder: Path) -> Iterator[str]:
    """The endpoint of an S3 server with one bucket, which holds this folder's files."""
    import boto3  # type: ignore[import-untyped]
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        client.create_bucket(Bucket=name)
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                key = file.relative_to(folder).as_posix()
                client.put_object(Bucket=name, Key=key, Body=file.read_bytes())
        yield endpoint
    finally:
        server.stop()
