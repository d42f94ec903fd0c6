"""Scripts and styles: the files of `static/`. Browsers keep them for ever: all are in a folder that is named by what
they hold together. So modules, which name each other without it, are not asked for again either."""

from __future__ import annotations

import gzip
import hashlib
import re
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
_TAGGED = re.compile("([0-9a-f]{16})/")
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


@cache
def release() -> str:
    """What tells these files from those of another version."""
    return hashlib.sha256("".join(f"{name} {file.tag}\n" for name, file in files().items()).encode()).hexdigest()[:16]


def address(name: str) -> str:
    """Where a browser gets it. Raises KeyError."""
    if name not in files():
        raise KeyError(name)
    return f"{PREFIX}{release()}/{name}"


async def show(request: Request) -> Response:
    path: str = request.path_params["name"]
    tagged = _TAGGED.match(path)
    file = files().get(path[tagged.end() :] if tagged else path)
    if file is None:
        raise HTTPException(404)
    # A page of the version before gets what there is now, and asks again each time.
    lasting = tagged is not None and tagged[1] == release()
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
