"""The interface of a backend, which runs workloads for the controllers: start, stop, remove, look.

A backend starts a workload on the node that it is given. It never restarts, retries or places anything.
All calls are idempotent. Names are deterministic, so a controller that crashed looks before it creates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from cumulus.backends.checkpoints import SealedCheckpoint
from cumulus.calls.outcome import Outcome
from cumulus.calls.session import SessionConnection
from cumulus.lib import execution


@dataclass(frozen=True, slots=True)
class EnvVar:
    """A variable with a `value`, or from a secret (`secret` and `key`), which is read on the node and never stored or
    logged."""

    name: str
    value: str = ""
    secret: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class WorkloadMount:
    """`source` on the node appears to the job at `target`."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class LeaseRef:
    """A lease that a workload runs in, with what its environment and its supervisor need to know."""

    id: str
    device: int
    device_id: str
    device_name: str
    device_type: str
    platform_index: int
    device_index: int
    memory_bytes: int
    compute: int
    token: int
    expires_at: str
    """At the latest: its time counts from the start of the program."""
    enforcement: str
    seconds: float = 0.0
    """How long it lasts from there; 0 where that is not known."""


@dataclass(frozen=True, slots=True)
class CallToRun:
    """A call of a Python function: which blobs of `owner` it is made of (their sha256, "" for none), and what runs
    it."""

    owner: str
    payload: str
    python: str
    """major.minor."""
    archive: str = ""
    environment: str = ""
    interpreter: str = ""
    """Used on a node where it is that Python."""
    session: bool = False
    arguments: tuple[str, ...] = ()
    """Those that are not in the payload."""


class BlobReader(Protocol):
    """Where backends read what calls are made of: see `cumulus.blob.base.BlobStore`."""

    def open(self, owner: str, sha256: str, offset: int = 0) -> Iterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class CallResult:
    """What the run of a call left: its outcome, and the content of its result in chunks, `outcome.result_size` bytes
    where nobody changed it."""

    outcome: Outcome
    content: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Checkpointing:
    """How a job keeps its work, beside the path on its node."""

    uri: str = ""
    """Where its checkpoints are kept beyond the node; "" where nowhere."""
    named: bool = False
    """Whether the job itself names `uri`, or keys for it: a node that can't reach it then does not start the job."""
    credentials: str = ""
    """The secret with the keys to `uri`."""
    every: float = 0.0
    """Seconds between two saves; 0: only before the lease ends, and when the node asks."""
    keep: int = 1
    after: str = ""
    """The uid of the job whose last checkpoint a first attempt goes on from."""
    after_path: str = ""
    """Where that one keeps it on its node."""
    after_uri: str = ""


@dataclass(frozen=True, slots=True)
class GangMember:
    """Where one replica of a gang runs."""

    node: str
    address: str = ""
    """By which other nodes reach that one, as far as the controllers know it; "" where they don't."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One placed replica of one attempt of a job. `name` is never used again: it carries the job's uid."""

    name: str
    namespace: str
    job: str
    job_uid: str
    attempt: int
    replica: int
    replicas: int
    node: str
    command: tuple[str, ...]
    leases: tuple[LeaseRef, ...]
    args: tuple[str, ...] = ()
    """What follows the image's own entry point where there is no `command`."""
    image: str = ""
    working_dir: str = ""
    env: tuple[EnvVar, ...] = ()
    mounts: tuple[WorkloadMount, ...] = ()
    cpu_millis: int = 0
    """0: no limit."""
    memory_bytes: int = 0
    """Host memory in bytes, 0: no limit."""
    grace: float = 10.0
    """Seconds between the stop signal and SIGKILL."""
    checkpoint_path: str = ""
    checkpointing: Checkpointing | None = None
    """None: the job says nothing of checkpoints."""
    user_id: int | None = None
    """Whom a container's program runs as; None: as its image says."""
    shm_bytes: int = 0
    """Size of a container's /dev/shm; 0: the engine's own."""
    host_network: bool = False
    ports: tuple[tuple[int, int], ...] = ()
    """(port of the container, port of its node)."""
    submitter: str = ""
    """Who made the job; "" for the daemon's own user, in objects of versions that did not write it."""
    submitter_uid: int | None = None
    """That user's number on the daemon's machine, where there is one."""
    submitter_admin: bool = False
    """Whether they were an admin: then a container has what its job asks for."""
    call: CallToRun | None = None
    """What to run instead of a command."""
    umask: int | None = None
    """Of a program of the node; None: its user's own."""
    terminal: bool = False
    """Whether its program runs at a terminal."""
    terminal_size: tuple[int, int] | None = None
    """Columns and rows of that from the start; None where nobody has said."""
    stdin: bool = False
    """Whether its program waits for its standard input: see `WorkloadReach.feed`."""
    gang: tuple[GangMember, ...] = ()
    """All replicas, by their numbers; empty where there is one."""


class WorkloadState(StrEnum):
    STARTING = "Starting"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def finished(self) -> bool:
        return self in (WorkloadState.SUCCEEDED, WorkloadState.FAILED)


