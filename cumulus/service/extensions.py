"""Lengthens the lease of a running job, where that moves nobody who waits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from cumulus.answers.objects import Extended
from cumulus.clock import Clock, parse_timestamp, short_timestamp, timestamp
from cumulus.errors import Conflict, Forbidden, InvalidObject, NotExtended, UsageError
from cumulus.lib.printable import one_line
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key, key_of
from cumulus.resources.kinds.gpujob import running_attempt
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.quantity import format_duration, parse_duration
from cumulus.resources.query import Query
from cumulus.resources.queue import Queue
from cumulus.resources.queue_usage import QueueUsage
from cumulus.resources.registry import BY_NAME
from cumulus.resources.reservation import Reservation
from cumulus.scheduling import extension, windows
from cumulus.scheduling.extension import LaterStart
from cumulus.scheduling.policy import Policies
from cumulus.scheduling.snapshot import Snapshot, build
from cumulus.service import audit
from cumulus.service.access import queues
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity
from cumulus.service.objects import ATTEMPTS, Objects
from cumulus.service.placement import policies
from cumulus.store.base import Store, Write
from cumulus.store.client import StoreClient

_NAMED = 3
"""Of those who would be moved."""
_WORTH = 60.0
"""Seconds that are worth to be offered instead."""


class Extensions:
    def __init__(self, store: Store, objects: Objects, access: Access, clock: Clock, home: Path) -> None:
        self._store = store
        self._objects = objects
        self._access = access
        self._clock = clock
        self._home = home

    def extend(self, identity: Identity, key: Key, seconds: float, *, dry_run: bool = False) -> Extended:
        """Let the lease of the job's running attempt end so much later; its spec stays. Raises NotFound, Forbidden,
        UsageError, NotExtended where it has no lease that runs, or where somebody who waits would start later."""
        if not BY_NAME[key.kind].leaves_files:
            raise UsageError(f"only the leases of jobs are extended, not those of a {key.kind}")
        if not 0 < seconds < float("inf"):
            raise UsageError("a lease is extended by more than no time", hint="as in +2h")
        self._access.check(identity, "update", "gpujobs/lease", key.namespace, key.name)
        job = self._objects.get(identity, key)
        if refused := self._objects.why_not_changed(identity, key):
            raise Forbidden(f"gpujob/{key.name} cannot be extended: {refused}")
        with self._access.audit.doing(identity, [audit.change("update", "gpujobs/lease", key)], dry_run=dry_run):
            for _ in range(ATTEMPTS):
                longer = [_longer(each, seconds) for each in self._held(job)]
                self._check_longest(job, longer, seconds)
                self._check_promises(key, [key_of(each) for each in longer], seconds)
                try:
                    if not dry_run:
                        self._store.transact([Write("update", each) for each in longer])
                except Conflict:
                    continue
                return Extended(min(each["spec"]["until"] for each in longer))
        raise Conflict(f"the leases of gpujob/{key.name} keep changing", hint="try again")

    def _held(self, job: Document) -> list[Document]:
        """The partitions of the running attempt. Raises NotExtended."""
        name = f"gpujob/{job['metadata']['name']}"
        attempt = running_attempt(job)
        if attempt is None:
            raise NotExtended(
                f"{name} has no lease that runs ({lookup(job, 'status.phase')})",
                hint=f"cumulus rerun {job['metadata']['name']} --set spec.gpu.duration=… asks for a longer one",
            )
        owned = self._store.list(Query(GPUPartition.KIND, owner_uid=job["metadata"]["uid"])).items
        found = [each for each in owned if each["metadata"]["name"] in (attempt.get("partitions") or ())]
        # Before its program is seen to have started, its end is the latest that it can be.
        if not found or any(lookup(each, "status.phase") != PartitionPhase.ACTIVE for each in found):
            raise NotExtended(f"the lease of {name} has not begun, or is over", hint="try again in a moment")
        if any(lookup(each, "status.reclaim") for each in found):
            raise NotExtended(f"the share of {name} goes back to another queue: `cumulus why` says to which")
        return found

    def _check_promises(self, key: Key, held: Sequence[Key], seconds: float) -> None:
        """Raises NotExtended."""
        snapshot = self._snapshot()
        policies = self._policies(snapshot)
        self._check_windows(key, snapshot, policies, held, seconds)
        late = extension.moved(snapshot, held, seconds, policies)
        if not late:
            return
        more = f", and {len(late) - _NAMED} more" if len(late) > _NAMED else ""
        told = "; ".join(_said(each) for each in late[:_NAMED])
        left = extension.room(snapshot, held, seconds, policies)
        offer = f"+{format_duration(left // 60 * 60)}" if left >= _WORTH else ""
        raise NotExtended(
            f"gpujob/{key.name} cannot have {format_duration(seconds)} more: {told}{more}",
            hint=f"{offer} moves nobody: cumulus extend {key.name} {offer}" if offer else None,
        )

    def _check_windows(
        self, key: Key, snapshot: Snapshot, policies: Policies, held: Sequence[Key], seconds: float
    ) -> None:
        """Raises NotExtended where its device is held for others by then."""
        for hold in snapshot.holds if policies.windows else ():
            ahead = windows.next_of_others(policies.windows, hold, snapshot.now)
            then = hold.returns_at + timedelta(seconds=seconds)
            if hold.partition in held and ahead is not None and then > ahead.start:
                raise NotExtended(
                    f"gpujob/{key.name} cannot have {format_duration(seconds)} more: its device is held for others "
                    f"from {short_timestamp(ahead.start)} on (reservation {ahead.name})"
                )

    def _policies(self, snapshot: Snapshot) -> Policies:
        client, damaged = StoreClient(self._store), list[InvalidObject]()
        there = client.list(Queue, damaged=damaged.append)
        usages = client.list(QueueUsage, damaged=damaged.append) if there else []
        held = client.list(Reservation, damaged=damaged.append)
        return policies(self._home, there, usages, held, snapshot)

    def _check_longest(self, job: Document, longer: Sequence[Document], seconds: float) -> None:
        """Raises NotExtended where the lease would be longer than its queue allows."""
        found = queues.longest_lease(queues.queues(self._store), queues.named_by(job))
        if found is None:
            return
        longest, _ = found
        for each in longer:
            since, until = (parse_timestamp(lookup(each, path)) for path in ("status.startedAt", "spec.until"))
            if (until - since).total_seconds() > parse_duration(longest):
                raise NotExtended(
                    f"gpujob/{job['metadata']['name']} cannot have {format_duration(seconds)} more: its queue allows "
                    f"leases of {longest}"
                )

    def _snapshot(self) -> Snapshot:
        """As the scheduler has it: without what is damaged."""
        client, damaged = StoreClient(self._store), list[InvalidObject]()
        nodes = client.list(GPUNode, damaged=damaged.append)
        return build(nodes, client.list(GPUPartition, damaged=damaged.append), self._clock.now())


def _longer(partition: Document, seconds: float) -> Document:
    ends = max(
        parse_timestamp(each)
        for each in (lookup(partition, "status.expiresAt"), lookup(partition, "spec.until")) if each
    )  # fmt: skip
    return {**partition, "spec": {**partition["spec"], "until": timestamp(ends + timedelta(seconds=seconds))}}


def _said(late: LaterStart) -> str:
    whose = f" of {one_line(late.user)}" if late.user else ""
    then = f"at {short_timestamp(late.then)}" if late.then is not None else "nobody can say when"
    return f"job {late.job}{whose} is told {short_timestamp(late.told)}, and would start {then}"
