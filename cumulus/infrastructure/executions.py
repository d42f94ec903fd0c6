"""Programs beside jobs, through the backends that run these."""

from __future__ import annotations

from pathlib import Path

from cumulus.errors import NoLog, NotRunning
from cumulus.infrastructure.logs import log_reader
from cumulus.lib.execution import ExecRequest, Execution
from cumulus.resources.key import Document


def execution(
    home: Path, job: Document, attempt: int, replica: int, node: str, where: Document | None, asked: ExecRequest
) -> Execution:
    """See `service.infrastructure.Infrastructure.execution`."""
    try:
        backend = log_reader(home, job, node, where)
    except NoLog:
        raise NotRunning("its program has not started yet") from None
    try:
        return backend.exec(job["metadata"]["uid"], attempt, replica, asked)
    finally:
        backend.close()
