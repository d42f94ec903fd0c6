"""What placement looks at: nodes, the shares taken and until when, and the queue, as frozen values.

The first step of a pass: controllers hand over what they read from the store, `build` makes a `Snapshot` of it,
`place` and `explain` work on nothing else. The order in which objects are handed over does not matter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, lru_cache

from cumulus.resources.enforcement import Enforcement
from cumulus.resources.key import Key
from cumulus.resources.meta import JOB_LABEL, condition
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.quantity import Share, parse_bytes, parse_duration, parse_millis, parse_share

FULL_COMPUTE = 1000
"""Thousandths of a device's compute that make a whole device."""

OVERDUE = timedelta(seconds=10)
"""A share still taken after its lease's end is expected back within this, for its processes are being ended; if it is
overdue for longer already, then within as long again, so that nobody waits for a stuck one for ever."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device of a node; `memory_bytes` is its whole capacity."""

    node: str
    index: int
    name: str
    vendor: str
    type: str
    memory_bytes: int
    enforcement: Enforcement


@dataclass(frozen=True, slots=True)
class Node:
    """A machine. Only one that is `ready` and not `cordoned` takes anything new."""

    name: str
    ready: bool
    not_ready: str
    """Why it is not ready, for people; empty when it is."""
    cordoned: bool
    labels: Mapping[str, str]
    runtimes: tuple[str, ...]
    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class Hold:
    """A share that is taken: a bound or active partition's, or a lease made on the node itself."""

    node: str
    device: int
    memory_bytes: int
    compute: int
    until: datetime
    """The latest time at which the share is free again: its lease's end and grace. Always after `now`."""
    partition: Key | None
    """None for a lease that is no GPUPartition's."""
    lease: str
    """The lease's id on the node; empty while it is not granted yet."""
    job: str
    """namespace/name, empty without one."""
    user: str
    overdue: bool
    """The lease's end is past, but the node has not said that the share is free."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which devices will do, apart from what is free of them. Empty values ask for nothing."""

    vendor: str = ""
    name: str = ""
    type: str = ""
    min_memory: int = 0
    node_labels: tuple[tuple[str, str], ...] = ()
    min_enforcement: Enforcement = Enforcement.NONE
    runtime: str = ""
    node: str = ""
    device: int = -1
    avoid: tuple[int, ...] = ()
    """Devices of `node` that other members of the same group hold already."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What share of which devices. Equal demands are interchangeable."""

    filter: Filter
    memory: Share
    compute: int | None
    """Thousandths; None for the memory's share of the device."""


@dataclass(frozen=True, slots=True)
class Request:
    """One pending partition."""

    partition: Key
    uid: str
    demand: Demand
    group: int
    """Requests of one group go to distinct devices of one node."""


@dataclass(frozen=True, slots=True)
class Gang:
    """What is placed all together or not at all. A partition without a gang is a gang of one."""

    name: str
    """namespace/name of the gang, or of its only partition."""
    requests: tuple[Request, ...]
    seconds: float
    """How long it holds its shares at most: the longest lease and its grace."""
    priority: int
    since: datetime
    job: str
    user: str
    started: bool = False
    """Some members are bound already, as after a crash amid the writing: the rest goes first."""


@dataclass(frozen=True, slots=True)
class Incomplete:
    """A gang some of whose partitions are not there (yet, or any more): it is not placed."""

    name: str
    partitions: tuple[Key, ...]
    size: int


@dataclass(frozen=True)
class Snapshot:
    """Everything that placement knows. `nodes` by name; `pending` in the order of the queue."""

    now: datetime
    nodes: tuple[Node, ...]
    holds: tuple[Hold, ...]
    pending: tuple[Gang, ...]
    incomplete: tuple[Incomplete, ...] = ()

    def gang_of(self, partition: Key) -> Gang | None:
        """The complete pending gang that this partition belongs to."""
        return self._by_partition.get(partition)

    @cached_property
    def _by_partition(self) -> dict[Key, Gang]:
        return {request.partition: gang for gang in self.pending for request in gang.requests}


def build(nodes: Iterable[GPUNode], partitions: Iterable[GPUPartition], now: datetime) -> Snapshot:
    """The snapshot of what the store holds.

    A partition holds its share from Bound on until its phase is an ended one, which controllers write only once
    the node has confirmed it. A lease that a node reports and no holding partition explains counts as well.
    """
    partitions = list(partitions)
    nodes = sorted(nodes, key=lambda node: node.metadata.name)
    holding = [p for p in partitions if p.status.phase in (PartitionPhase.BOUND, PartitionPhase.ACTIVE)]
    holds = [_hold(partition, now) for partition in holding]
    holds += _foreign_holds(nodes, {p.metadata.uid for p in holding}, now)
    pending, incomplete = _gangs(partitions, now)
    return Snapshot(
        now=now,
        nodes=tuple(_node(node) for node in nodes),
        holds=tuple(sorted(holds, key=_hold_order)),
        pending=tuple(sorted(pending, key=_queue_order)),
        incomplete=tuple(sorted(incomplete, key=lambda gang: gang.name)),
    )


def _node(node: GPUNode) -> Node:
    ready = condition(node.status.conditions, "Ready")
    is_ready = ready is not None and ready.status == "True"
    said = (ready.message or ready.reason) if ready is not None else "it has not reported yet"
    return Node(
        name=node.metadata.name,
        ready=is_ready,
        not_ready="" if is_ready else said,
        cordoned=node.spec.unschedulable or node.deleting,
        labels=dict(node.metadata.labels),
        runtimes=tuple(node.status.runtimes),
        devices=tuple(
            Device(
                node=node.metadata.name, index=device.index, name=device.name, vendor=device.vendor, type=device.type,
                memory_bytes=device.memory_bytes, enforcement=device.enforcement,
            )
            for device in sorted(node.status.devices, key=lambda device: device.index)
        ),
    )  # fmt: skip


