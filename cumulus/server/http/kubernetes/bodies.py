"""Reads the body of a request: JSON or YAML within limits. What is wrong with it is the client's error, never more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson

from cumulus.admission.problems import FieldPath, FieldProblem
from cumulus.admission.unknown_fields import MAX_TOLD
from cumulus.errors import NotSupported, TooLarge, UsageError
from cumulus.lib.printable import one_line

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_BYTES = 3 * 2**20
"""Of a body, as in Kubernetes. An object may have less; see `admission`."""
MAX_DEPTH = 64
"""Levels of lists and maps, as in a manifest."""
JSON = "application/json"
YAML = "application/yaml"
WRITTEN = (JSON, YAML)
"""What an object may be written in."""


async def read(request: Request, limit: int = MAX_BYTES) -> bytes:
    """Raises TooLarge, before the body is read where its length is told."""
    told = request.headers.get("content-length", "")
    if told.isascii() and told.isdigit() and int(told[:20]) > limit:
        raise _too_large(limit)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def media_type(request: Request) -> str:
    """Of the body, without parameters; JSON where none is given."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() or JSON


def unsupported(*accepted: str) -> NotSupported:
    return NotSupported(
        f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    )


def parse(body: bytes, type: str = JSON) -> Any:
    """What JSON or, for a `type` that ends with it, YAML says. Raises UsageError."""
    return _parse_yaml(body) if type.endswith("yaml") else _parse_json(body)


def repeated_fields(body: bytes) -> list[FieldProblem]:
    """Fields that a JSON body gives twice in one object, of which the last is taken. The first MAX_TOLD of them."""
    if orjson.dumps(orjson.loads(body)) == body.rstrip():
        # Most programs write it so. What is given twice would be missing.
        return []
    found = False

    def pairs(given: list[tuple[str, Any]]) -> Any:
        nonlocal found
        made = dict(given)
        found = found or len(made) != len(given)
        return made

    json.loads(body, object_pairs_hook=pairs)
    if not found:
        return []
    paths = dict.fromkeys(_repeated(json.loads(body, object_pairs_hook=_Pairs), ()))
    return [FieldProblem(path, "duplicate field", of_name=True) for path in islice(paths, MAX_TOLD)]


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON, with every pair that was written."""


def _repeated(value: Any, path: FieldPath) -> Iterator[FieldPath]:
    if isinstance(value, _Pairs):
        seen: set[str] = set()
        for name, below in value:
            if name in seen:
                yield (*path, name)
            seen.add(name)
            yield from _repeated(below, (*path, name))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _repeated(below, (*path, index))


def _parse_json(body: bytes) -> Any:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"the body is not JSON: {one_line(str(error))}") from None
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _is_deeper(value):
        raise UsageError(f"the body is nested more than {MAX_DEPTH} levels deep")
    return value


def _is_deeper(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [below for each in level for below in _inside(each)]
        if not level:
            return False
    return True


def _inside(value: Any) -> list[Any]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for each in inside if isinstance(each, dict | list)]


def _parse_yaml(body: bytes) -> Any:
    from cumulus.manifest import yaml_nodes

    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    documents, problems = yaml_nodes.parse(text, "the body")
    if problems:
        raise UsageError(one_line(str(problems[0])))
    if len(documents) != 1:
        raise UsageError(f"the body holds {len(documents)} YAML documents, not one")
    return documents[0].plain_value()


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body of a request is at most {limit} bytes")
