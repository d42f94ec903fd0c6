"""What placement looks at, as frozen values: nodes, the shares taken and until when, and the queue.

The first step of a cycle: controllers hand over what they read from the store, `build` makes a `Snapshot` of it,
`place` and `explain` work on nothing else. The order in which objects are handed over does not matter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from functools import cached_property

from cumulus.resources.device import Device
from cumulus.resources.key import Key
from cumulus.resources.meta import condition
from cumulus.resources.node import GPUNode, HostJobs
from cumulus.resources.partition import GPUPartition
from cumulus.resources.reasons import NodeCondition
from cumulus.scheduling.claim import Claim, Demand, Promised, Returning, Yields, claim_of

OVERDUE = timedelta(seconds=10)
"""A share still taken after its lease's end is expected back within this, for its processes are being ended; if it is
overdue for longer already, then within as long again, so that nobody waits for a stuck one for ever."""

STRAY = timedelta(minutes=5)
"""Memory that is held without a lease is planned to come back so much later, whenever that is asked."""


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
    faults: tuple[tuple[int, str], ...] = ()
    """Devices that have failed, by index, and why: they take nothing new."""
    host_jobs: HostJobs | None = None
    """Of a node that is not the daemon's own machine."""
    checkpoint_places: tuple[str, ...] | None = None
    """To what it copies checkpoints; None where it does not say."""
    reached: frozenset[str] = frozenset()
    """All nodes that answer, from which it can be brought a checkpoint."""


class ReturnsBy(Enum):
    """Why a share that is taken is planned to be free again. Plans ask for the time alone, whatever the reason."""

    LEASE_END = "the end of its lease, and its grace"
    NOT_GRANTED = "the end of a lease that is yet to be granted, as if it were granted now"
    OVERDUE = "the end of its processes: its lease is over, but the node has not said that the share is free"
    UNKNOWN = "nothing: no lease covers it, so that nobody knows when it is given back"

    @property
    def certain(self) -> bool:
        """Whether the node itself holds to that time, so that others can be promised the share from then on."""
        return self is ReturnsBy.LEASE_END


@dataclass(frozen=True, slots=True)
class Hold:
    """A share that is taken: a bound or active partition's, or a lease made on the node itself."""

    node: str
    device: int
    memory_bytes: int
    compute: int
    returns_at: datetime
    """The latest time at which the share is free again. Always after `now`."""
    partition: Key | None
    """None for a lease that is no GPUPartition's."""
    lease: str
    """The lease's id on the node; empty while it is not granted yet."""
    job: str
    """namespace/name, empty without one."""
    user: str
    returns_by: ReturnsBy
    """What brings it back at that time."""
    ports: tuple[int, ...] = ()
    """Host ports of the node that go with it."""
    stray: str = ""
    """What it is, where no lease covers it."""
    queue: str = ""
    """The queue that it counts for; empty for none."""
    since: datetime | None = None
    """When its lease was granted."""
    share: int = 0
    """What is counted for its queue, in thousandths of the device; 0 where it is not known."""
    device_name: str = ""
    yields: Yields | None = None
    """How its job yields where others need the share; None where it does not."""
    returning: Returning | None = None
    """For whom it is taken back, where that was decided."""
    kept_until: datetime | None = None
    """When it is free again at the latest if it is not taken back after all."""

    @property
    def name(self) -> str:
        """job default/train; partition default/p; lease 1a2b, made on the node; or what holds without a lease."""
        if self.stray:
            return self.stray
        if self.job:
            return f"job {self.job}"
        if self.partition is not None:
            return f"partition {self.partition.namespace}/{self.partition.name}"
        return f"lease {self.lease}, made on the node" if self.lease else "a lease made on the node"

    @property
    def holder(self) -> str:
        """Its name, and whose it is: job default/train of alice."""
        return f"{self.name} of {self.user}" if self.user else self.name


@dataclass(frozen=True, slots=True)
class Member:
    """One pending partition."""

    partition: Key
    uid: str
    demand: Demand
    group: int
    """Members of one group go to distinct devices of one node."""
    promise: Promised | None = None


@dataclass(frozen=True, slots=True)
class Gang:
    """What is placed all together or not at all. A partition without a gang is a gang of one."""

    name: str
    """namespace/name of the gang, or of its only partition."""
    members: tuple[Member, ...]
    seconds: float
    """How long it holds its shares at most: the longest lease and its grace."""
    priority: int
    since: datetime
    job: str
    user: str
    spread: bool | None = None
    """Over the least loaded nodes, instead of packed. A gang of different members is packed all the same. None: as its
    queue says, else packed."""
    started: bool = False
    """Some members are bound already, as after a crash amid the writing: the rest goes first."""
    queue: str = ""
    """The queue that it was submitted to; empty for none."""

    promised: datetime | None = None
    """When it starts at the latest, where all its members were told."""
    yielded: bool = False
    """Its job gave up a share for another before: nothing is taken back for it."""
    given_back_after: float | None = None
    """After how many seconds it is expected to give its shares back, in a forecast. It starts only where it could have
    them for as long as its lease all the same."""

    @property
    def sure(self) -> bool:
        """Whether its promise was given within its queue's quota."""
        return self.promised is not None and all(m.promise is not None and m.promise.sure for m in self.members)


