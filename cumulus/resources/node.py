"""GPUNode: a machine with devices, made and kept up to date by discovery."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cumulus.resources.enforcement import Enforcement
from cumulus.resources.fields import Model
from cumulus.resources.meta import Condition, Resource


class GPUNodeSpec(Model):
    """What people decide about a node."""

    unschedulable: bool = Field(False, description="Cordoned: nothing new is placed here.")


class ForeignLease(Model):
    """A lease on the device that is no GPUPartition's: taken on the node with chronos_cli or the library."""

    partition_id: str
    memory_bytes: int
    compute: int
    expires_at: str
    grace_seconds: float = 0
    user: str = ""


class DeviceStatus(Model):
    """One device, its capacity and what is free of it. Compute in thousandths of the device."""

    index: int
    id: str = ""
    name: str
    vendor: str = ""
    type: Literal["gpu", "cpu", "accelerator"] = "gpu"
    memory_bytes: int
    driver: str = ""
    enforcement: Enforcement = Enforcement.NONE
    free_memory_bytes: int = 0
    free_compute: int = 0
    foreign_leases: tuple[ForeignLease, ...] = ()
    platform_index: int = -1
    device_index: int = -1


class GPUNodeStatus(Model):
    """What discovery and heartbeats found."""

    observed_generation: int = 0
    conditions: tuple[Condition, ...] = ()
    hostname: str = ""
    boot_id: str = ""
    runtimes: tuple[Literal["process", "container"], ...] = ()
    devices: tuple[DeviceStatus, ...] = ()
    heartbeat_time: str | None = None
    chronos_version: str = ""


class GPUNode(Resource):
    """A machine with devices."""

    KIND: ClassVar[str] = "GPUNode"
    MUTABLE: ClassVar[frozenset[str]] = frozenset(GPUNodeSpec.model_fields)
    NAMESPACED: ClassVar[bool] = False

    kind: Literal["GPUNode"] = "GPUNode"
    spec: GPUNodeSpec = Field(default_factory=GPUNodeSpec)
    status: GPUNodeStatus = Field(default_factory=GPUNodeStatus)
