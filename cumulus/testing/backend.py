"""A backend whose workloads run on an injected clock as a script says: for tests and the simulation.

Keeps the contract of `backends.base.Backend` and passes its conformance suite. Workloads run inside the leases of the
given nodes, and end when those do, as on a real node. They outlive the controllers that started them.
"""

from __future__ import annotations

import hashlib
import math
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from cumulus.backends.base import CallResult, Observed, Workload, WorkloadReach, WorkloadState
from cumulus.backends.checkpoints import SealedCheckpoint
from cumulus.backends.exit_codes import SAVED
from cumulus.calls.outcome import RETURNED, Outcome
from cumulus.calls.session import SessionConnection, SessionEnded
from cumulus.chronos.contract import EndReason
from cumulus.clock import Clock, timestamp
from cumulus.errors import BackendError, BackendRefused, ChronosError, NotRunning
from cumulus.lib.execution import ExecRequest, Execution
from cumulus.resources.reasons import AttemptReason
from cumulus.testing.execution import FakeExecution, echoing
from cumulus.testing.faults import Faults
from cumulus.testing.leases import FakeLeases


@dataclass(frozen=True, slots=True)
class Script:
    """How a workload behaves. Times in seconds."""

    seconds: float = 1.0
    """How long it runs if nobody stops it; `math.inf` for ever."""
    exit_code: int = 0
    stop_seconds: float = 0.0
    """How long it goes on after the stop signal; more than its grace, and it is killed."""
    stop_code: int = 143
    """Its exit code after the stop signal, unless it is killed or comes to its own end within its grace."""
    checkpoint_at: str | None = None
    """As a backend reports it where the exit code is `SAVED`."""
    saved: SealedCheckpoint | None = None
    """The newest checkpoint that is seen of it, from its start on."""
    start_seconds: float = 0.0
    """How long it is Starting."""
    refused: str = ""
    """Why it can never be started."""
    output: bytes = b""
    result: bytes = b"the pickle of a result"
    """What a call that ends by itself with exit code 0 returns."""


_ENDS = {
    EndReason.OVERUSED: AttemptReason.OVERUSED,
    EndReason.LOST: AttemptReason.LOST,
    EndReason.UNPARK_FAILED: AttemptReason.LOST,
    EndReason.REBOOTED: AttemptReason.LOST,
    EndReason.EXPIRED: AttemptReason.LEASE_EXPIRED,
    EndReason.RELEASED: AttemptReason.STOPPED,
}
"""What the end of a lease means for what runs in it; of several leases the first holds."""