@dataclass(frozen=True, slots=True)
class IncompleteGang:
    """A gang some of whose partitions are not there (yet, or any more): it is not placed."""

    name: str
    partitions: tuple[Key, ...]
    size: int


@dataclass(frozen=True)
class Snapshot:
    """Everything that placement knows. `nodes` by name; `pending` too: who of them goes first is a policy."""

    now: datetime
    nodes: tuple[Node, ...]
    holds: tuple[Hold, ...]
    pending: tuple[Gang, ...]
    incomplete: tuple[IncompleteGang, ...] = ()

    def gang_of(self, partition: Key) -> Gang | None:
        """The complete pending gang that this partition belongs to."""
        return self._by_partition.get(partition)

    @cached_property
    def running_jobs(self) -> frozenset[str]:
        """The jobs that have shares."""
        return frozenset(hold.job for hold in self.holds if hold.job)

    @cached_property
    def _by_partition(self) -> dict[Key, Gang]:
        return {member.partition: gang for gang in self.pending for member in gang.members}


def build(nodes: Iterable[GPUNode], partitions: Iterable[GPUPartition], now: datetime) -> Snapshot:
    """The snapshot of what the store holds."""
    return assemble(nodes, map(claim_of, partitions), now)


def assemble(nodes: Iterable[GPUNode], claims: Iterable[Claim], now: datetime) -> Snapshot:
    """The snapshot of nodes and of the claims on them.

    A partition holds its share from Bound on until its phase is an ended one, which controllers write only once
    the node has confirmed it. A lease that a node reports and no holding partition explains counts as well.
    """
    return Assembler().assemble(nodes, claims, now)


class Assembler:
    """`assemble` for one cycle after the other: a gang of one is made once for its claim, not in each cycle anew."""

    def __init__(self) -> None:
        self._alone: dict[tuple[str, str] | Key, tuple[Claim, Gang]] = {}

    def assemble(self, nodes: Iterable[GPUNode], claims: Iterable[Claim], now: datetime) -> Snapshot:
        """As the function `assemble` says."""
        claims = list(claims)
        nodes = sorted(nodes, key=lambda node: node.metadata.name)
        holding = [claim for claim in claims if claim.holding]
        holds = [_hold(claim, now) for claim in holding]
        holds += _foreign_holds(nodes, {claim.uid for claim in holding}, now)
        holds += _stray_holds(nodes, now)
        pending, incomplete = self._gangs(claims, now)
        return Snapshot(
            now=now,
            nodes=_nodes(nodes),
            holds=tuple(sorted(holds, key=_hold_order)),
            pending=tuple(sorted(pending, key=lambda gang: gang.name)),
            incomplete=tuple(sorted(incomplete, key=lambda gang: gang.name)),
        )

    def _gangs(self, claims: Iterable[Claim], now: datetime) -> tuple[list[Gang], list[IncompleteGang]]:
        gangs: list[Gang] = []
        incomplete: list[IncompleteGang] = []
        alone: dict[tuple[str, str] | Key, tuple[Claim, Gang]] = {}
        for key, found in _members(claims).items():
            first = found[0]
            known = self._alone.get(key)
            if len(found) == 1 and known is not None and known[0] is first:
                alone[key] = known
                gangs.append(known[1])
                continue
            pending = [claim for claim in found if claim.pending]
            if not pending:
                continue
            name = first.gang or first.path
            size = max(claim.size for claim in found)
            if len(found) < size:
                found.sort(key=lambda claim: claim.partition)
                incomplete.append(IncompleteGang(name, tuple(claim.partition for claim in found), size))
                continue
            pending.sort(key=lambda claim: claim.partition)
            gang = _gang(name, pending, [claim for claim in found if claim.holding], now)
            gangs.append(gang)
            if len(found) == 1 and first.since is not None:
                alone[key] = (first, gang)
        self._alone = alone
        return gangs, incomplete


def _nodes(nodes: Iterable[GPUNode]) -> tuple[Node, ...]:
    found = [_node(node) for node in nodes]
    reached = frozenset(node.name for node in found if node.ready)
    return tuple(replace(node, reached=reached) for node in found)


def _node(node: GPUNode) -> Node:
    ready = condition(node.status.conditions, NodeCondition.READY)
    is_ready = ready is not None and ready.status == "True"
    said = (ready.message or ready.reason) if ready is not None else "it has not reported yet"
    return Node(
        name=node.metadata.name,
        ready=is_ready,
        not_ready="" if is_ready else said,
        cordoned=node.spec.unschedulable or node.deleting,
        labels=dict(node.metadata.labels),
        runtimes=tuple(node.status.runtimes),
        devices=tuple(found.device for found in sorted(node.status.devices, key=lambda found: found.index)),
        faults=tuple((found.index, found.fault) for found in node.status.devices if found.fault),
        host_jobs=node.status.host_jobs,
        checkpoint_places=node.status.checkpoint_places,
    )


