"""GPUNode: a machine with devices. Discovery creates it and keeps it up to date."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field

from cumulus.resources.device import Device, Link, Slice
from cumulus.resources.enforcement import Enforcement, Overuse, Unleased, unleased_exception
from cumulus.resources.fields import Bytes, FieldError, Model, SecretName, Text, Time, all_fields
from cumulus.resources.meta import Condition, Resource, condition
from cumulus.resources.reasons import NodeCondition


def _host(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9:][A-Za-z0-9._:%-]*", value):
        raise ValueError(f"{value[:80]!r} is not a host name or IP address")
    return value


def _user(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", value):
        raise ValueError(f"{value[:80]!r} is not a user name")
    return value


class SshAddress(Model):
    """How the controllers reach the node over SSH. Its host key must be known; `cumulus node add` records it."""

    host: Annotated[str, AfterValidator(_host)] = Field(description="The host name or IP address.")
    port: int = Field(22, ge=1, le=65535, description="The port of its sshd.")
    user: Annotated[str, AfterValidator(_user)] = Field(
        description="The user to log in as: root, or a user who may run chronos_cli with sudo."
    )
    key_secret: SecretName | None = Field(
        None,
        description="The daemon's own secret (`cumulus secret create --system`) that holds the private key, as its key "
        "ssh-privatekey. If left out: SSH_KEY_PATH, the "
        "SSH agent, ~/.ssh.",
    )
    chronos_cli: Text | None = Field(
        None,
        min_length=1,
        description="The command that runs chronos_cli there. If left out: chronos_cli for root, sudo -n chronos_cli "
        "for others.",
    )


UnleasedException = Annotated[str, AfterValidator(unleased_exception)]
"""user:NAME, user:UID or program:NAME."""


class GPUNodeSpec(Model):
    """What people set on a node."""

    unschedulable: bool = Field(False, description="Cordoned: nothing new is placed here.")
    overuse: Overuse | None = Field(
        None,
        description="What the node does at least about leases whose processes hold more GPU memory than they lease. "
        "End: kill them at once. Report: what the lease asks for. If left out: what `chronos_cli policy` says there; "
        "at first, End for a part of a GPU and Report for a whole one.",
    )
    unleased_processes: Unleased | None = Field(
        None,
        description="What the node does about processes that hold a GPU without any lease: Ignore, Report (the "
        "condition OnlyLeased), or End: those of people (uid 1000 and above) are ended. If left out: what "
        "`chronos_cli policy` says there; at first, Report.",
    )
    unleased_exceptions: tuple[UnleasedException, ...] | None = Field(
        None,
        max_length=64,
        description="Whose processes are never ended for want of a lease: user:NAME, user:UID or program:NAME.",
    )
    parking_memory: Bytes | None = Field(
        None,
        description="Main memory that parked programs may take: 64Gi; 0: none is parked. If left out: what "
        "`chronos_cli policy` says there; at first, half of it. Never more than is free.",
    )
    ssh: SshAddress | None = Field(None, description="How to reach a node that runs no daemon.")


class ForeignLease(Model):
    """A lease that somebody took on the node itself, with chronos_cli or the library. It has no GPUPartition."""

    partition_id: str = Field(description="The id of the lease.")
    memory_bytes: int = Field(description="The memory leased, in bytes.")
    compute: int = Field(description="The compute leased, in thousandths of the device.")
    expires_at: Time = Field(description="When the lease ends.")
    grace_seconds: float = Field(0, description="Time between SIGTERM and SIGKILL, in seconds.")
    user: str = Field("", description="Who the share is for.")


class DeviceLink(Model):
    """Devices of the node that a device reaches in one way."""

    over: Link = Field(description="NVLink, PCIeSwitch, HostBridge, NUMANode or System, from fast to slow.")
    devices: tuple[int, ...] = Field(description="The numbers of those devices.")


class UnleasedProcess(Model):
    """A process that holds memory of a device without any lease."""

    pid: int = Field(description="Its number on the node.")
    user: str = Field(description="Whose it is.")
    program: str = Field("", description="What it calls itself.")
    memory_bytes: int = Field(description="What it holds of the device, in bytes.")


class DeviceFigures(Model):
    """How a device is, as its driver says. What the driver does not tell is left out."""

    used_memory_bytes: int | None = Field(None, description="Memory in use by all processes, in bytes.")
    busy: int | None = Field(None, description="The part of the last moment with work, in thousandths.")
    power_watts: float | None = Field(None, description="Power drawn now.")
    temperature_celsius: int | None = Field(None, description="Temperature of the chip.")
    throttling: tuple[str, ...] = Field(
        (), description="Why it is slower than it could be: PowerCap, Thermal, PowerBrake, Hardware."
    )
    ecc_corrected: int | None = Field(None, description="Memory errors that were corrected, since the last reset.")
    ecc_uncorrected: int | None = Field(None, description="Memory errors that were not, since the last reset.")


class DeviceStatus(Model):
    """One device: its size, and what of it is free. Compute is in thousandths of the device."""

    index: int = Field(description="The device's number on its node.")
    id: str = Field("", description="An id of the device that stays the same after a reboot.")
    name: str = Field(description="The device's name.")
    vendor: str = Field("", description="The device's vendor.")
    type: Literal["gpu", "cpu", "accelerator"] = Field("gpu", description="gpu, cpu or accelerator.")
    memory_bytes: int = Field(description="The memory that can be leased, in bytes.")
    next_memory_bytes: int | None = Field(
        None,
        description="The memory it will have when its last lease has ended; set if the driver now says another size.",
    )
    driver: str = Field("", description="The driver's version.")
    enforcement: Enforcement = Field(Enforcement.NONE, description="How strongly the node can enforce a share of it.")
    free_memory_bytes: int = Field(0, description="Memory not leased, in bytes.")
    free_compute: int = Field(0, description="Compute not leased, in thousandths of the device.")
    foreign_leases: tuple[ForeignLease, ...] = Field(
        (), description="Leases that somebody took on the node itself, without a GPUPartition."
    )
    overused_memory_bytes: int = Field(
        0, description="Memory that leases hold beyond their size. It is not free, whatever is leased."
    )
    unleased_processes: tuple[UnleasedProcess, ...] = Field(
        (), description="Processes that hold memory of it without any lease: it is not free."
    )
    fault: str | None = Field(None, description="Why nothing new is placed on it: the device has failed.")
    figures: DeviceFigures | None = Field(None, description="How it is, as its driver says.")
    idle_since: Time | None = Field(
        None, description="Since when it has done nothing at each look, if that is for a minute at least."
    )
    platform_index: int = Field(-1, description="Its OpenCL platform's index on the node, -1 if it has none.")
    device_index: int = Field(-1, description="Its index within that platform, -1 if it has none.")
    parent: str | None = Field(None, description="Of a MIG instance: the id of its GPU.")
    links: tuple[DeviceLink, ...] = Field(
        (), description="How it reaches the node's other devices, as far as the driver tells."
    )

    @classmethod
    def of(cls, device: Device, *, free: Slice, foreign_leases: tuple[ForeignLease, ...] = ()) -> Self:
        """The status of a device of which so much is free."""
        return cls(
            index=device.index, id=device.id, name=device.name, vendor=device.vendor, type=device.type,
            memory_bytes=device.memory_bytes, next_memory_bytes=device.next_memory_bytes or None,
            driver=device.driver, enforcement=device.enforcement, free_memory_bytes=free.memory_bytes,
            free_compute=free.compute, foreign_leases=foreign_leases, platform_index=device.platform_index,
            device_index=device.device_index, parent=device.parent or None,
            links=tuple(DeviceLink(over=link, devices=devices) for link, devices in device.links),
        )  # fmt: skip

    @property
    def device(self) -> Device:
        """The device itself, without what is free of it."""
        return Device(
            self.index, self.id, self.name, self.vendor, self.type, self.memory_bytes, self.driver, self.enforcement,
            self.platform_index, self.device_index, self.next_memory_bytes or 0,
            links=tuple((link.over, link.devices) for link in self.links), parent=self.parent or "",
        )  # fmt: skip


class ParkingProof(Model):
    """What the node's self-test, or a program that did not come back, showed of one framework."""

    device: str = Field(description="The name of the GPU's kind.")
    driver: str = Field(description="The driver's version.")
    framework: str = Field(description="cuda, torch, cupy, jax …")
    holds: bool = Field(description="Whether a program of it was parked and came back with the same data.")
    message: str = Field("", description="Why not.")


