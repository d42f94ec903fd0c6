"""All loops of one term of leadership, put together: who reads what, who is queued by what, and one step of it all.

There are no threads here. The manager steps the runners from threads, tests and the simulation step them one by one.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from cumulus.backends.base import Backend, ReportsFindings
from cumulus.clock import Clock
from cumulus.controllers.binding import controller as schedule
from cumulus.controllers.binding.controller import ScheduleController
from cumulus.controllers.gc import controller as gc
from cumulus.controllers.gc.controller import CollectController, SweepController
from cumulus.controllers.job.controller import JobController
from cumulus.controllers.node.controller import NodeController
from cumulus.controllers.partition.contention import waited_for
from cumulus.controllers.partition.controller import PartitionController
from cumulus.controllers.swarm.controller import CLUSTER, RUNTIME, Cluster, ClusterController, runs_containers
from cumulus.controllers.ttl import controller as ttl
from cumulus.controllers.ttl.controller import TidyController, TtlController
from cumulus.errors import BackendError, NotOurs
from cumulus.machinery.cache import readable
from cumulus.machinery.informer import Change, Informer
from cumulus.machinery.leader import Term
from cumulus.machinery.reconcile import Controller, Request
from cumulus.machinery.recorder import Recorder
from cumulus.machinery.runner import Runner
from cumulus.machinery.throttle import Throttle
from cumulus.machinery.workqueue import WorkQueue
from cumulus.nodes.agent import Agents, NodeAgent
from cumulus.resources.job import GPUJob
from cumulus.resources.key import Document, Key
from cumulus.resources.lease import Lease
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.store.base import Store
from cumulus.store.client import Client

KINDS = (GPUJob.KIND, GPUPartition.KIND, GPUNode.KIND, Lease.KIND)
"""What the informer watches. The leader's Lease is among them, so that the view's revision moves with each renewal
and a new leader can wait until it has seen all that its predecessor wrote."""

NODE_SETTLE_SECONDS = 0.05
"""After a lease was granted or ended, the node's free share is read anew this much later, once for all that changed."""

NODE_LOOK_SECONDS, NODE_BURST = 1.0, 2
"""On a node where much is granted and ended, it is read this often instead, after so many times of reading it soon."""

BOUND_SETTLE_SECONDS = 0.1
"""A bound partition has its lease within this, as a rule: its job is looked at once for both."""

START_SETTLE_SECONDS = 1.0
"""So long after its program's start a node is told that a lease's time counts. That of a process knows, and a job that
is over by then needs it no more."""

RESYNC_SECONDS = 600.0
"""How often everything is looked at once more."""

_ENDED = frozenset(phase.value for phase in PartitionPhase if phase.ended)


