"""Keeps the gRPC server (`cumulus.server.grpc`) running as long as the daemon answers, and says its log."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import structlog

from cumulus.server.child_process import ChildProcess
from cumulus.server.grpc.launch import Launch
from cumulus.server.grpc.metering import EVENT

if TYPE_CHECKING:
    from cumulus.server.metrics.grpc import GrpcMetrics

_log = structlog.get_logger("cumulus.grpc")
RESTART_SECONDS, _MOST_RESTART_SECONDS = 0.5, 60.0
_LEVELS = frozenset({"debug", "info", "warning", "error"})
_KEPT = (
    "AWS_",
    "SSL_CERT_",
    "REQUESTS_CA_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
"""How variables begin that what asks a bucket reads."""
_LONGEST = 16 * 2**10


def grpc_process(
    launch: Launch, environment: Mapping[str, str], metrics: GrpcMetrics | None = None, *,
    restart_seconds: float = RESTART_SECONDS,
) -> ChildProcess:  # fmt: skip
    return ChildProcess(
        "gRPC server", "cumulus.server.grpc", (), environment, keeps=_KEPT, says=launch.line(),
        hears=partial(say, metrics), warns=True, restart_seconds=restart_seconds,
        most_restart_seconds=_MOST_RESTART_SECONDS,
    )  # fmt: skip


def log_level() -> str:
    """The least that the log of this process takes."""
    enabled = getattr(_log, "is_enabled_for", None)
    for level in ("debug", "info", "warning"):
        if enabled is None or enabled(getattr(logging, level.upper())):
            return level
    return "error"


def say(metrics: GrpcMetrics | None, line: bytes) -> None:
    """A line of that server's log, in the log of this process; what it counted goes into the metrics."""
    try:
        said = json.loads(line[:_LONGEST])
        event, level = str(said.pop("event")), said.pop("level")
        said.pop("timestamp", None)
    except (ValueError, KeyError, TypeError, AttributeError):
        # Of gRPC itself.
        _log.debug("said", line=line[:_LONGEST].decode(errors="replace").strip())
        return
    if event == EVENT:
        if metrics is not None:
            metrics.add(said["counts"])
        return
    getattr(_log, level if level in _LEVELS else "info")(event, **said)
