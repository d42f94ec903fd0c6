"""`Backend` with runtime `process` where there is a Swarm: a job without an image is a process of the daemon's own
machine, and on another node a service that has the node's own root.

Which of the two runs a workload is decided by its node, and known by their records from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from cumulus.backends.base import Backend, CallResult, Observed, Reach, Workload


class Elsewhere(Backend, Protocol):
    """The backend of the other nodes. It has workloads of its own beside these, and tells of all of them itself."""

    def knows(self, job_uid: str) -> bool:
        """Whether it ran, or runs, something of that job. Asks nobody."""
        ...

    def ran(self, job_uid: str, attempt: int, replica: int) -> bool:
        """Whether it was told to start that replica. Asks nobody."""
        ...


class ProgramBackend:
    """`here` runs what is placed on `node`, `elsewhere` all else."""

    def __init__(self, here: Backend, node: str, elsewhere: Elsewhere) -> None:
        self._here = here
        self._node = node
        self._elsewhere = elsewhere

    @property
    def runtime(self) -> str:
        return self._here.runtime

    def start(self, workload: Workload) -> None:
        """See `Backend.start`."""
        (self._here if workload.node == self._node else self._elsewhere).start(workload)

    def stop(self, name: str, grace: float, reason: str = "") -> None:
        """See `Backend.stop`. Both ignore names that they do not know."""
        self._here.stop(name, grace, reason)
        self._elsewhere.stop(name, grace, reason)

    def remove(self, name: str) -> None:
        """See `Backend.remove`."""
        self._here.remove(name)
        self._elsewhere.remove(name)

    def purge(self, job_uid: str) -> None:
        """See `Backend.purge`."""
        self._here.purge(job_uid)
        self._elsewhere.purge(job_uid)

    def get(self, name: str) -> Observed | None:
        """See `Backend.get`."""
        found = self._here.get(name)
        return self._elsewhere.get(name) if found is None else found

    def list(self, job_uid: str = "") -> Sequence[Observed]:
        """See `Backend.list`. Of all jobs only what runs here: the other backend tells of its own."""
        found = self._here.list(job_uid)
        if not job_uid or not self._elsewhere.knows(job_uid):
            # Whoever runs the other nodes need not answer for a job that never was there.
            return found
        return [*found, *self._elsewhere.list(job_uid)]

    def logs(
        self, job_uid: str, attempt: int, replica: int, *,
        follow: bool = False, tail: int | None = None, since: float | None = None, timestamps: bool = False,
        position: int | None = None,
    ) -> Iterator[bytes]:  # fmt: skip
        """See `Backend.logs`."""
        return self._of(job_uid, attempt, replica).logs(
            job_uid, attempt, replica, follow=follow, tail=tail, since=since, timestamps=timestamps, position=position
        )

    def result(self, job_uid: str, attempt: int, replica: int) -> CallResult | None:
        """See `Backend.result`."""
        return self._of(job_uid, attempt, replica).result(job_uid, attempt, replica)

    def reach(self, job_uid: str, attempt: int, replica: int) -> Reach:
        """See `Backend.reach`."""
        return self._of(job_uid, attempt, replica).reach(job_uid, attempt, replica)

    def subscribe(self, changed: Callable[[str, str], None]) -> None:
        """See `Backend.subscribe`. The other backend is subscribed to for itself."""
        self._here.subscribe(changed)

    def close(self) -> None:
        """See `Backend.close`. The other backend is closed for itself."""
        self._here.close()

    def _of(self, job_uid: str, attempt: int, replica: int) -> Backend:
        return self._elsewhere if self._elsewhere.ran(job_uid, attempt, replica) else self._here
