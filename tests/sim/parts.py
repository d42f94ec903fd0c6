"""The simulated parts below the controllers: clocks, nodes, a backend and a store that report what truly happens.

They are the shipped fakes and the real store, with two things added: each grant, start and commit is told to the
oracle at that very moment, and nodes can be cut off or rebooted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cumulus.admission import door
from cumulus.backends.base import Observed, Workload
from cumulus.chronos.contract import EndReason, Figures, Lease, LeaseRequest, LeaseState, NodeFacts
from cumulus.clock import FakeClock
from cumulus.errors import NodeUnreachable
from cumulus.store.base import Documents, Fence, Retention, WatchEvent, Write
from cumulus.store.memory import MemoryStore
from cumulus.testing.backend import FakeBackend, Script, _Run
from cumulus.testing.leases import FakeLeases, _Held, fake_device

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation


class Skewed:
    """A host's clock: its wall clock is wrong by `offset` seconds."""

    def __init__(self, base: FakeClock, offset: float) -> None:
        self._base = base
        self.offset = offset
        self.monotonic = base.monotonic

    def now(self) -> datetime:
        return self._base.now() + timedelta(seconds=self.offset)

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing in the simulation waits")


class TruthStore(MemoryStore):
    """The real store; the oracle sees each commit as it happens."""

    def __init__(self, sim: Simulation) -> None:
        super().__init__(clock=sim.clock, retention=Retention(revisions=30, seconds=10), admission=door.check)
        self._sim = sim

    def transact(self, writes: Sequence[Write], *, fence: Fence | None = None) -> Documents:
        before = self._revision
        answers = super().transact(writes, fence=fence)
        if self._revision > before:
            rows = [self._log[revision] for revision in range(before + 1, self._revision + 1)]
            self._sim.oracle.committed(rows, fence)
        return answers

    def read(self, after: int, limit: int) -> tuple[list[WatchEvent], int]:
        """Events after a revision, and up to which. Raises Expired."""
        piece = self._read_log(after, limit)
        return piece.events, piece.upto

    def newest(self) -> int:
        return self._revision


class SimLeases(FakeLeases):
    """One node's ledger."""

    def __init__(self, sim: Simulation, name: str, devices: int, clock: Skewed) -> None:
        size = sim.schedule.device_gib * 2**30
        super().__init__([fake_device(index, memory_bytes=size) for index in range(devices)], clock)
        self.parking_seconds = sim.schedule.parking_seconds
        self.clock = clock
        self.name = name
        self._sim = sim
        self.faults.hook = lambda call, subject, when: sim.call(f"chronos.{call}", f"{name} {subject}", when)
        self.busy_at: dict[int, float] = {}
        """Device -> when it had work last, in seconds since the run began."""

    def facts(self) -> NodeFacts:
        """What it says of how its devices are, where that matters."""
        self.look()
        now = self._sim.now()
        return NodeFacts(
            figures={
                device.id: Figures(busy=1000 if self.busy_at.get(index, 0.0) == now else 0)
                for index, device in self._devices.items()
            }
        )

    def look(self) -> None:
        """Note which devices have work now."""
        now = self._sim.now()
        for run in self._sim.backend.all_alive():
            if run.workload.node == self.name and works(run, self._sim):
                self.busy_at |= {ref.device: now for ref in run.workload.leases}

    def _granted(self, request: LeaseRequest) -> _Held:
        held = super()._granted(request)
        self._sim.oracle.granted(self, held.lease, request.start_within + request.seconds)
        return held

    def _begin(self, held: _Held) -> None:
        before = held.ends
        super()._begin(held)
        if held.ends != before:
            self._sim.oracle.began(self, held.lease.id, held.ends - self._sim.started_at)

    def _take_back(self, held: _Held, seconds: float) -> None:
        super()._take_back(held, seconds)
        self._sim.oracle.taken_back(self, held.lease, held.ends - self._sim.started_at)

    def _move(self, held: _Held, now: float) -> None:
        before = held.lease.state
        super()._move(held, now)
        if before is not held.lease.state:
            self._sim.backend.changed = True
            self._sim.oracle.moved(self, held.lease, held.ends - self._sim.started_at)

    def _renew(self, held: _Held, seconds: float) -> None:
        before = held.ends
        super()._renew(held, seconds)
        if held.ends != before:
            self._sim.oracle.renewed(self, held.lease.id, held.ends - self._sim.started_at)

    def _end(self, held: _Held, at: float, reason: EndReason) -> None:
        before = held.lease.state
        super()._end(held, at, reason)
        self._sim.backend.changed = True
        if before.goes_on and reason is EndReason.RELEASED:
            self._sim.oracle.released(self, held.lease.id, parked=before is LeaseState.PARKED)

    def held(self, id: str) -> Lease | None:
        """The lease as it was when the node last looked."""
        found = self._held.get(id)
        return None if found is None else found.lease


