"""Connections to sessions, through the backend that runs them."""

from __future__ import annotations

from pathlib import Path

from cumulus import paths
from cumulus.backends.base import Backend
from cumulus.calls.session import SessionConnection, SessionEnded
from cumulus.errors import NoLog
from cumulus.infrastructure.logs import log_reader
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document


def session(home: Path, job: Document, node: Document | None) -> SessionConnection:
    """See `service.infrastructure.Infrastructure.session`."""
    attempts = lookup(job, "status.attempts") or []
    if not attempts or attempts[-1].get("endTime"):
        raise SessionEnded("the session has not begun, or has ended")
    last = attempts[-1]
    backend = _backend(home, job, last.get("node", ""), node)
    try:
        return backend.session(job["metadata"]["uid"], last["number"], 0)
    finally:
        backend.close()


def _backend(home: Path, job: Document, name: str, node: Document | None) -> Backend:
    if not lookup(job, "spec.image"):
        try:
            return log_reader(home, job, name)
        except NoLog:
            raise SessionEnded("the session has not begun") from None
    if not paths.swarm_dir(home).exists():
        raise SessionEnded("the session has not begun")
    from cumulus.infrastructure.swarm import reader

    return reader(home, node)