class _Run:
    """One workload's processes; a `chronos.fake.Holder`."""

    def __init__(self, workload: Workload, script: Script, now: float, wall: datetime) -> None:
        self.workload = workload
        self.script = script
        self.began = now
        self.wall = wall
        self.broken = ""
        """Why it never ran."""
        self.broken_reason = AttemptReason.START_ERROR
        self.removed = False
        self._stop: tuple[float, str] | None = None
        self._killed_at = math.inf
        self._parked_at: float | None = None
        self._paused = 0.0
        """Seconds that it stood still, parked."""

    @property
    def parked(self) -> bool:
        return self._parked_at is not None

    def park(self, at: float) -> None:
        if self._parked_at is None:
            self._parked_at = at

    def unpark(self, at: float) -> None:
        if self._parked_at is not None:
            self._paused += at - self._parked_at
            self._parked_at = None

    def terminate(self, at: float, grace: float, reason: EndReason) -> None:
        self.signal(at, grace, _ENDS[reason])

    def signal(self, at: float, grace: float, reason: str) -> None:
        if self._stop is None:
            self._stop = (at, reason)
        self._killed_at = min(self._killed_at, at + grace)

    def ends(self) -> float:
        if self.broken:
            return self.began
        return min(self._natural_end(), self._stopped_end())

    def state(self, now: float) -> WorkloadState:
        if now >= self.ends():
            return self._outcome()[0]
        return WorkloadState.STARTING if now < self.began + self.script.start_seconds else WorkloadState.RUNNING

    def observe(self, now: float) -> Observed:
        """The workload as it was at `now`."""
        ends, runs = self.ends(), self.began + self.script.start_seconds
        work, state = self.workload, self.state(now)
        code, reason, message = self._outcome()[1:] if state.finished else (None, "", "")
        checkpoint_at = self.script.checkpoint_at if code == SAVED else None
        return Observed(
            name=work.name, job_uid=work.job_uid, namespace=work.namespace, job=work.job, attempt=work.attempt,
            replica=work.replica, node=work.node, state=state, exit_code=code, reason=reason, message=message,
            started_at=self._wall_at(runs) if not self.broken and runs <= min(now, ends) else "",
            finished_at=self._wall_at(ends) if state.finished else "", checkpoint_at=checkpoint_at,
            checkpoint=self.script.saved,
        )  # fmt: skip

    def _natural_end(self) -> float:
        ends = self.began + self.script.start_seconds + self.script.seconds + self._paused
        # What it asks of the GPU waits meanwhile.
        return math.inf if self._parked_at is not None and ends > self._parked_at else ends

    def _stopped_end(self) -> float:
        if self._stop is None:
            return math.inf
        return min(self._stop[0] + self.script.stop_seconds, self._killed_at)

    def _outcome(self) -> tuple[WorkloadState, int | None, str, str]:
        if self.broken:
            return WorkloadState.FAILED, None, self.broken_reason, self.broken
        if self._stop is not None and self._stop[0] < self._natural_end():
            return WorkloadState.FAILED, self._stopped_code(self._stop[0]), self._stop[1], ""
        if self.script.exit_code:
            return WorkloadState.FAILED, self.script.exit_code, AttemptReason.ERROR, ""
        return WorkloadState.SUCCEEDED, 0, "", ""

    def _stopped_code(self, signalled: float) -> int:
        if self._natural_end() <= self._stopped_end():
            return self.script.exit_code
        killed = self._killed_at < signalled + self.script.stop_seconds
        return 137 if killed else self.script.stop_code

    def _wall_at(self, moment: float) -> str:
        return timestamp(self.wall + timedelta(seconds=moment - self.began))


