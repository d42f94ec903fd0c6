"""One run of a schedule: who does what next, what goes wrong where, and when it is over.

Everything happens on one thread and one fake clock. A daemon that is held up in the middle of a call stays on the
stack while the others go on; that is how two threads of a daemon, or two daemons, come between each other's lines.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from cumulus.clock import FakeClock
from cumulus.errors import (
    BackendError,
    LedgerUnavailable,
    NodeUnreachable,
    StoreUnavailable,
)
from cumulus.store import rules
from tests.sim import people, rest
from tests.sim.daemon import Crash, Daemon
from tests.sim.oracle import Oracle
from tests.sim.parts import SimBackend, SimLeases, Skewed, TruthStore
from tests.sim.schedule import AT_CALLS, Fault, Program, Schedule
from tests.sim.truth import Violation

STEPS = 10_000
"""More steps than this, and the loops chase their own tail."""
REST_SECONDS = 400.0
"""How long after the last fault everything must be at rest: the longest story fits in, a resync or the end of a long
lease does not, so that neither makes up for a look that was forgotten."""
IDLE = 50
"""So often in a row time may move by `TICK` with nobody at work: more, and somebody is due who does nothing."""
TICK = 0.0005
"""The least by which time moves."""
DEPTH = 4
"""How many calls may be held up at once."""


@dataclass
class Lag:
    """What is wrong with the watches."""

    until: float = 0.0
    torn: float = 0.0
    """How likely a batch is cut, repeated in part and reordered."""
    expire: bool = False


@dataclass
class _Armed:
    fault: Fault
    left: int


@dataclass(frozen=True)
class Outcome:
    """What came of a run. `violation` is empty when nothing is wrong."""

    seed: int
    violation: str
    timeline: list[tuple[float, str, str]]
    digest: str
    steps: int
    final: dict[str, str] = field(default_factory=dict)


class Simulation:
    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.rng = random.Random(f"run {schedule.seed}")
        self.clock = FakeClock()
        self.started_at = self.clock.monotonic()
        self.epoch = self.clock.now().timestamp()
        self.timeline: list[tuple[float, str, str]] = []
        self.programs: dict[str, Program] = {}
        self.lag: Lag | None = None
        self.steps = 0
        self.stack: list[Daemon] = []
        self._armed: list[_Armed] = []
        self._errors: list[Fault] = []
        self._report_age = 0.0
        self._notices_lost: float | None = None
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._cuts: dict[str, int] = {}
        self.disturbed_until = schedule.end()
        self.oracle = Oracle(self)
        self.store = TruthStore(self)
        skews = schedule.skews
        self.leases = {
            name: SimLeases(self, name, schedule.devices, Skewed(self.clock, skews[schedule.daemons + number]))
            for number, name in enumerate(schedule.node_names)
        }
        self.backend = SimBackend(self, self.leases)
        self.backend.subscribe(self._notice)
        self.model = people.Model(self)
        self.daemons = [Daemon(self, number, Skewed(self.clock, skews[number])) for number in range(schedule.daemons)]
        for action in schedule.actions:
            self.at(action.at, partial(self.model.act, action))
        for fault in schedule.faults:
            self.at(fault.at, partial(self._begin, fault))

    def run(self) -> str:
        """To the end. Returns what is wrong, or ""."""
        try:
            self._loop(self.schedule.end())
            self._calm()
            resting = rest.Rest(self)
            self._loop(self.now() + REST_SECONDS, resting.reached)
            resting.check()
        except Violation as violation:
            return str(violation)
        return ""

    def now(self) -> float:
        """Seconds since the run began."""
        return self.clock.monotonic() - self.started_at

    def note(self, text: str, who: str | None = None) -> None:
        """A line of the timeline."""
        self.timeline.append((self.now(), who or self.who(), text))

    def who(self) -> str:
        return self.stack[-1].name if self.stack else "people"

    def at(self, moment: float, work: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._timers, (moment, self._sequence, work))

    def report_age(self) -> float:
        return self.rng.uniform(0, self._report_age) if self._report_age and self.stack else 0.0

    def call(self, call: str, subject: str, when: str) -> None:
        """A daemon is at a call: strike, where a fault is due."""
        if not self.stack or not (self._armed or self._errors):
            return
        for fault in self._errors:
            if when == fault.when and call.startswith(fault.call) and self.rng.random() < fault.amount:
                self._raise(call, when)
        for armed in self._armed:
            fault = armed.fault
            if fault.when == when and call.startswith(fault.call):
                if armed.left == 0:
                    self._armed.remove(armed)
                    self._strike(fault, f"{when} {call} {subject}".rstrip())
                    return
                armed.left -= 1

    def _strike(self, fault: Fault, where: str) -> None:
        daemon = self.stack[-1]
        match fault.kind:
            case "crash":
                self.note(f"CRASHES {where}")
                daemon.die(fault.seconds)
                raise Crash
            case "error":
                self._raise(where.split(" ", 1)[1], fault.when)
            case "pause" if len(self.stack) < DEPTH:
                self.note(f"is held up for {fault.seconds:g} s {where}")
                daemon.paused = True
                self._loop(self.now() + fault.seconds)
                daemon.paused = False
                daemon.interrupted = True
                self.note("goes on")
            case "late" if len(self.stack) < DEPTH:
                self.note(f"waits {fault.seconds:g} s {where}, its other threads do not")
                self._loop(self.now() + fault.seconds)
                daemon.interrupted = True
                self.note("the wait is over")
            case "interleave" if len(self.stack) < DEPTH:
                self.note(f"lets others go first {where}")
                for _ in range(int(fault.amount)):
                    if not self._work():
                        break
                daemon.interrupted = True
                self.note("goes on")

    def _raise(self, call: str, when: str) -> None:
        """The call fails; `after`: it did its work, and the answer was lost."""
        self.note(f"ERROR {when} {call}")
        if call.startswith("store."):
            raise StoreUnavailable("the store does not answer")
        if call.startswith("backend."):
            raise self.rng.choice((BackendError, NodeUnreachable))("the backend does not answer in time")
        raise self.rng.choice((LedgerUnavailable, NodeUnreachable))("the node does not answer in time")

    def _loop(self, end: float, done: Callable[[], bool] | None = None) -> None:
        """Let everyone do what is due, and time pass, until `end` or until it is `done`."""
        idle = 0
        while True:
            if self._work():
                idle = 0
                continue
            now = self.now()
            if now >= end or (done is not None and done()):
                return
            step = min(self._next_moment(), end) - now
            idle = idle + 1 if step <= TICK else 0
            if idle > IDLE:
                due = [daemon.name for daemon in self._free() if daemon.next_due() <= now]
                raise Violation("livelock", f"something is due that nobody does: {due or 'a node or a timer'}")
            self.clock.advance(max(TICK, step))
            self.backend.tell()
            self.oracle.time_passed()

    def _work(self) -> bool:
        """One step of somebody, chosen by chance. False where nothing is due now."""
        self.steps += 1
        if self.steps > STEPS:
            raise Violation("livelock", f"not at rest after {STEPS} steps")
        if self._timers and self._timers[0][0] <= self.now():
            work = heapq.heappop(self._timers)[2]
            stack, self.stack = self.stack, []
            work()
            self.stack = stack
            return True
        free = self._free()
        if len(free) > 1:
            self.rng.shuffle(free)
        return any(self._step(daemon) for daemon in free)

    def _free(self) -> list[Daemon]:
        """The daemons that can do something now: not those that are held up, or further down the stack."""
        return [d for d in self.daemons if not d.paused and (d not in self.stack or d is self.stack[-1])]

    def _step(self, daemon: Daemon) -> bool:
        nested = daemon in self.stack
        self.stack.append(daemon)
        if not nested:
            daemon.interrupted = False
        depth = len(self.stack)
        try:
            worked = daemon.step()
        except Crash:
            if nested:
                raise
            worked = True
        finally:
            del self.stack[depth - 1 :]
        if worked and self.backend.changed:
            self.backend.tell()
        return worked

    def _next_moment(self) -> float:
        start = self.started_at
        times = [daemon.next_due() for daemon in self._free()]
        if self._timers:
            times.append(self._timers[0][0])
        natural = [leases.next_change() for leases in self.leases.values()]
        natural.append(self.backend.next_change())
        times += [time - start for time in natural if time is not None]
        return min(times, default=self.now() + 1.0)

    def _begin(self, fault: Fault) -> None:
        if fault.kind in AT_CALLS:
            self._armed.append(_Armed(fault, fault.skip))
            return
        self.note(f"FAULT {fault}", "world")
        end = fault.at + fault.seconds
        match fault.kind:
            case "errors":
                self._errors.append(fault)
                self.at(end, lambda: self._forget(fault))
            case "lag" | "expire":
                lag = self.lag = self.lag or Lag()
                lag.until, lag.torn = max(lag.until, end), max(lag.torn, fault.amount)
                lag.expire = lag.expire or fault.kind == "expire"
                self.at(end, lambda: None)
            case "cut":
                self._cut(fault.target, int(fault.amount))
                self.at(end, lambda: self._heal(fault.target))
            case "reboot":
                self.backend.reboot(fault.target)
                self._cut(fault.target, 3)
                self.at(end, lambda: self._heal(fault.target))
            case "reports":
                self._report_age = fault.amount
                self.at(end, self._reports_fresh)
            case "notices":
                self._notices_lost = fault.amount
                self.at(end, self._notices_back)
            case "jump":
                clock = self.leases[fault.target].clock if fault.target else self.daemons[0].clock
                clock.offset += fault.amount

    def _calm(self) -> None:
        """Nothing goes wrong any more."""
        self._armed.clear()
        self._errors.clear()
        if self.lag is not None:
            self.lag = Lag(expire=self.lag.expire)
        self.note("all faults are over", "world")

    def _forget(self, fault: Fault) -> None:
        if fault in self._errors:
            self._errors.remove(fault)

    def _cut(self, node: str, ends: int) -> None:
        """`ends`: 1 its ledger, 2 its workloads, 3 both do not answer."""
        self._cuts[node] = self._cuts.get(node, 0) + 1
        if ends & 1:
            self.leases[node].reachable = False
        if ends & 2:
            self.backend.cut.setdefault(node, self.clock.monotonic())

    def _heal(self, node: str) -> None:
        self._cuts[node] -= 1
        if not self._cuts[node]:
            self.note(f"{node} answers again", "world")
            self.leases[node].reachable = True
            self.backend.cut.pop(node, None)

    def _reports_fresh(self) -> None:
        self._report_age = 0.0

    def _notices_back(self) -> None:
        self._notices_lost = None

    def _notice(self, namespace: str, job: str) -> None:
        """A workload changed: tell each daemon, now, later, twice or never."""
        for daemon in self.daemons:
            if not daemon.up:
                continue
            if self._notices_lost is None:
                daemon.notify(namespace, job)
            elif self.rng.random() >= self._notices_lost:
                for _ in range(self.rng.choice((1, 2))):
                    late = partial(self._late, daemon, daemon.lives, namespace, job)
                    self.at(self.now() + self.rng.uniform(0, 3), late)

    def _late(self, daemon: Daemon, life: int, namespace: str, job: str) -> None:
        if daemon.up and daemon.lives == life:
            daemon.notify(namespace, job)


class _Log:
    """The loggers' place: errors are defects, all else is silence."""

    sim: Simulation | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def bind(self, **values: Any) -> _Log:
        return self

    def debug(self, *args: Any, **values: Any) -> None:
        pass

    info = warning = debug

    def error(self, event: str, **values: Any) -> None:
        raise Violation("defect", f"{event}: {values}")

    def exception(self, event: str, **values: Any) -> None:
        raise Violation("defect", f"{event}: {traceback.format_exc(limit=-6)}")


def run(schedule: Schedule) -> Outcome:
    """Run a schedule, alone in this process: the same one gives the same outcome, to the last line."""
    chance = random.Random(f"uids {schedule.seed}")
    old_uid, old_log = rules.new_uid, structlog.get_config()
    rules.new_uid = lambda: str(uuid.UUID(int=chance.getrandbits(128), version=4))
    structlog.configure(wrapper_class=_Log, cache_logger_on_first_use=False)
    try:
        sim = Simulation(schedule)
        violation = sim.run()
    finally:
        rules.new_uid = old_uid
        structlog.configure(**old_log)
    digest = hashlib.sha256(repr((violation, sim.timeline, sim.steps)).encode()).hexdigest()[:16]
    return Outcome(schedule.seed, violation, sim.timeline, digest, sim.steps, rest.projection(sim))