def _hold(partition: GPUPartition, now: datetime) -> Hold:
    spec, status = partition.spec, partition.status
    grace = _seconds(spec.grace_period)
    if status.expires_at is not None:
        until = _moment(status.expires_at) + timedelta(seconds=grace)
    else:
        until = now + timedelta(seconds=_seconds(spec.duration) + grace)
    return Hold(
        node=status.node,
        device=-1 if status.device is None else status.device,
        memory_bytes=status.memory_bytes,
        compute=status.compute,
        until=_expected(until, now),
        partition=partition.key,
        lease=status.partition_id,
        job=_job(partition),
        user=spec.user or "",
        overdue=until <= now,
    )


def _expected(end: datetime, now: datetime) -> datetime:
    return end if end > now else now + max(OVERDUE, now - end)


def _foreign_holds(nodes: Iterable[GPUNode], known: set[str | None], now: datetime) -> Iterable[Hold]:
    for node in nodes:
        for device in node.status.devices:
            for lease in device.foreign_leases:
                if lease.partition_id in known:
                    continue
                until = _moment(lease.expires_at) + timedelta(seconds=lease.grace_seconds)
                yield Hold(
                    node=node.metadata.name, device=device.index, memory_bytes=lease.memory_bytes,
                    compute=lease.compute, until=_expected(until, now), partition=None,
                    lease=lease.partition_id, job="", user=lease.user, overdue=until <= now,
                )  # fmt: skip


def _gangs(partitions: Iterable[GPUPartition], now: datetime) -> tuple[list[Gang], list[Incomplete]]:
    members: defaultdict[tuple[str, str], list[GPUPartition]] = defaultdict(list)
    gangs: list[Gang] = []
    for partition in partitions:
        if partition.status.phase.ended or partition.deleting:
            continue
        if partition.spec.gang is not None:
            members[partition.metadata.namespace or "", partition.spec.gang.name].append(partition)
        elif partition.status.phase is PartitionPhase.PENDING:
            gangs.append(_gang(_path(partition), [partition], [], now))
    incomplete: list[Incomplete] = []
    for (namespace, name), found in members.items():
        found.sort(key=lambda partition: partition.metadata.name)
        pending = [p for p in found if p.status.phase is PartitionPhase.PENDING]
        if not pending:
            continue
        path = f"{namespace}/{name}" if namespace else name
        size = max(p.spec.gang.size for p in found if p.spec.gang is not None)
        if len(found) < size:
            incomplete.append(Incomplete(path, tuple(p.key for p in found), size))
        else:
            bound = [p for p in found if p.status.phase is not PartitionPhase.PENDING]
            gangs.append(_gang(path, pending, bound, now))
    return gangs, incomplete


def _gang(name: str, pending: list[GPUPartition], bound: list[GPUPartition], now: datetime) -> Gang:
    places: defaultdict[int, list[tuple[str, int]]] = defaultdict(list)
    for partition in bound:
        places[_group(partition)].append((partition.status.node, partition.status.device or 0))
    requests = [_request(partition, places.get(_group(partition), [])) for partition in pending]
    requests.sort(key=lambda request: (request.group, request.partition))
    first = pending[0]
    since = first.spec.gang.since if first.spec.gang is not None else first.metadata.creation_timestamp
    return Gang(
        name=name,
        requests=tuple(requests),
        seconds=max(_seconds(p.spec.duration) + _seconds(p.spec.grace_period) for p in pending),
        priority=max(p.spec.priority for p in pending),
        since=_moment(since) if since else now,
        job=_job(first),
        user=first.spec.user or "",
        started=bool(bound),
    )


def _request(partition: GPUPartition, places: list[tuple[str, int]]) -> Request:
    spec, selector = partition.spec, partition.spec.selector
    return Request(
        partition=partition.key,
        uid=partition.metadata.uid or "",
        group=_group(partition),
        demand=Demand(
            filter=Filter(
                vendor=(selector.vendor or "").lower(),
                name=selector.name or "",
                type=selector.type or "",
                min_memory=parse_bytes(selector.min_memory) if selector.min_memory else 0,
                node_labels=tuple(sorted(selector.node_labels.items())),
                min_enforcement=spec.min_enforcement,
                runtime=spec.runtime or "",
                node=places[0][0] if places else spec.node or "",
                device=-1 if spec.device is None else spec.device,
                avoid=tuple(sorted(device for _, device in places)),
            ),
            memory=_share(spec.memory),
            compute=None if spec.compute is None else parse_millis(spec.compute),
        ),
    )


def _hold_order(hold: Hold) -> tuple[object, ...]:
    return (hold.node, hold.device, hold.until, hold.lease, hold.partition or ())


def _queue_order(gang: Gang) -> tuple[object, ...]:
    return (not gang.started, -gang.priority, gang.since, gang.name)


def _group(partition: GPUPartition) -> int:
    return partition.spec.gang.group if partition.spec.gang is not None else 0


def _job(partition: GPUPartition) -> str:
    owner = next((o.name for o in partition.metadata.owner_references if o.kind == "GPUJob"), "")
    name = owner or partition.metadata.labels.get(JOB_LABEL, "")
    return f"{partition.metadata.namespace}/{name}" if name and partition.metadata.namespace else name


def _path(partition: GPUPartition) -> str:
    namespace = partition.metadata.namespace
    return f"{namespace}/{partition.metadata.name}" if namespace else partition.metadata.name


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


_seconds = lru_cache(maxsize=4096)(parse_duration)
_share = lru_cache(maxsize=4096)(parse_share)
