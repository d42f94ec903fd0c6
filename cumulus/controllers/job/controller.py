"""Reconciles one job: reads, plans, starts or stops workloads, looks again, and writes one status if it changed.

What it starts has a name that is used once, so that doing it again after a crash changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from cumulus.backends.base import Backend, Prefetched, Prefetches
from cumulus.blob.base import BlobStore
from cumulus.clock import Clock, parse_timestamp
from cumulus.controllers import job_dependents
from cumulus.controllers.contention import waited_for
from cumulus.controllers.context import Removals
from cumulus.controllers.job import earlier, handover, objects, parking, prefetch, results
from cumulus.controllers.job import plan as job_plan
from cumulus.controllers.job import status as job_status
from cumulus.controllers.job.ended import end_all
from cumulus.controllers.job.plan import JobPlan
from cumulus.controllers.job.view import JobView, Replica, StartRefused, Turn, Unknown, Vanished, shares_of
from cumulus.errors import (
    AlreadyExists,
    BackendError,
    BackendRefused,
    Conflict,
    InvalidObject,
    NodeUnreachable,
    NotFound,
)
from cumulus.machinery.cache import Reader, StoreReader, all_owned, as_stored, readable
from cumulus.machinery.reconcile import Done, Request, RequeueAfter, Result, Retry
from cumulus.machinery.recorder import EventRecorder
from cumulus.machinery.writes import unversioned, write_with_events
from cumulus.resources import job_partitions, reruns
from cumulus.resources.documents import lookup
from cumulus.resources.finalizers import JOB_FINALIZER, has_finalizer, with_finalizer, without_finalizer
from cumulus.resources.job import Attempt, GPUJob
from cumulus.resources.meta import is_true
from cumulus.resources.node import GPUNode
from cumulus.resources.parking import Idle
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.quantity import parse_duration
from cumulus.resources.queue import Queue
from cumulus.resources.reasons import JobReason, NodeCondition
from cumulus.resources.submitter import QUEUE, Submitter
from cumulus.store.base import Document, Key, Write
from cumulus.store.client import StoreClient, decode

NAME = "job"

_DELETED = "Deleted"
"""Why the programs of a deleted job are to end."""


class JobReconciler:
    """`backends` by runtime: process, container. `bucket`: where jobs keep their checkpoints that name no place."""

    def __init__(
        self,
        reader: Reader,
        client: StoreClient,
        backends: Mapping[str, Backend],
        clock: Clock,
        recorder: EventRecorder,
        blobs: BlobStore | None = None,
        bucket: str = "",
        removals: Removals | None = None,
    ) -> None:
        self._reader = reader
        self._client = client
        self._backends = backends
        self._clock = clock
        self._recorder = recorder
        self._blobs = blobs
        self._bucket = bucket
        self._removals = removals

    def reconcile(self, request: Request) -> Result:
        try:
            job = self._reader.get(GPUJob, *request)
        except InvalidObject:
            return self._delete_damaged(request)
        if job is None:
            return Done()
        if job.deleting:
            return self._delete(job)
        if not job.status.earlier_runs:
            return self._advance(job)
        document = job.to_json()
        tended = earlier.tend(
            job, self._client, self._backends, self._clock, purged=lambda uid: self._forget(document, uid)
        )
        job = self._with_runs(job, tended)
        if tended.wait is not None:
            return RequeueAfter(tended.wait)
        result = self._advance(job)
        if tended.wake is None or isinstance(result, Retry):
            return result
        return RequeueAfter(min(tended.wake, result.seconds) if isinstance(result, RequeueAfter) else tended.wake)

    def _advance(self, job: GPUJob) -> Result:
        """The next step of a job of which no earlier run is left."""
        view = self._read(job)
        plan = job_plan.plan(view)
        if plan.start:
            view = self._view(job, view.partitions, self._start(view, plan.start))
            plan = job_plan.plan(view)
        self._stop(job, plan)
        plan = self._with_prefetch(view, plan)
        try:
            plan = self._write(job, self._with_result(job, plan))
        except InvalidObject as error:
            plan = self._give_up(view, error)
        if plan.remove:
            self._remove(job)
        if not plan.status.phase.finished:
            for event in plan.events:
                self._recorder.record(job, event.type, event.reason, event.message, component=NAME)
        return Done() if plan.wake is None else RequeueAfter(plan.wake)

    def _with_runs(self, job: GPUJob, tended: earlier.Tended) -> GPUJob:
        """The job with its earlier runs as they are now, as it was written."""
        status = job.status.model_copy(update={"earlier_runs": tended.runs})
        if tended.wait is not None:
            message = f"what is left of run {job.status.run - 1} is being ended"
            status = job_status.waiting(status, JobReason.REPLACING, message, self._clock.now())
        return job if status == job.status else self._client.update_status(job.replace(status=status))

    def _read(self, job: GPUJob) -> JobView:
        partitions = self._partitions(job)
        return self._view(job, partitions, self._observe(job, partitions))

    def _view(self, job: GPUJob, partitions: Sequence[GPUPartition], replicas: Sequence[Replica]) -> JobView:
        names = {p.status.node for p in partitions if p.status.node}
        uri = objects.checkpoint_uri(job, self._bucket)
        waits = job.spec.after is not None and not job.status.attempt_count and not job.status.phase.finished
        phases = job_dependents.phases(job, self._reader, self._client.store) if waits else {}
        view = JobView(job, partitions, replicas, self._clock.now(), self._lost(names), uri, phases)
        idle = self._idle(job)
        return replace(
            view, idle=idle, idle_since=None if idle is None else self._idle_since(view), turn=self._turn(view)
        )

    def _queue(self, job: GPUJob) -> Queue | None:
        name = job.metadata.annotations.get(QUEUE)
        return readable(self._reader, Queue, "", name) if name else None

    def _turn(self, view: JobView) -> Turn | None:
        """That of a job which runs, where its queue lets jobs take turns."""
        job, now = view.job, view.now
        attempt = job.status.live_attempt
        if attempt is None or attempt.start_time is None or not parking.parkable(job):
            return None
        queue, held = self._queue(job), view.held(attempt)
        if queue is None or queue.spec.turns is None or len(held) != 1:
            return None
        (partition,) = held
        since = parking.on_gpu_since(attempt, partition)
        if partition.status.phase is not PartitionPhase.ACTIVE or since is None:
            return None
        asked = parse_duration(queue.spec.turns.length)
        length = parking.turn_length(asked, partition)
        had = (now - since).total_seconds()
        return Turn(asked, length, had, had >= length and waited_for(self._reader, partition, now))

    def _idle(self, job: GPUJob) -> Idle | None:
        """What happens to it if its GPUs do nothing: what it says itself, else its queue."""
        if job.spec.idle is not None or job.status.phase.finished:
            return job.spec.idle
        queue = self._queue(job)
        found = None if queue is None else queue.spec.idle
        if found is not None and found.action == "Park" and not parking.parkable(job):
            return found.model_copy(update={"action": "Report"})
        return found

    def _idle_since(self, view: JobView) -> datetime | None:
        """Since when all GPUs of its attempt do nothing; None where one works, or where nobody knows."""
        held = view.held(view.job.status.live_attempt)
        since = []
        for partition in held:
            node = readable(self._reader, GPUNode, "", partition.status.node) if partition.status.node else None
            devices = node.status.devices if node is not None else ()
            since += [d.idle_since for d in devices if d.index == partition.status.device]
        if not held or len(since) != len(held) or None in since:
            return None
        return max(parse_timestamp(each) for each in since if each is not None)

    def _partitions(self, job: GPUJob) -> list[GPUPartition]:
        """All that the job owns. One that is said to be taken back is read from the store: its job may have been told
        since that it keeps its share."""
        names = (name for a in (job.status.live_attempt, job.status.next) if a for name in a.partitions)
        store, found = self._client.store, []
        for partition in all_owned(self._reader, store, job, GPUPartition, names):
            with suppress(NotFound):
                found.append(partition if partition.status.reclaim is None else as_stored(store, partition))
        return found

    def _observe(self, job: GPUJob, partitions: Sequence[GPUPartition]) -> list[Replica]:
        """The replicas of the running attempt. None was started before all its partitions were Active."""
        attempt = job.status.live_attempt
        if attempt is None:
            return []
        early = (PartitionPhase.PENDING, PartitionPhase.BOUND)
        if any(p.metadata.name in attempt.partitions and p.status.phase in early for p in partitions):
            return [None] * job.spec.replicas
        return [self._look(job, replica) for replica in range(job.spec.replicas)]

    def _look(self, job: GPUJob, replica: int) -> Replica:
        try:
            return self._backend(job).get(self._workload(job, replica))
        except NodeUnreachable:
            return Unknown()

    def _start(self, view: JobView, wanted: Sequence[int]) -> list[Replica]:
        """Start what is wanted and look again. Raises Conflict where the job is not what it was taken for."""
        job, attempt = view.job, self._attempt(view.job)
        stored = self._client.store.get(job.key)["metadata"]
        if (stored["uid"], stored["resourceVersion"]) != (job.uid, job.metadata.resource_version):
            raise Conflict(f"{job.key} changed; nothing was started")
        held = view.held(attempt)
        shares = {replica: shares_of(held, replica) for replica in wanted}
        nodes = self._nodes({p.status.node for p in held})
        gang = objects.gang_of(job, held, nodes)
        result = list(view.replicas)
        after = self._after(job)
        if isinstance(after, StartRefused):
            return [after if replica in wanted else result[replica] for replica in range(len(result))]
        for replica in wanted:
            shares_there = shares[replica]
            workload = objects.workload(job, attempt.number, replica, shares_there, nodes, self._bucket, after, gang)
            try:
                self._backend(job).start(workload)
            except BackendRefused as error:
                result[replica] = StartRefused(str(error))
                break
            except NodeUnreachable:
                result[replica] = Unknown()
            else:
                # A name that is used up is not started again: what is not there now will never be.
                result[replica] = self._look(job, replica) or Vanished()
        return result

    def _after(self, job: GPUJob) -> objects.Origin | StartRefused | None:
        """Whose checkpoint the job goes on from, as long as it has none of its own."""
        if job.spec.checkpoint is None or job.status.checkpoint is not None:
            return None
        if (before := earlier.origin(job, self._bucket)) is not None:
            return before
        if job.spec.checkpoint.from_ is None:
            return None
        ((field, key),) = job.sources(job.to_json())
        found = self._reader.get(GPUJob, key.namespace, key.name)
        mine = Submitter.of(job.metadata.annotations)
        if found is None or Submitter.of(found.metadata.annotations)[:2] != mine[:2]:
            return StartRefused(f"{field}: its submitter has no job {key.namespace}/{key.name} any more")
        return objects.origin_of(found, self._bucket)

    def _stop(self, job: GPUJob, plan: JobPlan) -> None:
        for replica, grace in plan.stop.items():
            self._backend(job).stop(self._workload(job, replica), grace, plan.stop_reason)

    def _with_prefetch(self, view: JobView, plan: JobPlan) -> JobPlan:
        """The plan, with how far the job's checkpoint is on its way to where it is to run next."""
        job = view.job
        backend = self._backends.get(job_partitions.runtime(job))
        if job.spec.checkpoint is None or not isinstance(backend, Prefetches):
            return plan
        seen = replace(view, job=job.replace(status=plan.status))
        wanted, attempt, saved = prefetch.wanted(seen), prefetch.coming(plan.status), plan.status.checkpoint
        if wanted is None:
            return plan
        told = None
        if wanted and attempt is not None and saved is not None:
            found = [self._prefetched(backend, job, attempt.number, *each, saved.time) for each in wanted.items()]
            told = prefetch.told(attempt.number, [each for each in found if each is not None])
        later = prefetch.due(seen)
        if later is not None:
            plan = replace(plan, wake=later if plan.wake is None else min(later, plan.wake))
        if told is None:
            backend.give_up(job.uid)
        if told == plan.status.prefetch:
            return plan
        events = (*plan.events, *prefetch.events(job.status.prefetch, told))
        return replace(plan, status=plan.status.model_copy(update={"prefetch": told}), events=events)

    def _prefetched(
        self, backend: Prefetches, job: GPUJob, attempt: int, replica: int, node: str, saved: str
    ) -> Prefetched | None:
        workload = objects.workload(job, attempt, replica, (), {}, self._bucket, node=node)
        try:
            return backend.prefetch(workload, saved)
        except BackendError as error:
            return Prefetched(node, done=True, problem=str(error))

    def _with_result(self, job: GPUJob, plan: JobPlan) -> JobPlan:
        """The plan, with what came of the call where it ends the job."""
        if job.spec.call is None or job.status.phase.finished or not plan.status.phase.finished:
            return plan
        backend = self._backends.get(job_partitions.runtime(job))
        call = results.call_status(job, plan.status, backend, self._blobs, self._clock.now())
        return replace(plan, status=plan.status.model_copy(update={"call": call}))

    def _write(self, job: GPUJob, plan: JobPlan) -> JobPlan:
        """The plan as it was written."""
        for partition in plan.update:
            self._client.store.update(partition.to_json(), fence=self._client.fence)
        if plan.create and plan.status.next is not None:
            return self._queue_next(job, plan)
        if plan.create:
            return self._begin_somehow(job, plan)
        if plan.status != job.status:
            ended = job.replace(status=plan.status)
            told = plan.events if plan.status.phase.finished else ()
            events = [self._recorder.event(job, e.type, e.reason, e.message, component=NAME) for e in told]
            writes = [*_deletions(plan), Write("status", ended.to_json())]
            write_with_events(self._client, writes, events)
        return plan

    def _queue_next(self, job: GPUJob, plan: JobPlan) -> JobPlan:
        """Of no use where its names are taken: the attempt then begins when the last one has ended, as without it."""
        try:
            self._begin(job, plan)
            return plan
        except AlreadyExists:
            return self._write(job, replace(plan, create=(), status=handover.withdrawn(plan.status)))

    def _give_up(self, view: JobView, error: InvalidObject) -> JobPlan:
        """What would be said of the job has no room. It ends, and its shares are free: nobody waits for it for ever."""
        job = view.job
        plan = job_plan.status_refused(self._view(job, view.partitions, view.replicas), str(error))
        self._stop(job, plan)
        if not plan.status.phase.finished:
            return plan
        try:
            return self._write(job, plan)
        except InvalidObject:
            # An object from before there was a limit leaves no room at all.
            for partition in view.partitions:
                if not partition.deleting:
                    self._client.delete(partition)
            (event,) = plan.events
            self._recorder.record(job, event.type, event.reason, event.message, component=NAME)
            raise

    def _begin_somehow(self, job: GPUJob, plan: JobPlan) -> JobPlan:
        """Anybody may have made a partition of the name that the job's was to have."""
        try:
            self._begin(job, plan)
            return plan
        except AlreadyExists as error:
            if not self._taken(job, plan):
                raise Retry(f"cannot create the partitions of attempt {plan.status.attempt_count}: {error}") from error
        other = job_plan.renamed(job, plan)
        try:
            self._begin(job, other)
            return other
        except AlreadyExists:
            return self._write(job, job_plan.name_taken(job, self._taken(job, other), self._clock.now()))

    def _taken(self, job: GPUJob, plan: JobPlan) -> list[GPUPartition]:
        """Partitions that have the names of those to be made and are not the job's."""
        store = StoreReader(self._client.store)
        found = (store.get(GPUPartition, p.metadata.namespace or "", p.metadata.name) for p in plan.create)
        return [p for p in found if p is not None and not p.is_owned_by(job.uid)]

    def _begin(self, job: GPUJob, plan: JobPlan) -> None:
        """Record the attempt and create its partitions in one transaction. The status comes last, so that who sees the
        attempt sees its partitions. Raises AlreadyExists."""
        writes = [*_deletions(plan), *(Write("create", partition.to_json()) for partition in plan.create)]
        document = job.replace(status=plan.status).to_json()
        if JOB_FINALIZER not in job.metadata.finalizers:
            writes.insert(0, Write("update", with_finalizer(document, JOB_FINALIZER)))
            document = unversioned(document)
        writes.append(Write("status", document))
        self._client.store.transact(writes, fence=self._client.fence)

    def _remove(self, job: GPUJob) -> None:
        for replica in range(job.spec.replicas):
            self._backend(job).remove(self._workload(job, replica))

    def _delete(self, job: GPUJob) -> Result:
        """Workloads first, then their leases, then what they left behind; the finalizer goes when all is confirmed."""
        if JOB_FINALIZER not in job.metadata.finalizers:
            return Done()
        backend = self._backends.get(job_partitions.runtime(job))
        if backend is None and _may_have_run(job, StoreReader(self._client.store).owned(GPUPartition, job.uid)):
            raise self._no_backend(job)
        backends = [backend] if backend else []
        backends += [
            other for run in job.status.earlier_runs
            if (other := self._backends.get(run.runtime)) is not None and other not in backends
        ]  # fmt: skip
        return self._let_go(job.to_json(), backends, objects.last_grace(job))

    def _delete_damaged(self, request: Request) -> Result:
        """As far as it can be understood: what runs of it has its uid. Raises InvalidObject where its deletion was not
        asked for: what runs then goes on to the end of its lease."""
        document = self._client.store.get(Key(GPUJob.KIND, *request))
        metadata = document["metadata"]
        if "deletionTimestamp" not in metadata:
            decode(GPUJob, document)
        if "deletionTimestamp" not in metadata or not has_finalizer(document, JOB_FINALIZER):
            return Done()
        own = parse_duration(job_partitions.GRACE)
        grace = min(own, metadata.get("deletionGracePeriodSeconds") or own)
        return self._let_go(document, list(self._backends.values()), grace)

    def _let_go(self, job: Document, backends: Sequence[Backend], grace: float) -> Result:
        uids = [job["metadata"]["uid"], *reruns.uids(job)]
        waits = [end_all(self._client, uid, backends, grace, _DELETED) for uid in uids]
        if left := [wait for wait in waits if wait is not None]:
            return RequeueAfter(min(left))
        for backend in backends:
            for uid in uids:
                backend.purge(uid)
        for uid in uids:
            self._forget(job, uid)
        self._client.store.update(without_finalizer(job, JOB_FINALIZER), fence=self._client.fence)
        return Done()

    def _forget(self, job: Document, uid: str) -> None:
        """Have deleted what it keeps in the daemon's bucket, in the place that is its alone. The bucket is not waited
        for."""
        asked = lookup(job, "spec.checkpoint")
        if self._removals is None or not isinstance(asked, dict) or asked.get("uri"):
            return
        if asked.get("whenDeleted") != "Retain":
            self._removals.note(job["metadata"].get("namespace") or "", job["metadata"]["name"], uid)

    def _backend(self, job: GPUJob) -> Backend:
        backend = self._backends.get(job_partitions.runtime(job))
        if backend is None:
            raise self._no_backend(job)
        return backend

    def _no_backend(self, job: GPUJob) -> Retry:
        return Retry(f"this daemon has no backend for runtime {job_partitions.runtime(job)}")

    def _attempt(self, job: GPUJob) -> Attempt:
        attempt = job.status.live_attempt
        assert attempt is not None
        return attempt

    def _workload(self, job: GPUJob, replica: int) -> str:
        return objects.workload_name(job, self._attempt(job).number, replica)

    def _lost(self, names: set[str]) -> frozenset[str]:
        return frozenset(name for name in names if not self._is_ready(self._reader.get(GPUNode, "", name)))

    def _is_ready(self, node: GPUNode | None) -> bool:
        return node is not None and is_true(node.status.conditions, NodeCondition.READY)

    def _nodes(self, names: set[str]) -> dict[str, GPUNode]:
        nodes = {name: self._reader.get(GPUNode, "", name) for name in names}
        for name, node in nodes.items():
            if node is None:
                raise Retry(f"the node {name} is not known")
        return {name: node for name, node in nodes.items() if node is not None}


def _deletions(plan: JobPlan) -> list[Write]:
    return [Write("delete", key=partition.key, uid=partition.uid) for partition in plan.discard]


def _may_have_run(job: GPUJob, partitions: Sequence[GPUPartition]) -> bool:
    """Whether any attempt can have been started: that takes partitions that left Pending. All that are left of
    an attempt that was never observed are in `partitions`; earlier attempts ended, which status tells."""
    begun = any(p.status.phase is not PartitionPhase.PENDING for p in partitions)
    return begun or job.status.attempt_count > 1 or any(attempt.start_time for attempt in job.status.attempts)
