"""What one partition asks for or holds, as placement sees it: made once for each version of a partition.

The scheduler keeps the claims of ten thousand partitions between its cycles, where their models would not fit; a
`snapshot` is assembled from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from cumulus.resources.enforcement import Enforcement
from cumulus.resources.key import Key
from cumulus.resources.meta import JOB_LABEL, OwnerReference
from cumulus.resources.partition import GPUPartition, PartitionPhase, start_within
from cumulus.resources.placement import Placement
from cumulus.resources.quantity import Share, parse_bytes, parse_duration, parse_millis, parse_share
from cumulus.resources.submitter import QUEUE, Submitter


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
    user: str = ""
    """NAME:UID of whom a program without an image runs as; "" for anything else."""
    directory: str = ""
    same_on: tuple[str, ...] = ()
    """Nodes where that directory is known to be the same."""
    python: str = ""
    """Of a call: it must be the same there."""
    only_here: str = ""
    """Why it runs on the daemon's own machine alone."""
    checkpoint_place: str = ""
    """To what its node must be able to copy checkpoints."""
    saved_on: str = ""
    """The node whose disk has its checkpoint: it is preferred."""
    saved_alone: bool = False
    """Whether that is nowhere else."""
    avoid: tuple[int, ...] = ()
    """Devices of `node` that other members of the same group hold already."""
    without: tuple[str, ...] = ()
    """Globs on names of devices of which its queue may have no more."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What share of which devices. Equal demands are interchangeable."""

    filter: Filter
    memory: Share
    compute: int | None
    """Thousandths; None for the memory's share of the device."""
    ports: tuple[int, ...] = ()
    """Host ports of the node that its group needs for itself."""


@dataclass(frozen=True, slots=True)
class Promised:
    """What a partition that waits was promised, and where its share is kept."""

    start_by: datetime
    node: str
    device: int
    sure: bool = False
    """It comes out of its queue's quota, so that it is not moved for another's."""


class Yields(NamedTuple):
    """How a job gives up its shares where others need them."""

    killed: bool
    """Its work is lost; else it is saved first."""
    priority: int
    grace: float
    """Seconds from when it is asked until its shares are free at the latest."""


class Returning(NamedTuple):
    """A share that is taken back."""

    at: datetime
    """From when its job is asked to end."""
    gang: str
    """For whom."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One partition. What it holds is meaningful when it is `holding`."""

    partition: Key
    uid: str
    holding: bool
    """The share is taken."""
    pending: bool
    """In the queue: for its first share, or for the one to which a parked program comes back."""
    deleting: bool
    gang: str
    """namespace/name of its gang; empty where it stands alone."""
    size: int
    group: int
    demand: Demand
    spread: bool | None
    """Over the least loaded nodes, or packed; None where its queue says which."""
    duration: float
    grace: float
    priority: int
    since: datetime | None
    job: str
    """namespace/name, empty without one."""
    user: str
    node: str
    device: int
    memory_bytes: int
    compute: int
    expires_at: datetime | None
    lease: str
    owner: str = ""
    """uid of the job that made it: what others call a gang of theirs makes it no part of the job's."""
    queue: str = ""
    """The queue that it was submitted to, or that its use counts for; empty for none."""
    held_since: datetime | None = None
    share: int = 0
    """What is counted for it, in thousandths of a device."""
    device_name: str = ""
    promise: Promised | None = None
    yields: Yields | None = None
    yielded: bool = False
    """Its job gave up a share for another before."""
    returning: Returning | None = None

    @property
    def path(self) -> str:
        """namespace/name."""
        _, namespace, name = self.partition
        return f"{namespace}/{name}" if namespace else name


