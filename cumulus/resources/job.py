"""GPUJob: a program that runs inside leased shares of GPUs, as one process or a gang of replicas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from cumulus.lib import host_image
from cumulus.resources.awaited_jobs import FIELDS
from cumulus.resources.documents import lookup
from cumulus.resources.enforcement import Enforcement, Overuse, Sharing
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
    Name,
    NodePath,
    SecretName,
    Size,
    Text,
    Time,
    rule,
)
from cumulus.resources.job_after import After, Dependency
from cumulus.resources.job_call import Call, CallStatus
from cumulus.resources.job_checkpoint import Checkpoint, PrefetchedCheckpoint, SavedCheckpoint
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.job_runs import Attempt as Attempt
from cumulus.resources.job_runs import EarlierRun
from cumulus.resources.key import Document, Key
from cumulus.resources.meta import Condition, LabelMap, Resource
from cumulus.resources.parking import PARK_FOR, Idle
from cumulus.resources.placement import Placement
from cumulus.resources.preemption import Preemptible
from cumulus.resources.renewal import Renewal
from cumulus.resources.submitter import DaemonRules, Submitter

_AS_A_PROCESS = {
    "runAsUser": "a process runs as the node's own user",
    "shmSize": "a process has the node's /dev/shm",
    "hostNetwork": "a process has the node's network already",
    "ports": "a process has the node's own ports already",
}


class SecretKeyRef(Model):
    """One key of a secret of the job's own namespace. Its value is never in an object."""

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
            raise FieldError(("valueFrom",), "cannot be given together with value; keep one of them")
        return self


class Mount(Model):
    """A path of the node that the job sees."""

    source: AbsolutePath = Field(description="An absolute path on the node.")
    target: NodePath = Field(
        description="Where the job sees it. A relative path starts at its working directory. A job without an image "
        "sees the node's own paths, so its target is relative or the source itself."
    )
    read_only: bool = Field(False, description="Refuse writes through this mount; needs an image.")


HostPort = Annotated[int, Field(ge=1, le=65535)]
"""A TCP port."""


class Port(Model):
    """A TCP port of the job's container that can be reached on its node."""

    container_port: HostPort = Field(description="The port that the program listens on.")
    host_port: HostPort = Field(
        description="The node's port that leads to it. One job at a time can have a port of a node: a second job "
        "waits, or goes to another node."
    )


class DeviceSelector(Model):
    """Which devices fit. All conditions that are given must hold."""

    vendor: Text | None = Field(None, description="A part of the vendor's name, in any case: nvidia, amd, intel.")
    name: Text | None = Field(None, description="A glob on the device's name: *H100*.")
    type: Literal["gpu", "cpu", "accelerator"] | None = Field(None, description="The type of device.")
    min_memory: Bytes | None = Field(None, description="The least memory that the device must have in all.")
    node_labels: LabelMap = Field(default_factory=dict, description="Labels that the node must carry.")


class GPU(Model):
    """The share of a GPU that each replica leases: a size and an end."""

    memory: MemoryShare = Field(
        description="Memory of each device: a fraction 0.5, a percentage 50% or a quantity 20Gi."
    )
    compute: ComputeShare | None = Field(
        None,
        description="Compute of each device, as a percentage or fraction. If left out, the same share as of the "
        "memory.",
    )
    count: int = Field(
        1, ge=1, le=64, description="Devices for each replica, all on one node. The replica leases this share of each."
    )
    duration: Duration = Field(
        description="How long the lease lasts, counted from the start of the program: 1h30m, or seconds. When it is "
        "over, the program is ended."
    )
    selector: DeviceSelector = Field(default_factory=DeviceSelector, description="Which devices fit.")
    overuse: Overuse | None = Field(
        None,
        description="What the node does if the program holds more GPU memory than it leases. End: kill it at once. "
        "Report: set the condition Overused. If left out: End for a part of a GPU, Report for a whole one. A node may "
        "be stricter.",
    )
    renewal: Renewal | None = Field(
        None,
        description="Whether the lease is renewed before it ends; never, if left out. A gang ends with the first of "
        "its leases.",
    )
    sharing: Sharing | None = Field(
        None,
        description="How it shares a GPU. Parkable: its memory is counted without MPS, so that the program can be "
        "parked; programs of several leases take turns on the device. Concurrent: with MPS, which runs them at once "
        "and holds each to its compute; such a program can't be parked. If left out: Concurrent.",
    )


