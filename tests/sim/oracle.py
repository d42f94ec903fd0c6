"""What must never be, looked at in the moment in which it would come about.

The oracle is told of each commit to the store, each lease that a node grants and each workload that starts, by the
parts that do them (`parts`), so that it compares what is written with what is true right then.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cumulus.backends.base import State
from cumulus.backends.fake import _Run
from cumulus.chronos.lease import FULL_COMPUTE, Lease, LeaseState
from cumulus.resources.partition import PartitionPhase
from cumulus.store.base import Fence
from cumulus.store.codec import ADDED, DELETED, Row, decode
from tests.sim.parts import SimLeases, failed_itself

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

Doc = dict[str, Any]

ORDER = [phase.value for phase in PartitionPhase]
ENDED = frozenset(phase.value for phase in PartitionPhase if phase.ended)
HOLDING = ("Bound", "Active")

GANG_SECONDS = 25.0
"""How long a gang may run in part once nothing is in the way of the daemons: to start or to end the rest, a
daemon's restart, a takeover and the grace of those that end are in it."""

LEAK_SECONDS = 130.0
"""How long a lease may be left over: two sweeps."""


class Violation(BaseException):
    """Something is that must never be. Not an Exception, so that no loop takes it for a passing fault."""

    def __init__(self, oracle: str, message: str) -> None:
        super().__init__(f"{oracle}: {message}")
        self.oracle = oracle


@dataclass
class _Granted:
    node: SimLeases
    lease: Lease
    ends: float
    late: bool
    """Granted by a daemon that did not lead any more: nobody may know of it."""


