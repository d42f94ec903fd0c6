"""Reconciles a run with the tasks of its service: what state it is in, how it ended, and what others did to it.

What somebody else changed is put back, or ends the run.

records + tasks -> TaskReconciler.reconcile -> Observed, the end on the disk, findings for events
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cumulus.backends import exit_codes
from cumulus.backends.base import Observed, WorkloadState
from cumulus.backends.checkpoints import document_of, saved, written_at
from cumulus.backends.swarm import programs
from cumulus.backends.swarm import tasks as observe
from cumulus.backends.swarm.checkpoint import NodeFiles
from cumulus.backends.swarm.engine import Engine
from cumulus.backends.swarm.environment import DEADLINE, REQUEST
from cumulus.backends.swarm.members import Members, SwarmMember
from cumulus.backends.swarm.node_engine import NodeEngine, SeesFiles
from cumulus.backends.swarm.records import END, RUNNING, SAVED, SERVICE, STOP, Record
from cumulus.backends.swarm.services import Services
from cumulus.backends.swarm.tasks import EndEvidence, Task
from cumulus.backends.swarm.uploading import NodeUploading
from cumulus.clock import Clock, parse_timestamp, timestamp
from cumulus.errors import BackendError, ChronosError, NodeUnreachable
from cumulus.resources.reasons import AttemptReason, EventReason

REJOIN_SECONDS = 30.0
"""How long before the end of a run its node may have joined anew for that to be the reason."""

REACHED_SECONDS = 60.0
"""How long a node's Chronos is waited for, which alone knows whether a lease ended the run: after the node joined anew,
and after it was first asked in vain, as a daemon that has just begun has not reached its nodes yet."""

LOOK = 15.0
"""Seconds between looks at what a program has saved."""
AFTER_SAVE = 2.0
"""Seconds that a program has to end once it has saved what it was asked for."""

CLOCKS = 1.0
"""Seconds by which the clocks of two machines may differ when a run's end is compared with its lease's."""

AskLeaseEnd = Callable[[str, str], tuple[str, str]]
"""Node and lease id -> "expired", "released" or "" while it lives, and the end of its time. Raises `ChronosError`."""
Engines = Callable[[str], NodeEngine | None]
"""A node's own engine, where it can be reached without the manager."""
_Report = Callable[[Record, EventReason, str], None]
"""Told what others did to a run: reason and message of the event."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds after which the backend stops waiting."""

    placement: float = 45.0
    """For a node to take a task."""
    no_task: float = 30.0
    """For a service without any task to get one."""
    lease_over: float = 60.0
    """For a node that does not answer, from the end of its run's leases: the node ends the run alone. Longer than
    clocks differ."""
    log: float = 120.0
    """For the log of a run that has ended. After that its service is removed without it."""


