"""Logs by structlog: readable on a terminal, JSON lines otherwise, times in UTC, secrets blanked.

The runner binds `loop`, `key` and `reconcile` (a number) around each reconcile with
`structlog.contextvars`, and every line of that reconcile carries them.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import MutableMapping
from functools import lru_cache
from typing import Any, TextIO

from cumulus.errors import UsageError
from cumulus.lib import printable, safe_output
from cumulus.lib.absent import absent

# For tracebacks in colour, of which we show none, it would load a library that takes longer than all the rest of it.
with absent("rich"):
    import structlog as structlog

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
            structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%SZ" if readable else "iso", utc=True),
            redact,
            *(_readable(out) if readable else _json()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        # Its colours are its own, and what it tells of was made harmless.
        logger_factory=structlog.PrintLoggerFactory(safe_output.raw(out)),
        cache_logger_on_first_use=False,
    )


def silence() -> None:
    """Log nothing: a verb tells a person in its own words what matters, and its output is not to be mixed with lines
    of the parts that it uses."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def redact(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Blank every value, however deep, whose key looks like a secret's."""
    return {key: _clean(key, value) for key, value in line.items()}


def _clean(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _clean(str(k), v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(key, item) for item in value]
    return REDACTED if _is_secret(key) else value


@lru_cache(maxsize=1024)
def _is_secret(key: str) -> bool:
    return key not in _PLAIN and _SECRET.search(key) is not None


def _readable(out: TextIO) -> list[Any]:
    return [_printable, structlog.dev.ConsoleRenderer(colors=safe_output.colours(out), exception_formatter=_traceback)]


def _printable(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Values that hold control characters are shown, not obeyed, in one line each."""
    return {key: value if key == "exc_info" else _one_line(value) for key, value in line.items()}


def _one_line(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return printable.one_line(value if isinstance(value, str) else repr(value))


def _traceback(out: TextIO, exception: Any) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exception)
    out.write("\n" + printable.log_entry(text.getvalue().strip("\n")))


def _json() -> list[Any]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