class Oracle:
    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._leader = 0
        self._holder: str | None = None
        self._tokens: dict[tuple[str, int], int] = {}
        self._leases: dict[str, _Granted] = {}
        self._live: dict[str, _Granted] = {}
        self._docs: dict[tuple[str, str], Doc] = {}
        """(kind, uid) -> the last state of jobs and partitions, deleted ones too."""
        self._parts: defaultdict[tuple[str, str], dict[str, Doc]] = defaultdict(dict)
        """(job's uid, attempt) -> partition's uid -> its last state."""
        self._partial: dict[tuple[str, int], float] = {}
        self._leaked: dict[str, float] = {}
        self._suspended: dict[str, float] = {}
        """uid -> when it was last told, or had just been told, not to run."""
        self._next_look = 0.0
        self._holds: dict[str, tuple[tuple[str, int], int, int]] = {}

    def committed(self, rows: list[Row], fence: Fence | None) -> None:
        """A transaction was committed, just now."""
        sim = self._sim
        if fence is not None and fence.token != self._leader:
            raise Violation("fencing", f"a write with token {fence.token} was accepted, the leader's is {self._leader}")
        bound: set[tuple[str, str]] = set()
        for row in rows:
            document = decode(row.document)
            kind = row.key.kind
            if fence is None and sim.stack and kind != "Lease":
                raise Violation("fencing", f"{sim.who()} wrote {row.key} without a fence")
            if kind == "GPUJob":
                self._job(row.type, document)
            elif kind == "GPUPartition":
                self._partition(row.type, document, bound)
            elif kind == "Lease":
                self._leadership(document)
        for gang in bound:
            phases = {p["metadata"]["name"]: _phase(p) for p in self._parts[gang].values()}
            if "Pending" in phases.values():
                raise Violation("gang", f"only a part of a gang was bound: {phases}")

    def granted(self, node: SimLeases, lease: Lease, seconds: float) -> None:
        """The node granted a lease, just now."""
        sim, place = self._sim, (node.name, lease.device)
        if lease.token <= self._tokens.get(place, 0):
            raise Violation("fencing", f"{place} granted token {lease.token} after {self._tokens[place]}")
        self._tokens[place] = lease.token
        daemon = sim.stack[-1] if sim.stack else None
        term = daemon.elector._term if daemon is not None else None
        late = daemon is not None and (term is None or term.fence.token != self._leader)
        self._live[lease.id] = self._leases[lease.id] = _Granted(node, lease, sim.now() + seconds, late)
        sim.note(f"{node.name} grants {self._lease_name(lease.id)} on device {lease.device}, token {lease.token}")
        self._check_device(node, lease.device, lease)

    def renewed(self, node: SimLeases, id: str, ends: float) -> None:
        self._leases[id].ends = ends
        self._sim.note(f"{node.name} renews {self._lease_name(id)}")

    def released(self, node: SimLeases, id: str) -> None:
        """The node was asked to end a lease that was live, just now: nobody may want it any more."""
        self._sim.note(f"{node.name} is asked to end the lease of {self._lease_name(id)}")
        document = self._docs.get(("GPUPartition", id))
        if document is not None and self._wanted(document):
            raise Violation("harm", f"the lease of {self._lease_name(id)} is ended, which is still wanted")

    def stopped(self, run: _Run) -> None:
        """A workload was asked to end, just now: there is a reason for it."""
        sim, work = self._sim, run.workload
        sim.note(f"{_run_name(run)} is asked to end")
        if run.ends() < sim.clock.monotonic() or self._interrupted() or not self._is_live(work.job_uid, work.attempt):
            return
        asked = self._suspended.get(work.job_uid, -1.0)
        gang = self._parts[work.job_uid, str(work.attempt)]
        others = [r for r in self._runs(work.job_uid, work.attempt) if r is not run]
        over = [uid for uid in gang if not self._wanted(gang[uid]) or self._over(uid)]
        failed = [r for r in others if r.ends() <= sim.clock.monotonic() and _state(r, sim) is State.FAILED]
        if asked < run.began - sim.started_at and not over and not failed and len(others) + 1 == work.replicas:
            raise Violation("harm", f"{_run_name(run)} is ended, which is still wanted")

    def started(self, run: _Run) -> None:
        """A workload was started, just now."""
        sim, work = self._sim, run.workload
        sim.note(f"{work.node} starts {_run_name(run)}{', which fails: ' + run.broken if run.broken else ''}")
        others = [other for other in sim.backend.alive(work.job_uid) if other is not run]
        for other in others:
            if other.workload.attempt != work.attempt:
                raise Violation("runs twice", f"{_run_name(run)} starts while {_run_name(other)} runs")
            if other.workload.replica == work.replica:
                raise Violation("runs twice", f"{_run_name(run)} starts twice")
        if run.broken:
            return
        if not self._interrupted() and not self._is_live(work.job_uid, work.attempt):
            raise Violation("started too late", f"{_run_name(run)} starts after the attempt was over")
        parts = self._parts[work.job_uid, str(work.attempt)]
        missing = [p["metadata"]["name"] for uid, p in parts.items() if uid not in self._leases]
        if missing or not parts:
            raise Violation("gang", f"{_run_name(run)} starts while {missing} were never leased")
        for lease in work.leases:
            self._check_device(sim.leases[work.node], lease.device)

    def time_passed(self) -> None:
        sim = self._sim
        now = sim.now()
        for node in sim.leases.values():
            node.settle()
        for id, found in list(self._live.items()):
            lease = found.node.held(id)
            if lease is None or lease.state is LeaseState.ENDED:
                del self._live[id]
            elif now > found.ends + lease.grace + 0.01:
                raise Violation("lease outlives its end", f"{self._lease_name(id)} ended {now - found.ends:.1f} s ago")
        self._check_gangs()
        if now >= self._next_look:
            self._next_look = now + 5.0
            self._check_leaks(now)

    def live_leases(self) -> list[str]:
        """What is leased anywhere, by name."""
        return [
            f"{self._lease_name(lease.id)} on {node.name}"
            for node in self._sim.leases.values()
            for lease in node.peek()
        ]

    # What the nodes truly do.

    def _wanted(self, document: Doc) -> bool:
        """Whether the partition is there to hold its lease on."""
        if document.get("gone") or _phase(document) in ENDED or document["metadata"].get("deletionTimestamp"):
            return False
        owner = _owner(document)
        if not owner:
            return True
        job = self._docs["GPUJob", owner]
        if job.get("gone"):
            return False
        number = int(document["metadata"]["labels"]["cumulus.dev/attempt"])
        attempts = (job.get("status") or {}).get("attempts") or []
        return bool(attempts) and attempts[-1]["number"] == number and not attempts[-1].get("endTime")

    def _over(self, uid: str) -> bool:
        """Whether the lease's time is over, or may seem so by a wrong clock."""
        found, sim = self._leases.get(uid), self._sim
        if found is None:
            return True
        lease = found.node.held(uid)
        wrong = 2 * max(abs(skew) for skew in sim.schedule.skews) + sum(
            abs(f.amount) for f in sim.schedule.faults if f.kind == "jump"
        )
        return lease is None or lease.state is not LeaseState.ACTIVE or found.ends - sim.now() < wrong

    def _is_live(self, job_uid: str, attempt: int) -> bool:
        """Whether that attempt of the job is the one that is to run."""
        job = self._docs.get(("GPUJob", job_uid))
        if job is None or job.get("gone") or job["metadata"].get("deletionTimestamp"):
            return False
        attempts = (job.get("status") or {}).get("attempts") or []
        return bool(attempts) and attempts[-1]["number"] == attempt and not attempts[-1].get("endTime")

    def _interrupted(self) -> bool:
        """Whether whoever acts now was held up since it looked: it cannot know better."""
        return any(daemon.interrupted for daemon in self._sim.stack) or len(self._sim.stack) > 1

    def _check_leaks(self, now: float) -> None:
        """A lease that nobody wants is found and ended by the next sweep or the one after."""
        peeked = (lease for node in self._sim.leases.values() for lease in node.peek())
        live = {lease.id for lease in peeked if lease.owner and lease.id in self._leases}
        leaked = {id for id in live if (d := self._docs.get(("GPUPartition", id))) is None or not self._wanted(d)}
        self._leaked = {id: self._leaked.get(id, now) for id in leaked}
        for id, since in self._leaked.items():
            if now - max(since, self._sim.disturbed_until) > LEAK_SECONDS + self._backed_off():
                raise Violation("leak", f"the lease of {self._lease_name(id)} lives, which nobody wants")

    def _backed_off(self) -> float:
        """Seconds for which a loop may still be backing off from the faults, once they are over."""
        return max((fault.seconds for fault in self._sim.schedule.faults), default=0.0)

    def _check_device(self, node: SimLeases, device: int, new: Lease | None = None) -> None:
        """Leases that are live, and those whose processes are still there, fit on the device together."""
        shares = {held.id: (held.memory_bytes, held.compute) for held in node.peek() if held.device == device}
        if new is not None:
            shares[new.id] = (new.memory_bytes, new.compute)
        for run in self._sim.backend.all_alive():
            if run.workload.node == node.name:
                refs = (ref for ref in run.workload.leases if ref.device == device)
                shares |= {ref.id: (ref.memory_bytes, ref.compute) for ref in refs}
        memory, compute = sum(s[0] for s in shares.values()), sum(s[1] for s in shares.values())
        if memory > node.capacity(device) or compute > FULL_COMPUTE:
            names = [self._lease_name(id) for id in shares]
            raise Violation("over-allocated", f"device {device} of {node.name}: {names}")

    def _check_gangs(self) -> None:
        """A gang runs in part only for a moment: while it starts, while it ends."""
        sim = self._sim
        now = sim.now()
        partial = set()
        for uid in sim.backend.gangs:
            runs = sim.backend.by_job[uid]
            alive = [run for run in runs if run.ends() > sim.clock.monotonic()]
            if not alive:
                continue
            work = alive[0].workload
            done = [
                run for run in runs
                if run not in alive and run.workload.attempt == work.attempt and _state(run, sim) is State.SUCCEEDED
            ]  # fmt: skip
            if len(alive) + len(done) < work.replicas:
                partial.add((uid, work.attempt))
        self._partial = {gang: self._partial.get(gang, now) for gang in partial}
        for gang, since in self._partial.items():
            if now - max(since, sim.disturbed_until) > GANG_SECONDS + self._backed_off():
                raise Violation("gang", f"{gang} has run in part for {now - since:.0f} s")

    # What is written.

    def _leadership(self, document: Doc) -> None:
        token, holder = document["spec"]["token"], document["spec"].get("holderIdentity")
        if token < self._leader:
            raise Violation("fencing", f"the leader's token went from {self._leader} to {token}")
        if token == self._leader and holder not in ("", None, self._holder):
            raise Violation("fencing", f"{holder} leads with the token of {self._holder}")
        self._leader, self._holder = token, holder

    def _job(self, type: int, document: Doc) -> None:
        sim, uid = self._sim, document["metadata"]["uid"]
        old = self._docs.get(("GPUJob", uid))
        self._docs["GPUJob", uid] = document
        name, status = document["metadata"]["name"], document.get("status") or {}
        if document["spec"].get("suspend") or (old is not None and old["spec"].get("suspend")):
            self._suspended[uid] = sim.now()
        if sim.stack and document["spec"] != sim.model.specs.get(uid):
            raise Violation("lost change", f"{sim.who()} wrote a spec of {name} that nobody asked for")
        if type == DELETED:
            document["gone"] = True
            self._job_gone(uid, name)
            return
        if old is None or (old.get("status") or {}) == status:
            return
        before = old.get("status") or {}
        sim.note(f"{name}: {_job_line(status)}")
        self._attempts(uid, name, before, status)
        self._job_phase(document, before, status)

    def _job_gone(self, uid: str, name: str) -> None:
        sim = self._sim
        sim.note(f"{name} is gone")
        alive = sim.backend.alive(uid)
        if alive:
            raise Violation("gone too early", f"{name} is gone while {_run_name(alive[0])} runs")
        left = [
            p["metadata"]["name"]
            for (kind, _), p in self._docs.items()
            if kind == "GPUPartition" and _owner(p) == uid and not p.get("gone")
        ]
        if left and any(self._docs["GPUJob", uid]["metadata"].get("finalizers") or ()):
            raise Violation("gone too early", f"{name} is gone before {left}")

    def _attempts(self, uid: str, name: str, before: Doc, status: Doc) -> None:
        if status.get("attemptCount", 0) < before.get("attemptCount", 0):
            raise Violation("attempts", f"{name}: attemptCount went back")
        attempts = status.get("attempts") or []
        numbers = [attempt["number"] for attempt in attempts]
        if numbers != list(range(status.get("attemptCount", 0) - len(numbers) + 1, status.get("attemptCount", 0) + 1)):
            raise Violation("attempts", f"{name}: attempts {numbers}, count {status.get('attemptCount')}")
        known = {attempt["number"]: attempt for attempt in before.get("attempts") or []}
        for attempt in attempts:
            old = known.get(attempt["number"], {})
            if attempt is not attempts[-1] and not attempt.get("endTime"):
                raise Violation("attempts", f"{name}: attempt {attempt['number']} was left open")
            if old.get("endTime"):
                if old != attempt:
                    raise Violation("attempts", f"{name}: attempt {attempt['number']} changed after its end")
            elif attempt.get("endTime"):
                self._attempt_ended(uid, name, attempt)
            if attempt.get("startTime") and all(run.broken for run in self._runs(uid, attempt["number"])):
                raise Violation("ahead of the truth", f"{name}: attempt {attempt['number']} never started")

    def _attempt_ended(self, uid: str, name: str, attempt: Doc) -> None:
        sim, reason = self._sim, attempt.get("reason")
        runs = self._runs(uid, attempt["number"])
        alive = [run for run in runs if run.ends() > sim.clock.monotonic()]
        if alive:
            raise Violation("ahead of the truth", f"{name}: {reason}, but {_run_name(alive[0])} runs")
        if reason == "Completed" and (
            not runs
            or len(runs) < runs[0].workload.replicas
            or any(_state(r, sim) is not State.SUCCEEDED for r in runs)
        ):
            raise Violation("ahead of the truth", f"{name}: Completed, but not all replicas succeeded")
        if reason == "Lost" and not any(run._stop is not None and run._stop[1] == "Lost" for run in runs):
            raise Violation(
                "ahead of the truth", f"{name}: Lost, but no workload of attempt {attempt['number']} was lost"
            )
        if reason == "Error":
            codes = [run.script.exit_code for run in runs if failed_itself(run)]
            if attempt.get("exitCode") not in codes:
                raise Violation("ahead of the truth", f"{name}: Error {attempt.get('exitCode')}, but truly {codes}")

    def _job_phase(self, document: Doc, before: Doc, status: Doc) -> None:
        sim, meta = self._sim, document["metadata"]
        uid, name, phase = meta["uid"], meta["name"], status.get("phase", "Pending")
        if before.get("phase") in ("Succeeded", "Failed"):
            if phase != before["phase"]:
                raise Violation("phases", f"{name} was {before['phase']} and is {phase}")
            if (status.get("attempts"), status.get("failures")) != (before.get("attempts"), before.get("failures")):
                raise Violation("phases", f"{name} is {phase} and its attempts change")
        attempts = status.get("attempts") or []
        if phase == "Running":
            now = sim.clock.monotonic()
            runs = [
                r
                for r in self._runs(uid, attempts[-1]["number"])
                if not r.broken and r.began + r.script.start_seconds <= now
            ]
            if len(runs) < document["spec"].get("replicas", 1):
                raise Violation("ahead of the truth", f"{name} is Running, but {len(runs)} replicas were started")
        if phase == "Succeeded" and (not attempts or attempts[-1].get("reason") != "Completed"):
            raise Violation("ahead of the truth", f"{name} is Succeeded, but its last attempt is not Completed")
        if phase in ("Succeeded", "Suspended", "Failed") and attempts and not attempts[-1].get("endTime"):
            raise Violation("ahead of the truth", f"{name} is {phase}, but attempt {attempts[-1]['number']} goes on")
        if phase == "Failed" and not attempts:
            raise Violation("ahead of the truth", f"{name} is Failed without an attempt")
        failed = {run.workload.attempt for run in sim.backend.by_job.get(uid, ()) if failed_itself(run)}
        if status.get("failures", 0) > len(failed):
            raise Violation(
                "ahead of the truth", f"{name}: {status.get('failures')} failures, but {len(failed)} attempts failed"
            )

    def _partition(self, type: int, document: Doc, bound: set[tuple[str, str]]) -> None:
        sim, meta = self._sim, document["metadata"]
        uid, name = meta["uid"], meta["name"]
        old = self._docs.get(("GPUPartition", uid))
        self._docs["GPUPartition", uid] = document
        owner = _owner(document)
        attempt = (meta.get("labels") or {}).get("cumulus.dev/attempt", "")
        if owner:
            self._parts[owner, attempt][uid] = document
        phase, before = _phase(document), _phase(old) if old is not None else "Pending"
        if type == ADDED:
            sim.note(f"{name} is made")
        elif type == DELETED:
            document["gone"] = True
            sim.note(f"{name} is gone")
        elif phase != before:
            place = f" on {document['status'].get('node')} device {document['status'].get('device')}"
            sim.note(f"{name}: {phase}{place if phase == 'Bound' else ''}{_why(document) if phase in ENDED else ''}")
        if ORDER.index(phase) < ORDER.index(before) or (before in ENDED and phase != before):
            raise Violation("phases", f"{name} went from {before} to {phase}")
        self._hold(uid, name, document, phase, gone=type == DELETED)
        if phase == "Active" and before != "Active":
            self._active(uid, name, document)
        if (phase in ENDED and before not in ENDED) or type == DELETED:
            self._share_over(uid, name, phase, type)
        if phase == "Bound" and before == "Pending" and owner:
            bound.add((owner, attempt))

    def _active(self, uid: str, name: str, document: Doc) -> None:
        found, status = self._leases.get(uid), document["status"]
        if found is None:
            raise Violation("ahead of the truth", f"{name} is Active without a lease")
        if status.get("fencingToken") != found.lease.token or status.get("node") != found.node.name:
            raise Violation("ahead of the truth", f"{name} is Active with another lease's token or node")

    def _share_over(self, uid: str, name: str, phase: str, type: int) -> None:
        """The share is said to be free: it is, unless a daemon that was deposed asked for it behind its back."""
        found = self._leases.get(uid)
        if found is None or found.late:
            return
        found.node.settle()
        lease = found.node.held(uid)
        if lease is not None and lease.state is not LeaseState.ENDED:
            what = "is gone" if type == DELETED else f"is {phase}"
            raise Violation("gone too early", f"{name} {what}, but its lease is {lease.state}")

    def _hold(self, uid: str, name: str, document: Doc, phase: str, *, gone: bool) -> None:
        """What is bound on a device never exceeds it: the scheduler gives no share twice."""
        if gone or phase not in HOLDING:
            self._holds.pop(uid, None)
            return
        if uid in self._holds:
            return
        status = document["status"]
        place = (status["node"], status["device"])
        self._holds[uid] = (place, status["memoryBytes"], status["compute"])
        there = [hold for hold in self._holds.values() if hold[0] == place]
        capacity = self._sim.leases[place[0]].capacity(place[1])
        if sum(h[1] for h in there) > capacity or sum(h[2] for h in there) > FULL_COMPUTE:
            raise Violation("over-allocated", f"{name} was bound to {place}, which is taken")

    def _runs(self, uid: str, attempt: int) -> list[_Run]:
        return [run for run in self._sim.backend.by_job.get(uid, ()) if run.workload.attempt == attempt]

    def _lease_name(self, id: str) -> str:
        document = self._docs.get(("GPUPartition", id))
        return document["metadata"]["name"] if document is not None else id


def _state(run: _Run, sim: Simulation) -> State:
    return run.observe(sim.clock.monotonic()).state


def _phase(document: Doc) -> str:
    return str((document.get("status") or {}).get("phase", "Pending"))


def _owner(document: Doc) -> str:
    return next((o["uid"] for o in document["metadata"].get("ownerReferences") or () if o["kind"] == "GPUJob"), "")


def _why(document: Doc) -> str:
    for condition in document["status"].get("conditions") or ():
        if condition["type"] == "Ended":
            return f" ({condition.get('reason')}: {condition.get('message', '')})"
    return ""


def _run_name(run: _Run) -> str:
    work = run.workload
    return f"{work.job} attempt {work.attempt} replica {work.replica}"


def _job_line(status: Doc) -> str:
    attempts = status.get("attempts") or []
    last = attempts[-1] if attempts else {}
    tail = f", ended: {last.get('reason')} {last.get('message', '')}" if last.get("endTime") else ""
    return f"{status.get('phase', 'Pending')}, attempt {status.get('attemptCount', 0)}{tail}".rstrip()