class FakeBackend:
    """Workloads on `nodes`. Without nodes they run in no lease, anywhere."""

    def __init__(
        self,
        clock: Clock,
        *,
        runtime: str = "process",
        nodes: Mapping[str, FakeLeases] | None = None,
        script: Callable[[Workload], Script] = lambda workload: Script(),
        lag: Callable[[], float] = lambda: 0.0,
        faults: Faults | None = None,
    ) -> None:
        """`script` tells how each workload behaves; `lag` how many seconds old each report is: one that varies
        makes reports arrive out of order."""
        self.faults = faults or Faults()
        self.script = script
        self.lag = lag
        self._clock = clock
        self._runtime = runtime
        self._nodes = nodes
        self._lock = threading.RLock()
        self._runs: dict[str, _Run] = {}
        self._kept: dict[str, _Run] = {}
        """Those of `_runs` that are not removed."""
        self._purged: set[str] = set()
        self._subscribers: list[Callable[[str, str], None]] = []
        self._told: dict[str, WorkloadState] = {}
        self._untold: dict[str, _Run] = {}

    @property
    def runtime(self) -> str:
        return self._runtime

    @property
    def started(self) -> Sequence[str]:
        """Names of all workloads that ever ran, in order."""
        return [name for name, run in self._runs.items() if not run.broken]

    def running(self) -> Sequence[Workload]:
        """What truly runs now, whatever is reported."""
        self._settle()
        now = self._clock.monotonic()
        return [run.workload for run in self._kept.values() if run.ends() > now]

    def peek(self) -> Sequence[Observed]:
        """All that is not removed, as it truly is, past all faults: for oracles."""
        self._settle()
        now = self._clock.monotonic()
        return [run.observe(now) for run in self._kept.values()]

    def start(self, workload: Workload) -> None:
        with self._lock, self.faults.around("start", workload.name):
            self._settle(workload.node)
            if workload.name in self._runs:
                return
            script = self.script(workload)
            if script.refused:
                raise BackendRefused(script.refused)
            run = _Run(workload, script, self._clock.monotonic(), self._clock.now())
            self._runs[workload.name] = self._kept[workload.name] = self._untold[workload.name] = run
            self._attach(run)

    def stop(self, name: str, grace: float, reason: str = "") -> None:
        with self._lock, self.faults.around("stop", name):
            run = self._settled(name)
            if run is not None:
                self._signal(run, grace)

    def remove(self, name: str) -> None:
        with self._lock, self.faults.around("remove", name):
            run = self._settled(name)
            if run is None:
                return
            if run.ends() > self._clock.monotonic():
                raise BackendError(f"{name} still runs")
            self._remove(run)

    def purge(self, job_uid: str) -> None:
        with self._lock, self.faults.around("purge", job_uid):
            self._settle()
            runs = [run for run in self._kept.values() if run.workload.job_uid == job_uid]
            if any(run.ends() > self._clock.monotonic() for run in runs):
                raise BackendError(f"a workload of the job {job_uid} still runs")
            for run in runs:
                self._remove(run)
            self._purged.add(job_uid)

    def get(self, name: str) -> Observed | None:
        with self._lock, self.faults.around("get", name):
            run = self._settled(name)
            return None if run is None else self._observe(run)

    def list(self, job_uid: str = "") -> Sequence[Observed]:
        with self._lock, self.faults.around("list"):
            self._settle()
            seen = [self._observe(run) for run in self._kept.values() if job_uid in ("", run.workload.job_uid)]
            return [observed for observed in seen if observed is not None]

    def logs(
        self, job_uid: str, attempt: int, replica: int, *,
        follow: bool = False, tail: int | None = None, since: float | None = None, timestamps: bool = False,
        position: int | None = None,
    ) -> Iterator[bytes]:  # fmt: skip
        for run in list(self._runs.values()):
            work = run.workload
            if (work.job_uid, work.attempt, work.replica) == (job_uid, attempt, replica):
                lines = run.script.output.splitlines(keepends=True)
                if job_uid not in self._purged:
                    yield b"".join(lines if tail is None else lines[max(0, len(lines) - tail) :])[position or 0 :]

    def result(self, job_uid: str, attempt: int, replica: int) -> CallResult | None:
        with self._lock, self.faults.around("result", job_uid):
            self._settle()
            for run in self._kept.values():
                work = run.workload
                if (work.job_uid, work.attempt, work.replica) == (job_uid, attempt, replica):
                    return self._result(run)
            raise BackendError(f"there is no result of attempt {attempt}, replica {replica}")

    def reach(self, job_uid: str, attempt: int, replica: int) -> WorkloadReach:
        return _FakeReach(self, job_uid, lambda: self._runs_now(job_uid, attempt, replica))

    @contextmanager
    def reaching(self, way: str, job_uid: str) -> Iterator[None]:
        """What a way to a workload does, does here."""
        with self._lock, self.faults.around(way, job_uid):
            yield

    def _runs_now(self, job_uid: str, attempt: int, replica: int) -> bool:
        self._settle()
        return any(
            (run.workload.job_uid, run.workload.attempt, run.workload.replica) == (job_uid, attempt, replica)
            and run.state(self._clock.monotonic()) is WorkloadState.RUNNING
            for run in self._kept.values()
        )

    def subscribe(self, changed: Callable[[str, str], None]) -> None:
        self._subscribers.append(changed)

    def close(self) -> None:
        self._subscribers.clear()

    def tell(self) -> int:
        """Tell subscribers of every workload whose state changed since they were last told. Returns how many."""
        news = []
        with self._lock:
            self._settle()
            now = self._clock.monotonic()
            for name, run in list(self._untold.items()):
                state = run.state(now)
                if self._told.get(name) is not state:
                    self._told[name] = state
                    news.append(run.workload)
                    if state.finished:
                        del self._untold[name], self._told[name]
        for workload in news:
            for changed in list(self._subscribers):
                changed(workload.namespace, workload.job)
        return len(news)

    def next_change(self) -> float | None:
        """When, on the monotonic clock, a workload changes next by itself; None where none does."""
        now = self._clock.monotonic()
        runs = list(self._untold.values())
        times = [run.ends() for run in runs if now < run.ends() < math.inf]
        times += [t for run in runs if now < (t := run.began + run.script.start_seconds) < run.ends()]
        return min(times, default=None)

    def _result(self, run: _Run) -> CallResult | None:
        end = run.observe(self._clock.monotonic())
        if not end.state.finished:
            raise BackendError(f"{end.name} still runs")
        if run.workload.call is None or end.state is not WorkloadState.SUCCEEDED:
            return None
        content = run.script.result
        outcome = Outcome(RETURNED, result=hashlib.sha256(content).hexdigest(), result_size=len(content))
        return CallResult(outcome, iter([content]))

    def _signal(self, run: _Run, grace: float) -> None:
        run.signal(self._clock.monotonic(), grace, AttemptReason.STOPPED)

    def _attach(self, run: _Run) -> None:
        if self._nodes is None:
            return
        node = self._nodes.get(run.workload.node)
        try:
            if node is None:
                raise ChronosError(f"there is no node {run.workload.node}")
            for lease in run.workload.leases:
                node.attach(lease.id, lease.token, run)
        except ChronosError as error:
            run.broken = str(error)
            ended = [node.why_ended(lease.id) for lease in run.workload.leases] if node is not None else []
            if (why := next((reason for reason in _ENDS if reason in ended), None)) is not None:
                run.broken_reason = _ENDS[why]

    def _observe(self, run: _Run) -> Observed | None:
        then = max(run.began, self._clock.monotonic() - self.lag())
        return None if run.removed else run.observe(then)

    def _settled(self, name: str) -> _Run | None:
        run = self._runs.get(name)
        if run is not None:
            self._settle(run.workload.node)
        return run

    def _remove(self, run: _Run) -> None:
        run.removed = True
        self._kept.pop(run.workload.name, None)

    def _settle(self, node: str | None = None) -> None:
        """Let the nodes, or that one, do what they would have done by now."""
        for name, leases in (self._nodes or {}).items():
            if node in (None, name):
                leases.settle()


class _FakeReach:
    """See `backends.base.WorkloadReach`."""

    def __init__(self, backend: FakeBackend, job_uid: str, runs: Callable[[], bool]) -> None:
        self._backend = backend
        self._job_uid = job_uid
        self._runs = runs

    def exec(self, asked: ExecRequest) -> Execution:
        """See `FakeExecution`."""
        with self._backend.reaching("exec", self._job_uid):
            if not self._runs():
                raise NotRunning("its program has not started yet or has ended")
            return FakeExecution(asked)

    def attach(self, *, stdin: bool) -> Execution:
        """As if the program were a cat."""
        return self.exec(ExecRequest(("attached", "0"), stdin))

    def feed(self) -> Execution:
        """As if the program took all."""
        return self.exec(ExecRequest(("fed", "0"), stdin=True))

    def connect(self, port: int) -> socket.socket:
        """A port that is even listens, and gives back what it gets."""
        with self._backend.reaching("connect", self._job_uid):
            if port % 2 or not self._runs():
                raise NotRunning(f"no process of the job listens on port {port}")
            return echoing()

    def session(self) -> SessionConnection:
        raise SessionEnded("the session has not begun, or has ended")