def claim_of(partition: GPUPartition) -> Claim:
    """The claim of a partition as it is stored."""
    spec, status, metadata = partition.spec, partition.status, partition.metadata
    owner = partition.job
    gang, park = spec.gang, spec.park
    since = gang.since if gang is not None else metadata.creation_timestamp
    if park is not None and status.phase is PartitionPhase.PARKED:
        # Others may have been promised their start meanwhile: it stands behind them.
        since = max(park.back_since or "", status.parked.since if status.parked is not None else "") or since
    granted = status.phase is not PartitionPhase.UNPARKING
    return Claim(
        partition=partition.key,
        uid=metadata.uid or "",
        holding=status.phase.holds,
        pending=partition.waits,
        deleting=partition.deleting,
        gang=_in_namespace(metadata.namespace, gang.name) if gang is not None else "",
        size=gang.size if gang is not None else 1,
        group=gang.group if gang is not None else 0,
        demand=_demand_of(partition),
        spread=None if spec.placement is None else spec.placement is Placement.SPREAD,
        # As long as the share may be taken: what waits behind it is promised no earlier time.
        duration=_seconds(spec.duration) + start_within(spec),
        grace=_seconds(spec.grace_period),
        priority=spec.priority,
        since=datetime.fromisoformat(since) if since else None,
        job=_job(partition, owner),
        user=Submitter.of(metadata.annotations).name or spec.user or "",
        node=status.node,
        device=-1 if status.device is None else status.device,
        memory_bytes=status.memory_bytes,
        compute=status.compute,
        expires_at=datetime.fromisoformat(status.expires_at) if granted and status.expires_at is not None else None,
        lease=status.partition_id if granted else "",
        owner="" if owner is None else owner.uid,
        queue=status.queue or metadata.annotations.get(QUEUE, ""),
        held_since=datetime.fromisoformat(status.activated_at) if status.activated_at else None,
        share=status.share or 0,
        device_name=status.device_name,
        promise=_promised(partition),
        yields=_yields(partition),
        yielded=gang is not None and gang.yielded,
        returning=_returning(partition),
    )


def _promised(partition: GPUPartition) -> Promised | None:
    given = partition.status.promise
    if given is None:
        return None
    return Promised(datetime.fromisoformat(given.start_by), given.node, given.device, given.within_quota)


def _yields(partition: GPUPartition) -> Yields | None:
    spec = partition.spec
    if spec.gang is None or spec.gang.preemptible is None or partition.job is None:
        return None
    return Yields(spec.gang.preemptible == "Kill", spec.priority, _seconds(spec.grace_period))


def _returning(partition: GPUPartition) -> Returning | None:
    said = partition.status.reclaim
    return None if said is None else Returning(datetime.fromisoformat(said.at), said.gang)


def _demand_of(partition: GPUPartition) -> Demand:
    spec, selector = partition.spec, partition.spec.selector
    node, device = spec.node, spec.device
    if partition.status.phase is PartitionPhase.PARKED:
        # What is in main memory came from that device, and can go nowhere else.
        node, device = partition.status.node, partition.status.device
    program, user = spec.program, ""
    if program is not None:
        submitter = Submitter.of(partition.metadata.annotations)
        user = f"{submitter.name}:{submitter.uid}"
    return _demand(
        (selector.vendor or "").lower(),
        selector.name or "",
        selector.type or "",
        selector.min_memory or "",
        tuple(sorted(selector.node_labels.items())),
        spec.min_enforcement,
        spec.runtime or "",
        node or "",
        -1 if device is None else device,
        spec.memory,
        spec.compute,
        spec.host_ports,
        user,
        (program and program.directory) or "",
        program.same_on if program is not None else (),
        (program and program.python) or "",
        (program and program.only_here) or "",
        spec.checkpoint_place or "",
        spec.saved.node if spec.saved is not None else "",
        spec.saved is not None and spec.saved.alone,
    )


@lru_cache(maxsize=4096)
def _demand(
    vendor: str,
    name: str,
    type: str,
    min_memory: str,
    node_labels: tuple[tuple[str, str], ...],
    min_enforcement: Enforcement,
    runtime: str,
    node: str,
    device: int,
    memory: str,
    compute: str | None,
    ports: tuple[int, ...],
    user: str,
    directory: str,
    same_on: tuple[str, ...],
    python: str,
    only_here: str,
    checkpoint_place: str,
    saved_on: str,
    saved_alone: bool,
) -> Demand:
    """One object for all equal demands: most partitions of a queue want the same."""
    return Demand(
        filter=Filter(
            vendor=vendor,
            name=name,
            type=type,
            min_memory=parse_bytes(min_memory) if min_memory else 0,
            node_labels=node_labels,
            min_enforcement=min_enforcement,
            runtime=runtime,
            node=node,
            device=device,
            user=user,
            directory=directory,
            same_on=same_on,
            python=python,
            only_here=only_here,
            checkpoint_place=checkpoint_place,
            saved_on=saved_on,
            saved_alone=saved_alone,
        ),
        memory=parse_share(memory),
        compute=None if compute is None else parse_millis(compute),
        ports=ports,
    )


def _job(partition: GPUPartition, owner: OwnerReference | None) -> str:
    name = owner.name if owner is not None else partition.metadata.labels.get(JOB_LABEL, "")
    return _in_namespace(partition.metadata.namespace, name) if name else ""


def _in_namespace(namespace: str | None, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


_seconds = lru_cache(maxsize=4096)(parse_duration)
