"""What the service needs beyond the store and the state directory: backends, workers, the Swarm.

Whoever composes a `Service` hands it in, so that the service knows neither SSH nor Docker. In production it is
`cumulus.infrastructure`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from cumulus.resources.key import Document

if TYPE_CHECKING:
    pass


class LogReader(Protocol):
    """The part of a backend that reads logs."""

    def logs(
        self, job_uid: str, attempt: int, replica: int, *, follow: bool = False, tail: int | None = None
    ) -> Iterator[bytes]:
        """See `backends.base.Backend.logs`."""
        ...

    def close(self) -> None: ...


LogReaders = Callable[[Document, str], LogReader]
"""The reader for a job's log of a run on a node. Raises NoLog where the job ran nothing with this state directory."""


class Infrastructure(Protocol):
    """Each part is loaded when it is first used."""

    def log_reader(self, job: Document, node: str) -> LogReader:
        """See `LogReaders`."""
        ...
