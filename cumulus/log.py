"""Logs by structlog: readable on a terminal, JSON lines otherwise, times in UTC, secrets blanked.

The manager binds `controller`, `key` and `reconcile_id` around each reconcile with
`structlog.contextvars.bound_contextvars`, and every line of that reconcile carries them.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from cumulus.errors import UsageError

FORMATS = ("auto", "json", "console")
LEVELS = ("debug", "info", "warning", "error")
REDACTED = "[redacted]"

_SECRET = re.compile(r"secret|passw|token|credential|api_?key|access_?key|private_?key|authorization", re.IGNORECASE)
# Fencing tokens order grants; they are no secrets and are needed to follow what happened.
_PLAIN = frozenset({"token", "fencing_token", "fencingToken", "secret_name", "secretName"})


def configure(*, format: str = "auto", level: str = "info", stream: TextIO | None = None) -> None:
    """Set up structlog for this process, once, before the first line is logged.

    `auto` is `console` on a terminal and `json` otherwise. Raises UsageError on an unknown format or level.
    """
    if format not in FORMATS:
        raise UsageError(f"there is no log format {format!r}", hint=f"the formats are {', '.join(FORMATS)}")
    if level not in LEVELS:
        raise UsageError(f"there is no log level {level!r}", hint=f"the levels are {', '.join(LEVELS)}")
    out = stream or sys.stderr
    readable = format == "console" or (format == "auto" and out.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            redact,
            *(_readable(out) if readable else _json()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )


def redact(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Blank every value, however deep, whose key looks like a secret's."""
    return {key: _clean(key, value) for key, value in line.items()}


def _clean(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _clean(str(k), v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(key, item) for item in value]
    if key not in _PLAIN and _SECRET.search(key):
        return REDACTED
    return value


def _readable(out: TextIO) -> list[Any]:
    colours = out.isatty() and not os.environ.get("NO_COLOR")
    return [structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)]


def _json() -> list[Any]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