class Loops:
    """Built when leadership begins, from what is in the informer's cache then; closed when it ends."""

    def __init__(
        self,
        store: Store,
        informer: Informer,
        backends: Sequence[Backend],
        agents: Sequence[NodeAgent] | Agents,
        clock: Clock,
        term: Term,
        *,
        fenced: Callable[[], None],
        rng: random.Random | None = None,
        cluster: Cluster | None = None,
        cluster_user: str = "root",
    ) -> None:
        """`fenced` is called when a write shows that another daemon leads."""
        self.informer = informer
        self._clock = clock
        self._fenced = fenced
        self._next_resync = clock.monotonic() + RESYNC_SECONDS
        self._rng = rng or random.Random()
        self._cluster = cluster
        self._cluster_user = cluster_user
        client = Client(store, term.fence)
        self.recorder = Recorder(client, clock)
        by_node = agents if isinstance(agents, Agents) else Agents(informer.cache, agents)
        by_runtime = {backend.runtime: backend for backend in backends}
        self._backends = tuple(backends)
        self._nodes = by_node
        self._paces: defaultdict[str, Throttle] = defaultdict(
            lambda: Throttle(soon=NODE_SETTLE_SECONDS, interval=NODE_LOOK_SECONDS, burst=NODE_BURST)
        )
        self.runners: dict[str, Runner] = {}
        self._build(client, by_node, by_runtime, f"cumulus:{term.store_id}")

    def start(self) -> None:
        """Queue everything there is, and listen to the informer and the backends from now on."""
        self.informer.add_handler(self._route)
        for backend in self._backends:
            backend.subscribe(self._workload_changed)
        self.resync()

    def resync(self) -> None:
        """Look at everything once more: what makes up for a notice that was lost."""
        cache = self.informer.cache
        for name in cache.keys(GPUJob.KIND):
            for loop in ("job", "ttl", "gc-gpujob"):
                self._add(loop, Request(*name))
        for name in cache.keys(GPUPartition.KIND):
            self._add("partition", Request(*name))
            self._add("gc-gpupartition", Request(*name))
        for node in sorted({*self._nodes, *(name for _, name in cache.keys(GPUNode.KIND))}):
            self._add("node", Request("", node))
        self._add("schedule", schedule.QUEUE)
        self._add("sweep", gc.SWEEP)
        self._add("tidy", ttl.TIDY)
        if self._cluster is not None:
            self._add("cluster", CLUSTER)

    def attend(self) -> int:
        """To be called now and then, by one thread: writes recorded events, and resyncs when it is time.

        Returns how many events were written. Raises Fenced.
        """
        if self._clock.monotonic() >= self._next_resync:
            self._next_resync += RESYNC_SECONDS
            self.resync()
        self._tell_findings()
        return self.recorder.flush()

    def close(self) -> None:
        """Take nothing more from the queues. Workloads and leases go on."""
        self.informer.remove_handler(self._route)
        for runner in self.runners.values():
            runner.queue.shut_down()

    def drain(self, timeout: float) -> bool:
        """After `close`: wait for the reconciles that run, in all at most `timeout` seconds."""
        deadline = self._clock.monotonic() + timeout
        return all(runner.queue.drain(max(0.0, deadline - self._clock.monotonic())) for runner in self.runners.values())

    def stalled(self, seconds: float) -> dict[str, float]:
        """The loops in which nothing was finished for so many seconds though there was something to do: for how long,
        by name."""
        found = {name: runner.queue.stalled() for name, runner in self.runners.items()}
        return {name: since for name, since in found.items() if since >= seconds}

    def next_due(self) -> float:
        """When, on the monotonic clock, some loop next has something to do."""
        times = [runner.queue.next_due() for runner in self.runners.values()]
        return min((time for time in times if time is not None), default=self._next_resync)

    def _build(
        self,
        client: Client,
        agents: Agents,
        backends: Mapping[str, Backend],
        owner: str,
    ) -> None:
        cache, clock, recorder = self.informer.cache, self._clock, self.recorder
        self._schedule = ScheduleController(cache, client, clock)
        controllers: list[Controller] = [
            JobController(cache, client, backends, clock, recorder),
            PartitionController(
                cache, client, agents, clock, recorder, owner=owner,
                waited_for=lambda partition: waited_for(cache, partition, clock.now()),
            ),
            self._schedule,
            NodeController(
                cache, client, agents, clock, recorder, changed=self._lease_changed, offers=self._offers,
                clustered=self._cluster is not None,
            ),
            CollectController(GPUPartition, cache, client),
            CollectController(GPUJob, cache, client),
            SweepController(cache, client, agents, backends, owner=owner, changed=self._workload_changed),
            TtlController(cache, client, clock),
            TidyController(client, clock),
        ]  # fmt: skip
        if self._cluster is not None:
            controllers.append(
                ClusterController(
                    cache, client, self._cluster, clock, recorder, here=agents.here, user=self._cluster_user,
                    changed=lambda name: self._add("node", Request("", name)),
                )
            )  # fmt: skip
        for controller in controllers:
            queue = WorkQueue(controller.name, clock, rng=self._rng)
            self.runners[controller.name] = Runner(controller, queue, fenced=self._fenced)

    def _tell_findings(self) -> None:
        """What backends found of jobs that are still there becomes events of theirs."""
        for backend in self._backends:
            for found in backend.findings() if isinstance(backend, ReportsFindings) else ():
                job = readable(self.informer.cache, GPUJob, found.namespace, found.job)
                if job is not None and job.uid == found.job_uid:
                    self.recorder.record(job, "Warning", found.reason, found.message, component=backend.runtime)

    def _offers(self, name: str) -> tuple[str, ...] | None:
        """What the cluster runs there; None where its manager does not answer."""
        try:
            return (RUNTIME,) if self._cluster is not None and runs_containers(self._cluster, name) else ()
        except NotOurs:
            return ()
        except BackendError:
            return None

    def _add(self, loop: str, request: Request, after: float = 0.0) -> None:
        self.runners[loop].queue.add_after(request, after)

    def _route(self, change: Change) -> None:
        match change.key.kind:
            case GPUJob.KIND:
                self._route_job(change)
            case GPUPartition.KIND:
                self._route_partition(change)
            case GPUNode.KIND:
                self._route_node(change)

    def _route_job(self, change: Change) -> None:
        request = Request(change.key.namespace, change.key.name)
        owned = self.informer.cache.keys(GPUPartition.KIND, owner=change.new["metadata"]["uid"])
        if change.type == "DELETED":
            for name in owned:
                self._add("gc-gpupartition", Request(*name))
            return
        self._add("job", request)
        if change.new["metadata"].get("ownerReferences"):
            self._add("gc-gpujob", request)
        if "ttlAfterFinished" in change.new["spec"]:
            self._add("ttl", request)
        if _live_attempt(change.new) is None:
            # The attempt is over: its partitions give their leases back.
            for name in owned:
                self._add("partition", Request(*name))
        elif _started(change.new) and not _started(change.old):
            for name in owned:
                self._add("partition", Request(*name), START_SETTLE_SECONDS)

    def _route_partition(self, change: Change) -> None:
        request = Request(change.key.namespace, change.key.name)
        owner = _owning_job(change.new)
        before = change.old
        old, new = _phase(before), _phase(change.new)
        respecified = change.type != "MODIFIED" or _spec(before) != _spec(change.new)
        if owner is not None:
            soon = BOUND_SETTLE_SECONDS if new == PartitionPhase.BOUND else 0.0
            self._add("job", Request(owner.namespace, owner.name), soon)
        # Other changes of status are what the partition's own loop wrote, which knows when to look again.
        if change.type != "DELETED" and (respecified or (new == PartitionPhase.BOUND and old != new)):
            self._add("partition", request)
        if respecified or new in _ENDED:
            self._add("schedule", schedule.QUEUE, self._schedule.rest)
        node = (change.new.get("status") or {}).get("node")
        if node and old != new and (new == PartitionPhase.ACTIVE or new in _ENDED):
            now = self._clock.monotonic()
            self._add("node", Request("", node), self._paces[node].due(now) - now)

    def _route_node(self, change: Change) -> None:
        before = change.old
        if before is not None and change.type != "DELETED" and _beats(before) == _beats(change.new):
            return
        self._add("node", Request("", change.key.name))
        self._add("schedule", schedule.QUEUE, self._schedule.rest)
        for name in self.informer.cache.keys(GPUPartition.KIND, node=change.key.name):
            partition = self.informer.cache.document(Key(GPUPartition.KIND, *name))
            owner = None if partition is None else _owning_job(partition)
            self._add("partition", Request(*name))
            if owner is not None:
                self._add("job", Request(owner.namespace, owner.name))

    def _lease_changed(self, partition: Key) -> None:
        self._add("partition", Request(partition.namespace, partition.name))

    def _workload_changed(self, namespace: str, job: str) -> None:
        self._add("job", Request(namespace, job))