class NodeParking(Model):
    """What of the node's main memory parked programs may take, and what can be parked there."""

    limit_bytes: int = Field(description="What parked programs may take in all, in bytes.")
    used_bytes: int = Field(0, description="What is set aside for them now.")
    proofs: tuple[ParkingProof, ...] = Field((), description="What was tested.")


class HostJobUser(Model):
    """A user whose jobs without an image wait, or waited, and whether they can run on the node."""

    name: str = Field(description="The user's name.")
    uid: int = Field(description="The user's number on the daemon's machine.")
    problem: str = Field("", description="Why no program runs as that user on the node; empty where it does.")


class HostJobs(Model):
    """Jobs without an image on a node other than the daemon's own machine."""

    offered: bool = Field(description="Whether the node runs them.")
    message: str = Field("", description="Why it does not.")
    users: tuple[HostJobUser, ...] = Field((), description="What the node said of the users that it was asked about.")
    shared: tuple[str, ...] = Field(
        (), description="Directories that are the same there, as the daemon's setting jobs.shared says."
    )

    def problem_of(self, user: str) -> str | None:
        """Why no program runs as the user NAME:UID, "" where it does; None where the node has not been asked."""
        return next((each.problem for each in self.users if f"{each.name}:{each.uid}" == user), None)

    def shares(self, directory: str) -> bool:
        return any(directory == place or directory.startswith(f"{place.rstrip('/')}/") for place in self.shared)


