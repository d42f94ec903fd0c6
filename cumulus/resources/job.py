"""GPUJob: a program that runs inside leased shares of GPUs, as one process or a gang of replicas."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from cumulus.resources.enforcement import Enforcement
from cumulus.resources.fields import (
    AbsolutePath,
    Argument,
    Bytes,
    ComputeShare,
    Cpus,
    Delay,
    Duration,
    FieldError,
    MemoryShare,
    Model,
    NodePath,
    SecretName,
    Size,
    Text,
    Time,
    rule,
)
from cumulus.resources.meta import Condition, LabelMap, Resource
from cumulus.resources.placement import Placement

_AS_A_PROCESS = {
    "runAsUser": "a process runs as the node's own user",
    "shmSize": "a process has the node's /dev/shm",
    "hostNetwork": "a process has the node's network already",
    "ports": "a process has the node's own ports already",
}


class SecretKeyRef(Model):
    """One key of a secret kept on the node or the cluster, never in an object."""

    name: SecretName = Field(description="The secret's name.")
    key: SecretName = Field(description="The key within the secret.")


class EnvSource(Model):
    """Where an environment variable's value comes from."""

    secret_key_ref: SecretKeyRef = Field(description="Take the value from a secret; it is never stored or logged.")


class Env(Model):
    """An environment variable: either a value, or where to take it from."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="The variable's name.")
    value: Argument | None = Field(None, description="Its value, as text.")
    value_from: EnvSource | None = Field(None, description="Where its value comes from, instead of `value`.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.value is not None and self.value_from is not None:
            raise FieldError(("valueFrom",), "stands beside value; keep one of them")
        return self


class Mount(Model):
    """A path of the node that the job sees."""

    source: AbsolutePath = Field(description="An absolute path on the node.")
    target: NodePath = Field(
        description="Where the job sees it; relative paths start at its working directory. A job without an image sees "
        "the node's own paths: there it is relative, or the source itself."
    )
    read_only: bool = Field(False, description="Refuse writes through this mount; needs an image.")


HostPort = Annotated[int, Field(ge=1, le=65535)]
"""A TCP port."""


class Port(Model):
    """A TCP port of the job's container that can be reached at its node."""

    container_port: HostPort = Field(description="The port that the program listens on.")
    host_port: HostPort = Field(
        description="The port of the node that leads there. No two jobs have the same one of a node at a time: the "
        "second waits, or goes to another node."
    )


class DeviceSelector(Model):
    """Which devices will do. Everything given must hold."""

    vendor: Text | None = Field(None, description="The vendor, compared without case as a part: nvidia, amd, intel.")
    name: Text | None = Field(None, description="A glob on the device's name: *H100*.")
    type: Literal["gpu", "cpu", "accelerator"] | None = Field(None, description="The type of device.")
    min_memory: Bytes | None = Field(None, description="The least memory the whole device must have.")
    node_labels: LabelMap = Field(default_factory=dict, description="Labels that the node must carry.")


class GPU(Model):
    """The share of a GPU that each replica leases: a size and an end."""

    memory: MemoryShare = Field(
        description="Memory of each device: a fraction 0.5, a percentage 50% or a quantity 20Gi."
    )
    compute: ComputeShare | None = Field(
        None,
        description="Compute of each device as a percentage or fraction; as much as the memory's share if left out.",
    )
    count: int = Field(1, ge=1, le=64, description="Devices per replica, all on one node, each leased by this share.")
    duration: Duration = Field(
        description="How long the lease lasts from the start of the program: 1h30m, or seconds. The program is ended "
        "when it is over."
    )
    selector: DeviceSelector = Field(default_factory=DeviceSelector, description="Which devices will do.")


class HostResources(Model):
    """Limits on the node's own CPUs and memory for each replica."""

    cpus: Cpus | None = Field(None, description="CPUs: 2, 0.5 or 500m.")
    memory: Bytes | None = Field(None, description="Main memory: 8Gi.")


class RetryPolicy(Model):
    """What happens when an attempt fails."""

    limit: int = Field(0, ge=0, le=1000, description="How many times a failed attempt is tried again.")
    backoff: Delay = Field("10s", description="The wait before the first retry; it doubles with each, up to an hour.")


class Checkpoint(Model):
    """How the job keeps its work over the end of a lease. A job without one that exits with 0 after the stop signal has
    succeeded."""

    path: NodePath | None = Field(
        None,
        description="Where the job writes its checkpoint, given to it as CUMULUS_CHECKPOINT_PATH. A relative path is "
        "kept for all attempts, and goes with the job when it is deleted.",
    )
    uri: Text | None = Field(
        None, pattern=r"^(s3|file)://", description="Where checkpoints are kept: s3://bucket/prefix."
    )
    grace_period: Delay = Field("30s", description="Time between the stop signal and SIGKILL, to write a checkpoint.")
    on_expiry: Literal["Requeue", "Fail"] = Field(
        "Requeue",
        description="What follows when the lease ends first. With Requeue, exit code 75 (EX_TEMPFAIL) always means: "
        "saved, start me again in a new lease. It counts as no failure, except the second in a row without a newer "
        "checkpoint.",
    )
    exit_zero: Literal["Requeue", "Succeeded"] = Field(
        "Requeue",
        description="What exit code 0 means after the stop signal. Requeue: the work is saved but not done, so it goes "
        "on in a new lease. Succeeded: the work is done. Without a stop signal, exit code 0 always means done.",
    )


