"""The node controller: discovery and heartbeat. Makes each agent's GPUNode, keeps its devices and free shares up to
date, and says when it stops answering. What changed of leases on the node by itself is passed on to the
partition controller.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from datetime import datetime

from cumulus.chronos.contract import Figures, Lease, LeaseState, NodeFacts, Parking, PolicyChange
from cumulus.clock import Clock, parse_timestamp, timestamp
from cumulus.controllers.node.host_jobs import HostJobsOfNodes
from cumulus.controllers.node.idleness import Idleness
from cumulus.controllers.partition_watches import ACTIVE_ON_NODE, ON_NODE, OVERUSED_ON_NODE, PARKED_ON_NODE
from cumulus.errors import (
    AlreadyExists,
    ChronosError,
    InvalidObject,
    LedgerFull,
    LedgerReplaced,
    LedgerUnavailable,
    NodeUnreachable,
)
from cumulus.lib.truncate import LONGEST_WORD, truncate
from cumulus.machinery.cache import Reader, readable
from cumulus.machinery.reconcile import Done, Request, RequeueAfter, Result
from cumulus.machinery.recorder import EventRecorder
from cumulus.machinery.throttle import Throttle
from cumulus.machinery.writes import remove_finalizer, write_status, write_with_events
from cumulus.nodes.agent import NodeAgent
from cumulus.resources.conditions import condition_set
from cumulus.resources.device import FULL_COMPUTE, Device, Slice
from cumulus.resources.finalizers import CLUSTER_FINALIZER
from cumulus.resources.key import Key
from cumulus.resources.meta import Condition, ObjectMeta, condition, is_true
from cumulus.resources.node import (
    DeviceFigures,
    DeviceStatus,
    ForeignLease,
    GPUNode,
    GPUNodeStatus,
    HostJobs,
    NodeDrain,
    NodeParking,
    ParkingProof,
    UnleasedProcess,
)
from cumulus.resources.partition import GPUPartition
from cumulus.resources.quantity import format_bytes, parse_bytes
from cumulus.resources.reasons import EnforcementReason, EventReason, NodeCondition, ReadyReason
from cumulus.resources.reservation import Reservation
from cumulus.store.base import Write
from cumulus.store.client import StoreClient, decode

NAME = "node"

LOOK_SECONDS = 10.0
"""How often a node is asked."""

SETTLE_SECONDS = 0.05
"""After a lease was granted or ended, the node's free share is read anew this much later, once for all that changed."""

BUSY_LOOK_SECONDS, BURST = 1.0, 2
"""On a node where much is granted and ended, it is read this often instead, after so many times of reading it soon."""

CONTROLLERS_CONDITIONS = (NodeCondition.READY, NodeCondition.CONTAINERS_READY, NodeCondition.TWIN)
"""Conditions of a node that controllers set; all others are its own Chronos' and go when that tells them no more."""

HEARTBEAT_SECONDS = 20.0
"""How often, at most, a heartbeat alone is written."""

_UUIDS = ("GPU-", "MIG-")

SKEW_SECONDS = 0.5
"""A clock that is off by so much more or less than before is worth a write."""

MOST_LISTED = 64
"""Foreign leases of one device that its node's status lists one by one."""

SILENT_SECONDS = 40.0
"""How long a node may be silent before it is not Ready."""


