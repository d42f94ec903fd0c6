"""What must never be, looked at in the moment in which it would come about.

The oracle is told of each commit to the store, each lease that a node grants and each workload that starts, by the
parts that do them (`parts`), so that it compares what is written with what is true right then.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cumulus.backends.base import WorkloadState
from cumulus.chronos.contract import FULL_COMPUTE, Lease, LeaseState
from cumulus.resources.partition import PartitionPhase
from cumulus.store.base import Fence
from cumulus.store.codec import ADDED, DELETED, LogRow, decode
from cumulus.testing.backend import _Run
from tests.sim.job_oracle import JobOracle
from tests.sim.maker_oracle import MakerOracle
from tests.sim.parts import SimLeases
from tests.sim.queue_oracle import QueueOracle
from tests.sim.truth import Doc, Violation, clocks_wrong, moment, owner_of, phase_of, run_name, state_of, why_of

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

ORDER = [phase.value for phase in PartitionPhase]
ENDED = frozenset(phase.value for phase in PartitionPhase if phase.ended)
HOLDING = tuple(phase.value for phase in PartitionPhase if phase.holds)
BACK = {("Unparking", "Active"), ("Parked", "Active")}
"""The ways back that a phase may go."""

PARKED_SECONDS = 25.0
"""How long what is written of a parked program may be behind its node once nothing is in the way of the daemons."""

GANG_SECONDS = 25.0
"""How long a gang may run in part once nothing is in the way of the daemons: to start or to end the rest, a
daemon's restart, a takeover and the grace of those that end are in it."""

