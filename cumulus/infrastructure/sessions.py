"""Connections to sessions, through the backend that runs them."""

from __future__ import annotations

from pathlib import Path

from cumulus.calls.session import SessionConnection, SessionEnded
from cumulus.errors import NoLog
from cumulus.infrastructure.logs import log_reader
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document


def session(home: Path, job: Document) -> SessionConnection:
    """See `service.infrastructure.Infrastructure.session`."""
    attempts = lookup(job, "status.attempts") or []
    if not attempts or not attempts[-1].get("startTime") or attempts[-1].get("endTime"):
        raise SessionEnded("the session has not begun, or has ended")
    last = attempts[-1]
    try:
        backend = log_reader(home, job, last.get("node", ""))
    except NoLog:
        raise SessionEnded("the session has not begun") from None
    try:
        return backend.session(job["metadata"]["uid"], last["number"], 0)
    finally:
        backend.close()