def _hold(claim: Claim, now: datetime) -> Hold:
    end = claim.expires_at or now + timedelta(seconds=claim.duration)
    kept_until = None
    if claim.returning is not None:
        kept_until = end + timedelta(seconds=claim.grace)
        end = min(end, claim.returning.at)
    end += timedelta(seconds=claim.grace)
    return Hold(
        node=claim.node, device=claim.device, memory_bytes=claim.memory_bytes, compute=claim.compute,
        returns_at=_expected(end, now), partition=claim.partition, lease=claim.lease, job=claim.job, user=claim.user,
        returns_by=_returns_by(claim.lease, end, now), ports=claim.demand.ports, queue=claim.queue,
        since=claim.held_since, share=claim.share, device_name=claim.device_name, yields=claim.yields,
        returning=claim.returning, kept_until=kept_until,
    )  # fmt: skip


def _expected(end: datetime, now: datetime) -> datetime:
    return end if end > now else now + max(OVERDUE, now - end)


def _returns_by(lease: str, end: datetime, now: datetime) -> ReturnsBy:
    if end <= now:
        return ReturnsBy.OVERDUE
    return ReturnsBy.LEASE_END if lease else ReturnsBy.NOT_GRANTED


def _foreign_holds(nodes: Iterable[GPUNode], known: set[str | None], now: datetime) -> Iterable[Hold]:
    for node in nodes:
        for device in node.status.devices:
            for lease in device.foreign_leases:
                if lease.partition_id in known:
                    continue
                end = datetime.fromisoformat(lease.expires_at) + timedelta(seconds=lease.grace_seconds)
                yield Hold(
                    node=node.metadata.name, device=device.index, memory_bytes=lease.memory_bytes,
                    compute=lease.compute, returns_at=_expected(end, now), partition=None,
                    lease=lease.partition_id, job="", user=lease.user,
                    returns_by=_returns_by(lease.partition_id, end, now),
                )  # fmt: skip


def _stray_holds(nodes: Iterable[GPUNode], now: datetime) -> Iterable[Hold]:
    """What is held of devices and covered by no lease: it is not free, whoever asks."""
    for node in nodes:
        for device in node.status.devices:
            stray = [
                (process.memory_bytes, f"process {process.pid} ({process.program}), without a lease,", process.user)
                for process in device.unleased_processes
            ]
            if device.overused_memory_bytes:
                stray.append((device.overused_memory_bytes, "what leases hold beyond their size", ""))
            for size, what, user in stray:
                yield Hold(
                    node=node.metadata.name, device=device.index, memory_bytes=size, compute=0, returns_at=now + STRAY,
                    partition=None, lease="", job="", user=user, returns_by=ReturnsBy.UNKNOWN, stray=what,
                )  # fmt: skip


def _members(claims: Iterable[Claim]) -> dict[tuple[str, str] | Key, list[Claim]]:
    """The claims that count, by their gang's name and owner, or by their own key where they have none."""
    members: dict[tuple[str, str] | Key, list[Claim]] = {}
    for claim in claims:
        if not claim.deleting and (claim.pending or claim.holding):
            key = (claim.gang, claim.owner) if claim.gang else claim.partition
            members.setdefault(key, []).append(claim)
    return members


def _gang(name: str, pending: list[Claim], bound: list[Claim], now: datetime) -> Gang:
    places: defaultdict[int, list[tuple[str, int]]] = defaultdict(list)
    for claim in bound:
        places[claim.group].append((claim.node, max(0, claim.device)))
    members = [_member(claim, places.get(claim.group, [])) for claim in pending]
    members.sort(key=lambda member: (member.group, member.partition))
    first = pending[0]
    promises = [member.promise.start_by for member in members if member.promise is not None]
    return Gang(
        name=name,
        members=tuple(members),
        seconds=max(claim.duration + claim.grace for claim in pending),
        priority=max(claim.priority for claim in pending),
        since=first.since or now,
        job=first.job,
        user=first.user,
        spread=first.spread,
        started=bool(bound),
        queue=first.queue,
        promised=max(promises) if len(promises) == len(members) else None,
        yielded=first.yielded,
    )


def _member(claim: Claim, places: list[tuple[str, int]]) -> Member:
    demand = claim.demand
    if places:
        avoid = tuple(sorted(device for _, device in places))
        # Its host ports are held with those places already.
        demand = replace(demand, filter=replace(demand.filter, node=places[0][0], avoid=avoid), ports=())
    return Member(claim.partition, claim.uid, demand, claim.group, claim.promise)


def _hold_order(hold: Hold) -> tuple[object, ...]:
    return (hold.node, hold.device, hold.returns_at, hold.lease, hold.partition or ())
