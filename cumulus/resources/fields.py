"""Pydantic field types over `quantity`: text stays as the person wrote it, checked, with its value beside it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator
from pydantic.alias_generators import to_camel

from cumulus.lib import printable
from cumulus.resources import quantity


class Model(BaseModel):
    """Base of every schema part: camelCase in JSON, unknown fields are errors, values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, defer_build=True
    )

    def to_json(self) -> dict[str, Any]:
        """The JSON form: camelCase, without fields that are None."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def all_fields(model: type[Model]) -> frozenset[str]:
    """Their names as in JSON: of a spec of which all may change."""
    return frozenset(field.alias or to_camel(name) for name, field in model.model_fields.items())


class FieldError(ValueError):
    """A rule over several fields is broken: `at` is the path, within the model, of the field to blame."""

    def __init__(self, at: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.at = at


STORED = {"stored": True}
"""Validation context for what is read from a store: its types must be right, but no rule of writing is applied. A rule
may be newer than the object, and what could be written yesterday must be read for as long as it is there."""

_T = TypeVar("_T")
_M = TypeVar("_M", bound=BaseModel)


def _writing(info: ValidationInfo) -> bool:
    return info.context is not STORED


def on_write(check: Callable[[_T], _T]) -> AfterValidator:
    """A rule on one field of what is written."""
    return AfterValidator(lambda value, info: check(value) if _writing(info) else value)


def rule(check: Callable[[_M], None]) -> Any:
    """A rule over several fields of what is written: a method that raises FieldError or ValueError. What code relies on
    when it reads is no rule, but a plain `model_validator`."""

    def checked(self: _M, info: ValidationInfo) -> _M:
        if _writing(info):
            check(self)
        return self

    checked.check = check  # type: ignore[attr-defined]
    return model_validator(mode="after")(checked)


def _checked(parse: Callable[[Any], object], *, number_suffix: str = "") -> BeforeValidator:
    @lru_cache(maxsize=1024)
    def check_text(text: str) -> str:
        parse(text)
        return text.strip()

    def check(value: Any) -> str:
        if type(value) is str:
            # Mostly the same few texts, over and over.
            return check_text(value)
        parse(value)
        if isinstance(value, int | float):
            # Plain digits: 1e-05 is how Python writes a float, not how anybody writes a duration.
            return f"{Decimal(str(value)):f}{number_suffix}"
        return str(value).strip()

    return BeforeValidator(check)


def _positive_duration(value: Any) -> None:
    if quantity.parse_duration(value) <= 0:
        raise ValueError(f"{value!r} is no time; write 90s or 1h30m")


def _positive_bytes(value: Any) -> None:
    if quantity.parse_bytes(value) <= 0:
        raise ValueError(f"{value!r} is no memory; write 512Mi or 20Gi")


def _moment(text: str) -> str:
    if text:
        try:
            datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            raise ValueError(f"{text!r} is not a time; write it like 2030-01-31T12:00:00Z") from None
    return text


def check_zone(text: str) -> str:
    """A moment that is the same everywhere. Raises ValueError."""
    if not text or datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"{text!r} names no time zone; write it like 2030-01-31T12:00:00Z")
    return text


Time = Annotated[str, AfterValidator(_moment)]
"""A moment as RFC 3339, or ""; read with `clock.parse_timestamp`."""

Duration = Annotated[
    str,
    _checked(_positive_duration, number_suffix="s"),
    Field(json_schema_extra={"format": "duration"}, examples=["1h30m", "90s"]),
]
"""More than 0; read with `quantity.parse_duration`."""

Delay = Annotated[
    str,
    _checked(quantity.parse_duration, number_suffix="s"),
    Field(json_schema_extra={"format": "duration"}, examples=["30s", "0s"]),
]
"""At least 0; read with `quantity.parse_duration`."""

MemoryShare = Annotated[
    str,
    _checked(quantity.parse_share),
    Field(json_schema_extra={"format": "share"}, examples=["0.5", "50%", "20Gi"]),
]
"""Read with `quantity.parse_share`."""

ComputeShare = Annotated[
    str,
    _checked(quantity.parse_millis),
    Field(json_schema_extra={"format": "percentage"}, examples=["25%", "0.25"]),
]
"""Read with `quantity.parse_millis`."""

Bytes = Annotated[
    str, _checked(quantity.parse_bytes), Field(json_schema_extra={"format": "bytes"}, examples=["20Gi", "512Mi"])
]
"""Read with `quantity.parse_bytes`."""

Size = Annotated[
    str, _checked(_positive_bytes), Field(json_schema_extra={"format": "bytes"}, examples=["20Gi", "512Mi"])
]
"""More than 0; read with `quantity.parse_bytes`."""

Cpus = Annotated[
    str, _checked(quantity.parse_cpus), Field(json_schema_extra={"format": "cpus"}, examples=["2", "500m"])
]
"""Read with `quantity.parse_cpus`."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SECRET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def check_name(value: str) -> str:
    """A DNS-1123 subdomain of at most 253 characters, as Kubernetes demands. Raises ValueError."""
    if len(value) > 253 or not _NAME.fullmatch(value):
        raise ValueError(
            f"{value[:80]!r} is not a name; use at most 253 lower-case letters, digits, '-' and '.', "
            "with a letter or digit at both ends"
        )
    return value