def _phase(document: Document | None) -> str:
    return str(((document or {}).get("status") or {}).get("phase", PartitionPhase.PENDING))


def _spec(document: Document | None) -> object:
    document = document or {"metadata": {}}
    metadata = document["metadata"]
    return document.get("spec"), metadata.get("deletionTimestamp"), metadata.get("finalizers")


def _live_attempt(document: Document) -> object:
    attempts = (document.get("status") or {}).get("attempts") or ()
    return attempts[-1] if attempts and not attempts[-1].get("endTime") else None


def _started(document: Document | None) -> bool:
    """Whether the attempt's program is known to have started."""
    attempt = _live_attempt(document or {})
    return isinstance(attempt, dict) and bool(attempt.get("startTime"))


def _owning_job(document: Document) -> Key | None:
    for owner in document["metadata"].get("ownerReferences", ()):
        if owner["kind"] == GPUJob.KIND:
            return Key(GPUJob.KIND, document["metadata"].get("namespace") or "", owner["name"])
    return None


def _beats(document: Document) -> object:
    """What of a node matters to others: all but when it was last heard, and what is free of its devices, which
    the partitions tell."""
    status = {k: v for k, v in (document.get("status") or {}).items() if k not in ("heartbeatTime", "devices")}
    devices = [
        {k: v for k, v in device.items() if k not in ("freeMemoryBytes", "freeCompute")}
        for device in (document.get("status") or {}).get("devices", ())
    ]
    meta = document["metadata"]
    return document.get("spec"), meta.get("labels"), meta.get("deletionTimestamp"), status, devices
