"""Answers, keys and errors as JSON, and back: what crosses a network between a client and the service.

    Why(("fits now",), over=False)  <->  {"@type": "Why", "lines": ["fits now"], "over": false, "damaged": []}

`encode` needs the value alone; `decode` is told the type that is expected. Documents, which are JSON, stay as they are.
Unknown fields are left out and missing ones take their defaults: client and server may be of different versions.
"""

from __future__ import annotations

import base64
import binascii
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any

from cumulus import errors
from cumulus.errors import CumulusError, UsageError

TYPE = "@type"
"""The name of a value's class, beside its fields. It tells the members of a union apart."""
_ERROR_FIELDS = ("hint", "field", "seconds", "problems")
"""What an error may hold beside its message."""


def encode(value: object) -> Any:
    """JSON values: text, numbers, lists, maps."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, dict):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, CumulusError):
        return encode_error(value)
    if is_dataclass(value):
        names: Iterable[str] = (field.name for field in fields(value))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        names = value._fields
    elif isinstance(value, Iterable):
        return [encode(each) for each in value]
    else:
        raise TypeError(f"{type(value).__name__} cannot be sent")
    return {TYPE: type(value).__name__, **{name: encode(getattr(value, name)) for name in names}}


def encode_error(error: CumulusError) -> dict[str, Any]:
    """The error with its class, its message and what else it holds."""
    held = {name: encode(value) for name in _ERROR_FIELDS if (value := getattr(error, name, None)) is not None}
    return {TYPE: type(error).__name__, "message": str(error), **held}


def decode(wanted: Any, value: object, at: str = "") -> Any:
    """The value that `encode` was given, of the type `wanted`. Raises UsageError, which names the field `at` fault."""
    try:
        return _decoder(wanted)(value, at)
    except RecursionError:
        raise UsageError(f"{at or 'the body'} is nested too deeply") from None


def decode_error(value: Mapping[str, Any], more: Mapping[str, type[CumulusError]] = {}) -> CumulusError:
    """The same error again. `more`: classes by name, beside those of `cumulus.errors`. Of a class that is not known
    here it becomes a CumulusError."""
    name = value.get(TYPE)
    found = more.get(str(name)) or getattr(errors, str(name), CumulusError)
    kind = found if isinstance(found, type) and issubclass(found, CumulusError) else CumulusError
    # Constructors differ; what an error says and holds does not depend on them.
    made = kind.__new__(kind)
    CumulusError.__init__(made, str(value.get("message", "")))
    for field in _ERROR_FIELDS:
        if field in value:
            setattr(made, field, value[field])
    if isinstance(made, errors.InvalidObject):
        made.field = value.get("field")
    return made


@cache
def _decoder(wanted: Any) -> Callable[[object, str], Any]:
    origin, of = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        return lambda value, at: value
    if wanted is type(None):
        return lambda value, at: None
    if origin in (typing.Union, types.UnionType):
        return _union(of)
    if origin is typing.Literal:
        return lambda value, at: value if value in of else _wrong(at, f"one of {', '.join(map(repr, of))}")
    if origin in (tuple, list, Sequence):
        return _several(tuple if origin is tuple else list, _decoder(of[0]))
    if origin in (dict, Mapping):
        return _map(of[1])
    if wanted is bytes:
        return _bytes
    if wanted is float:
        return _float
    if wanted is bool:
        return lambda value, at: value if isinstance(value, bool) else _wrong(at, "true or false")
    if wanted is int:
        whole = "a whole number"
        return lambda value, at: value if type(value) is int else _wrong(at, whole)
    if wanted is str:
        return lambda value, at: value if isinstance(value, str) else _wrong(at, "text")
    if isinstance(wanted, type) and issubclass(wanted, CumulusError):
        return lambda value, at: decode_error(value) if isinstance(value, dict) else _wrong(at, "an error")
    return _fields(wanted)


def _union(of: Sequence[Any]) -> Callable[[object, str], Any]:
    """`X | None`, text or a number, or classes that `@type` tells apart."""
    others = [each for each in of if each is not type(None)]
    named = {each.__name__: _decoder(each) for each in others if isinstance(each, type)}
    only = _decoder(others[0]) if len(others) == 1 else None

    def union(value: object, at: str) -> Any:
        if value is None and len(others) < len(of):
            return None
        if only is not None:
            return only(value, at)
        if type(value) in others:
            return value
        name = value.get(TYPE) if isinstance(value, dict) else None
        if name not in named:
            return _wrong(at, f"an object whose {TYPE} is {' or '.join(named)}")
        return named[name](value, at)

    return union


def _several(kind: Callable[[Iterable[Any]], Any], one: Callable[[object, str], Any]) -> Callable[[object, str], Any]:
    def several(value: object, at: str) -> Any:
        if not isinstance(value, list):
            return _wrong(at, "a list")
        return kind(one(each, f"{at}[{index}]") for index, each in enumerate(value))

    return several


def _map(of: Any) -> Callable[[object, str], Any]:
    below = None if of is Any else _decoder(of)

    def made(value: object, at: str) -> Any:
        if not isinstance(value, dict):
            return _wrong(at, "an object")
        return value if below is None else {key: below(each, f"{at}[{key}]") for key, each in value.items()}

    return made


def _fields(wanted: Any) -> Callable[[object, str], Any]:
    """Decodes a dataclass or named tuple."""
    hints = typing.get_type_hints(wanted)
    if is_dataclass(wanted):
        needed = {each.name for each in fields(wanted) if each.default is MISSING and each.default_factory is MISSING}
    else:
        needed = set(wanted._fields) - set(wanted._field_defaults)

    def made(value: object, at: str) -> Any:
        if not isinstance(value, dict):
            return _wrong(at, f"an object ({wanted.__name__})")
        given = {
            name: _decoder(hint)(value[name], f"{at}.{name}" if at else name)
            for name, hint in hints.items() if name in value
        }  # fmt: skip
        if missing := needed - given.keys():
            raise UsageError(f"{at or 'the body'} needs {', '.join(sorted(missing))}")
        return wanted(**given)

    return made


def _bytes(value: object, at: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else _wrong(at, "base64")
    except (binascii.Error, ValueError):
        return _wrong(at, "base64")


def _float(value: object, at: str) -> float:
    if value in ("inf", "-inf") or (isinstance(value, int | float) and not isinstance(value, bool)):
        return float(typing.cast(float, value))
    return _wrong(at, "a number")


def _wrong(at: str, wanted: str) -> typing.NoReturn:
    raise UsageError(f"{at or 'the body'} must be {wanted}")