class TaskReconciler:
    """Callers hold the record's mutex."""

    def __init__(
        self, engine: Engine, members: Members, services: Services, node_engine: Engines, lease_end: AskLeaseEnd,
        clock: Clock, report: _Report, timeouts: Timeouts, uploading: NodeUploading,
    ) -> None:  # fmt: skip
        self._engine = engine
        self._uploading = uploading
        self._members = members
        self._services = services
        self._node_engine = node_engine
        self._lease_end = lease_end
        self._timeouts = timeouts
        self._clock = clock
        self._report = report
        self._next_look: dict[str, float] = {}
        """By run: when its checkpoints are looked at again."""
        self._asked_in_vain: dict[str, float] = {}
        """By lease: since when, on the monotonic clock."""

    def reconcile(self, record: Record, tasks: Sequence[Task] = ()) -> Observed:
        """What a run whose service was created is now. Raises `NodeUnreachable` while its node does not answer."""
        end = record.end()
        if end is not None:
            return end
        tasks = tasks or observe.read_all(self._engine.tasks({"service": [self._services.id(record)]}))
        if not tasks:
            return self._without_task(record)
        run, others = run_of(record, tasks)
        if run.terminal:
            if observe.alive(others):
                self._report(
                    record, EventReason.SERVICE_CHANGED, "somebody changed its service: what that started is ended"
                )
                self._services.end(record)
                return self.running(record, run)
            if any(task.wanted for task in others):
                # Swarm would run it again on its node, once that takes it.
                self._services.end(record)
            return self._end(record, run)
        stop = record.read(STOP)
        if stop is not None:
            return self._stopping(record, run, stop)
        if any(task.wanted for task in others):
            self._put_back(record, run)
        return self._on_node(record, run) if run.placed else self._waiting(record, run)

    def running(self, record: Record, run: Task | None = None) -> Observed:
        """As it was seen last: `run` moves it on."""
        known = record.read(RUNNING)
        if known is None and run is not None and run.state == "running":
            self._tell_deadline(record, run)
            known = {"at": run.at, "task": run.id}
            record.write(RUNNING, known)
        if known is None:
            return record.observed(WorkloadState.STARTING)
        if run is not None and record.start.get("asked"):
            self._look(record, run)
        return record.observed(WorkloadState.RUNNING, started_at=known["at"], checkpoint=record.saved())

    def ask_to_stop(self, record: Record, grace: float, why: str = "", reason: str = "") -> None:
        """Record the request, and ask a program that keeps checkpoints for one first, where there is a `reason`. A
        later one can only bring the end nearer."""
        earlier = record.read(STOP)
        now = self._clock.now()
        if earlier is not None:
            left = float(earlier["grace"]) - (now - parse_timestamp(earlier["at"])).total_seconds()
            if left <= grace:
                return
            asked, before = earlier.get("asked", False), earlier.get("saved")
        else:
            asked, before = bool(reason) and self._ask(record, reason), document_of(record.saved())
        document = {"grace": max(0.0, grace), "at": timestamp(now), "why": why, "asked": asked, "saved": before}
        record.write(STOP, document)

    def _ask(self, record: Record, reason: str) -> bool:
        """Ask the program for a checkpoint. Whether it was; where its node cannot be reached, the stop signal does."""
        engine = self._node_engine(record.start["node"])
        if not record.start.get("asked") or not isinstance(engine, SeesFiles):
            return False
        tasks = observe.read_all(self._engine.tasks({"service": [self._services.id(record)]}))
        run = run_of(record, tasks)[0] if tasks else None
        if run is None or not run.container:
            return False
        self._look(record, run, now=True)
        with contextlib.suppress(BackendError):
            engine.put(run.container, programs.REQUEST if record.is_program else REQUEST, reason)
            return True
        return False

    def _tell_deadline(self, record: Record, run: Task) -> None:
        """A program that keeps checkpoints learns when its lease ends. Where its node cannot be reached it learns that
        by the stop signal."""
        engine = self._node_engine(record.start["node"])
        seconds = min((float(lease.get("seconds") or 0) for lease in record.start["leases"]), default=0.0)
        if record.start.get("asked") and run.container and seconds > 0 and isinstance(engine, SeesFiles):
            with contextlib.suppress(BackendError):
                engine.put_deadline(run.container, programs.DEADLINE if record.is_program else DEADLINE, seconds)

    def _look(self, record: Record, run: Task, *, now: bool = False) -> None:
        """See what it has saved, now and then: its node is asked."""
        engine, path = self._node_engine(record.start["node"]), record.start.get("checkpoint_path")
        moment = self._clock.monotonic()
        if not isinstance(engine, SeesFiles) or not path or not run.container:
            return
        if not now and moment < self._next_look.get(record.name, 0.0):
            return
        self._next_look[record.name] = moment + LOOK
        known = record.saved()
        problem = self._uploading.follow(record, run.container)
        copied = bool((record.start.get("checkpoint") or {}).get("uri"))
        found = saved(NodeFiles(engine, run.container, path, copied, problem), known)
        if found is not None and found != known:
            record.write(SAVED, dict(document_of(found) or {}))

    def never_started(self, record: Record, message: str = "never started", *, lost: bool = False) -> None:
        """`lost`: another try may help."""
        reason = AttemptReason.LOST if lost else AttemptReason.START_ERROR
        record.write(END, {"state": WorkloadState.FAILED.value, "reason": reason, "message": message})

    def stopped_early(self, record: Record) -> None:
        """The end of a run that was told to stop before it had a service."""
        self._never_placed(record, {})

    def _put_back(self, record: Record, run: Task) -> None:
        if run.wanted:
            self._report(record, EventReason.SERVICE_SCALED, "somebody scaled its service: it is put back to one task")
            self._services.unscale(record)
        else:
            self._report(record, *self._why_replaced(record, run))
            self._services.end(record)

    def _why_replaced(self, record: Record, run: Task) -> tuple[EventReason, str]:
        """Reason and message of what made Swarm end the run's task and want another in its place."""
        node, member = record.start["node"], self._members.by_id(run.node_id)
        if member is None:
            return EventReason.NODE_REMOVED, f"{node} was removed from the Swarm"
        if not member.answers:
            return EventReason.NODE_DOWN, f"{node} is {member.state} in the Swarm, and Swarm replaces its task: it ends"
        if member.drained:
            return EventReason.NODE_DRAINED, f"{node} was drained in the Swarm, which ends the task there"
        return EventReason.SERVICE_CHANGED, "somebody changed its service, and Swarm replaces its task: it ends"

    def _without_task(self, record: Record) -> Observed:
        if not self._services.is_there(record):
            self._report(record, EventReason.SERVICE_REMOVED, "somebody removed its service")
            return self._lost(record, "somebody removed its service")
        began = parse_timestamp((record.read(SERVICE) or {}).get("at") or timestamp(self._clock.now()))
        if (self._clock.now() - began).total_seconds() > self._timeouts.no_task:
            message = "Swarm has no task of its service: it was scaled to zero, or pruned"
            self._report(record, EventReason.TASK_FORGOTTEN, message)
            return self._lost(record, "Swarm no longer has a task of its service")
        return self.running(record)

    def _waiting(self, record: Record, run: Task) -> Observed:
        """No node has taken it yet. Swarm would wait for ever."""
        member = self._members.named(record.start["node"])
        if not member.answers:
            if self._leases_are_over(record):
                return self._given_up(record)
            raise NodeUnreachable(f"{member.name} is {member.state} in the Swarm")
        age = (self._clock.now() - parse_timestamp(run.created)).total_seconds()
        if run.error and age > self._timeouts.placement:
            self.ask_to_stop(record, 0.0, why=f"Swarm does not place it: {run.error}")
            self._services.end(record)
        return self.running(record, run)

    def _on_node(self, record: Record, run: Task) -> Observed:
        member = self._members.by_id(run.node_id)
        if member is None:
            self._report(record, EventReason.NODE_REMOVED, f"{record.start['node']} was removed from the Swarm")
            return self._lost(record, "its node was removed from the Swarm")
        if not member.answers:
            if self._leases_are_over(record):
                return self._given_up(record)
            raise NodeUnreachable(f"{member.name} is {member.state} in the Swarm: {member.message}".rstrip(": "))
        return self.running(record, run)

    def _leases_are_over(self, record: Record) -> bool:
        """By the clock, with the grace of whatever ran there. Not known of a run whose record was lost."""
        ends = [parse_timestamp(lease["expires_at"]) for lease in record.start["leases"] if lease["expires_at"]]
        if not ends or len(ends) < len(record.start["leases"]):
            return False
        return (self._clock.now() - max(ends)).total_seconds() > float(
            record.start["grace"]
        ) + self._timeouts.lease_over

    def _given_up(self, record: Record) -> Observed:
        """Its service can go: Swarm tells the node so when that is back."""
        self._services.end(record)
        return self._lost(record, f"{record.start['node']} did not answer until long after the lease was over")

    def _stopping(self, record: Record, run: Task, stop: Mapping[str, Any]) -> Observed:
        if run.desired == "running":
            self._services.end(record)
        elif not run.placed:
            return self._never_placed(record, stop)
        elapsed = (self._clock.now() - parse_timestamp(stop["at"])).total_seconds()
        if run.container and (elapsed >= float(stop["grace"]) or self._has_saved(record, run, stop)):
            self._kill(record, run)
        return self._on_node(record, run) if run.placed else self.running(record, run)

    def _has_saved(self, record: Record, run: Task, stop: Mapping[str, Any]) -> bool:
        """Whether a program that was asked for a checkpoint has saved, and had a moment to end after that."""
        if not stop.get("asked"):
            return False
        known = record.saved()
        if known is None or document_of(known) == stop.get("saved"):
            self._look(record, run, now=True)
            return False
        return (self._clock.now() - parse_timestamp(known.time)).total_seconds() > AFTER_SAVE

    def _never_placed(self, record: Record, stop: Mapping[str, Any]) -> Observed:
        """The end of a run that was told to stop before a node took it."""
        if stop.get("why"):
            return self._lost(record, stop["why"])
        return self._ended(record, WorkloadState.FAILED, None, AttemptReason.STOPPED, "stopped before it started")

    def _kill(self, record: Record, run: Task) -> None:
        engine = self._node_engine(record.start["node"])
        if engine is not None:
            with contextlib.suppress(BackendError):
                engine.kill(run.container)

    def _end(self, record: Record, run: Task) -> Observed:
        stop = record.read(STOP)
        if stop is not None and not run.node_id:
            return self._never_placed(record, stop)
        state, reason, message = observe.ended(run, self._evidence(record, run))
        if reason == AttemptReason.LOST:
            self._report(
                record, EventReason.ENGINE_STOPPED if run.container_gone else EventReason.SERVICE_ENDED, message
            )
        if reason == AttemptReason.START_ERROR and observe.NO_IMAGE in message:
            message = f"{message}{self._registry_says(run)}"
        code = run.exit_code
        if code == 0 and run.state != "complete" and not record.has(RUNNING):
            code = None  # So Swarm says of a container that it made and never started.
        if reason == AttemptReason.LOST and observe.not_started(run):
            code = None  # The engine's, not the program's.
        return self._ended(record, state, code, reason, message, run)

    def _registry_says(self, run: Task) -> str:
        """Swarm does not tell why an image could not be pulled."""
        refusal = self._engine.refusal(run.image.partition("@")[0])
        if not refusal:
            return ""
        return f"; its registry says: {refusal} (credentials come from `docker login` where `cumulus serve` runs)"

    def _evidence(self, record: Record, run: Task) -> EndEvidence:
        stop = record.read(STOP)
        gone_before = stop is not None and run.at != "" and seconds_between(run.at, stop["at"]) > CLOCKS
        stopped = stop is not None and not (run.state in ("complete", "failed") and gone_before)
        if run.state == "rejected" or stopped:
            return EndEvidence(stopped=stopped)
        # Whether a node joined anew tells a failure of the engine from one of the program, for good.
        member = self._members.by_id(run.node_id, fresh=run.state != "complete")
        return EndEvidence(
            lease=self._how_lease_ended(record, run, member),
            oom=self._was_oom(record, run) if run.exit_code == 137 else False,
            memory_bytes=int(record.start["memory_bytes"]), node=record.start["node"],
            restarted=_joined_anew(member, run), drained=member is not None and member.drained,
        )  # fmt: skip

    def _how_lease_ended(self, record: Record, run: Task, member: SwarmMember | None) -> str:
        """By the word of the node's Chronos; where it says nothing, by the time. A lease that ended after the run did
        not end it. Raises `NodeUnreachable` while that is waited for."""
        for lease in record.start["leases"]:
            try:
                end, expires = self._lease_end(record.start["node"], lease["id"])
            except ChronosError as error:
                if member is not None and self._joined_just_now(member):
                    raise NodeUnreachable(
                        f"{member.name} joined the Swarm anew, and its leases are not told yet: {error}"
                    ) from error
                expires = lease["expires_at"]
                end = "expired" if expires and self._clock.now() >= parse_timestamp(expires) else ""
                if not end and self._waits(lease["id"]):
                    raise NodeUnreachable(f"how its lease ended is not told yet: {error}") from error
            self._asked_in_vain.pop(lease["id"], None)
            if end == "expired" and expires and run.at and seconds_between(run.at, expires) > CLOCKS:
                continue
            if end:
                return end
        return ""

    def _waits(self, lease: str) -> bool:
        """The time alone does not tell: what was recorded as a lease's end leaves time for the program's start."""
        now = self._clock.monotonic()
        return now - self._asked_in_vain.setdefault(lease, now) < REACHED_SECONDS

    def _joined_just_now(self, member: SwarmMember) -> bool:
        ago = seconds_between(member.updated, timestamp(self._clock.now()))
        return -REJOIN_SECONDS < ago < REACHED_SECONDS

    def _checkpoint_at(self, record: Record, run: Task) -> str | None:
        engine, path = self._node_engine(record.start["node"]), record.start.get("checkpoint_path")
        if not isinstance(engine, SeesFiles) or not path:
            return None
        return written_at(NodeFiles(engine, run.container, path))

    def _was_oom(self, record: Record, run: Task) -> bool | None:
        engine = self._node_engine(record.start["node"])
        try:
            container = None if engine is None else engine.container(run.container)
        except BackendError:
            return None
        return None if container is None else bool(container["State"].get(AttemptReason.OOM_KILLED))

    def _lost(self, record: Record, message: str) -> Observed:
        return self._ended(record, WorkloadState.FAILED, None, AttemptReason.LOST, message)

    def _ended(
        self,
        record: Record,
        state: WorkloadState,
        code: int | None,
        reason: AttemptReason | None,
        message: str,
        run: Task | None = None,
    ) -> Observed:
        finished = run.at if run is not None and run.at else timestamp(self._clock.now())
        if run is not None and record.start.get("asked"):
            self._look(record, run, now=True)
        self._next_look.pop(record.name, None)
        self._uploading.forget(record)
        known = record.read(RUNNING)
        started = known["at"] if known else (run.created if run is not None and run.container else "")
        record.write(
            END,
            {
                "state": state.value, "exit_code": code, "reason": reason or "",
                # An engine may tell of the environment that it could not start a program in.
                "message": self._services.without_secrets(record, message),
                "started_at": min(started, finished), "finished_at": finished,
                "checkpoint_at": None if code != exit_codes.SAVED or run is None else self._checkpoint_at(record, run),
            },
        )  # fmt: skip
        end = record.end()
        assert end is not None
        return end


def _joined_anew(member: SwarmMember | None, run: Task) -> bool:
    """Whether the run's node joined the Swarm about when the run ended."""
    return member is None or seconds_between(run.at, member.updated) > -REJOIN_SECONDS


def seconds_between(since: str, until: str) -> float:
    return (parse_timestamp(until) - parse_timestamp(since)).total_seconds()


def run_of(record: Record, tasks: Sequence[Task]) -> tuple[Task, Sequence[Task]]:
    """The task that is the run, and the others: the one that was seen to run, else the first that has a node."""
    known = (record.read(RUNNING) or {}).get("task")
    first = next((task for task in tasks if task.placed), tasks[0])
    run = next((task for task in tasks if task.id == known), first)
    return run, [task for task in tasks if task is not run]
