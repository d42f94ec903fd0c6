"""GPUPartition: one share of one device for a time. Jobs own theirs; people may ask for one alone."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from cumulus.resources.enforcement import Enforcement, Overuse, Sharing
from cumulus.resources.fields import ComputeShare, Delay, Duration, FieldError, MemoryShare, Model, Name, Text, Time
from cumulus.resources.job import DeviceSelector, HostPort
from cumulus.resources.meta import Condition, OwnerReference, Resource
from cumulus.resources.parking import Parked, ParkRequest
from cumulus.resources.placement import Placement
from cumulus.resources.preemption import Preemptible
from cumulus.resources.reclaim import Reclaim
from cumulus.resources.renewal import Renewal as Renewal
from cumulus.resources.submitter import DaemonRules, Submitter

FINALIZER = "cumulus.dev/partition"
"""On a partition from its binding until its node has confirmed that the share is free."""


class Gang(Model):
    """Set by the job controller: partitions of one `name` are bound all together or not at all, those of
    one `group` to distinct devices of one node."""

    name: Text = Field(description="Partitions with the same gang name are bound together or not at all.")
    size: int = Field(ge=1, description="How many partitions the gang has.")
    group: int = Field(0, ge=0, description="Partitions of the same group go to different devices of one node.")
    since: str = Field(
        description="When the attempt joined the queue. Gangs of the same priority are placed in this order."
    )
    preemptible: Preemptible | None = Field(
        None, description="How its job ends where another queue needs its quota back; left out where it does not."
    )
    yielded: bool = Field(
        False, description="Whether its job gave up a share for another queue before: nothing is taken back for it."
    )


class Program(Model):
    """Set by the job controller, for a job without an image: what a node must have on its disk."""

    directory: Text | None = Field(None, description="The directory that it starts in, if it names one.")
    same_on: tuple[Text, ...] = Field(
        (), description="Nodes on which that directory was found to be the same as where the job was submitted."
    )
    python: Text | None = Field(None, description="The Python of a call, which must be the same there.")
    only_here: Text | None = Field(
        None, description="Why it runs on the daemon's own machine alone; left out where it does not."
    )


class Saved(Model):
    """Set by the job controller, for a job without an image: where its checkpoint is."""

    node: Text = Field(description="The node whose disk has it. That one is preferred; another one fetches it there.")
    alone: bool = Field(
        True, description="Whether it is nowhere else: then no other node will do while that one does not answer."
    )


class GPUPartitionSpec(Model):
    """What share, of which device, for how long."""

    memory: MemoryShare = Field(
        description="A fraction 0.5, a percentage 50% or a quantity 20Gi of the device's memory."
    )
    compute: ComputeShare | None = Field(
        None, description="Compute as a percentage or fraction. If left out, the same share as of the memory."
    )
    duration: Duration = Field(
        description="How long the lease lasts: 1h30m, or seconds. It is counted from the grant; for a job's partition, "
        "from the start of the program."
    )
    grace_period: Delay = Field("10s", description="Time between SIGTERM and SIGKILL when the lease is over.")
    user: Text | None = Field(None, description="Who the share is for.")
    node: Text | None = Field(None, description="The node to take it from. If left out, any node that fits.")
    device: int | None = Field(None, ge=0, description="The device's index on that node; needs `node`.")
    selector: DeviceSelector = Field(default_factory=DeviceSelector, description="Which devices fit.")
    min_enforcement: Enforcement = Field(
        Enforcement.NONE,
        description="The weakest enforcement that is accepted: none, guarded or hard (a whole MIG instance).",
    )
    overuse: Overuse | None = Field(
        None,
        description="What the node does if processes of the lease hold more GPU memory than it. End: kill them at "
        "once, and end the lease. Report: set the condition Overused. If left out: End for a part of a GPU, Report "
        "for a whole one. A node may be stricter.",
    )
    renewal: Renewal = Field(default_factory=Renewal, description="Whether the lease is renewed before it ends.")
    priority: int = Field(0, ge=-(10**9), le=10**9, description="Partitions with a higher priority are placed first.")
    placement: Placement | None = Field(
        None,
        description="Pack: use a device that is in use already, so that whole devices stay free. Spread: use the node "
        "that is least loaded. If left out: as its queue says, else Pack.",
    )
    queue: Name | None = Field(
        None, description="The queue that it is submitted to. If left out, the one of its user: see Queue."
    )
    runtime: Literal["process", "container"] | None = Field(None, description="The runtime that the node must offer.")
    host_ports: tuple[HostPort, ...] = Field(
        (), description="Set by the job controller: ports of the node that the replica needs for itself."
    )
    program: Program | None = Field(
        None, description="Set by the job controller, for a job without an image: what its node must have."
    )
    checkpoint_place: Literal["s3"] | None = Field(
        None, description="Set by the job controller: to what its node must be able to copy checkpoints."
    )
    saved: Saved | None = Field(
        None, description="Set by the job controller, for a job without an image: where its checkpoint is."
    )
    gang: Gang | None = Field(None, description="Set by the job controller.")
    sharing: Sharing | None = Field(
        None, description="Whether its program can be parked, or runs beside others at once: see GPUJob."
    )
    park: ParkRequest | None = Field(
        None,
        description="Set by the job controller: its program is to wait in main memory, or to come back.",
    )
    until: Time | None = Field(
        None, description="The lease ends no earlier. Set by `cumulus extend`, where that moves nobody who waits."
    )

    @model_validator(mode="after")
    def _device_of_a_node(self) -> Self:
        if self.device is not None and self.node is None:
            raise FieldError(("device",), "is given without node; name the node whose device it is")
        return self


class PartitionPhase(StrEnum):
    """Moves down this list, except that Unparking leads to Active again; the last three are ends."""

    PENDING = "Pending"
    BOUND = "Bound"
    ACTIVE = "Active"
    PARKED = "Parked"
    """Its program waits in main memory: it holds no share."""
    UNPARKING = "Unparking"
    """It has a share again, and its node is bringing the program back."""
    EXPIRED = "Expired"
    RELEASED = "Released"
    FAILED = "Failed"

    @property
    def ended(self) -> bool:
        return self in (PartitionPhase.EXPIRED, PartitionPhase.RELEASED, PartitionPhase.FAILED)

    @property
    def holds(self) -> bool:
        """Whether its share is taken."""
        return self in (PartitionPhase.BOUND, PartitionPhase.ACTIVE, PartitionPhase.UNPARKING)

    @property
    def parked(self) -> bool:
        """Whether its program is not on the GPU, but in main memory."""
        return self in (PartitionPhase.PARKED, PartitionPhase.UNPARKING)


class Promise(Model):
    """What the scheduler keeps for a partition that waits."""

    start_by: Time = Field(description="It gets its share by then at the latest.")
    node: str = Field(description="The node where a share is kept for it. It may start elsewhere.")
    device: int = Field(description="The index of the device there.")
    within_quota: bool = Field(
        False, description="It comes out of its queue's quota: it is not moved for the quota of another queue."
    )


class GPUPartitionStatus(Model):
    """Where it was bound and what lease it holds."""

    observed_generation: int = Field(0, description="The generation of the spec that the controller acted on.")
    phase: PartitionPhase = Field(
        PartitionPhase.PENDING, description="How far the lease is. It never goes back, but from Parked to Active."
    )
    conditions: tuple[Condition, ...] = Field((), description="Bound, Active, Ended, Overused, Parked.")
    node: str = Field("", description="The node it was bound to.")
    device: int | None = Field(None, description="The index of its device on that node.")
    device_name: str = Field("", description="The name of its device.")
    queue: str | None = Field(None, description="The queue that its use is counted for, where there are queues.")
    share: int | None = Field(
        None, description="What is counted for it: the larger part of memory and compute, in thousandths of the device."
    )
    promise: Promise | None = Field(None, description="When it starts at the latest, while it waits.")
    reclaim: Reclaim | None = Field(None, description="For whom the share is taken back before its lease ends.")
    partition_id: str = Field("", description="The id of the lease in the node's ledger.")
    memory_bytes: int = Field(0, description="The memory leased, in bytes.")
    compute: int = Field(0, description="The compute leased, in thousandths of the device.")
    enforcement: Enforcement | None = Field(None, description="How strongly the node enforces the share.")
    overuse: Overuse | None = Field(
        None, description="What the node does about overuse: the stricter of the spec and its own rule."
    )
    fencing_token: int = Field(0, description="Grows with each lease on the device. An older holder is refused.")
    activated_at: Time | None = Field(None, description="When the lease was granted.")
    started_at: Time | None = Field(
        None, description="When the job's program started. The lease's time counts from then."
    )
    expires_at: Time | None = Field(
        None,
        description="When the lease ends. Until its program has started, this is the latest end; while it is parked, "
        "when its node ends it there.",
    )
    parked: Parked | None = Field(None, description="Its program in main memory; the last time, where that is over.")
    park_asked: int | None = Field(
        None,
        description="The generation of the spec at which its node was asked to park its program, or was still at it; "
        "none once nobody wants it parked, and it runs.",
    )
    park_refused: int | None = Field(
        None, description="The generation of the spec whose wish to be parked its node has refused."
    )
    ended_at: Time | None = Field(None, description="When the share was free again.")


START_WITHIN: Mapping[str, float] = {"process": 30.0, "container": 120.0}
"""By runtime: seconds after its grant from which the time of a job's lease counts, though its program did not start."""


