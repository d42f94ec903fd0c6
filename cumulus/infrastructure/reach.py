"""The ways to jobs while they run, through the backends that run these."""

from __future__ import annotations

from pathlib import Path

from cumulus.backends.base import WorkloadReach
from cumulus.calls.session import SessionConnection, SessionEnded
from cumulus.errors import NoLog, NotRunning
from cumulus.infrastructure.logs import log_reader
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document


def reach(home: Path, job: Document, attempt: int, replica: int, node: str, where: Document | None) -> WorkloadReach:
    """See `service.infrastructure.Infrastructure.reach`."""
    try:
        backend = log_reader(home, job, node, where)
    except NoLog:
        raise NotRunning("its program has not started yet") from None
    try:
        return backend.reach(job["metadata"]["uid"], attempt, replica)
    finally:
        backend.close()


def session(home: Path, job: Document, node: Document | None) -> SessionConnection:
    """See `service.infrastructure.Infrastructure.session`."""
    attempts = lookup(job, "status.attempts") or []
    if not attempts or attempts[-1].get("endTime"):
        raise SessionEnded("the session has not begun, or has ended")
    last = attempts[-1]
    try:
        return reach(home, job, last["number"], 0, last.get("node", ""), node).session()
    except NotRunning as error:
        raise SessionEnded(f"the session has not begun: {error}") from None