class HostResources(Model):
    """Limits on the node's own CPUs and memory for each replica."""

    cpus: Cpus | None = Field(None, description="CPUs: 2, 0.5 or 500m.")
    memory: Bytes | None = Field(None, description="Main memory: 8Gi.")


class RetryPolicy(Model):
    """What happens when an attempt fails."""

    limit: int = Field(0, ge=0, le=1000, description="How many times a failed attempt is tried again.")
    backoff: Delay = Field(
        "10s", description="The wait before the first retry. It doubles with each retry, up to an hour."
    )


class GPUJobSpec(Model):
    """What to run, on what share of a GPU, for how long."""

    image: Text | None = Field(
        None, min_length=1, description="Container image; without one the job runs as a process."
    )
    command: tuple[Argument, ...] = Field(
        (),
        description="The program and its first arguments; required without an image. A job has the PATH of a fresh "
        "login: for the Python of a virtual environment, give its full path.",
    )
    args: tuple[Argument, ...] = Field((), description="Arguments that follow the command.")
    call: Call | None = Field(
        None, description="A call of a Python function, instead of a command. `cumulus.sdk` makes it."
    )
    tty: bool = Field(
        False,
        description="Run the program at a terminal, which `cumulus attach` joins. It gets SIGHUP where nobody has been "
        "attached for a minute.",
    )
    stdin: bool = Field(
        False,
        description="Let the program wait for its standard input, which `cumulus run -i` gives it, once. It gets "
        "SIGHUP where that is cut off before its end. Without this its input is empty.",
    )
    working_dir: AbsolutePath | None = Field(
        None,
        description="The directory to start in. If left out, each replica of each attempt gets a new one, which is "
        "deleted with the job, also after its ttlAfterFinished; `describe` shows the path.",
    )
    env: tuple[Env, ...] = Field(
        (),
        description="Environment variables. They win over those that every job has: PATH, HOME, USER and LANG as "
        "after a login, and PYTHONUNBUFFERED. A job gets nothing from the shell of the daemon.",
    )
    umask: Annotated[str, Field(pattern=r"^0?[0-7]{3}$")] | None = Field(
        None,
        description="The umask of a job without an image, as octal digits: 027. If left out: 022, or the user's own "
        "where the daemon runs jobs as their submitters.",
    )
    mounts: tuple[Mount, ...] = Field((), description="Paths of the node that the job sees.")
    run_as_user: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        None,
        description="The user id that the container's program runs as. If left out: the submitter, or the image's own "
        "user for an admin's job.",
    )
    shm_size: Size | None = Field(
        None,
        description="Size of the container's /dev/shm, which PyTorch's data loaders use; 64Mi if left out. It counts "
        "towards resources.memory.",
    )
    host_network: bool = Field(
        False, description="Use the node's own network: every port that the program opens is a port of the node."
    )
    ports: tuple[Port, ...] = Field((), description="TCP ports of the container that can be reached on its node.")
    gpu: GPU = Field(description="The share of a GPU that each replica leases.")
    min_enforcement: Enforcement = Field(
        Enforcement.NONE,
        description="The weakest enforcement that the job accepts: none, guarded or hard (a whole MIG instance).",
    )
    replicas: int = Field(1, ge=1, le=1000, description="Size of the gang: all replicas are placed, or none.")
    resources: HostResources = Field(
        default_factory=HostResources, description="CPU and memory limits of each replica."
    )
    placement: Placement | None = Field(
        None,
        description="Pack: use devices that are in use already, so that whole devices stay free for large jobs. "
        "Spread: put each replica on the node that is least loaded then. If left out: as its queue says, else Pack.",
    )
    priority: Annotated[int, Field(ge=-(10**9), le=10**9)] = Field(
        0, description="Jobs with a higher priority are placed first."
    )
    queue: Name | None = Field(
        None, description="The queue that it is submitted to. If left out, the one of its user: see Queue."
    )
    preemptible: Preemptible = Field(
        Preemptible.CHECKPOINT,
        description="How the job ends where it holds what another queue is sure of, and that queue needs it. "
        "Checkpoint: it saves and goes on later; a job that keeps no checkpoint keeps its share until its lease ends. "
        "Kill: it is ended then too, and begins anew later.",
    )
    after: After | None = Field(
        None,
        description="Jobs that must end first. Until then the job takes no share and no place in a queue. It fails if "
        "that can't come true any more.",
    )
    retry: RetryPolicy = Field(default_factory=RetryPolicy, description="What happens when an attempt fails.")
    active_deadline: Duration | None = Field(
        None,
        description="The longest that the job may take from its first start to its end, over all attempts. Suspending "
        "the job stops this clock; it starts from zero at the first start after `resume`.",
    )
    checkpoint: Checkpoint | None = Field(None, description="How the job keeps its work when a lease ends.")
    suspend: bool = Field(False, description="Hold the job: while this is true, it leases and runs nothing.")
    park: bool = Field(
        False,
        description="Keep the job's program in main memory, and its GPU free for others: while this is true, nothing "
        "of the job is started. If its node can't park it, it goes on; with `suspend` beside it, it is then stopped.",
    )
    park_for: Duration = Field(
        PARK_FOR,
        description="How long a parked program is kept in main memory at most. After that it is ended, as if its lease "
        "were over.",
    )
    park_frozen: bool = Field(
        False,
        description="Stop its processes too while it is parked. If false, they go on, and only what they ask of the "
        "GPU waits: a notebook still answers.",
    )
    idle: Idle | None = Field(
        None, description="What happens if its GPU does nothing. If left out: what its queue says, or nothing."
    )
    ttl_after_finished: Delay | None = Field(
        None, description="Delete the job this long after it finished, and with it the logs and files of its attempts."
    )

    @model_validator(mode="after")
    def _something_to_run(self) -> Self:
        if self.image is None and not self.command and self.call is None:
            raise ValueError("has neither image nor command; give a command to run as a process, or an image")
        return self

    @rule
    def _call_instead_of_a_command(self) -> None:
        if self.call is None:
            return
        for name, given in (("command", self.command), ("args", self.args)):
            if given:
                raise FieldError((name,), "cannot be given together with call; keep one of them")
        if self.replicas != 1:
            raise FieldError(("replicas",), "must be 1 with call: a function is called once; make a job for each call")
        if self.image is not None and self.call.environment is not None:
            message = "cannot be given together with image; put the packages into the image, or remove it"
            raise FieldError(("call", "environment"), message)

    @rule
    def _no_host_image(self) -> None:
        if self.image is not None and host_image.is_named(self.image):
            message = "is the image by which programs of a node's own disk are run; remove it, and give spec.command"
            raise FieldError(("image",), message)

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
    def _only_without_a_container(self) -> None:
        if self.umask is not None and self.image is not None:
            raise FieldError(("umask",), "is for a job without an image: a container has its own; remove it")

    @rule
    def _shared_memory_once(self) -> None:
        if self.shm_size is None:
            return
        for index, mount in enumerate(self.mounts):
            if _plain(mount.target) == "/dev/shm":
                raise FieldError(("mounts", index, "target"), "mounts at /dev/shm, as shmSize does; keep one of them")

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
                message = f"lies within the mount at {outer}, and would be a link in its source; choose one outside"
                raise FieldError(("mounts", index, "target"), message)

    @rule
    def _one_terminal(self) -> None:
        if not self.tty:
            return
        if self.call is not None:
            raise FieldError(("tty",), "is not for a call: `cumulus exec -it` opens a shell there")
        if self.replicas > 1:
            raise FieldError(("tty",), "is for one replica: there is one terminal")

    @rule
    def _one_input(self) -> None:
        if not self.stdin:
            return
        if self.tty:
            raise FieldError(("stdin",), "is not for a job at a terminal, whose input that is; remove it")
        if self.call is not None:
            raise FieldError(("stdin",), "is not for a call: give its function an argument")
        if self.replicas > 1:
            raise FieldError(("stdin",), "is for one replica: there is one input")
        if not self.command:
            raise FieldError(("stdin",), "needs spec.command, also with an image: a shell looks for the input first")
        if self.retry.limit or self.checkpoint is not None:
            asked = "retry.limit" if self.retry.limit else "checkpoint"
            raise FieldError(("stdin",), f"cannot be given to a second attempt, which {asked} asks for; remove one")

    @rule
    def _one_lease_to_park(self) -> None:
        asked: tuple[str, ...] = ()
        if self.checkpoint is not None and self.checkpoint.on_expiry == "Park":
            asked, instead = ("checkpoint", "onExpiry"), "write Requeue"
        elif self.idle is not None and self.idle.action == "Park":
            asked, instead = ("idle", "action"), "write Release or Report"
        elif self.park is True:
            asked, instead = ("park",), "remove it, or use suspend"
        if asked and (self.replicas != 1 or getattr(self.gpu, "count", 1) != 1):
            raise FieldError(asked, f"parks the program of one lease: a job with several can't be parked; {instead}")

    @rule
    def _copied_from_a_mount(self) -> None:
        """What a container keeps to itself nobody else can copy. Without a path its program does that itself."""
        asked = self.checkpoint
        if self.image is None or asked is None or asked.uri is None or asked.path is None:
            return
        base = self.working_dir or "/"
        if self.working_dir is None and not asked.path.startswith("/"):
            message = "must be absolute where nothing says workingDir: the node copies it to uri; write the whole path"
            raise FieldError(("checkpoint", "path"), message)
        path = _below(base, asked.path)
        if not any(f"{path}/".startswith(f"{_below(base, mount.target).rstrip('/')}/") for mount in self.mounts):
            message = "is on none of spec.mounts, so its node cannot copy it to uri; mount a directory there"
            raise FieldError(("checkpoint", "path"), message)