LEAK_SECONDS = 130.0
"""How long a lease may be left over: two sweeps."""


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
        self.makers = MakerOracle(sim, self._docs)
        self._queues = QueueOracle(sim, self._docs)
        self._jobs = JobOracle(sim, self._docs, self.makers, self._queues)
        self._parts: defaultdict[tuple[str, str], dict[str, Doc]] = defaultdict(dict)
        """(job's uid, attempt) -> partition's uid -> its last state."""
        self._told: set[tuple[str, str]] = set()
        """(uid, reason) of what events were written of."""
        self._partial: dict[tuple[str, int], float] = {}
        self._leaked: dict[str, float] = {}
        self._misled: dict[str, float] = {}
        """What is written that is not true of parked programs, and since when."""
        self._next_look = 0.0
        self._holds: dict[str, tuple[tuple[str, int], int, int]] = {}

    def committed(self, rows: list[LogRow], fence: Fence | None) -> None:
        """A transaction was committed, just now."""
        sim = self._sim
        if fence is not None and fence.token != self._leader:
            raise Violation("fencing", f"a write with token {fence.token} was accepted, the leader's is {self._leader}")
        bound: set[tuple[str, str, str]] = set()
        for row in rows:
            document = decode(row.document)
            kind = row.key.kind
            if fence is None and sim.stack and kind != "Lease":
                raise Violation("fencing", f"{sim.who()} wrote {row.key} without a fence")
            if kind == "Event":
                self._told.add((document["involvedObject"]["uid"], document["reason"]))
                self._queues.told(document)
            elif kind == "GPUJob":
                self._jobs.committed(row.type, document)
            elif kind == "GPUPartition":
                self._partition(row.type, document, bound)
            elif kind == "Lease":
                self._leadership(document)
            elif kind in ("Queue", "Reservation"):
                self._queues.committed(row.type, document)
            elif kind in ("GPUJobArray", "GPUCronJob"):
                self.makers.committed(row.type, document)
        self.makers.all_committed()
        for row in rows:
            self._check_told(decode(row.document))
        for row in {row.key: row for row in rows if row.key.kind == "GPUJob" and row.type != DELETED}.values():
            self._check_withdrawn(decode(row.document))
        for job, attempt, uid in bound:
            parts, asked = self._parts[job, attempt], self._asked(job, attempt)
            gang = asked if uid in asked else parts.keys() - asked
            phases = {parts[each]["metadata"]["name"]: phase_of(parts[each]) for each in gang}
            if "Pending" in phases.values():
                raise Violation("gang", f"only a part of a gang was bound: {phases}")

    def was_told(self, uid: str, reason: str) -> bool:
        """Whether an event with that reason was written of that object."""
        return (uid, reason) in self._told

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

    def moved(self, node: SimLeases, lease: Lease, ends: float) -> None:
        """A program came to main memory or back, or was lost on its way, just now."""
        self._leases[lease.id].ends = ends
        if lease.state is LeaseState.ACTIVE:
            self._queues.back[lease.id] = self._sim.now()
        self._sim.note(f"{node.name}: the lease of {self._lease_name(lease.id)} is {lease.state}")

    def taken_back(self, node: SimLeases, lease: Lease, ends: float) -> None:
        """The share of a parked program was taken again, just now: the scheduler has given it."""
        place = (node.name, lease.device)
        if lease.token <= self._tokens.get(place, 0):
            raise Violation("fencing", f"{place} granted token {lease.token} after {self._tokens[place]}")
        self._tokens[place] = lease.token
        found = self._leases[lease.id]
        found.lease, found.ends = lease, ends
        name = self._lease_name(lease.id)
        self._sim.note(f"{node.name} brings back {name} on device {lease.device}, token {lease.token}")
        document = self._docs.get(("GPUPartition", lease.id))
        if document is not None and phase_of(document) != "Unparking":
            raise Violation("parked", f"{name} is brought back though it is {phase_of(document)}")
        self._check_device(node, lease.device)

    def renewed(self, node: SimLeases, id: str, ends: float) -> None:
        self._leases[id].ends = ends
        self._sim.note(f"{node.name} renews {self._lease_name(id)}")
        self._queues.renewed(id, ends)

    def began(self, node: SimLeases, id: str, ends: float) -> None:
        self._leases[id].ends = ends
        self._sim.note(f"the time of {self._lease_name(id)} counts")

    def released(self, node: SimLeases, id: str, *, parked: bool) -> None:
        """The node was asked to end a lease that was live, just now: nobody may want it any more. One that was parked
        takes no share of anybody."""
        self._sim.note(f"{node.name} is asked to end the lease of {self._lease_name(id)}")
        document = self._docs.get(("GPUPartition", id))
        if document is not None and self._wanted(document, parked=parked):
            raise Violation("harm", f"the lease of {self._lease_name(id)} is ended, which is still wanted")

    def stopped(self, run: _Run) -> None:
        """A workload was asked to end, just now: there is a reason for it."""
        sim, work = self._sim, run.workload
        sim.note(f"{run_name(run)} is asked to end")
        if run.ends() < sim.clock.monotonic() or self._interrupted() or not self._is_live(work.job_uid, work.attempt):
            return
        if self._jobs.is_suspended(work.job_uid) or self._queues.may_be_released(work.job_uid):
            return
        asked = self._jobs.suspended.get(work.job_uid, -1.0)
        gang = self._parts[work.job_uid, str(work.attempt)]
        others = [r for r in self._jobs.runs(work.job_uid, work.attempt) if r is not run]
        over = [uid for uid in gang if not self._wanted(gang[uid]) or self._over(uid)]
        failed = [r for r in others if r.ends() <= sim.clock.monotonic() and state_of(r, sim) is WorkloadState.FAILED]
        if asked < run.began - sim.started_at and not over and not failed and len(others) + 1 == work.replicas:
            raise Violation("harm", f"{run_name(run)} is ended, which is still wanted")

    def started(self, run: _Run) -> None:
        """A workload was started, just now. One that its node refuses, for want of the lease, never ran."""
        sim, work = self._sim, run.workload
        sim.note(f"{work.node} starts {run_name(run)}{', which fails: ' + run.broken if run.broken else ''}")
        others = [other for other in sim.backend.alive(work.job_uid) if other is not run]
        for other in others:
            if other.workload.attempt != work.attempt and not run.broken:
                raise Violation("runs twice", f"{run_name(run)} starts while {run_name(other)} runs")
            if (other.workload.attempt, other.workload.replica) == (work.attempt, work.replica):
                raise Violation("runs twice", f"{run_name(run)} starts twice")
        if run.broken:
            return
        if not self._interrupted() and not self._is_live(work.job_uid, work.attempt):
            raise Violation("started too late", f"{run_name(run)} starts after the attempt was over")
        asked = self._asked(work.job_uid, str(work.attempt))
        missing = [self._lease_name(uid) for uid in asked if uid not in self._leases]
        if missing or not asked:
            raise Violation("gang", f"{run_name(run)} starts while {missing} were never leased")
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
        self._check_parked(now)
        self._queues.time_passed(now)
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

    def _wanted(self, document: Doc, *, parked: bool = False) -> bool:
        """Whether the partition is there to hold its lease on."""
        if document.get("gone") or phase_of(document) in ENDED or document["metadata"].get("deletionTimestamp"):
            return False
        owner = owner_of(document)
        if not owner:
            return True
        job = self._docs["GPUJob", owner]
        if job.get("gone"):
            return False
        if not parked and self._taken_back(document):
            return False
        number = int(document["metadata"]["labels"]["cumulus.dev/attempt"])
        status = job.get("status") or {}
        if (status.get("next") or {}).get("number") == number:
            return True
        attempts = status.get("attempts") or []
        return bool(attempts) and attempts[-1]["number"] == number and not attempts[-1].get("endTime")

    def _asked(self, job_uid: str, attempt: str) -> dict[str, None]:
        """uids of the partitions that the job says are the attempt's. Those of an attempt that was queued ahead and not
        needed are of the same number and may be of the same names: of one name the last that was made counts."""
        by_name = {p["metadata"]["name"]: uid for uid, p in self._parts[job_uid, attempt].items()}
        status = self._docs["GPUJob", job_uid].get("status") or {}
        attempts = [each for each in (*(status.get("attempts") or ()), status.get("next")) if each]
        names = next((each["partitions"] for each in attempts if str(each["number"]) == attempt), list(by_name))
        return {by_name[name]: None for name in names if name in by_name}

    def _taken_back(self, document: Doc) -> bool:
        """Whether its share goes back to another queue by now, or may seem to by a wrong clock. One that is parked for
        it has done so already, and stays."""
        taken, sim = document["status"].get("reclaim"), self._sim
        if taken is None or phase_of(document) in ("Parked", "Unparking"):
            return False
        return moment(taken["at"], sim) <= sim.now() + clocks_wrong(sim)

    def _over(self, uid: str) -> bool:
        """Whether the lease's time is over, or may seem so by a wrong clock."""
        found, sim = self._leases.get(uid), self._sim
        if found is None:
            return True
        lease = found.node.held(uid)
        return lease is None or lease.state is not LeaseState.ACTIVE or found.ends - sim.now() < clocks_wrong(sim)

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

    def _check_parked(self, now: float) -> None:
        """What is written of a parked program is soon what is true: it does not run, and it is there."""
        wrong: dict[str, str] = {}
        for found in list(self._leases.values()):
            lease = found.node.held(found.lease.id)
            document = self._docs.get(("GPUPartition", found.lease.id))
            if lease is None or document is None or document.get("gone") or not owner_of(document):
                continue
            phase, name = phase_of(document), document["metadata"]["name"]
            job = self._docs["GPUJob", owner_of(document)]
            said = (job.get("status") or {}).get("phase")
            mine = self._is_live(owner_of(document), int(document["metadata"]["labels"]["cumulus.dev/attempt"]))
            if lease.state is LeaseState.PARKED and phase in ("Active", "Bound"):
                wrong[f"{name} is {phase}, but parked"] = name
            elif phase in ("Parked", "Unparking") and lease.state in (LeaseState.ACTIVE, LeaseState.ENDED):
                wrong[f"{name} is {phase}, but its lease is {lease.state}"] = name
            elif lease.state is LeaseState.PARKED and mine and said in ("Running", "Scheduled"):
                wrong[f"{name} is parked, and its job is said to run"] = name
            if lease.state is LeaseState.PARKED and self._computes(owner_of(document), lease.id):
                raise Violation("parked", f"{name} is parked, and its program runs")
        self._misled = {text: self._misled.get(text, now) for text in wrong}
        for text, since in self._misled.items():
            if now - max(since, self._sim.disturbed_until) > PARKED_SECONDS + self._backed_off():
                raise Violation("parked", f"{text}, for {now - since:.0f} s")

    def _computes(self, job_uid: str, lease: str) -> bool:
        """Whether a program of the job has the GPU in that lease."""
        runs = (run for run in self._sim.backend.alive(job_uid) if run.workload.leases[0].id == lease)
        return any(not run.parked for run in runs)

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
        shares = {
            held.id: (held.memory_bytes, held.compute)
            for held in node.peek() if held.device == device and held.holds_share
        }  # fmt: skip
        if new is not None:
            shares[new.id] = (new.memory_bytes, new.compute)
        for run in self._sim.backend.all_alive():
            if run.workload.node == node.name and not run.parked:
                refs = (ref for ref in run.workload.leases if ref.device == device)
                shares |= {ref.id: (ref.memory_bytes, ref.compute) for ref in refs}
        memory, compute = sum(s[0] for s in shares.values()), sum(s[1] for s in shares.values())
        if memory > node.capacity(device) or compute > FULL_COMPUTE:
            names = [self._lease_name(id) for id in shares]
            raise Violation("over-allocated", f"device {device} of {node.name}: {names}")

    def _check_told(self, document: Doc) -> None:
        """Whatever ended has a condition, and an event that was written with it."""
        kind, phase, uid = document["kind"], phase_of(document), document["metadata"].get("uid", "")
        if kind == "GPUJob" and phase in ("Succeeded", "Failed"):
            type = phase
        elif kind == "GPUPartition" and phase in ENDED:
            type = "Ended"
        else:
            return
        why = [c.get("reason") for c in document["status"].get("conditions") or () if c["type"] == type]
        if not why or (uid, why[0]) not in self._told:
            raise Violation("silent end", f"{document['metadata']['name']} is {phase}, and nobody was told")

    def _check_withdrawn(self, job: Doc) -> None:
        """Nobody keeps shares for an attempt that was queued ahead and is not needed."""
        status = job.get("status") or {}
        number = status.get("attemptCount", 0) + 1
        parts = self._parts.get((job["metadata"]["uid"], str(number)), {}).values()
        kept = [p["metadata"]["name"] for p in parts if not _goes(p)]
        if kept and not status.get("next"):
            raise Violation("leak", f"{kept} stay, which were made for an attempt that is not to come")

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
                if run not in alive and run.workload.attempt == work.attempt
                and state_of(run, sim) is WorkloadState.SUCCEEDED
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

    def _partition(self, type: int, document: Doc, bound: set[tuple[str, str, str]]) -> None:
        sim, meta = self._sim, document["metadata"]
        uid, name = meta["uid"], meta["name"]
        old = self._docs.get(("GPUPartition", uid))
        self._docs["GPUPartition", uid] = document
        owner = owner_of(document)
        attempt = (meta.get("labels") or {}).get("cumulus.dev/attempt", "")
        if owner:
            self._parts[owner, attempt][uid] = document
        phase, before = phase_of(document), phase_of(old) if old is not None else "Pending"
        self._queues.partition(type, old, document)
        if type == ADDED:
            sim.note(f"{name} is made")
        elif type == DELETED:
            document["gone"] = True
            sim.note(f"{name} is gone")
        elif phase != before:
            place = f" on {document['status'].get('node')} device {document['status'].get('device')}"
            sim.note(f"{name}: {phase}{place if phase == 'Bound' else ''}{why_of(document) if phase in ENDED else ''}")
        back = ORDER.index(phase) < ORDER.index(before) and (before, phase) not in BACK
        if back or (before in ENDED and phase != before):
            raise Violation("phases", f"{name} went from {before} to {phase}")
        self._hold(uid, name, document, phase, gone=type == DELETED)
        if phase == "Active" and before != "Active":
            self._active(uid, name, document)
        if phase == "Parked" and before != "Parked":
            self._parked(uid, name)
        if (phase in ENDED and before not in ENDED) or type == DELETED:
            self._share_over(uid, name, phase, type)
        if phase == "Bound" and before == "Pending" and owner:
            bound.add((owner, attempt, uid))

    def _active(self, uid: str, name: str, document: Doc) -> None:
        found, status = self._leases.get(uid), document["status"]
        if found is None:
            raise Violation("ahead of the truth", f"{name} is Active without a lease")
        if status.get("fencingToken") != found.lease.token or status.get("node") != found.node.name:
            raise Violation("ahead of the truth", f"{name} is Active with another lease's token or node")

    def _parked(self, uid: str, name: str) -> None:
        """Its share is said to be free: its node has it back, and its program is there."""
        found = self._leases.get(uid)
        lease = None if found is None else found.node.held(uid)
        if lease is None or (lease.holds_share and lease.state is not LeaseState.ENDING):
            raise Violation("parked", f"{name} is Parked, but its lease is {lease and lease.state}")

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

    def _lease_name(self, id: str) -> str:
        document = self._docs.get(("GPUPartition", id))
        return document["metadata"]["name"] if document is not None else id


def _goes(partition: Doc) -> bool:
    return bool(partition.get("gone") or partition["metadata"].get("deletionTimestamp") or phase_of(partition) in ENDED)
