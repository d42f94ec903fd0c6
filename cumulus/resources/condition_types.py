"""Every condition type, by the kind that has it. Apart from the reasons, so that a command which shows objects loads
few enums."""

from __future__ import annotations

from enum import StrEnum, unique


@unique
class JobCondition(StrEnum):
    """Condition types of a GPUJob. The job controller sets them."""

    SCHEDULED = "Scheduled"
    PARTITIONS_READY = "PartitionsReady"
    RUNNING = "Running"
    COMPLETE = "Complete"
    """The same as Succeeded, under the name that Kubernetes' Job has: what `kubectl wait` is asked for."""
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SUSPENDED = "Suspended"
    OVERUSED = "Overused"
    """Its processes held more of a GPU than it leases."""
    PARKED = "Parked"
    """Its program waits in main memory. False with the reason ParkRefused where it could not be parked."""
    IDLE = "Idle"
    """Its GPU has done nothing for as long as `idle.after` says."""


@unique
class PartitionCondition(StrEnum):
    """Condition types of a GPUPartition. The binding controller sets Bound, the partition controller the others."""

    BOUND = "Bound"
    ACTIVE = "Active"
    ENDED = "Ended"
    OVERUSED = "Overused"
    """Its processes hold more than the lease, or did when they were ended for it."""
    PARKED = "Parked"
    """Its program waits in main memory, and its share is free."""


@unique
class NodeCondition(StrEnum):
    """Condition types of a GPUNode. The node controller sets Ready and Twin, the cluster controller ContainersReady;
    the node's own Chronos sets the others."""

    READY = "Ready"
    CONTAINERS_READY = "ContainersReady"
    MPS_READY = "MPSReady"
    OPENCL_LAYER = "OpenCLLayer"
    CUDA_COUNTER = "CUDACounter"
    POLICED = "Policed"
    """Whether overuse of its devices is seen."""
    DEVICES_HEALTHY = "DevicesHealthy"
    """Whether none of its devices has failed."""
    ONLY_LEASED = "OnlyLeased"
    """Whether no process holds one of its devices without a lease."""
    TWIN = "Twin"
    """Another node counts its devices."""


@unique
class ArrayCondition(StrEnum):
    """Condition types of a GPUJobArray. The array controller sets them, once something is in the way."""

    JOBS_MADE = "JobsMade"
    """Whether the jobs that are next could be made."""


@unique
class SourceCondition(StrEnum):
    """Condition types of a Source. The source controller sets them."""

    READY = "Ready"
    """Whether it can be read."""
    SYNCED = "Synced"
    """Whether the cluster is what the newest revision says."""
    HEALTHY = "Healthy"
    """Whether none of its objects has failed."""


@unique
class LeaderCondition(StrEnum):
    """Condition types of the leader's Lease. The leader sets them."""

    PROGRESSING = "Progressing"
    """Whether the leader does its work: False where a part of it makes no progress."""
