"""Programs beside jobs, through the backends that run these."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cumulus.backends.base import Backend
from cumulus.errors import NoLog, NotRunning
from cumulus.infrastructure.logs import log_reader
from cumulus.lib.execution import ExecRequest, Execution
from cumulus.resources.key import Document


def execution(
    home: Path, job: Document, attempt: int, replica: int, node: str, where: Document | None, asked: ExecRequest
) -> Execution:
    """See `service.infrastructure.Infrastructure.execution`."""
    with _backend(home, job, node, where) as backend:
        return backend.exec(job["metadata"]["uid"], attempt, replica, asked)


def attachment(
    home: Path, job: Document, attempt: int, replica: int, node: str, where: Document | None, *, stdin: bool
) -> Execution:
    """See `service.infrastructure.Infrastructure.attachment`."""
    with _backend(home, job, node, where) as backend:
        return backend.attach(job["metadata"]["uid"], attempt, replica, stdin=stdin)


def connection(
    home: Path, job: Document, attempt: int, replica: int, node: str, where: Document | None, port: int
) -> socket.socket:
    """See `service.infrastructure.Infrastructure.connection`."""
    with _backend(home, job, node, where) as backend:
        return backend.connect(job["metadata"]["uid"], attempt, replica, port)


@contextmanager
def _backend(home: Path, job: Document, node: str, where: Document | None) -> Iterator[Backend]:
    try:
        made = log_reader(home, job, node, where)
    except NoLog:
        raise NotRunning("its program has not started yet") from None
    try:
        yield made
    finally:
        made.close()
