"""The infrastructure of a state directory on this machine."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cumulus.resources.key import Document
    from cumulus.service.infrastructure import LogReader, Swarm, Workers


class LocalInfrastructure:
    """See `service.infrastructure.Infrastructure`."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def log_reader(self, job: Document, node: str) -> LogReader:
        from cumulus.infrastructure.logs import log_reader

        return log_reader(self._home, job, node)

    @cached_property
    def workers(self) -> Workers:
        from cumulus.infrastructure.workers import SshWorkers
        from cumulus.nodes.settings import SshSettings

        return SshWorkers(self._home, SshSettings())

    @cached_property
    def swarm(self) -> Swarm:
        from cumulus.infrastructure.swarm import NamedSwarm

        return NamedSwarm(self._home)
