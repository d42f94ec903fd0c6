"""Reads the state of a run from the tasks of its service. Pure.

A task moves through New, Pending, Assigned, Accepted, Preparing, Ready, Starting, Running to Complete, Failed,
Rejected or Shutdown, and never back; Orphaned and Remove are the manager's word about a node that is gone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cumulus.backends.base import WorkloadState
from cumulus.backends.lease_end import reason_of
from cumulus.clock import parse_timestamp, timestamp
from cumulus.resources.reasons import AttemptReason

TERMINAL = frozenset({"complete", "failed", "rejected", "shutdown", "orphaned", "remove"})
_UNPLACED = frozenset({"new", "allocated", "pending"})

_INTERRUPTED = (137, 143, 255)
"""Exit codes by SIGKILL and SIGTERM, and what an engine says of containers that it finds dead when it starts."""

_NOT_STARTED = "starting container failed"
_PROGRAM = (126, 127)
"""Exit codes of a start that failed for the program: one that may not be run, one that is not there."""

_ENGINE_LOST = (
    "already exists", "already in use by container", "context canceled", "context deadline exceeded",
    "transport is closing", "ttrpc: closed", "code = unavailable", "connection refused", "connection reset",
    "cannot connect to the docker daemon", "shim disconnected",
    # Chronos' runtime refuses what an engine that was killed during a start tries to start a second time.
    "was started on this node before",
)  # fmt: skip
"""What an engine says that was killed and started anew between its own steps, or that lost its containerd."""

_GONE = "no such container"
"""What an engine says of a task whose container it removed itself: with a Swarm it does so whenever it is stopped."""

NO_IMAGE = "No such image"
"""What a node says that neither has an image nor could pull it."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a service, with the fields that matter here."""

    id: str
    node_id: str
    state: str
    desired: str
    error: str
    exit_code: int | None
    container: str
    created: str
    at: str
    """When the state was taken on."""
    image: str = ""

    @classmethod
    def read(cls, task: Mapping[str, Any]) -> Task:
        status = task.get("Status") or {}
        container = status.get("ContainerStatus") or {}
        state = str(status.get("State", "new"))
        code = container.get("ExitCode")
        # A task that failed without a code of its program's has 0 there.
        unknown = state in ("rejected", "orphaned") or (state == "failed" and code == 0)
        ran = bool(container.get("ContainerID")) and not unknown
        return cls(
            id=task["ID"], node_id=task.get("NodeID", ""), state=state, desired=str(task.get("DesiredState", "")),
            error=str(status.get("Err", "")), exit_code=code if ran and state in TERMINAL else None,
            container=str(container.get("ContainerID", "")), created=moment(task.get("CreatedAt", "")),
            at=moment(status.get("Timestamp", "")),
            image=str((task.get("Spec") or {}).get("ContainerSpec", {}).get("Image", "")),
        )  # fmt: skip

    @property
    def terminal(self) -> bool:
        return self.state in TERMINAL

    @property
    def wanted(self) -> bool:
        """Whether Swarm runs it, or is going to."""
        return not self.terminal and self.desired not in ("shutdown", "remove")

    @property
    def container_gone(self) -> bool:
        """Whether its engine ended, and removed the container: how the program ended is not known, and its log is
        gone but for what the node kept of it."""
        return self.state == "failed" and _GONE in self.error.lower()

    @property
    def placed(self) -> bool:
        """Whether it has a node: a container of it may be there."""
        return bool(self.node_id) and self.state not in _UNPLACED


def read_all(tasks: Sequence[Mapping[str, Any]]) -> Sequence[Task]:
    """The tasks, oldest first: the oldest is the run. Others come from updates and scaling."""
    return sorted((Task.read(task) for task in tasks), key=lambda task: (task.created, task.id))


def alive(tasks: Sequence[Task]) -> Sequence[Task]:
    """Tasks of which a container may run, or come to."""
    return [task for task in tasks if not task.terminal and task.placed]


