"""Answers as JSON, and those that a client keeps until they change."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request


def json_response(
    value: Any, code: int = 200, *, media_type: str = "application/json", headers: Mapping[str, str] = {}
) -> Response:
    return Response(orjson.dumps(value), code, headers, media_type)


def cached_response(
    request: Request, body: bytes, *, media_type: str = "application/json", headers: Mapping[str, str] = {}
) -> Response:
    """The body with an ETag; 304 without it where the client has it already."""
    tag = etag(body)
    sent = {"etag": f'"{tag}"', "vary": "Accept", "cache-control": "public", **headers}
    known = request.headers.get("if-none-match", "")
    if f'"{tag}"' in known:
        return Response(None, 304, sent)
    return Response(body, 200, sent, media_type)


def etag(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest().upper()