class NodeReconciler:
    """`changed` is told each partition whose lease is not what its status says."""

    def __init__(
        self,
        reader: Reader,
        client: StoreClient,
        agents: Mapping[str, NodeAgent],
        clock: Clock,
        recorder: EventRecorder,
        *,
        changed: Callable[[Request], None],
        offers: Callable[[str], tuple[str, ...] | None] = lambda name: (),
        host_jobs: HostJobsOfNodes | None = None,
        clustered: bool = False,
    ) -> None:
        """`offers`: the runtimes that a node has beside its agent's; None: not known now, so it keeps what it has.
        `host_jobs`: asks nodes with containers for jobs without an image.
        `clustered`: whether there is a cluster, which nodes that are deleted leave first."""
        self._clustered = clustered
        self._host_jobs = host_jobs
        self._offers = offers
        self._reader = reader
        self._client = client
        self._agents = agents
        self._clock = clock
        self._recorder = recorder
        self._changed = changed
        self._answered: dict[str, float] = {}
        self._mutex = threading.Lock()
        self._where: defaultdict[str, set[str]] = defaultdict(set)
        """Device to the nodes that ever had it, in this term."""
        self._began = clock.monotonic()
        self._term = 0 if client.fence is None else client.fence.token
        self._idleness = Idleness()
        self._policies: dict[str, tuple[PolicyChange, str]] = {}
        self._throttles: defaultdict[str, Throttle] = defaultdict(
            lambda: Throttle(soon=SETTLE_SECONDS, interval=BUSY_LOOK_SECONDS, burst=BURST)
        )

    def settle(self, name: str) -> float:
        """Seconds until the node is to be looked at for a lease that was granted or ended on it just now. For one
        thread."""
        now = self._clock.monotonic()
        return self._throttles[name].due(now) - now

    def reconcile(self, request: Request) -> Result:
        try:
            node = self._reader.get(GPUNode, "", request.name)
        except InvalidObject:
            return self._delete_damaged(request.name)
        if node is not None and node.deleting and not self._clustered:
            remove_finalizer(self._client, node, CLUSTER_FINALIZER)
            return Done()
        agent = self._agents.get(request.name)
        if agent is None:
            return Done() if node is None else self._unattended(node)
        if node is not None and node.deleting:
            return RequeueAfter(LOOK_SECONDS)
        try:
            devices, leases = agent.leases.devices(), agent.leases.list()
        except (NodeUnreachable, LedgerUnavailable) as error:
            return self._silent(node, agent, error)
        self._answered[agent.name] = self._clock.monotonic()
        if node is None:
            node = self._create(agent)
        self._tell_policy(node, agent)
        own = self._own(agent.name, leases)
        status = observed(node, agent, devices, leases, own, self._clock.now())
        status = self._idleness.told(node, status, self._clock.now())
        status = self._once(node, status)
        offered = self._offers(agent.name)
        offered = node.status.runtimes if offered is None else offered
        host_jobs = self._jobs_of_host(node, agent, offered)
        programs = ("process",) if host_jobs is not None and host_jobs.offered and "container" in offered else ()
        runtimes = tuple(dict.fromkeys((*agent.runtimes, *programs, *(r for r in offered if r != "process"))))
        drain = next_drain(self._reader.all(Reservation), agent.name, self._clock.now())
        update = {"runtimes": runtimes, "host_jobs": host_jobs, "term": self._term, "drain": drain}
        self._write(node, status.model_copy(update=update), agent)
        self._tell_of_problems(node, status)
        self._tell_of_sizes(node, status)
        self._pass_on(agent.name, leases)
        return RequeueAfter(LOOK_SECONDS)

    def _tell_policy(self, node: GPUNode, agent: NodeAgent) -> None:
        """What the spec says of overuse, where it says anything and the node has not been told in this term."""
        spec = node.spec
        memory = None if spec.parking_memory is None else parse_bytes(spec.parking_memory)
        wanted = PolicyChange(spec.overuse, spec.unleased_processes, spec.unleased_exceptions, memory)
        if not wanted or self._policies.get(node.uid) == (wanted, node.status.boot_id):
            return
        try:
            agent.set_policy(wanted)
        except ChronosError:
            # It is told at the next look: the node answers, and its ledger may be full.
            return
        self._policies[node.uid] = wanted, node.status.boot_id

    def _jobs_of_host(self, node: GPUNode, agent: NodeAgent, offered: Sequence[str]) -> HostJobs | None:
        """What the node says of jobs without an image, where it would run them in containers."""
        if self._host_jobs is None or "process" in agent.runtimes:
            return None
        known = node.status.host_jobs
        return self._host_jobs.of(agent.name, known) if "container" in offered else known

    def _tell_of_problems(self, node: GPUNode, status: GPUNodeStatus) -> None:
        """An event where what holds jobs to their leases is not well any more, or had to be mended."""
        for found in status.conditions:
            old = condition(node.status.conditions, found.type)
            changed = (
                (old.status, old.reason) != (found.status, found.reason)
                if old is not None
                else found.type == NodeCondition.DEVICES_HEALTHY
            )
            if found.type not in CONTROLLERS_CONDITIONS and changed and (found.status != "True" or _mended(found)):
                self._recorder.record(node, "Warning", f"{found.type}{found.reason}", found.message, component=NAME)

    def _tell_of_sizes(self, node: GPUNode, status: GPUNodeStatus) -> None:
        """An event where a device has another size than before."""
        before = {device.id: device for device in node.status.devices}
        for device in status.devices:
            old = before.get(device.id)
            if old is not None and (told := resized(old, device)):
                less = (device.next_memory_bytes or device.memory_bytes) < old.memory_bytes
                self._recorder.record(
                    node, "Warning" if less else "Normal", EventReason.DEVICE_RESIZED, told, component=NAME
                )

    def _own(self, name: str, leases: Sequence[Lease]) -> set[str]:
        """Ids of the leases that are partitions' of this store, also of ones that ended while the node was asked."""
        own = {partition.uid for partition in self._reader.indexed(ON_NODE, name).values()}
        return own | {lease.id for lease in leases if lease.id not in own and self._is_ours(lease.id, name)}

    def _is_ours(self, id: str, name: str) -> bool:
        """Not one of a partition on another node: that one may by mistake be the same machine, and counts it."""
        try:
            partition = self._reader.by_uid(GPUPartition, id)
        except InvalidObject:
            return True
        return partition is not None and partition.status.node in ("", name)

    def _once(self, node: GPUNode, status: GPUNodeStatus) -> GPUNodeStatus:
        """The status without devices that another node counts already: a machine can be two nodes by mistake.

        The elder one that is Ready has them; one that is not loses them here."""
        now = timestamp(self._clock.now())
        elsewhere: dict[str, str] = {}
        mine = physical(status)
        for other in self._with_any_of(mine, node.metadata.name):
            shared = mine & physical(other.status)
            if not shared:
                continue
            if is_true(other.status.conditions, NodeCondition.READY) and _age(other) < _age(node):
                elsewhere |= dict.fromkeys(shared, other.metadata.name)
            else:
                message = f"the machine is the node {node.metadata.name} now, which counts its devices"
                write_status(self._client, other.replace(status=_without(other.status, shared, message, now)))
        if elsewhere:
            names = ", ".join(sorted(set(elsewhere.values())))
            message = f"the node {names} counts these devices already: they are one machine; remove one of the nodes"
            return _without(status, frozenset(elsewhere), message, now)
        if condition(status.conditions, NodeCondition.TWIN) is not None:
            kept = tuple(c for c in status.conditions if c.type != NodeCondition.TWIN)
            return status.model_copy(update={"conditions": kept})
        return status

    def _with_any_of(self, devices: frozenset[str], name: str) -> Sequence[GPUNode]:
        """Other nodes that had any of the devices when they were looked at last."""
        with self._mutex:
            if not self._where:
                for node in self._reader.all(GPUNode):
                    for device in physical(node.status):
                        self._where[device].add(node.metadata.name)
            for device in devices:
                self._where[device].add(name)
            names = {other for device in devices for other in self._where[device]} - {name}
        found = (readable(self._reader, GPUNode, "", other) for other in sorted(names))
        return [node for node in found if node is not None]

    def _delete_damaged(self, name: str) -> Result:
        """A machine that is there, of a Swarm or this one, is found anew. Raises InvalidObject where its deletion was
        not asked for."""
        document = self._client.store.get(Key(GPUNode.KIND, "", name))
        if "deletionTimestamp" not in document["metadata"]:
            decode(GPUNode, document)
        else:
            metadata = {**document["metadata"], "finalizers": []}
            self._client.store.update({**document, "metadata": metadata}, fence=self._client.fence)
        return Done()

    def _create(self, agent: NodeAgent) -> GPUNode:
        node = GPUNode(metadata=ObjectMeta(name=agent.name, labels=dict(agent.labels)))
        try:
            return self._client.create(node)
        except AlreadyExists:
            return self._client.get(GPUNode, "", agent.name)

    def _write(self, node: GPUNode, status: GPUNodeStatus, agent: NodeAgent) -> None:
        missing = {k: v for k, v in agent.labels.items() if node.metadata.labels.get(k) != v}
        if missing:
            labels = {**node.metadata.labels, **missing}
            node = self._client.update(node.replace(metadata=node.metadata.model_copy(update={"labels": labels})))
        if not worth_writing(node.status, status):
            return
        try:
            write_status(self._client, node.replace(status=status))
        except InvalidObject as error:
            # Without its devices nothing is placed there any more, and the heartbeat goes on.
            now = timestamp(self._clock.now())
            conditions = condition_set((), now, NodeCondition.READY, False, ReadyReason.STATUS_REFUSED, str(error))
            small = GPUNodeStatus(conditions=conditions, heartbeat_time=now, term=self._term)
            if worth_writing(node.status, small):
                event = self._recorder.event(node, "Warning", ReadyReason.STATUS_REFUSED, str(error), component=NAME)
                write_with_events(self._client, [Write("status", node.replace(status=small).to_json())], [event])

    def _pass_on(self, name: str, leases: Sequence[Lease]) -> None:
        active = {lease.id: lease for lease in leases if lease.state in (LeaseState.ACTIVE, LeaseState.PARKING)}
        parked = {lease.id for lease in leases if lease.state is LeaseState.PARKED}
        overused = self._reader.indexed(OVERUSED_ON_NODE, name)
        for key, partition in sorted(self._reader.indexed(ACTIVE_ON_NODE, name).items()):
            lease = active.get(partition.uid)
            if lease is None or bool(lease.held_bytes) != (key in overused):
                self._changed(Request(key.namespace, key.name))
        for key, partition in sorted(self._reader.indexed(PARKED_ON_NODE, name).items()):
            if partition.uid not in parked:
                self._changed(Request(key.namespace, key.name))

    def _silent(self, node: GPUNode | None, agent: NodeAgent, error: ChronosError) -> Result:
        since = self._answered.get(agent.name, self._began)
        if node is not None:
            never = condition(node.status.conditions, NodeCondition.READY) is None
            # What answers that its ledger is full or was replaced is neither slow nor away, but nothing can be leased.
            certain = never or isinstance(error, LedgerFull | LedgerReplaced)
            if certain or self._clock.monotonic() - since >= SILENT_SECONDS:
                reason = _SILENCE.get(type(error), ReadyReason.NO_LEDGER)
                self._not_ready(node, reason, f"{error}; {error.hint}" if error.hint else str(error))
        return RequeueAfter(LOOK_SECONDS)

    def _unattended(self, node: GPUNode) -> Result:
        """A node that no agent of this daemon looks after: its heartbeat is all there is."""
        if node.status.heartbeat_time is None:
            return Done()
        age = (self._clock.now() - parse_timestamp(node.status.heartbeat_time)).total_seconds()
        if age >= SILENT_SECONDS:
            self._not_ready(node, ReadyReason.NO_HEARTBEAT, "no daemon reports this node")
            return Done()
        return RequeueAfter(SILENT_SECONDS - age)

    def _not_ready(self, node: GPUNode, reason: str, message: str) -> None:
        now = timestamp(self._clock.now())
        conditions = condition_set(node.status.conditions, now, NodeCondition.READY, "Unknown", reason, message)
        if conditions != node.status.conditions:
            status = node.status.model_copy(update={"conditions": conditions})
            write_status(self._client, node.replace(status=status))
            self._recorder.record(node, "Warning", EventReason.NOT_READY, message, component=NAME)