def state(task: Task) -> WorkloadState:
    """The state of a run whose task has not ended."""
    return WorkloadState.RUNNING if task.state == "running" else WorkloadState.STARTING


@dataclass(frozen=True, slots=True)
class EndEvidence:
    """What is known about a task's end from elsewhere. `lease` is "expired" or "released" where its lease is over."""

    stopped: bool = False
    """It was told to stop, and had not ended before that."""
    lease: str = ""
    oom: bool | None = None
    """None: nobody could be asked."""
    memory_bytes: int = 0
    node: str = ""
    restarted: bool = False
    """The node joined the Swarm anew about then: its engine was restarted, or it lost its power."""
    drained: bool = False
    """The node takes no tasks: its availability is drain."""


def ended(task: Task, evidence: EndEvidence) -> tuple[WorkloadState, AttemptReason | None, str]:
    """State, reason and message of a task that has ended; no reason where it succeeded."""
    code = task.exit_code
    how = f"exit code {code}" if code is not None else task.error or task.state
    if task.state == "complete" and not evidence.lease and not evidence.stopped:
        return WorkloadState.SUCCEEDED, None, ""
    if task.state == "rejected":
        lost = not evidence.stopped and _engines_fault(task)
        return (
            WorkloadState.FAILED,
            AttemptReason.LOST if lost else AttemptReason.START_ERROR,
            task.error or "the node refused to run it",
        )
    if evidence.stopped:
        killed = ", killed after its grace period" if code == 137 else ""
        return WorkloadState.FAILED, AttemptReason.STOPPED, f"stopped, and it ended with {how}{killed}"
    if evidence.oom:
        limit = evidence.memory_bytes / 2**20
        return WorkloadState.FAILED, AttemptReason.OOM_KILLED, f"it used more memory than its limit of {limit:.0f} MiB"
    if over := reason_of(evidence.lease, f", and it ended with {how}"):
        return WorkloadState.FAILED, *over
    where = f" on {evidence.node}" if evidence.node else ""
    if task.container_gone:
        return (
            WorkloadState.FAILED,
            AttemptReason.LOST,
            f"the engine{where} was stopped, which ends and removes all containers of a Swarm",
        )
    if task.state in ("shutdown", "orphaned", "remove"):
        why = "its node was drained" if evidence.drained else "its service was changed, or its node did not answer"
        return WorkloadState.FAILED, AttemptReason.LOST, f"Swarm ended it{where}: {why}"
    if evidence.restarted and code in _INTERRUPTED:
        return (
            WorkloadState.FAILED,
            AttemptReason.LOST,
            f"the engine of {evidence.node} was restarted, and it ended with {how}",
        )
    if code is None or _engines_fault(task):
        return WorkloadState.FAILED, AttemptReason.LOST, task.error or "the engine lost it"
    if not_started(task):
        return WorkloadState.FAILED, AttemptReason.START_ERROR, task.error
    if code == 137 and evidence.oom is None and evidence.memory_bytes:
        return (
            WorkloadState.FAILED,
            AttemptReason.OOM_KILLED,
            "killed, and its node cannot be asked why: most likely for its memory limit",
        )
    return WorkloadState.FAILED, AttemptReason.ERROR, f"ended with {how}"


def not_started(task: Task) -> bool:
    """Whether its engine says that the container could not be started: the exit code is the engine's then."""
    return _NOT_STARTED in task.error.lower()


def _engines_fault(task: Task) -> bool:
    """Whether a task that could not be started, or was lost, was so for its engine and not for what the job asks for:
    another start may do. Attempts that are lost in a row have a limit, so a wrong guess does not go on for ever."""
    error = task.error.lower()
    if task.exit_code in _PROGRAM or NO_IMAGE.lower() in error:
        return False
    return any(text in error for text in _ENGINE_LOST)


def moment(text: str) -> str:
    """Docker's time, which has nanoseconds, as objects carry it."""
    if not text or text.startswith("0001-"):
        return ""
    text = re.sub(r"(\.\d{6})\d+", r"\1", text)
    return timestamp(parse_timestamp(text))
