"""The timeline alone: a page with nothing else, over data that a test gives, as the daemon would serve them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from cumulus.server import http

if TYPE_CHECKING:
    from cumulus.answers.history import Timeline


STATIC = Path(http.__file__).parent / "ui" / "static"
TYPES = {".js": "text/javascript", ".css": "text/css"}
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Timeline</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="/icon.svg">
<link rel="stylesheet" href="/harness.css"><link rel="stylesheet" href="/ui/static/timeline.css">
<script type="module" src="/ui/static/timeline.js"></script></head>
<body><main><h1>Timeline</h1>
<lease-timeline src="/timeline" job-url="/ui/jobs/{namespace}/{name}" user="alice">
</lease-timeline></main></body></html>"""
STYLE = """:root { color-scheme: light dark; font-family: system-ui }
:root { background: light-dark(#fff, #0e1115); color: light-dark(#111, #eee) }
a { color: light-dark(#0050a0, #8fc4ff) } table { display: block; overflow-x: auto }"""

Answers = Callable[[Mapping[str, int]], "Timeline"]
"""What the server says to `start`, `end` and `pixels`."""


class Harness:
    """`answer` can be changed; `asked` is each request for data."""

    def __init__(self, answer: Answers) -> None:
        self.answer = answer
        self.asked: list[Mapping[str, int]] = []
        self.url = ""


@contextmanager
def harness(answer: Answers) -> Iterator[Harness]:
    made = Harness(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            split = urlsplit(self.path)
            if split.path == "/timeline":
                query = {name: int(value) for name, [value] in parse_qs(split.query).items()}
                made.asked.append(query)
                self._send(json.dumps(made.answer(query), separators=(",", ":")).encode(), "application/json")
            elif split.path == "/harness.css":
                self._send(STYLE.encode(), "text/css")
            elif split.path == "/icon.svg":
                self._send(b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image/svg+xml")
            elif split.path.startswith("/ui/static/"):
                file = STATIC / split.path.removeprefix("/ui/static/")
                self._send(file.read_bytes(), TYPES[file.suffix])
            else:
                self._send(PAGE.encode(), "text/html; charset=utf-8")

        def _send(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.send_header("content-security-policy", "default-src 'self'")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """The page gives up a request that it no longer needs."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}/"
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