_SILENCE: dict[type[Exception], ReadyReason] = {
    NodeUnreachable: ReadyReason.UNREACHABLE,
    LedgerFull: ReadyReason.LEDGER_FULL,
    LedgerReplaced: ReadyReason.LEDGER_REPLACED,
}


def _mended(found: Condition) -> bool:
    return found.reason == EnforcementReason.RESTARTED


def observed(
    node: GPUNode,
    agent: NodeAgent,
    devices: Sequence[Device],
    leases: Sequence[Lease],
    own: Set[str],
    now: datetime,
) -> GPUNodeStatus:
    """The status of a node that answered. A lease that is not among the store's `own` is foreign."""
    moment = timestamp(now)
    facts = agent.facts()
    told = {health.type for health in facts.conditions}
    conditions = tuple(c for c in node.status.conditions if c.type in (*CONTROLLERS_CONDITIONS, *told))
    conditions = condition_set(conditions, moment, NodeCondition.READY, True, ReadyReason.ANSWERS)
    for health in facts.conditions:
        conditions = condition_set(conditions, moment, health.type, health.status, health.reason, health.message)
    return node.status.model_copy(
        update={
            "observed_generation": node.metadata.generation or 0,
            "conditions": conditions,
            "hostname": facts.hostname,
            "boot_id": facts.boot_id,
            "runtimes": agent.runtimes,
            "devices": tuple(_device(device, leases, own, facts) for device in devices),
            "parking": None if facts.parking is None else _parking(facts.parking),
            "checkpoint_places": facts.checkpoint_places,
            "heartbeat_time": moment,
            "chronos_version": facts.chronos_version,
            "clock_skew_seconds": facts.clock_skew,
        }
    )


