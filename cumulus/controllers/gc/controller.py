"""Garbage collection: dependents whose owners are gone, and what controllers left on nodes and backends.

`GarbageReconciler` deletes an object when none of its owners is there any more. `SweepReconciler` compares the
ledgers and backends with the store: a deposed daemon may have asked a node for something just after its last look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from cumulus.backends.base import Backend, Observed
from cumulus.errors import BackendError, ChronosError, InvalidObject, NotFound
from cumulus.machinery.cache import Reader
from cumulus.machinery.reconcile import Done, Request, RequeueAfter, Result
from cumulus.nodes.agent import NodeAgent
from cumulus.resources import reruns
from cumulus.resources.job import GPUJob
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.job_runs import EarlierRun
from cumulus.resources.key import Key
from cumulus.resources.meta import OwnerReference, Resource
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.registry import BY_NAME
from cumulus.store.base import Query
from cumulus.store.client import StoreClient

log = structlog.get_logger("cumulus.controllers")

SWEEP_SECONDS = 60.0
AGAIN_SECONDS = 5.0
"""Seconds until the next sweep where this one had to stop something that is to be removed then."""
SWEEP = Request("", "sweep")
"""The sweep's only key."""


class GarbageReconciler:
    """For the dependents of one kind."""

    def __init__(self, model: type[Resource], reader: Reader, client: StoreClient) -> None:
        self._model = model
        self._reader = reader
        self._client = client

    def reconcile(self, request: Request) -> Result:
        found = self._reader.get(self._model, *request)
        if found is None or found.deleting or not found.metadata.owner_references:
            return Done()
        if not any(self._exists(owner, found) for owner in found.metadata.owner_references):
            self._client.delete(found)
        return Done()

    def _exists(self, owner: OwnerReference, dependent: Resource) -> bool:
        """Asked of the store itself: that something is gone is never believed of a cache."""
        kind = BY_NAME.get(owner.kind)
        if kind is None:
            return True
        namespace = (dependent.metadata.namespace or "") if kind.namespaced else ""
        try:
            document: dict[str, Any] = self._client.store.get(Key(owner.kind, namespace, owner.name))
        except NotFound:
            return False
        # What an earlier run of a job left is for its successor to end.
        return owner.uid == document["metadata"]["uid"] or owner.uid in reruns.still_ending(document)


class SweepReconciler:
    """`owner` is the mark that this store's controllers put on the leases they ask for; `changed` is told each job
    whose status is not what its backend reports: a report may have been lost."""

    def __init__(
        self,
        reader: Reader,
        client: StoreClient,
        agents: Mapping[str, NodeAgent],
        backends: Mapping[str, Backend],
        *,
        owner: str,
        changed: Callable[[Request], None],
    ) -> None:
        self._reader = reader
        self._client = client
        self._agents = agents
        self._backends = backends
        self._owner = owner
        self._changed = changed
        self._again = False

    def reconcile(self, request: Request) -> Result:
        self._again = False
        for name in list(self._agents):
            agent = self._agents.get(name)
            if agent is None:
                continue
            try:
                self._sweep_leases(agent)
            except ChronosError as error:
                log.info("cannot sweep", node=agent.name, error=str(error))
        for backend in self._backends.values():
            try:
                self._sweep_workloads(backend)
            except BackendError as error:
                log.info("cannot sweep", runtime=backend.runtime, error=str(error))
        return RequeueAfter(AGAIN_SECONDS if self._again else SWEEP_SECONDS)

    def _sweep_leases(self, agent: NodeAgent) -> None:
        """Release leases of ours whose partition is gone or has ended.

        The last word has the store, asked after the node: a daemon that was held up may lack the partitions of the
        one that leads now.
        """
        found = [lease for lease in agent.leases.list() if lease.owner == self._owner]
        loose = [lease for lease in found if not self._holds(lease.id)]
        wanted = self._live_uids() if loose else frozenset()
        for lease in loose:
            if lease.id not in wanted:
                log.warning("releasing a lease that no partition holds", node=agent.name, lease=lease.id)
                agent.leases.release(lease.id)

    def _live_uids(self) -> frozenset[str]:
        """Of all partitions that the store has and that have not ended; from bare documents, damaged ones too."""
        items = self._client.store.list(Query(GPUPartition.KIND)).items
        ended = {phase.value for phase in PartitionPhase if phase.ended}
        return frozenset(
            item["metadata"]["uid"] for item in items if (item.get("status") or {}).get("phase") not in ended
        )

    def _holds(self, uid: str) -> bool:
        """Whatever node the partition is on: two GPUNodes may by mistake be one machine."""
        try:
            partition = self._reader.by_uid(GPUPartition, uid)
        except InvalidObject:
            return False
        return partition is not None and not partition.status.phase.ended

    def _sweep_workloads(self, backend: Backend) -> None:
        """End and forget workloads whose job is gone or whose attempt is over."""
        gone = set()
        for observed in backend.list():
            try:
                named = self._job(observed)
            except InvalidObject as error:
                # It may be meant to run; it is ended where its deletion is asked for, or with its lease.
                log.error("left alone a workload of a damaged job", workload=observed.name, error=str(error))
                continue
            job = named if named is not None and named.uid == observed.job_uid else None
            run = _earlier_run(named, observed) if named is not None else None
            if run is not None and not run.released:
                self._changed(Request(observed.namespace, observed.job))
                continue
            if job is not None and not _over(job, observed):
                if observed.state.finished or job.status.phase is JobPhase.SCHEDULED:
                    self._changed(Request(observed.namespace, observed.job))
                continue
            log.warning("ending a workload that no job runs", workload=observed.name)
            if not observed.state.finished:
                backend.stop(observed.name, 0)
                self._again = True
                continue
            backend.remove(observed.name)
            if job is None and run is None:
                gone.add(observed.job_uid)
        for uid in sorted(gone):
            backend.purge(uid)

    def _job(self, observed: Observed) -> GPUJob | None:
        """The job of that name, as the reader has it or, where that is not the workload's own, as the store does."""
        job = self._reader.get(GPUJob, observed.namespace, observed.job)
        if job is None or job.uid != observed.job_uid:
            try:
                job = self._client.get(GPUJob, observed.namespace, observed.job)
            except NotFound:
                return None
        return job


def _earlier_run(job: GPUJob, observed: Observed) -> EarlierRun | None:
    """The run of the job that it belongs to, where the job was made anew since and its log is kept."""
    return next((r for r in job.status.earlier_runs if r.uid == observed.job_uid and not r.purged), None)


def _over(job: GPUJob, observed: Observed) -> bool:
    attempt = job.status.live_attempt
    if observed.attempt > job.status.attempt_count:
        return False
    return attempt is None or attempt.number != observed.attempt
