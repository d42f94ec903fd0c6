"""`Backend` with runtime `process` where there is a Swarm: a job without an image is a process of the daemon's own
machine, and on another node a service that has the node's own root.

Which of the two runs a workload is decided by its node, and known by their records from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import structlog

from cumulus.backends.base import Backend, CallResult, Observed, Prefetched, Workload, WorkloadReach, WorkloadState
from cumulus.backends.preparing import Preparing
from cumulus.lib.unix_user import UnixUser

log = structlog.get_logger("cumulus.backends")


class LocalBackend(Backend, Protocol):
    """The backend of the daemon's own machine."""

    def make_place(self, workload: Workload) -> tuple[str, UnixUser | None]:
        """Where the workload will find its checkpoints, and whose they are; what is above that is made. What comes
        there is purged with the job, also where it never starts."""
        ...


class Elsewhere(Backend, Protocol):
    """The backend of the other nodes. It has workloads of its own beside these, and tells of all of them itself."""

    def knows(self, job_uid: str) -> bool:
        """Whether it ran, or runs, something of that job. Asks nobody."""
        ...

    def ran(self, job_uid: str, attempt: int, replica: int) -> bool:
        """Whether it was told to start that replica. Asks nobody."""
        ...

    def brings(self, workload: Workload) -> bool:
        """Whether it may have a checkpoint on a node for a workload that another backend is to start. Asks nobody."""
        ...

    def prefetch(
        self, workload: Workload, saved: str, here: tuple[str, UnixUser | None] | None = None
    ) -> Prefetched | None:
        """See `base.Prefetches`. `here`: of a workload that another backend is to start, as in `bring`."""
        ...

    def give_up(self, job_uid: str) -> None:
        """See `base.Prefetches`."""
        ...

    def bring(self, workload: Workload, place: str, user: UnixUser | None) -> bool:
        """Put the newest that a node has into a directory of this machine, if it is newer than what that has. This may
        take long. False where the job was purged meanwhile. Raises `BackendError` where the workload would begin anew
        without it."""
        ...


class ProgramBackend:
    """`here` runs what is placed on `node`, `elsewhere` all else."""

    def __init__(self, here: LocalBackend, node: str, elsewhere: Elsewhere) -> None:
        self._here = here
        self._node = node
        self._elsewhere = elsewhere
        self._preparing = Preparing()
        self._coming: dict[str, Workload] = {}
        """Workloads whose checkpoints are on the way to this machine."""
        self._subscribers: list[Callable[[str, str], None]] = []

    @property
    def runtime(self) -> str:
        return self._here.runtime

    def start(self, workload: Workload) -> None:
        """See `Backend.start`. What runs here after an attempt on another node gets that one's checkpoint first."""
        if workload.node != self._node:
            self._elsewhere.start(workload)
        elif self._here.get(workload.name) is not None or not self._elsewhere.brings(workload):
            self._here.start(workload)
        else:
            self._coming[workload.name] = workload
            try:
                self._preparing.run(
                    workload.name, partial(self._prepared, workload), partial(self._not_prepared, workload),
                    partial(self._ended, workload),
                )  # fmt: skip
            except BaseException:
                self._coming.pop(workload.name, None)
                raise

    def _prepared(self, workload: Workload) -> None:
        came = self._elsewhere.bring(workload, *self._here.make_place(workload))
        # A stop meanwhile means that nothing is to start.
        if self._coming.pop(workload.name, None) is not None and came:
            self._here.start(workload)
        self._tell(workload)

    def _not_prepared(self, workload: Workload, error: Exception) -> None:
        """The controllers try again."""
        log.warning("a checkpoint cannot be fetched", workload=workload.name, error=str(error))

    def _ended(self, workload: Workload) -> None:
        self._coming.pop(workload.name, None)
        self._tell(workload)

    def _tell(self, workload: Workload) -> None:
        for changed in self._subscribers:
            changed(workload.namespace, workload.job)

    def stop(self, name: str, grace: float, reason: str = "") -> None:
        """See `Backend.stop`. Both ignore names that they do not know."""
        self._coming.pop(name, None)
        self._here.stop(name, grace, reason)
        self._elsewhere.stop(name, grace, reason)

    def remove(self, name: str) -> None:
        """See `Backend.remove`."""
        self._here.remove(name)
        self._elsewhere.remove(name)

    def purge(self, job_uid: str) -> None:
        """See `Backend.purge`."""
        # What still comes here is the other one's to end.
        self._elsewhere.purge(job_uid)
        self._here.purge(job_uid)

    def prefetch(self, workload: Workload, saved: str) -> Prefetched | None:
        """See `base.Prefetches`. What is beyond the nodes comes to this machine when the workload starts."""
        if workload.node != self._node:
            return self._elsewhere.prefetch(workload, saved)
        if not self._elsewhere.brings(workload):
            return None
        return self._elsewhere.prefetch(workload, saved, self._here.make_place(workload))

    def give_up(self, job_uid: str) -> None:
        """See `base.Prefetches`."""
        self._elsewhere.give_up(job_uid)

    def get(self, name: str) -> Observed | None:
        """See `Backend.get`."""
        found = self._here.get(name)
        if found is None and (coming := self._coming.get(name)) is not None:
            return _starting(coming)
        return self._elsewhere.get(name) if found is None else found

    def list(self, job_uid: str = "") -> Sequence[Observed]:
        """See `Backend.list`. Of all jobs only what runs here: the other backend tells of its own."""
        found = self._here.list(job_uid)
        names = {each.name for each in found}
        found = [*found, *(
            _starting(each) for each in list(self._coming.values())
            if job_uid in ("", each.job_uid) and each.name not in names
        )]  # fmt: skip
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

    def reach(self, job_uid: str, attempt: int, replica: int) -> WorkloadReach:
        """See `Backend.reach`."""
        return self._of(job_uid, attempt, replica).reach(job_uid, attempt, replica)

    def subscribe(self, changed: Callable[[str, str], None]) -> None:
        """See `Backend.subscribe`. The other backend is subscribed to for itself."""
        self._subscribers.append(changed)
        self._here.subscribe(changed)

    def close(self) -> None:
        """See `Backend.close`. The other backend is closed for itself."""
        self._preparing.close()
        self._here.close()

    def _of(self, job_uid: str, attempt: int, replica: int) -> Backend:
        return self._elsewhere if self._elsewhere.ran(job_uid, attempt, replica) else self._here


def _starting(workload: Workload) -> Observed:
    return Observed(
        name=workload.name, job_uid=workload.job_uid, namespace=workload.namespace, job=workload.job,
        attempt=workload.attempt, replica=workload.replica, node=workload.node, state=WorkloadState.STARTING,
    )  # fmt: skip
