"""A store that speaks as much of S3 as obstore does, keeps all in memory, and fails on demand."""

import hashlib
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

import pytest

from tests.servers import BaseHandler, running

Fault = Literal["busy", "reset", "committed", "cut", "denied"]
"""503; the connection broken off before or after the work is done; half of a body; 403."""

Key = tuple[str, str]
"""Bucket and key."""


@dataclass
class Store:
    """What the store holds, and what it was asked.

    Attributes:
        objects: the objects' bytes.
        buckets: those that there are.
        url: where it listens.
        fault: tells for each request (its method and its target) whether it fails, and how.
        asked: method, key and query of each request, in order.
        conditional: whether "only if there is none" is heeded.
        md5: whether ETags are those of S3; otherwise they say nothing of the bytes.
    """

    objects: dict[Key, bytes] = field(default_factory=dict)
    buckets: set[str] = field(default_factory=lambda: {"maps"})
    url: str = ""
    fault: Callable[[str, str], Fault | None] = lambda method, target: None
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    conditional: bool = True
    md5: bool = True
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    etags: dict[Key, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tree(self, below: str = "") -> dict[str, bytes]:
        """The objects of the bucket `maps` by key."""
        with self.lock:
            held = sorted(self.objects.items())
        return {key: data for (_, key), data in held if key.startswith(below)}

    def put(self, place: Key, data: bytes, etag: str = "") -> str:
        """Keeps an object; gives its ETag."""
        plain = etag or hashlib.md5(data).hexdigest()
        self.objects[place] = data
        self.etags[place] = f'"{plain if self.md5 else uuid.uuid4().hex}"'
        return self.etags[place]


class _Handler(BaseHandler):
    def __init__(self, store: Store, *rest: object) -> None:
        self.store = store
        super().__init__(*rest)  # type: ignore[arg-type]

    def do_GET(self) -> None:  # noqa: N802
        self._serve()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(parts.query, True).items()}
        with self.store.lock:
            self.store.asked.append((self.command, key, parts.query))
            fault = self.store.fault(self.command, self.path)
        if fault == "cut" and (self.command != "GET" or "list-type" in query):
            fault = "reset"
        if fault in ("busy", "denied"):
            return self._answer(503 if fault == "busy" else 403, _error("SlowDown"))
        if fault == "reset":
            return self.break_off()
        with self.store.lock:
            status, data, headers = self._work((bucket, key), query, body)
        if fault == "committed":
            return self.break_off()
        return self._answer(status, data, headers, cut=fault == "cut")

    def _work(
        self, place: Key, query: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        if place[0] not in self.store.buckets:
            return 404, _error("NoSuchBucket"), {}
        match self.command:
            case "GET" if "list-type" in query:
                return 200, self._list(place[0], query.get("prefix", "")), {}
            case "GET" | "HEAD":
                return self._get(place)
            case "PUT":
                return self._put(place, query, body)
            case "POST":
                return self._post(place, query, body)
            case _:
                self.store.parts.pop(query.get("uploadId", ""), None)
                if "uploadId" not in query:
                    self.store.objects.pop(place, None)
                return 204, b"", {}

    def _list(self, bucket: str, prefix: str) -> bytes:
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size>"
            f"<LastModified>2000-07-20T15:31:00.000Z</LastModified>"
            f"<ETag>{escape(self.store.etags[(name, key)])}</ETag></Contents>"
            for (name, key), data in sorted(self.store.objects.items())
            if name == bucket and key.startswith(prefix)
        )
        return (
            f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>".encode()
        )

    def _get(self, place: Key) -> tuple[int, bytes, dict[str, str]]:
        if place not in self.store.objects:
            return 404, _error("NoSuchKey"), {}
        data = self.store.objects[place]
        headers = {
            "ETag": self.store.etags[place],
            "Last-Modified": "Thu, 20 Jul 2000 15:31:00 GMT",
        }
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return 200, data, headers
        start, end = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
        return (
            206,
            data[start:end],
            {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"},
        )

    def _put(
        self, place: Key, query: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        if "uploadId" in query:
            self.store.parts[query["uploadId"]][int(query["partNumber"])] = body
            return 200, b"", {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}
        alone = self.headers.get("If-None-Match") == "*" and self.store.conditional
        if alone and place in self.store.objects:
            return 412, _error("PreconditionFailed"), {}
        return 200, b"", {"ETag": self.store.put(place, body)}

    def _post(
        self, place: Key, query: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        if "delete" in query:
            keys = re.findall(r"<Key>(.*?)</Key>", body.decode())
            for key in keys:
                self.store.objects.pop((place[0], unescape(key)), None)
            gone = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            return 200, f"<DeleteResult>{gone}</DeleteResult>".encode(), {}
        if "uploads" in query:
            name = uuid.uuid4().hex
            self.store.parts[name] = {}
            return 200, _element("InitiateMultipartUploadResult", UploadId=name), {}
        parts = self.store.parts.pop(query["uploadId"], None)
        if parts is None:
            return 404, _error("NoSuchUpload"), {}
        pieces = [data for _, data in sorted(parts.items())]
        digests = b"".join(hashlib.md5(piece).digest() for piece in pieces)
        etag = f"{hashlib.md5(digests).hexdigest()}-{len(pieces)}"
        etag = self.store.put(place, b"".join(pieces), etag)
        return 200, _element("CompleteMultipartUploadResult", ETag=escape(etag)), {}

    def _answer(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, *, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True


def _element(name: str, **children: str) -> bytes:
    inner = "".join(f"<{child}>{text}</{child}>" for child, text in children.items())
    return f"<{name}>{inner}</{name}>".encode()


def _error(code: str) -> bytes:
    return _element("Error", Code=code, Message=code)


@contextmanager
def storing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store with the bucket `maps`, which this process and its children find."""
    store = Store()
    with running(partial(_Handler, store)) as url:
        store.url = url
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
        yield store