def next_drain(reservations: Iterable[Reservation], node: str, now: datetime) -> NodeDrain | None:
    """The first time that is not over in which all devices of the node are held for nobody."""
    found = [
        NodeDrain(reservation=each.metadata.name, start=each.status.start, end=each.status.end)
        for each in reservations
        if node in each.spec.nodes and each.drains and each.status.start and each.status.end
    ]
    return min((d for d in found if parse_timestamp(d.end) > now), key=lambda d: parse_timestamp(d.start), default=None)


def resized(old: DeviceStatus, new: DeviceStatus) -> str:
    """What there is to say of the device's memory, "" where that is nothing new."""
    if (old.memory_bytes, old.next_memory_bytes) == (new.memory_bytes, new.next_memory_bytes):
        return ""
    if (old.next_memory_bytes, None) == (new.memory_bytes, new.next_memory_bytes):
        return ""  # It was told when the driver said so.
    size = format_bytes(new.next_memory_bytes or new.memory_bytes)
    said = f"device {new.index} ({new.name}) has {size} of memory now, {format_bytes(old.memory_bytes)} before"
    if new.next_memory_bytes is None:
        return said
    if new.next_memory_bytes < new.memory_bytes:
        return f"{said}; its leases hold {format_bytes(new.memory_bytes)}, and nothing is granted until some have ended"
    return f"{said}; {format_bytes(new.memory_bytes)} count until its last lease ends"