def start_within(spec: GPUPartitionSpec) -> float:
    """Seconds after the grant in which the lease's time begins to count at the latest; 0 where it does at once."""
    return START_WITHIN.get(spec.runtime or "", 0.0) if spec.gang is not None else 0.0


class GPUPartition(Resource):
    """A time-limited share of one device."""

    KIND: ClassVar[str] = "GPUPartition"
    MUTABLE: ClassVar[frozenset[str]] = frozenset({"renewal", "priority", "until", "park"})

    kind: Literal["GPUPartition"] = Field("GPUPartition", description="Always GPUPartition.")
    spec: GPUPartitionSpec = Field(description="What share, of which device, for how long.")
    status: GPUPartitionStatus = Field(
        default_factory=GPUPartitionStatus,
        description="Where it was bound and what lease it holds. A manifest cannot set it.",
    )

    @property
    def job(self) -> OwnerReference | None:
        """The job that it belongs to; None of one that a person made."""
        return self.owner("GPUJob")

    @property
    def waits(self) -> bool:
        """Whether it is in the queue for a share: its first, or the one on its GPU to which it is to come back."""
        phase, park = self.status.phase, self.spec.park
        return phase is PartitionPhase.PENDING or (
            phase is PartitionPhase.PARKED and park is not None and park.back_since is not None
        )

    @property
    def to_be_parked(self) -> bool:
        """Whether its node is to park it: nobody wants it back, and the node has not refused that wish."""
        park = self.spec.park
        return park is not None and park.back_since is None and self.status.park_refused != self.metadata.generation

    def refusal(self, submitter: Submitter, rules: DaemonRules) -> str:
        if self.spec.host_ports and not submitter.admin:
            return "spec.hostPorts needs the role admin in all namespaces"
        if self.spec.park is not None:
            return "spec.park is set by the job controller alone: park a job"
        return ""
