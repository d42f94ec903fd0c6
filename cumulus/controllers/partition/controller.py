"""The partition controller: takes bound partitions to their node for a lease, follows the lease, and gives it back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from cumulus.chronos.contract import Lease, Leases, LeaseState, ParkRefusal, Parks
from cumulus.clock import Clock, parse_timestamp, to_the_second
from cumulus.controllers.partition import accounting
from cumulus.controllers.partition import plan as partition_plan
from cumulus.controllers.partition.plan import Answer, GrantRefused, NodeGone, PartitionPlan, UnparkRefused, Unreachable
from cumulus.errors import (
    InsufficientShare,
    InvalidObject,
    LedgerUnavailable,
    NodeUnreachable,
    NoSuchDevice,
    NoSuchLease,
    NotFound,
    ParkRefused,
    StaleToken,
)
from cumulus.machinery.cache import Reader, as_stored, readable
from cumulus.machinery.reconcile import Done, Request, RequeueAfter, Result
from cumulus.machinery.recorder import EventRecorder, EventType
from cumulus.machinery.writes import unversioned, write_with_events
from cumulus.nodes.agent import NodeAgent
from cumulus.resources.finalizers import has_finalizer, without_finalizer
from cumulus.resources.job import GPUJob
from cumulus.resources.meta import condition, is_true
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import FINALIZER, GPUPartition, GPUPartitionStatus, PartitionPhase
from cumulus.resources.quantity import bytes_in_words, format_duration, parse_duration
from cumulus.resources.reasons import EventReason, ParkingReason, PartitionCondition, PartitionReason
from cumulus.store.base import Key, Write
from cumulus.store.client import StoreClient, decode

NAME = "partition"


class PartitionReconciler:
    """`owner` marks the leases that this store's controllers asked for; `waited_for` tells whether somebody
    waits for the partition's device, `free_for` in how many seconds it is held for others."""

    def __init__(
        self,
        reader: Reader,
        client: StoreClient,
        agents: Mapping[str, NodeAgent],
        clock: Clock,
        recorder: EventRecorder,
        *,
        owner: str,
        waited_for: Callable[[GPUPartition], bool],
        free_for: Callable[[GPUPartition], float | None],
    ) -> None:
        self._reader = reader
        self._client = client
        self._agents = agents
        self._clock = clock
        self._recorder = recorder
        self._owner = owner
        self._waited_for = waited_for
        self._free_for = free_for
        self._counting = threading.Lock()

    def reconcile(self, request: Request) -> Result:
        try:
            partition = self._reader.get(GPUPartition, *request)
        except InvalidObject:
            return self._delete_damaged(request)
        if partition is None:
            return Done()
        now = self._clock.now()
        if partition.status.phase in (PartitionPhase.BOUND, PartitionPhase.UNPARKING):
            # A lease is never asked for on old knowledge: a partition deleted meanwhile must not get one.
            partition = as_stored(self._client.store, partition)
        elif partition_plan.reclaim_due(partition, now):
            # Nor is one taken back: its job may have been parked meanwhile, or be told that it keeps its share.
            partition = as_stored(self._client.store, partition)
        if partition.status.phase.ended:
            return self._apply(partition, partition_plan.plan_idle(partition, releasing=True, now=self._clock.now()))
        job = owning_job(self._reader, partition)
        releasing = partition_plan.releasing(partition, job, now)
        saving = partition_plan.saving_left(partition, job, now)
        if partition.status.phase is PartitionPhase.PENDING:
            plan = partition_plan.plan_idle(partition, releasing=releasing, now=now)
            return self._apply(partition, plan)
        started = partition_plan.to_begin(partition, job)
        try:
            answer = self._ask(partition, releasing, started)
        except NodeUnreachable as error:
            self._apply(partition, self._plan(partition, Unreachable(str(error)), releasing))
            raise
        except LedgerUnavailable as error:
            self._tell_of_ledger(partition, job, error, releasing)
            raise
        result = self._apply(partition, self._plan(partition, answer, releasing, started))
        taken_back = partition_plan.reclaim_left(partition, now)
        if not releasing and (saving > 0 or taken_back is not None):
            waits = [left for left in (saving or None, taken_back) if left is not None]
            return RequeueAfter(min(*waits, result.seconds) if isinstance(result, RequeueAfter) else min(waits))
        if isinstance(answer, Lease) and not releasing:
            longer = partition_plan.extension(partition, answer)
            return self._renew(partition, answer, result) if longer is None else self._extend(partition, job, longer)
        return result

    def _ask(self, partition: GPUPartition, releasing: bool, started: str | None) -> Answer:
        agent = self._agents.get(partition.status.node)
        if agent is None:
            if self._reader.get(GPUNode, "", partition.status.node) is None:
                return NodeGone()
            raise NodeUnreachable(f"this daemon does not manage the node {partition.status.node}")
        if releasing:
            return self._release(agent.leases, partition)
        if started is not None:
            # A process's supervisor did so on the node; a container's start nobody there is told of.
            return self._park(agent.leases, partition, agent.leases.begin(partition.uid))
        if partition.status.phase is PartitionPhase.UNPARKING:
            return self._unpark(agent.leases, partition)
        if partition.status.phase is not PartitionPhase.BOUND:
            return self._park(agent.leases, partition, agent.leases.get(partition.uid))
        try:
            return agent.leases.grant(partition_plan.lease_request(partition, self._owner))
        except (InsufficientShare, NoSuchDevice) as error:
            return GrantRefused(type(error).__name__, str(error))

    def _release(self, leases: Leases, partition: GPUPartition) -> Lease | None:
        """Give the lease back; where it is taken back for another and its program came to main memory in time, though
        that was not written yet, the share is free and the program stays."""
        status = partition.status
        if status.phase is PartitionPhase.ACTIVE and status.reclaim is not None:
            lease = leases.get(partition.uid)
            if lease is not None and lease.state is LeaseState.PARKED:
                return lease
        return leases.release(partition.uid)

    def _park(self, leases: Leases, partition: GPUPartition, lease: Lease | None) -> Lease | None:
        """The lease, once its node is asked to park its program where that is wanted and it is not at it."""
        if lease is None or lease.state is not LeaseState.ACTIVE or not partition_plan.wants_to_park(partition):
            return lease
        if partition_plan.was_refused(partition, lease):
            return lease
        park = partition.spec.park
        assert park is not None
        try:
            if not isinstance(leases, Parks):
                raise ParkRefused("its node can park nothing", reason=ParkingReason.NOT_SUPPORTED)
            return leases.park(
                lease.id, parse_duration(park.duration), freeze=park.frozen, token=partition.status.fencing_token
            )
        except ParkRefused as error:
            return replace(lease, park_refused=ParkRefusal(error.reason, str(error)))
        except (NoSuchLease, StaleToken):
            # It ends, or this is about an earlier grant of it.
            return leases.get(lease.id)

    def _unpark(self, leases: Leases, partition: GPUPartition) -> Answer:
        if not isinstance(leases, Parks):
            return leases.get(partition.uid)
        seconds, token = parse_duration(partition.spec.duration), partition.status.fencing_token
        try:
            return leases.unpark(partition.uid, seconds, token=token)
        except InsufficientShare as error:
            return UnparkRefused(str(error))
        except (NoSuchLease, StaleToken):
            return leases.get(partition.uid)

    def _plan(
        self, partition: GPUPartition, answer: Answer, releasing: bool, started: str | None = None
    ) -> PartitionPlan:
        return partition_plan.plan(partition, answer, releasing=releasing, now=self._clock.now(), started=started)

    def _apply(self, partition: GPUPartition, plan: PartitionPlan) -> Result:
        """Write status and finalizer where they changed, both at once; then say when to look again."""
        try:
            return self._write(partition, plan)
        except InvalidObject as error:
            return self._give_up(partition, error)

    def _write(self, partition: GPUPartition, plan: PartitionPlan) -> Result:
        changed = plan.status != partition.status
        ended = plan.status.phase.ended and not partition.status.phase.ended
        gives_back = (ended or plan.status.phase is PartitionPhase.PARKED) and partition.status.phase.holds
        events = [self._end_event(partition, plan.status)] if ended else self._overuse_event(partition, plan.status)
        finish = plan.finish and FINALIZER in partition.metadata.finalizers
        if finish:
            document = without_finalizer(partition.to_json(), FINALIZER)
            writes = [Write("update", document)]
            if changed:
                status = Write("status", partition.replace(status=plan.status).to_json())
                writes = [status, Write("update", unversioned(document))]
            self._transact(partition, plan, writes, events, gives_back=gives_back)
        elif changed:
            writes = [Write("status", partition.replace(status=plan.status).to_json())]
            self._transact(partition, plan, writes, events, gives_back=gives_back)
            self._tell_of_parking(partition, plan.status)
        if plan.status.phase is PartitionPhase.ACTIVE and partition.status.phase is PartitionPhase.BOUND:
            name = f" ({plan.status.device_name})" if plan.status.device_name else ""
            message = f"leased device {plan.status.device}{name} of {plan.status.node}"
            self._recorder.record(partition, "Normal", EventReason.LEASED, message, component=NAME)
        return Done() if plan.wake is None or finish else RequeueAfter(plan.wake)

    def _transact(
        self, partition: GPUPartition, plan: PartitionPlan, writes: Sequence[Write], events: Sequence[Write], *,
        gives_back: bool,
    ) -> None:  # fmt: skip
        """Write; the end of a share together with what it adds to the use of its queue."""
        if not gives_back or not partition.status.queue:
            write_with_events(self._client, writes, events)
            return
        with self._counting:
            counted = accounting.entry(
                self._client, self._reader, partition, plan.status, plan.ended_at, self._clock.now()
            )
            write_with_events(self._client, [*writes, *([counted] if counted else [])], events)

    def _tell_of_parking(self, partition: GPUPartition, status: GPUPartitionStatus) -> None:
        """Events for the partition and its job where a program went to main memory, came back, or could not go."""
        said = condition(status.conditions, PartitionCondition.PARKED)
        if said is None or said == condition(partition.status.conditions, PartitionCondition.PARKED):
            return
        parked = status.parked
        reason, message = said.reason, said.message
        if said.status == "True" and parked is not None:
            reason, size = PartitionReason.PARKED, bytes_in_words(parked.memory_bytes)
            message = f"{message or said.reason}; {size} went to main memory in {parked.seconds:.1f} s"
        elif reason == PartitionReason.UNPARKED and parked is not None:
            waited = (self._clock.now() - parse_timestamp(parked.since)).total_seconds()
            message = f"{message}, after {format_duration(waited)} in main memory"
        type: EventType = "Warning" if reason == PartitionReason.PARK_REFUSED else "Normal"
        for about in (partition, owning_job(self._reader, partition)):
            if about is not None:
                self._recorder.record(about, type, reason, message, component=NAME)

    def _end_event(self, partition: GPUPartition, status: GPUPartitionStatus) -> Write:
        """What is said of its end: its condition, so that no way to end is silent."""
        end = condition(status.conditions, PartitionCondition.ENDED)
        assert end is not None
        type: EventType = "Warning" if status.phase is PartitionPhase.FAILED else "Normal"
        return self._recorder.event(partition, type, end.reason, end.message, component=NAME)

    def _overuse_event(self, partition: GPUPartition, status: GPUPartitionStatus) -> list[Write]:
        found = condition(status.conditions, PartitionCondition.OVERUSED)
        known = is_true(partition.status.conditions, PartitionCondition.OVERUSED)
        if found is None or found.status != "True" or known:
            return []
        return [self._recorder.event(partition, "Warning", found.reason, found.message, component=NAME)]

    def _extend(self, partition: GPUPartition, job: GPUJob | None, seconds: float) -> Result:
        """As somebody asked for, whom nobody who waits stood against."""
        try:
            lease = self._agents[partition.status.node].leases.renew(partition.uid, seconds)
        except NoSuchLease:
            return RequeueAfter(partition_plan.ENDING_POLL)
        message = f"its lease lasts until {to_the_second(lease.expires_at)}"
        for about in (partition, job):
            if about is not None:
                self._recorder.record(about, "Normal", EventReason.EXTENDED, message, component=NAME)
        return self._apply(partition, self._plan(partition, lease, False))

    def _renew(self, partition: GPUPartition, lease: Lease, result: Result) -> Result:
        due = partition_plan.renewal(partition, lease, self._clock.now())
        if due is None:
            return result
        wait, seconds = due
        if wait > 0:
            return RequeueAfter(wait)
        free = self._free_for(partition)
        seconds = seconds if free is None else min(seconds, free)
        if seconds <= lease.expires_in + 1 or self._waited_for(partition):
            return RequeueAfter(min(max(1.0, lease.expires_in / 4), lease.expires_in + partition_plan.ENDING_POLL))
        try:
            renewed = self._agents[partition.status.node].leases.renew(partition.uid, seconds)
        except NoSuchLease:
            return RequeueAfter(partition_plan.ENDING_POLL)
        self._recorder.record(partition, "Normal", EventReason.RENEWED, "nobody waits for the device", component=NAME)
        result = self._apply(partition, self._plan(partition, renewed, False))
        due = partition_plan.renewal(partition, renewed, self._clock.now())
        return result if due is None else RequeueAfter(max(due[0], partition_plan.ENDING_POLL))

    def _tell_of_ledger(
        self, partition: GPUPartition, job: GPUJob | None, error: LedgerUnavailable, releasing: bool
    ) -> None:
        """Who waits for the lease learns at once why there is none; it is asked for again all the same."""
        why = Unreachable(f"{error}; {error.hint}" if error.hint else str(error), type(error).__name__)
        before = condition(partition.status.conditions, PartitionCondition.ACTIVE)
        self._apply(partition, self._plan(partition, why, releasing))
        if before is None or (before.reason, before.message) != (why.reason, why.message):
            for about in (partition, job):
                if about is not None:
                    self._recorder.record(about, "Warning", why.reason, why.message, component=NAME)

    def _give_up(self, partition: GPUPartition, error: InvalidObject) -> Result:
        """What would be said of it has no room: its lease is given back, and then it fails."""
        agent = self._agents.get(partition.status.node)
        lease = agent.leases.release(partition.uid) if agent is not None else None
        if lease is not None and lease.state is not LeaseState.ENDED:
            return RequeueAfter(partition_plan.ENDING_POLL)
        small = partition_plan.status_refused(partition, str(error), self._clock.now())
        try:
            return self._write(partition, small)
        except InvalidObject:
            # An object from before there was a limit leaves no room at all.
            end = condition(small.status.conditions, PartitionCondition.ENDED)
            assert end is not None
            self._recorder.record(partition, "Warning", end.reason, end.message, component=NAME)
            raise

    def _delete_damaged(self, request: Request) -> Result:
        """Its lease has its uid. Raises InvalidObject where its deletion was not asked for: the lease then lasts to its
        end."""
        document = self._client.store.get(Key(GPUPartition.KIND, *request))
        metadata = document["metadata"]
        if "deletionTimestamp" not in metadata:
            decode(GPUPartition, document)
        if "deletionTimestamp" not in metadata or not has_finalizer(document, FINALIZER):
            return Done()
        status = document.get("status")
        node = status.get("node") if isinstance(status, dict) else None
        for name in [node] if isinstance(node, str) and node else list(self._agents):
            agent = self._agents.get(name)
            if agent is None and self._is_known(name):
                raise NodeUnreachable(f"this daemon does not manage the node {name}")
            lease = agent.leases.release(metadata["uid"]) if agent is not None else None
            if lease is not None and lease.state is not LeaseState.ENDED:
                return RequeueAfter(partition_plan.ENDING_POLL)
        self._client.store.update(without_finalizer(document, FINALIZER), fence=self._client.fence)
        return Done()

    def _is_known(self, node: str) -> bool:
        try:
            self._client.store.get(Key(GPUNode.KIND, "", node))
        except NotFound:
            return False
        return True


def owning_job(reader: Reader, partition: GPUPartition) -> GPUJob | None:
    """The job that owns the partition, as the reader knows it; None where it is damaged: the lease is then neither
    given back nor lengthened for its sake."""
    owner = partition.job
    if owner is None:
        return None
    job = readable(reader, GPUJob, partition.metadata.namespace or "", owner.name)
    return job if job is not None and job.uid == owner.uid else None