def _below(base: str, path: str) -> str:
    return _plain(path if path.startswith("/") else f"{base}/{path}")


def _plain(path: str) -> str:
    """/a/b for /a//./b/"""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return ("/" if path.startswith("/") else "") + "/".join(parts)


class JobPromise(Model):
    """What a waiting job was promised."""

    start_by: Time = Field(description="It gets its shares by then at the latest.")


class GPUJobStatus(Model):
    """What the controllers observed."""

    observed_generation: int = Field(0, description="The generation of the spec that the controller acted on.")
    phase: JobPhase = Field(JobPhase.PENDING, description="How far the job is, in one word.")
    conditions: tuple[Condition, ...] = Field(
        (),
        description="Scheduled, PartitionsReady, Running, Complete and Succeeded (which say the same), Failed, "
        "Suspended, Overused, Parked, Idle.",
    )
    attempts: tuple[Attempt, ...] = Field((), description="The last 20, oldest first.")
    attempt_count: int = Field(0, description="How many attempts were made in all.")
    next: Attempt | None = Field(
        None,
        description="The attempt that will follow the one that runs. It is queued before that one's lease ends, and "
        "starts when that one has ended.",
    )
    promise: JobPromise | None = Field(
        None,
        description="When it starts at the latest, while it waits. It only moves earlier; where it must move later, an "
        "event names the cause.",
    )
    after: tuple[Dependency, ...] | None = Field(None, description="How far each job is that spec.after names.")
    checkpoint: SavedCheckpoint | None = Field(None, description="The newest whole checkpoint.")
    prefetch: PrefetchedCheckpoint | None = Field(
        None, description="That checkpoint on its way to where the next attempt is to run, before it has a lease there."
    )
    failures: int = Field(0, description="Attempts that count against retry.limit.")
    preemptions: int | None = Field(None, description="How often it gave up its share for another queue.")
    start_time: Time | None = Field(
        None, description="When the first attempt started; after a suspension, the first one since then."
    )
    completion_time: Time | None = Field(None, description="When the job succeeded or failed for good.")
    call: CallStatus | None = Field(None, description="What came of spec.call. Set once the job is final.")
    run: int = Field(1, ge=1, description="Grows with each rerun, which makes the job anew under its name.")
    earlier_runs: tuple[EarlierRun, ...] = Field(
        (), description="The runs before this one, oldest first, whose logs can still be read: `cumulus logs --run N`."
    )

    @property
    def live_attempt(self) -> Attempt | None:
        """The attempt that was begun and has not ended."""
        last = self.attempts[-1] if self.attempts else None
        return last if last is not None and last.end_time is None else None