class NodeDrain(Model):
    """A time in which a Reservation holds all devices of the node for nobody."""

    reservation: str = Field(description="The Reservation's name.")
    start: Time = Field(description="When it begins.")
    end: Time = Field(description="When it is over.")


class GPUNodeStatus(Model):
    """What discovery and heartbeats found."""

    observed_generation: int = Field(0, description="The generation of the spec that the node acted on.")
    conditions: tuple[Condition, ...] = Field(
        (),
        description="Ready, ContainersReady, MPSReady, OpenCLLayer, CUDACounter, Policed, DevicesHealthy, OnlyLeased, "
        "Twin.",
    )
    hostname: str = Field("", description="The machine's host name.")
    boot_id: str = Field("", description="Changes when the machine reboots.")
    runtimes: tuple[Literal["process", "container"], ...] = Field(
        (), description="What can run here: process, container."
    )
    host_jobs: HostJobs | None = Field(
        None, description="Of a node reached over SSH: whether jobs without an image run there, and whose."
    )
    devices: tuple[DeviceStatus, ...] = Field((), description="The devices, and what of each is free.")
    parking: NodeParking | None = Field(None, description="Of a node that can park programs.")
    drain: NodeDrain | None = Field(
        None, description="The next time, or the one now, in which the node is held for nobody: `cumulus drain --at`."
    )
    checkpoint_places: tuple[Literal["file", "s3"], ...] | None = Field(
        None,
        description="To what the node copies checkpoints: file, s3. For s3 it needs boto3, which `cumulus node setup` "
        "installs. Left out where it does not say.",
    )
    heartbeat_time: Time | None = Field(None, description="When the node last answered.")
    term: int = Field(
        0,
        description="The token of the leader that reported the node last, as the Lease has it: `cumulus wait` believes "
        "no report of a daemon that has stopped.",
    )
    chronos_version: str = Field("", description="The version of Chronos on the node.")
    clock_skew_seconds: float | None = Field(
        None, description="How far its clock is ahead of the controllers' clock, by which leases are shown."
    )


class GPUNode(Resource):
    """A machine with devices."""

    KIND: ClassVar[str] = "GPUNode"
    MUTABLE: ClassVar[frozenset[str]] = all_fields(GPUNodeSpec)
    NAMESPACED: ClassVar[bool] = False

    kind: Literal["GPUNode"] = Field("GPUNode", description="Always GPUNode.")
    spec: GPUNodeSpec = Field(default_factory=GPUNodeSpec, description="What people set on the node.")
    status: GPUNodeStatus = Field(
        default_factory=GPUNodeStatus, description="What discovery and heartbeats found. A manifest cannot set it."
    )

    def check_user_may_create(self) -> None:
        if self.spec.ssh is None:
            message = (
                f"there is no GPUNode {self.metadata.name}; nodes are made by discovery, or by apply with spec.ssh, "
                "where they are to be found"
            )
            raise FieldError(("metadata", "name"), message)


def in_cluster(node: GPUNode) -> bool:
    """Whether the node is, or was, a machine of a container engine's cluster."""
    return condition(node.status.conditions, NodeCondition.CONTAINERS_READY) is not None