class GPUJobSpec(Model):
    """What to run, on what share of a GPU, for how long."""

    image: Text | None = Field(
        None, min_length=1, description="Container image; without one the job runs as a process."
    )
    command: tuple[Argument, ...] = Field(
        (),
        description="The program and its first arguments; required without an image. A job has the PATH of a login: "
        "give the path of a Python of your own.",
    )
    args: tuple[Argument, ...] = Field((), description="Arguments that follow the command.")
    working_dir: AbsolutePath | None = Field(
        None,
        description="Directory to start in. If left out, each replica of each attempt has a new one, whose files go "
        "with the job when it is deleted, or after its ttlAfterFinished: `describe` shows the path.",
    )
    env: tuple[Env, ...] = Field(
        (),
        description="Environment variables, over those that every job has: PATH, HOME, USER and LANG as after a login, "
        "and PYTHONUNBUFFERED. Nothing passes from the shell of the daemon.",
    )
    mounts: tuple[Mount, ...] = Field((), description="Paths of the node that the job sees.")
    run_as_user: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        None, description="The user id that the container's program runs as; the image's own user if left out."
    )
    shm_size: Size | None = Field(
        None,
        description="Size of the container's /dev/shm, which PyTorch's data loaders use; 64Mi if left out. It counts "
        "towards resources.memory.",
    )
    host_network: bool = Field(
        False, description="The container uses its node's own network: every port of its program is one of the node."
    )
    ports: tuple[Port, ...] = Field((), description="TCP ports of the container that can be reached at its node.")
    gpu: GPU = Field(description="The share of a GPU that each replica leases.")
    min_enforcement: Enforcement = Field(
        Enforcement.NONE,
        description="The weakest enforcement of the share that will do: none, guarded or hard.",
    )
    replicas: int = Field(1, ge=1, le=1000, description="Size of the gang: all replicas are placed, or none.")
    resources: HostResources = Field(
        default_factory=HostResources, description="CPU and memory limits of each replica."
    )
    placement: Placement = Field(
        Placement.PACK,
        description="Pack: on devices that are in use already, so that whole ones stay free for large jobs. Spread: "
        "each replica on the node that is least loaded by then.",
    )
    priority: Annotated[int, Field(ge=-(10**9), le=10**9)] = Field(0, description="Higher is placed first.")
    retry: RetryPolicy = Field(default_factory=RetryPolicy, description="What happens when an attempt fails.")
    active_deadline: Duration | None = Field(
        None,
        description="Longest time from the first start to the end, over all attempts. Suspending the job stops the "
        "clock; after it is resumed, the next start starts it anew.",
    )
    checkpoint: Checkpoint | None = Field(None, description="How the job keeps its work over the end of a lease.")
    suspend: bool = Field(False, description="Hold the job: nothing is leased or run while this is true.")
    ttl_after_finished: Delay | None = Field(
        None, description="Delete the job this long after it finished, and with it the logs and files of its attempts."
    )

    @model_validator(mode="after")
    def _something_to_run(self) -> Self:
        if self.image is None and not self.command:
            raise ValueError("has neither image nor command; give a command to run as a process, or an image")
        return self

    @rule
    def _only_in_a_container(self) -> None:
        if self.image is not None:
            return
        asked = {"runAsUser": self.run_as_user is not None, "shmSize": self.shm_size is not None,
                 "hostNetwork": self.host_network, "ports": bool(self.ports)}  # fmt: skip
        for name, given in asked.items():
            if given:
                raise FieldError((name,), f"needs an image: {_AS_A_PROCESS[name]}; remove it, or give spec.image")

    @rule
    def _shared_memory_once(self) -> None:
        if self.shm_size is None:
            return
        for index, mount in enumerate(self.mounts):
            if _plain(mount.target) == "/dev/shm":
                raise FieldError(("mounts", index, "target"), "mounts at /dev/shm beside shmSize; keep one of them")

    @rule
    def _ports_once(self) -> None:
        seen: set[int] = set()
        for index, port in enumerate(self.ports):
            if port.host_port in seen:
                raise FieldError(("ports", index, "hostPort"), f"is port {port.host_port} a second time; keep one")
            seen.add(port.host_port)
            if self.host_network and port.host_port != port.container_port:
                message = (
                    f"is not containerPort {port.container_port}: with hostNetwork nothing leads from one to another"
                )
                raise FieldError(("ports", index, "hostPort"), message)

    @rule
    def _variables_once(self) -> None:
        seen: set[str] = set()
        for index, variable in enumerate(self.env):
            if variable.name in seen:
                raise FieldError(("env", index, "name"), f"sets {variable.name} a second time; keep one")
            seen.add(variable.name)

    @rule
    def _program_named(self) -> None:
        if self.image is None and self.command and not self.command[0]:
            raise FieldError(("command", 0), "names no program; give one, as in command: [python, train.py]")

    @rule
    def _targets_once(self) -> None:
        seen: set[str] = set()
        for index, mount in enumerate(self.mounts):
            target = _plain(mount.target)
            if target in seen:
                raise FieldError(("mounts", index, "target"), f"mounts at {mount.target} a second time; keep one")
            seen.add(target)

    @rule
    def _no_read_only_links(self) -> None:
        for index, mount in enumerate(self.mounts):
            if self.image is None and mount.read_only is True:
                message = "cannot hold without an image: a process writes wherever its user may; remove it"
                raise FieldError(("mounts", index, "readOnly"), message)

    @rule
    def _node_paths_stay(self) -> None:
        for index, mount in enumerate(self.mounts):
            moved = _plain(mount.target) != _plain(mount.source)
            if self.image is None and mount.target.startswith("/") and moved:
                message = (
                    "cannot be another absolute path without an image: a process sees the node's own; use a path "
                    "relative to the working directory, or the source itself"
                )
                raise FieldError(("mounts", index, "target"), message)

    @rule
    def _no_links_in_sources(self) -> None:
        """Without an image a mount is a symbolic link."""
        targets = [_plain(mount.target) for mount in self.mounts]
        for index, target in enumerate(targets):
            outer = next((other for other in targets if target.startswith(f"{other}/")), None)
            if self.image is None and outer is not None and not target.startswith("/"):
                message = f"lies within the mount at {outer}, and would be a link in its source; choose one beside it"
                raise FieldError(("mounts", index, "target"), message)