class GPUJob(Resource):
    """A program that runs inside leased shares of GPUs."""

    KIND: ClassVar[str] = "GPUJob"
    MUTABLE: ClassVar[frozenset[str]] = frozenset(
        {
            "suspend", "park", "parkFor", "parkFrozen", "idle", "priority", "preemptible", "retry", "activeDeadline",
            "ttlAfterFinished",
            "checkpoint.every", "checkpoint.keep", "checkpoint.onExpiry", "checkpoint.whenDeleted",
        }
    )  # fmt: skip
    """Of `checkpoint`, the next attempt gets what was changed."""

    kind: Literal["GPUJob"] = Field("GPUJob", description="Always GPUJob.")
    spec: GPUJobSpec = Field(description="What to run, on what share of a GPU, for how long.")
    status: GPUJobStatus = Field(
        default_factory=GPUJobStatus, description="What the controllers observed. A manifest cannot set it."
    )

    @model_validator(mode="after")
    def _name_fits_a_label(self) -> Self:
        if len(self.metadata.name) > 63:
            message = (
                f"has {len(self.metadata.name)} characters; at most 63, since a job's partitions carry it as a label"
            )
            raise FieldError(("metadata", "name"), message)
        return self

    @rule
    def _not_after_itself(self) -> None:
        for field in FIELDS if self.spec.after is not None else ():
            for index, name in enumerate(getattr(self.spec.after, field)):
                if name == self.metadata.name:
                    raise FieldError(("spec", "after", field, index), "is the job itself; remove it")

    @classmethod
    def sources(cls, document: Document) -> Sequence[tuple[str, Key]]:
        named = lookup(document, "spec.checkpoint.from")
        if not isinstance(named, str):
            return ()
        namespace, _, name = named.rpartition("/")
        return (("spec.checkpoint.from", Key(cls.KIND, namespace or document["metadata"]["namespace"], name)),)

    def refusal(self, submitter: Submitter, rules: DaemonRules) -> str:
        return self._refused_container(submitter, rules) if self.spec.image is not None else _refused(submitter, rules)

    def _refused_container(self, submitter: Submitter, rules: DaemonRules) -> str:
        spec, uid = self.spec, submitter.uid
        if submitter.admin:
            return ""
        if uid is None:
            return "a container runs as the Unix user who submits it, and you have none"
        if spec.run_as_user not in (None, uid):
            return f"spec.runAsUser is not your own, {uid}: that needs the role admin in all namespaces"
        asked = {"spec.hostNetwork": spec.host_network, "spec.ports": spec.ports}
        for name, given in asked.items():
            if given:
                return f"{name} needs the role admin in all namespaces"
        for index, mount in enumerate(spec.mounts):
            if not rules.may_mount(mount.source):
                listed = f"it lists {', '.join(rules.mounts)}" if rules.mounts else "it lists none"
                return (
                    f"spec.mounts[{index}].source {mount.source} is in no directory that the daemon's setting "
                    f"containers.mounts lists ({listed}): that needs the role admin in all namespaces"
                )
        return ""


def _refused(submitter: Submitter, rules: DaemonRules) -> str:
    """Of a program without an image."""
    if submitter.uid is None:
        return "a job without an image runs as a Unix user, and you have none"
    if rules.switches or submitter.uid in (0, rules.uid):
        return ""
    return (
        f"a job without an image would run as the daemon's own user (uid {rules.uid}), not as you: give it an image, "
        "or ask a system daemon (cumulus serve --system)"
    )