def check_label_key(value: str) -> str:
    """`name` or `prefix/name`. Raises ValueError."""
    prefix, slash, name = value.rpartition("/")
    if slash:
        check_name(prefix)
    if not _LABEL_NAME.fullmatch(name):
        raise ValueError(
            f"{value[:80]!r} is not a label key; use [prefix/]name, the name of at most 63 of A-Z a-z 0-9 - _ ."
        )
    return value


def check_label_value(value: str) -> str:
    """Empty, or at most 63 characters. Raises ValueError."""
    if value and not _LABEL_NAME.fullmatch(value):
        raise ValueError(f"{value[:80]!r} is not a label value; use at most 63 letters, digits, '-', '_', '.'")
    return value


def check_text(value: str) -> str:
    """A short text that stands in tables and messages: no control characters. Raises ValueError."""
    found = printable.harmful(value)
    if found is not None:
        raise ValueError(f"{value[:80]!r} holds the control character U+{ord(found):04X}; leave it out")
    return value


def check_argument(value: str) -> str:
    """What a program can be given. Raises ValueError."""
    if "\0" in value:
        raise ValueError(f"{value[:80]!r} holds a NUL character, which no program can be given")
    return value


def check_path(value: str) -> str:
    """A path, absolute or relative, that stays below where it starts. Raises ValueError."""
    check_text(value)
    parts = value.split("/")
    if ".." in parts:
        raise ValueError(f"{value[:80]!r} contains '..'; write the path without it")
    if not value:
        raise ValueError("must not be empty")
    if all(part in ("", ".") for part in parts) and parts[0] != "":
        raise ValueError(f"{value[:80]!r} names nothing; write a path")
    return value


def check_absolute_path(value: str) -> str:
    """Raises ValueError."""
    if not value.startswith("/"):
        raise ValueError(f"must be an absolute path, beginning with '/', got {value[:80]!r}")
    return check_path(value)


def check_secret_name(value: str) -> str:
    """A file name, as secrets are kept in files. Raises ValueError."""
    if not _SECRET_NAME.fullmatch(value):
        raise ValueError(
            f"{value[:80]!r} cannot name a secret or a key of one; use at most 253 letters, digits, '-', '_' and '.', "
            "beginning with a letter, digit or '_'"
        )
    return value


def _scalar(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return str(value)


def check_time_zone(value: str) -> str:
    """Raises ValueError."""
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(value)
    except (ValueError, OSError, KeyError):
        raise ValueError(f"{value[:60]!r} is not a time zone; write Europe/Berlin or UTC") from None
    return value


Text = Annotated[str, on_write(check_text)]
Scalar = Annotated[
    str,
    BeforeValidator(_scalar),
    on_write(check_text),
    Field(json_schema_extra={"format": "scalar"}, examples=["0.1", "small"]),
]
"""A short text, or a number, which is kept as text."""
TimeZone = Annotated[str, on_write(check_time_zone)]
Argument = Annotated[str, on_write(check_argument)]
NodePath = Annotated[str, on_write(check_path)]
AbsolutePath = Annotated[str, on_write(check_absolute_path)]
SecretName = Annotated[str, on_write(check_secret_name)]
Name = Annotated[str, BeforeValidator(lambda v: check_name(v) if isinstance(v, str) else v)]