@dataclass(frozen=True, slots=True)
class Observed:
    """A workload as the backend sees it. When FAILED, `reason` is an `AttemptReason`: Error, OOMKilled,
    StartError, LeaseExpired, Stopped or Lost; else "". `exit_code` is 128+N for signal N, None where there was none.

    LeaseExpired and Stopped say that it got the stop signal before it ended, whatever its exit code, also 0: what that
    means is the job's to say. A program that was gone before the signal is what its exit code says."""

    name: str
    job_uid: str
    namespace: str
    job: str
    attempt: int
    replica: int
    node: str
    state: WorkloadState
    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    started_at: str = ""
    finished_at: str = ""
    checkpoint: SealedCheckpoint | None = None
    """Its newest whole checkpoint, as far as it was seen: looked at now and then while it runs, and at its end."""
    checkpoint_at: str | None = None
    """When the newest file of its checkpoint was written, "" where there is none; looked at where it exited with
    `exit_codes.SAVED` or a process's lease was over. None: nobody could see it."""


@dataclass(frozen=True, slots=True)
class WorkloadFinding:
    """Something that others did to a job's workload, to be told as an event. `reason` is an `EventReason`."""

    namespace: str
    job: str
    job_uid: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Prefetched:
    """A checkpoint on its way to a node on which nothing is leased yet."""

    node: str
    step: int | None = None
    """Of the newest that is there; None where there is none, or not yet."""
    done: bool = False
    problem: str = ""
    """Why it did not come, in one sentence."""


@runtime_checkable
class Prefetches(Protocol):
    """A backend that can bring a job's newest checkpoint to a node beside whatever runs."""

    def prefetch(self, workload: Workload, saved: str) -> Prefetched | None:
        """How far it is; it is begun where it was not, and asks nobody who may be slow to answer. None where the
        workload keeps nothing on its node. The workload has no leases yet. `saved` changes with what the job saves: one
        that was begun for something else, or for another node, is given up."""
        ...

    def give_up(self, job_uid: str) -> None:
        """Bring nothing ahead for that job any more. A purge does that too."""
        ...


@runtime_checkable
class ReportsFindings(Protocol):
    """A backend whose workloads others can change, for example with the engine's own tools."""

    def findings(self) -> Sequence[WorkloadFinding]:
        """The findings since the last call. They are lost with the process."""
        ...


class WorkloadReach(execution.Reach, Protocol):
    """The ways to a workload while it runs."""

    def session(self) -> SessionConnection:
        """A connection to a call that is a session. Raises `SessionEnded` where it has not begun or is over,
        `BackendError` where its node does not answer."""
        ...


class Backend(Protocol):
    """Raises `BackendError` where trying again may help, `BackendRefused` where it does not."""

    @property
    def runtime(self) -> str:
        """`process` or `container`: what the node's status offers and a job's spec asks for."""
        ...

    def start(self, workload: Workload) -> None:
        """Start the workload, once in its life. A name that was ever started is not started again, also after it was
        stopped, finished or removed: so no attempt runs twice."""
        ...

    def stop(self, name: str, grace: float, reason: str = "") -> None:
        """Begin to end the workload: SIGKILL after `grace` seconds, before that the stop signal. A job that keeps
        checkpoints is asked for one first, with the `reason`. Returns at once; ignores unknown names."""
        ...

    def remove(self, name: str) -> None:
        """Forget a finished workload but keep its log until `purge`. Raises `BackendError` where it still runs."""
        ...

    def purge(self, job_uid: str) -> None:
        """Delete logs and files of all workloads of a deleted job. Raises `BackendError` where one still runs."""
        ...

    def get(self, name: str) -> Observed | None:
        """The workload as it is now, None where it was never started or was removed."""
        ...

    def list(self, job_uid: str = "") -> Sequence[Observed]:
        """All workloads not removed: of every job, or of the one with that uid."""
        ...

    def logs(
        self, job_uid: str, attempt: int, replica: int, *,
        follow: bool = False, tail: int | None = None, since: float | None = None, timestamps: bool = False,
        position: int | None = None,
    ) -> Iterator[bytes]:  # fmt: skip
        """Chunks of what the replica wrote to stdout and stderr, also after `remove`. With `follow` until it ends;
        an empty chunk about every second says that nothing is new: a moment at which the caller can stop. `tail`,
        `since`, `timestamps`, `position`: see `logs.LogStore.read`."""
        ...

    def result(self, job_uid: str, attempt: int, replica: int) -> CallResult | None:
        """What a call's finished run left, until it is removed; None where it left nothing. Raises `BackendError` where
        it still runs or its node does not answer, and ValueError, in one line, where the call wrote what is none."""
        ...

    def reach(self, job_uid: str, attempt: int, replica: int) -> WorkloadReach:
        """The ways to the replica's program while it runs. Asks nobody: each way tells whether it runs."""
        ...

    def subscribe(self, changed: Callable[[str, str], None]) -> None:
        """Call `changed(namespace, job)` from any thread whenever a workload of that job may have changed.
        A call may come late, twice, or not at all: `list` is the truth."""
        ...

    def close(self) -> None:
        """Stop watching. Workloads go on."""
        ...