class SimBackend(FakeBackend):
    """Workloads on the nodes. One that is cut off does not answer, and is listed as it was seen last."""

    def __init__(self, sim: Simulation, nodes: dict[str, SimLeases]) -> None:
        super().__init__(sim.clock, nodes=nodes, script=self._script, lag=sim.report_age)
        self._sim = sim
        self.changed = True
        """Whether something was done since subscribers were told."""
        self.cut: dict[str, float] = {}
        """Node -> since when it does not answer."""
        self.by_job: defaultdict[str, list[_Run]] = defaultdict(list)
        self.gangs: dict[str, None] = {}
        """uids of jobs with several replicas, in order."""
        self.purged: set[str] = self._purged
        self.faults.hook = lambda call, subject, when: sim.call(f"backend.{call}", subject, when)

    def start(self, workload: Workload) -> None:
        self._reach(workload.node)
        super().start(workload)

    def stop(self, name: str, grace: float, reason: str = "") -> None:
        self._reach_run(name)
        super().stop(name, grace, reason)

    def remove(self, name: str) -> None:
        self._reach_run(name)
        super().remove(name)

    def get(self, name: str) -> Observed | None:
        self._reach_run(name)
        return super().get(name)

    def reboot(self, node: str) -> None:
        """Every process there is gone."""
        now = self._clock.monotonic()
        for run in self._runs.values():
            if run.workload.node == node and run.ends() > now:
                run.signal(now, 0.0, "Lost")
        self._sim.leases[node].reboot()

    def tell(self) -> int:
        self.changed = False
        return super().tell()

    def alive(self, job_uid: str) -> list[_Run]:
        """The job's workloads that truly run now."""
        now = self._clock.monotonic()
        return [run for run in self.by_job.get(job_uid, ()) if run.ends() > now]

    def all_alive(self) -> list[_Run]:
        now = self._clock.monotonic()
        return [run for run in self._runs.values() if run.ends() > now]

    def _signal(self, run: _Run, grace: float) -> None:
        before = run._stop
        super()._signal(run, grace)
        self.changed = True
        if before is None and run._stop is not None:
            self._sim.oracle.stopped(run)

    def _attach(self, run: _Run) -> None:
        super()._attach(run)
        self.changed = True
        self.by_job[run.workload.job_uid].append(run)
        if run.workload.replicas > 1:
            self.gangs[run.workload.job_uid] = None
        self._sim.oracle.started(run)

    def _observe(self, run: _Run) -> Observed | None:
        since = self.cut.get(run.workload.node)
        if since is not None and not run.removed:
            return run.observe(max(run.began, since))
        return super()._observe(run)

    def _reach(self, node: str) -> None:
        if node in self.cut:
            raise NodeUnreachable(f"{node} does not answer")

    def _reach_run(self, name: str) -> None:
        run = self._runs.get(name)
        if run is not None:
            self._reach(run.workload.node)

    def _script(self, workload: Workload) -> Script:
        program = self._sim.programs[workload.command[0]]
        seconds, code = program.seconds, 0
        runs = [run for run in self.by_job.get(workload.job_uid, ()) if run.workload.attempt != workload.attempt]
        if program.kind == "fails" and workload.replica == 0:
            failed = {run.workload.attempt for run in runs if failed_itself(run)}
            code = 3 if len(failed) < program.fails else 0
        elif program.kind == "fails":
            seconds += 1
        if program.kind == "forever" and not (program.again and any(not run.broken for run in runs)):
            seconds = float("inf")
        if program.resumes:
            seconds = max(0.0, seconds - sum(run.ends() - run.began - run._paused for run in runs if not run.broken))
        return Script(
            seconds=seconds, exit_code=code, stop_seconds=program.stop_seconds, start_seconds=program.start_seconds,
            refused="it can never be started" if program.kind == "refused" else "",
        )  # fmt: skip


def works(run: _Run, sim: Simulation) -> bool:
    """Whether its GPU has work from it now."""
    busy = sim.programs[run.workload.command[0]].busy_seconds
    return not run.parked and sim.clock.monotonic() - run.began - run._paused < busy


def failed_itself(run: _Run) -> bool:
    """Whether the workload ran to its own end and failed."""
    before_the_signal = run._stop is None or run._natural_end() <= run._stop[0]
    return not run.broken and run.script.exit_code != 0 and before_the_signal