def worth_writing(old: GPUNodeStatus, new: GPUNodeStatus) -> bool:
    """Whether anything but the heartbeat changed, or the heartbeat is old enough to be written alone."""
    if old.heartbeat_time is None or new.heartbeat_time is None:
        return True
    passing: dict[str, object] = {"heartbeat_time": new.heartbeat_time}
    skews = (old.clock_skew_seconds, new.clock_skew_seconds)
    if None not in skews and abs((skews[0] or 0.0) - (skews[1] or 0.0)) < SKEW_SECONDS:
        passing["clock_skew_seconds"] = new.clock_skew_seconds
    if len(old.devices) == len(new.devices):
        passing["devices"] = tuple(map(_steadied, old.devices, new.devices))
    if old.model_copy(update=passing) != new:
        return True
    age = parse_timestamp(new.heartbeat_time) - parse_timestamp(old.heartbeat_time)
    return not 0 <= age.total_seconds() < HEARTBEAT_SECONDS


MEANINGFUL: Mapping[str, float] = {
    "used_memory_bytes": 512 * 2**20, "busy": 200, "power_watts": 50, "temperature_celsius": 5, "ecc_corrected": 100,
}  # fmt: skip
"""By how much a figure must differ from what was written to be worth a write of its own."""


def _steadied(old: DeviceStatus, new: DeviceStatus) -> DeviceStatus:
    """The old one, with the new one's figures where nothing about them is worth a write."""
    if old.figures is None or new.figures is None:
        return old
    update: dict[str, object] = {}
    if all(_near(name, getattr(old.figures, name), getattr(new.figures, name)) for name in DeviceFigures.model_fields):
        update["figures"] = new.figures
    who = [(process.pid, process.user) for process in old.unleased_processes]
    if who == [(process.pid, process.user) for process in new.unleased_processes] and all(
        _near("used_memory_bytes", before.memory_bytes, after.memory_bytes)
        for before, after in zip(old.unleased_processes, new.unleased_processes, strict=True)
    ):
        update["unleased_processes"] = new.unleased_processes
    return old.model_copy(update=update)


def _near(name: str, old: object, new: object) -> bool:
    step = MEANINGFUL.get(name)
    if step is None or not isinstance(old, int | float) or not isinstance(new, int | float):
        return old == new
    return abs(old - new) < step


