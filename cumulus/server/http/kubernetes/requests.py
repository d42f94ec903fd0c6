"""What a request on objects names and says: kind, namespace, body, query. Anything malformed is a UsageError."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from cumulus.errors import CumulusError, InvalidObject, NotFound, UsageError
from cumulus.lib.printable import one_line
from cumulus.resources.key import API_VERSION, GROUP, Document, Key
from cumulus.resources.kind import Kind
from cumulus.resources.registry import KINDS
from cumulus.server.http.api import api_of
from cumulus.server.http.kubernetes import bodies
from cumulus.server.http.kubernetes.field_validation import FieldValidation
from cumulus.server.http.kubernetes.protobuf import PROTOBUF, Body, read_object

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_NAME = 128
"""Characters of a program's name that count, as in Kubernetes."""
T = TypeVar("T")
AT_ONCE, AT_ONCE_YAML = 2**16, 2**12
"""Bytes of JSON, and of YAML, that are read within a millisecond or two."""
BY_PLURAL = {kind.plural: kind for kind in KINDS}


def kind_of(request: Request) -> Kind:
    """Raises NotFound."""
    plural = request.path_params["plural"]
    if plural not in BY_PLURAL:
        raise NotFound("the server could not find the requested resource")
    kind = BY_PLURAL[plural]
    if "namespace" in request.path_params and not kind.namespaced:
        raise NotFound(f"{kind.plural} have no namespace")
    return kind


def subject_of(request: Request, error: CumulusError) -> dict[str, str]:
    """What an error is about, as the details of a Status say it: Kubernetes names the kind of what is invalid, and the
    resource of all else."""
    kind = BY_PLURAL.get(request.path_params.get("plural", ""))
    if kind is None:
        return {}
    name = getattr(request.state, "name", request.path_params.get("name", ""))
    found = {"name": name, "group": GROUP, "kind": kind.name if isinstance(error, InvalidObject) else kind.plural}
    return {word: value for word, value in found.items() if value}


def namespace_of(request: Request) -> str | None:
    """The namespace in the path; None for all of them, or where the kind has none."""
    return request.path_params.get("namespace")


def key_of(request: Request) -> Key:
    kind = kind_of(request)
    namespace = namespace_of(request) or ""
    if kind.namespaced and not namespace:
        raise NotFound(f"{kind.plural} are in namespaces: ask for /namespaces/NAMESPACE/{kind.plural}/NAME")
    return Key(kind.name, namespace, request.path_params["name"])


async def body_of(request: Request, media_types: Sequence[str] = (bodies.JSON,), limit: int = bodies.MAX_BYTES) -> Any:
    """What the body says; None where there is none. `limit`: bytes that it may have. Raises NotSupported for another
    media type."""
    return await parsed(request, await _bytes_of(request, media_types, limit), bodies.media_type(request))


async def typed_body_of(request: Request, wanted: Body) -> dict[str, Any]:
    """The object in the body, which may also be Protobuf, with its apiVersion and kind."""
    body = await _bytes_of(request, (*bodies.WRITTEN, PROTOBUF))
    if bodies.media_type(request) == PROTOBUF:
        return await _where_it_fits(request, body, PROTOBUF, partial(read_object, wanted, body))
    given = await parsed(request, body, bodies.media_type(request))
    if not isinstance(given, dict):
        raise UsageError("the body must be an object")
    for field, value in (("kind", wanted.kind), ("apiVersion", wanted.api_version)):
        if given.get(field, value) != value:
            raise UsageError(f"the {field} in the body, {one_line(str(given[field]))}, is not {value}")
    return {"apiVersion": wanted.api_version, "kind": wanted.kind, **given}


async def patch_body_of(request: Request, media_types: Iterable[str]) -> bytes:
    """The body, which is not empty, as it came."""
    body = await _bytes_of(request, tuple(media_types))
    if not body:
        raise UsageError("the request has no body")
    return body


async def object_of(request: Request, kind: Kind, validation: FieldValidation) -> Document:
    """The object in the body, with kind, apiVersion and namespace of the path."""
    body = await _bytes_of(request, bodies.WRITTEN)
    type = bodies.media_type(request)
    given = await parsed(request, body, type)
    if not isinstance(given, dict) or not isinstance(given.get("metadata") or {}, dict):
        raise UsageError("the body must be an object with metadata")
    if type == bodies.JSON:
        # YAML with a key given twice is refused whatever is asked for, as it is in a manifest.
        await _where_it_fits(request, body, type, partial(validation.body, body))
    for field, wanted in (("kind", kind.name), ("apiVersion", API_VERSION)):
        if given.get(field, wanted) != wanted:
            raise UsageError(f"the {field} in the body, {one_line(str(given[field]))}, is not {wanted}")
    metadata = dict(given.get("metadata") or {})
    if isinstance(metadata.get("name"), str):
        request.state.name = metadata["name"]
    namespace = namespace_of(request)
    if kind.namespaced:
        if namespace is None:
            raise UsageError(f"{kind.plural} are created in a namespace")
        if (metadata.get("namespace") or namespace) != namespace:
            raise UsageError("the namespace of the object does not match the namespace of the request")
        metadata["namespace"] = namespace
    return {"apiVersion": API_VERSION, "kind": kind.name, **given, "metadata": metadata}


async def _bytes_of(request: Request, media_types: Sequence[str], limit: int = bodies.MAX_BYTES) -> bytes:
    if bodies.media_type(request) not in media_types:
        raise bodies.unsupported(*media_types)
    return await bodies.read(request, limit)


async def parsed(request: Request, body: bytes, type: str) -> Any:
    """What the body says; None where there is none."""
    return await _where_it_fits(request, body, type, partial(bodies.parse, body, type)) if body else None


async def _where_it_fits(request: Request, body: bytes, type: str, work: Callable[[], T]) -> T:
    """Read a body, a large one in a thread: meanwhile the event loop has others to serve."""
    at_once = AT_ONCE_YAML if type.endswith("yaml") else AT_ONCE
    return work() if len(body) <= at_once else await api_of(request).call(work)


def flag(request: Request, name: str) -> bool:
    """Whether a query parameter is true. Raises UsageError where it is neither."""
    return flag_in(request.query_params, name)


def flag_in(parameters: Mapping[str, str], name: str) -> bool:
    """The same of parameters."""
    text = parameters.get(name, "")
    if text not in ("", "true", "1", "false", "0"):
        raise UsageError(f"{name} must be true or false, not {one_line(text)}")
    return text in ("true", "1")


def number(request: Request, name: str, default: int | None = None) -> int | None:
    """A query parameter that is a whole number of 0 or more."""
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise UsageError(f"{name} must be a whole number, not {one_line(text)}")
    return int(text)


def is_port(text: str) -> bool:
    """Whether it is a number from 1 to 65535."""
    return text.isascii() and text.isdecimal() and len(text) < 6 and 0 < int(text) < 2**16


def field_manager(request: Request) -> str:
    """Who owns what the request changes: as it says, or the program that sent it."""
    agent = request.headers.get("user-agent", "").partition("/")[0]
    program = "".join(character for character in agent if character.isprintable())[:MAX_NAME]
    return request.query_params.get("fieldManager") or program or "unknown"


def dry_run(request: Request, given: Any = None) -> bool:
    """From the query, or from the options in a body."""
    asked = request.query_params.getlist("dryRun") or given or []
    if not isinstance(asked, list) or any(value != "All" for value in asked if value):
        raise InvalidObject("dryRun must be All", field="dryRun")
    return any(asked)
