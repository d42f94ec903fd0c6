"""Scripts and styles: the files of `static/`. Browsers keep what a page names for ever: a changed one has another
address."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

PREFIX = "/ui/static/"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class _File(NamedTuple):
    content: bytes
    packed: bytes
    media_type: str
    tag: str


@cache
def files() -> Mapping[str, _File]:
    """By name."""
    found = {}
    root = Path(__file__).parent / "static"
    for path in sorted(root.rglob("*")):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            tag = hashlib.sha256(content).hexdigest()[:16]
            found[path.relative_to(root).as_posix()] = _File(
                content, gzip.compress(content, 9, mtime=0), _TYPES[path.suffix], tag
            )
    return found


def address(name: str) -> str:
    """Where a browser gets it. Raises KeyError."""
    return f"{PREFIX}{name}?v={files()[name].tag}"


async def show(request: Request) -> Response:
    file = files().get(request.path_params["name"])
    if file is None:
        raise HTTPException(404)
    # Modules name each other without a tag: then a browser asks each time whether it has the newest.
    lasting = request.query_params.get("v") == file.tag
    headers = {
        "cache-control": "public, max-age=31536000, immutable" if lasting else "no-cache", "vary": "accept-encoding",
        "etag": f'W/"{file.tag}"',
    }  # fmt: skip
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(None, 304, headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.packed, 200, {**headers, "content-encoding": "gzip"}, file.media_type)
    return Response(file.content, 200, headers, file.media_type)


ROUTES = (Route(PREFIX + "{name:path}", show),)