def _listed(leases: Sequence[Lease]) -> Sequence[Lease]:
    """With those beyond `MOST_LISTED` as one, which lasts as long as the last of them: a status has its limit."""
    rest = leases[MOST_LISTED - 1 :]
    if len(rest) < 2:
        return leases
    last = max(rest, key=lambda lease: parse_timestamp(lease.expires_at).timestamp() + lease.grace)
    together = replace(
        last, id=f"{len(rest)}-more", user="", memory_bytes=sum(lease.memory_bytes for lease in rest),
        compute=sum(lease.compute for lease in rest),
    )  # fmt: skip
    return [*leases[: MOST_LISTED - 1], together]


def physical(status: GPUNodeStatus) -> frozenset[str]:
    """Names of the node's devices that no other machine has: a GPU by its UUID, another one by its address in this
    boot. A CPU has none: several nodes may offer shares of one on purpose."""
    return frozenset(
        device.id if device.id.startswith(_UUIDS) else f"{status.boot_id}/{device.id}"
        for device in status.devices
        if device.type != "cpu" and device.id and (device.id.startswith(_UUIDS) or status.boot_id)
    )


def _without(status: GPUNodeStatus, devices: frozenset[str], message: str, now: str) -> GPUNodeStatus:
    left = tuple(d for d in status.devices if not {d.id, f"{status.boot_id}/{d.id}"} & devices)
    conditions = condition_set(status.conditions, now, NodeCondition.TWIN, True, ReadyReason.ONE_MACHINE, message)
    return status.model_copy(update={"devices": left, "conditions": conditions})


def _age(node: GPUNode) -> tuple[str, str]:
    return node.metadata.creation_timestamp or "", node.metadata.name


def _device(device: Device, leases: Sequence[Lease], own: Set[str], facts: NodeFacts) -> DeviceStatus:
    taken = [lease for lease in leases if lease.device == device.index and lease.holds_share]
    foreign = _listed(sorted((lease for lease in taken if lease.id not in own), key=lambda lease: lease.id))
    memory, compute = sum(lease.memory_bytes for lease in taken), sum(lease.compute for lease in taken)
    over = sum(max(0, lease.held_bytes - lease.memory_bytes) for lease in taken)
    unleased = tuple(
        UnleasedProcess(
            pid=process.pid, user=truncate(process.user, LONGEST_WORD), memory_bytes=process.memory_bytes,
            program=truncate(process.program, LONGEST_WORD),
        )
        for process in facts.unleased if process.device_id == device.id
    )[:MOST_LISTED]  # fmt: skip
    strayed = over + sum(process.memory_bytes for process in unleased)
    figures = facts.figures.get(device.id)
    status = DeviceStatus.of(
        device,
        free=Slice(max(0, device.memory_bytes - memory - strayed), FULL_COMPUTE - compute),
        foreign_leases=tuple(
            ForeignLease(
                partition_id=lease.id, memory_bytes=lease.memory_bytes, compute=lease.compute,
                expires_at=lease.expires_at, grace_seconds=lease.grace, user=truncate(lease.user, LONGEST_WORD),
            )
            for lease in foreign
        ),
    )  # fmt: skip
    return status.model_copy(
        update={
            "overused_memory_bytes": over,
            "unleased_processes": unleased,
            "fault": (figures.fault or None) if figures is not None else None,
            "figures": None if figures is None else _figures(figures),
        }
    )


def _parking(found: Parking) -> NodeParking:
    proofs = found.proofs[:MOST_LISTED]
    return NodeParking(
        limit_bytes=found.limit_bytes, used_bytes=found.used_bytes,
        proofs=tuple(
            ParkingProof(
                device=truncate(p.device, LONGEST_WORD), driver=truncate(p.driver, LONGEST_WORD),
                framework=truncate(p.framework, LONGEST_WORD), holds=p.holds, message=truncate(p.message),
            )
            for p in proofs
        ),
    )  # fmt: skip


def _figures(found: Figures) -> DeviceFigures:
    return DeviceFigures(
        used_memory_bytes=found.used_bytes, busy=found.busy, power_watts=found.power_watts,
        temperature_celsius=found.temperature, throttling=found.throttling, ecc_corrected=found.ecc_corrected,
        ecc_uncorrected=found.ecc_uncorrected,
    )  # fmt: skip