def _plain(path: str) -> str:
    """/a/b for /a//./b/"""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return ("/" if path.startswith("/") else "") + "/".join(parts)


class JobPhase(StrEnum):
    PENDING = "Pending"
    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    CHECKPOINTING = "Checkpointing"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def finished(self) -> bool:
        return self in (JobPhase.SUCCEEDED, JobPhase.FAILED)


class Attempt(Model):
    """One try at running the job. `reason` is set once it ended: Completed, Error, Saved, LeaseExpired, NodeLost,
    Suspended, Deadline, StartError, …"""

    number: int = Field(description="Counted from 1.")
    node: str = Field("", description="The node of replica 0.")
    nodes: tuple[str, ...] = Field(
        (), description="The nodes of all replicas, in their order, where there are several."
    )
    partitions: tuple[str, ...] = Field((), description="Names of the GPUPartitions it ran in.")
    queue_time: Time | None = Field(
        None, description="When it joined the queue, which is its place among attempts of the same priority."
    )
    start_time: Time | None = Field(None, description="When it was started.")
    end_time: Time | None = Field(None, description="When it ended.")
    exit_code: int | None = Field(
        None, description="Exit code of the first replica that failed, or 0; 128 + N where signal N ended it."
    )
    reason: str = Field(
        "",
        description="Set once it ended: Completed, Error, Saved, NotSaved, LeaseExpired, NodeLost, Suspended, "
        "Deadline, StartError, …",
    )
    checkpoint_time: Time | None = Field(
        None, description="When the newest file of its checkpoint was written, looked at where it exited with 75."
    )
    message: str = Field("", description="What happened, for people.")


class GPUJobStatus(Model):
    """What the controllers saw."""

    observed_generation: int = Field(0, description="The generation of the spec that the controller acted on.")
    phase: JobPhase = Field(JobPhase.PENDING, description="Where the job is on its way.")
    conditions: tuple[Condition, ...] = Field(
        (), description="Scheduled, PartitionsReady, Running, Succeeded, Failed, Suspended."
    )
    attempts: tuple[Attempt, ...] = Field((), description="The last 20, oldest first.")
    attempt_count: int = Field(0, description="All attempts ever made.")
    failures: int = Field(0, description="Attempts that count against retry.limit.")
    start_time: Time | None = Field(
        None, description="When the first attempt started, since the job was suspended last."
    )
    completion_time: Time | None = Field(None, description="When the job succeeded or failed for good.")

    @property
    def live_attempt(self) -> Attempt | None:
        """The attempt that was begun and has not ended."""
        last = self.attempts[-1] if self.attempts else None
        return last if last is not None and last.end_time is None else None


class GPUJob(Resource):
    """A program that runs inside leased shares of GPUs."""

    KIND: ClassVar[str] = "GPUJob"
    MUTABLE: ClassVar[frozenset[str]] = frozenset(
        {"suspend", "priority", "retry", "activeDeadline", "ttlAfterFinished"}
    )

    kind: Literal["GPUJob"] = Field("GPUJob", description="Always GPUJob.")
    spec: GPUJobSpec = Field(description="What to run, on what share of a GPU, for how long.")
    status: GPUJobStatus = Field(
        default_factory=GPUJobStatus, description="What the controllers saw. It cannot be applied."
    )

    @model_validator(mode="after")
    def _name_fits_a_label(self) -> Self:
        if len(self.metadata.name) > 63:
            message = (
                f"has {len(self.metadata.name)} characters; at most 63, since a job's partitions carry it as a label"
            )
            raise FieldError(("metadata", "name"), message)
        return self
