"""Blobs that go straight to a store by its URLs: in parts of one size, however the blob lies in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cumulus.sdk import presigned
from cumulus.sdk.packaging.blob import Blob


@contextmanager
def store() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Its URL, and what was put there."""
    kept: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            kept[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", kept
        finally:
            server.shutdown()


def test_parts_have_the_size_that_was_asked_for() -> None:
    blob = Blob.of(bytes(range(256)) * 100, b"small", b"x" * 12345)
    with store() as (url, kept):
        presigned.put(blob, [f"{url}/{at}" for at in range(4)], 10_000)
    assert b"".join(kept[f"/{at}"] for at in range(4)) == b"".join(blob.pieces)
    assert [len(kept[f"/{at}"]) for at in range(4)] == [10_000, 10_000, 10_000, blob.size - 30_000]
