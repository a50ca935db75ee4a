"""A server that speaks as much of Google Cloud Storage's JSON interface as folders of a store need, and knows, as the
real one does and emulators don't, a condition on an object's generation (`ifGenerationMatch`)."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Bucket:
    """Its objects, by name: content, generation, and when it was put there."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, int, str]] = {}
        self.lock = threading.Lock()
        self.generation = 0

    def put(self, name: str, data: bytes, match: str | None) -> dict[str, Any] | None:
        """Put an object; None where it is not of the generation that it has to be (0 = it must not exist)."""
        with self.lock:
            found = self.objects.get(name)
            if match is not None and int(match) != (found[1] if found else 0):
                return None
            self.generation += 1
            self.objects[name] = (data, self.generation, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}")
        return self.about(name)

    def about(self, name: str) -> dict[str, Any]:
        data, generation, when = self.objects[name]
        digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        return {"bucket": "b", "name": name, "size": str(len(data)), "md5Hash": digest, "updated": when,
                "generation": str(generation), "timeCreated": when, "etag": f"e{generation}"}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """One request; the only bucket is called b."""

    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, value: Any = None, data: bytes | None = None) -> None:
        data = json.dumps(value or {}).encode() if data is None else data
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    @property
    def asked(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        return parts.path, {key: value[0] for key, value in parse_qs(parts.query).items()}

    def named(self) -> str | None:
        """The object that is asked for; None where there is none, which is answered."""
        path, _ = self.asked
        name = unquote(path.partition("/o/")[2])
        if "/b/b/o/" in path and name in self.bucket.objects:
            return name
        self.answer(404, {"error": {"code": 404, "message": "not found"}})
        return None

    def do_GET(self) -> None:
        path, query = self.asked
        if path.endswith("/b/b/o"):
            prefix = query.get("prefix", "")
            found = [self.bucket.about(n) for n in sorted(self.bucket.objects) if n.startswith(prefix)]
            if query.get("delimiter"):
                rest = {item["name"]: item["name"].removeprefix(prefix) for item in found}
                below = sorted({prefix + r.partition("/")[0] + "/" for r in rest.values() if "/" in r})
                self.answer(200, {"items": [i for i in found if "/" not in rest[i["name"]]], "prefixes": below})
            else:
                self.answer(200, {"items": found})
        elif (name := self.named()) is None:
            return
        elif query.get("alt") == "media":
            data, wanted = self.bucket.objects[name][0], self.headers.get("Range")
            if wanted is None:
                self.answer(200, data=data)
            else:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                self.answer(206, data=data[int(first) : int(last) + 1])
        else:
            self.answer(200, self.bucket.about(name))

    def do_DELETE(self) -> None:
        if (name := self.named()) is not None:
            del self.bucket.objects[name]
            self.answer(204, data=b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path, query = self.asked
        if path != "/upload/storage/v1/b/b/o" or query["uploadType"] != "multipart":
            self.answer(404, {"error": {"code": 404, "message": "no such bucket"}})
            return
        _, about, content = body.split(b"--==0==", 2)
        name = json.loads(about.partition(b"\n\n")[2])["name"]
        put = self.bucket.put(name, content.partition(b"\n\n")[2].removesuffix(b"\n--==0==--"),
                              query.get("ifGenerationMatch"))  # fmt: skip
        if put is None:
            self.answer(412, {"error": {"code": 412, "message": "At least one of the pre-conditions did not hold."}})
        else:
            self.answer(200, put)


@contextmanager
def serving() -> Iterator[tuple[str, Bucket]]:
    """The server, with one empty bucket."""
    bucket = Bucket()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Handler,), {"bucket": bucket})) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", bucket
        server.shutdown()
        thread.join()
