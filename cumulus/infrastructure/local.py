"""The infrastructure of a state directory on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cumulus.answers.carried import ChangePiece
    from cumulus.blob.base import BlobStore
    from cumulus.calls.session import SessionConnection
    from cumulus.lib.execution import Reach
    from cumulus.resources.key import Document
    from cumulus.service.infrastructure import CheckpointReader, LogReader, SwarmInfrastructure, WorkerInfrastructure


class LocalInfrastructure:
    """See `service.infrastructure.Infrastructure`."""

    def __init__(self, home: Path, blobs: BlobStore | None = None, *, path: str = "") -> None:
        """`blobs`: where a daemon keeps them; if left out, where one without a configuration file does. `path`: the
        PATH that its settings give to jobs."""
        self._home = home
        self._path = path
        self._blobs = blobs

    def log_reader(self, job: Document, node: str, where: Document | None) -> LogReader:
        from cumulus.infrastructure.logs import log_reader

        return log_reader(self._home, job, node, where)

    def checkpoint_reader(self, job: Document, nodes: Callable[[str], Document | None]) -> CheckpointReader:
        from cumulus.infrastructure.checkpoints import reader

        return reader(self._home, job, nodes)

    def checkpoints_beyond(self, job: Document, uri: str) -> CheckpointReader:
        from cumulus.infrastructure.checkpoints import beyond

        return beyond(self._home, job, uri, os.environ)

    def changes(
        self, job: Document, most: int, nodes: Callable[[str], Document | None]
    ) -> Iterator[ChangePiece]:  # fmt: skip
        from cumulus.infrastructure.carried import changes

        return changes(self._home, job, most, nodes)

    def word_on_node(self, node: Document, user: str, uid: int, directory: str, word: str) -> str:
        from cumulus.infrastructure.directories import word_on_node

        return word_on_node(self._home, node, user, uid, directory, word)

    def session(self, job: Document, node: Document | None) -> SessionConnection:
        from cumulus.infrastructure.reach import session

        return session(self._home, job, node)

    def reach(self, job: Document, attempt: int, replica: int, node: str, where: Document | None) -> Reach:
        from cumulus.infrastructure.reach import reach

        return reach(self._home, job, attempt, replica, node, where)

    def missing_python(self, job: Document) -> str:
        from cumulus.infrastructure.pythons import missing_python

        return missing_python(job, self._path)

    @cached_property
    def blobs(self) -> BlobStore:
        if self._blobs is not None:
            return self._blobs
        from cumulus.blob.opened import open_blobs
        from cumulus.blob.s3.bucket import bucket_of

        return open_blobs(self._home, bucket=bucket_of(os.environ))

    @cached_property
    def workers(self) -> WorkerInfrastructure:
        from cumulus.infrastructure.workers import SshWorkers
        from cumulus.nodes.settings import SshSettings

        return SshWorkers(self._home, SshSettings())

    @cached_property
    def swarm(self) -> SwarmInfrastructure:
        from cumulus.infrastructure.swarm import NamedSwarm

        return NamedSwarm(self._home)
