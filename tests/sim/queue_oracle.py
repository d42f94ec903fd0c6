"""What must never be where there are queues: who holds more than may be, whose share is taken back and how, what was
promised, and whom devices are held for.

It is told of each commit. What a daemon decided on a view that was right a moment ago it may do: so ends of shares
count `STALE` seconds late where they would forbid it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from cumulus.resources.partition import PartitionPhase
from cumulus.resources.quantity import parse_duration
from cumulus.resources.queue import MIN_RUNTIME
from cumulus.resources.submitter import QUEUE, SUBMITTER
from cumulus.store.codec import DELETED
from tests.sim.truth import Doc, Violation, clocks_wrong, moment, owner_of, phase_of

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

STALE = 60.0
"""Seconds by which a daemon that was held up, or whose informer is late, may be behind at most."""

PROMISE_SECONDS = 5.0
"""How late a promised start may be where nothing goes wrong: a look at the queue is in it."""

TOLD_SECONDS = 5.0
"""Within so many seconds an event says that a promise moved later."""

HOLDING = frozenset(phase.value for phase in PartitionPhase if phase.holds)


class QueueOracle:
    """`docs`: (kind, uid) -> the last state of jobs and partitions, shared with the other oracles."""

    def __init__(self, sim: Simulation, docs: dict[tuple[str, str], Doc]) -> None:
        self._sim = sim
        self._docs = docs
        self._queues: dict[str, Doc] = {}
        self._reservations: dict[str, Doc] = {}
        self._holds: dict[str, Doc] = {}
        """uid -> the partition that holds a share."""
        self._ended: list[tuple[float, Doc]] = []
        """Since when shares are free again."""
        self._promised: dict[str, tuple[float, float]] = {}
        """uid -> by when it starts, and since when that is written."""
        self._moved: dict[str, tuple[str, float]] = {}
        """Jobs, or partitions without one, whose promise moved later: their name, and until when that must be told."""
        self._waiting: set[str] = set()
        """uids of partitions that wait for a share."""
        self._waited = -STALE
        """When one did last."""
        self.back: dict[str, float] = {}
        """Lease -> when its program came back from main memory last."""

    def committed(self, type: int, document: Doc) -> None:
        """A Queue or Reservation was written, just now."""
        known = self._queues if document["kind"] == "Queue" else self._reservations
        known[document["metadata"]["name"]] = document
        if type == DELETED:
            del known[document["metadata"]["name"]]

    def told(self, event: Doc) -> None:
        if event["reason"] == "PromiseMoved":
            self._moved.pop(event["involvedObject"]["uid"], None)

    def partition(self, type: int, old: Doc | None, document: Doc) -> None:
        """A partition was written, just now."""
        if not self._sim.schedule.shared:
            return
        uid, phase = document["metadata"]["uid"], phase_of(document)
        holds = type != DELETED and phase in HOLDING
        began = holds and uid not in self._holds
        if holds:
            self._holds[uid] = document
        elif self._holds.pop(uid, None) is not None:
            self._ended.append((self._sim.now(), document))
        if began:
            self._check_limits(document)
            self._check_reserved(document)
        if self._waiting:
            self._waited = self._sim.now()
        (self._waiting.add if type != DELETED and _waits(document) else self._waiting.discard)(uid)
        before = {} if old is None else _status(old)
        self._reclaim(before, document)
        self._turn(old, document)
        self._promise(before, document, over=type == DELETED)

    def time_passed(self, now: float) -> None:
        if not self._sim.schedule.shared:
            return
        for node in self._sim.leases.values():
            node.look()
        if self._sim.schedule.faults:
            return
        for uid, (start_by, _) in self._promised.items():
            if now > start_by + clocks_wrong(self._sim) + PROMISE_SECONDS:
                late = f"{self._name(uid)} was promised a start by {start_by:.1f}, and waits"
                raise Violation("promise", late)
        for name, until in self._moved.values():
            if now > until:
                raise Violation("promise", f"the promise of {name} moved later, and nobody was told")

    def may_be_released(self, job_uid: str) -> bool:
        """Whether the job may be asked to end since its GPU does nothing: it has not for long enough."""
        job = self._docs["GPUJob", job_uid]
        idle = job["spec"].get("idle") or {}
        return idle.get("action") == "Release" and self._idle_enough(job, idle["after"])

    def attempt_preempted(self, job: Doc, number: int) -> None:
        """An attempt ended since its share goes back, just now: it does, and the job saved first or need not."""
        name = f"{job['metadata']['name']} attempt {number}"
        taken = [p for p in self._parts_of(job["metadata"]["uid"], number) if _status(p).get("reclaim")]
        if not taken:
            raise Violation("reclaim", f"{name} is Preempted, and no share of it is taken back")
        if not _yields(job):
            raise Violation("reclaim", f"{name} is Preempted, which keeps no checkpoint and did not say Kill")
        if not job["spec"].get("checkpoint"):
            return
        grace = parse_duration(job["spec"]["checkpoint"]["gracePeriod"])
        for run in self._sim.backend.by_job.get(job["metadata"]["uid"], ()):
            if run.workload.attempt != number or run._stop is None or run._stop[1] != "Stopped":
                continue
            if run.ends() == run._killed_at < run._stop[0] + grace - 0.001 and not self._rebooted(run.workload.node):
                raise Violation("reclaim", f"{name} was killed before it could save")

    # Limits.

    def _check_limits(self, document: Doc) -> None:
        """A share was bound: no queue on its way to the top holds more than it may, nor its user."""
        if document["status"].get("queue") is None:
            return
        path, user = list(self._path(document)), _user(document)
        for queue in path:
            name, spec = queue["metadata"]["name"], queue["spec"]
            mine = [each for each in self._holds.values() if name in self._names(each)]
            self._check_caps(f"queue {name}", mine, spec.get("limit"), spec.get("maxJobs"))
        if path:
            own = path[0]["metadata"]["name"]
            mine = [each for each in self._holds.values() if _queue(each) == own and _user(each) == user]
            per_user = path[0]["spec"].get("perUser") or {}
            self._check_caps(f"{user} in queue {own}", mine, per_user.get("limit"), per_user.get("maxJobs"))

    def _check_caps(self, who: str, mine: list[Doc], limit: list[Doc] | None, jobs: int | None) -> None:
        held = sum(_share(each) for each in mine)
        if any(held > round(cap["devices"] * 1000) for cap in limit or ()):
            raise Violation("limit", f"{who} holds {held / 1000:g} devices, limit {limit}")
        names = {owner["name"] for each in mine for owner in each["metadata"].get("ownerReferences") or ()}
        if jobs is not None and len(names) > jobs:
            raise Violation("limit", f"{who} has shares for {len(names)} jobs, maxJobs {jobs}")

    # What is taken back.

    def _reclaim(self, before: Doc, document: Doc) -> None:
        old, new = before.get("reclaim"), _status(document).get("reclaim")
        if old == new:
            return
        sim, name = self._sim, document["metadata"]["name"]
        if old is not None and new is not None:
            raise Violation("reclaim", f"{name} is taken back for {new['gang']}, and was for {old['gang']} already")
        if new is None:
            over = phase_of(document) != "Active" or sim.who() == "people"
            due = moment(old["at"], sim) < sim.now() - clocks_wrong(sim)  # type: ignore[index]
            if due and not over and not any(daemon.interrupted for daemon in sim.stack):
                raise Violation("reclaim", f"{name} is said to keep its share, and its job was asked to end already")
            return
        sim.note(f"{name} is taken back for {new['gang']}")
        self._check_victim(name, document, new)
        for each in self._docs.values():
            gang = each["spec"].get("gang") or {}
            if each["kind"] == "GPUPartition" and f"default/{gang.get('name')}" == new["gang"] and gang.get("yielded"):
                raise Violation("reclaim", f"{name} is taken back for {new['gang']}, which has yielded itself")

    def _check_victim(self, name: str, document: Doc, said: Doc) -> None:
        job = self._docs.get(("GPUJob", owner_of(document)))
        if job is None or not _yields(job):
            raise Violation("reclaim", f"{name} is taken back, whose job keeps its share")
        path = list(self._path(document))
        runtime = next((q["spec"]["minRuntime"] for q in path if q["spec"].get("minRuntime")), MIN_RUNTIME)
        since = moment(document["status"]["activatedAt"], self._sim)
        if moment(said["at"], self._sim) < since + parse_duration(runtime) - 0.001:
            raise Violation("reclaim", f"{name} is taken back before it had its {runtime}")
        spared = {queue["metadata"]["name"] for queue in self._up(said["queue"])}
        now = self._sim.now()
        self._ended = [(at, each) for at, each in self._ended if now - at < STALE]
        there = [*self._holds.values(), *(each for _, each in self._ended)]
        for queue in path:
            mine, quota = queue["metadata"]["name"], queue["spec"].get("quota")
            if mine in spared or not quota:
                continue
            kept = [p for p in there if mine in self._names(p) and not _status(p).get("reclaim")]
            if sum(map(_share, kept)) < sum(round(cap["devices"] * 1000) for cap in quota):
                raise Violation("reclaim", f"{name} is taken back, and queue {mine} holds less than its quota then")

    # Reservations.

    def _check_reserved(self, document: Doc) -> None:
        """A share was bound: it does not reach into a time for which its device is held for others. Where several
        hold a device at the same time, it is held by the first of them alone."""
        sim, status = self._sim, document["status"]
        now, wrong = sim.now(), clocks_wrong(sim)
        ends = now + parse_duration(document["spec"]["duration"])
        place = (status["node"], status["device"])
        before: list[tuple[float, float]] = []
        for held in sorted(self._reservations.values(), key=_rank):
            chosen = {(each["node"], each["device"]) for each in (held.get("status") or {}).get("devices") or ()}
            if place not in chosen:
                continue
            start = moment(held["spec"]["start"], sim)
            end = start + parse_duration(held["spec"]["duration"])
            if not self._admits(held, document):
                for since, until in _without((start, end), before):
                    if since < ends - wrong and now < until - wrong:
                        bound = f"{document['metadata']['name']} is bound to {place} until {ends:.0f}"
                        other = f"{held['metadata']['name']} from {since:.0f} to {until:.0f}"
                        raise Violation("reserved", f"{bound}, which is held by {other}")
            before.append((start, end))

    def renewed(self, uid: str, ends: float) -> None:
        """A lease was renewed, just now."""
        document, sim = self._holds.get(uid), self._sim
        if document is None or any(daemon.interrupted for daemon in sim.stack):
            return
        place = (document["status"]["node"], document["status"]["device"])
        for held in self._reservations.values():
            chosen = {(each["node"], each["device"]) for each in (held.get("status") or {}).get("devices") or ()}
            if place not in chosen or self._admits(held, document):
                continue
            known = moment(held["metadata"]["creationTimestamp"], sim) < sim.now() - STALE
            start = moment(held["spec"]["start"], sim)
            if known and sim.now() < start < ends - clocks_wrong(sim):
                other = f"{held['metadata']['name']} from {start:.0f} on"
                name = document["metadata"]["name"]
                raise Violation("reserved", f"{name} is renewed to {ends:.0f}, its device is held by {other}")

    def _admits(self, held: Doc, document: Doc) -> bool:
        for_ = held["spec"].get("for") or {}
        if _user(document) in (for_.get("users") or ()):
            return True
        return bool(set(for_.get("queues") or ()) & {*self._names(document), _queue(document)})

    # Turns and idleness.

    def _turn(self, old: Doc | None, document: Doc) -> None:
        """Why a program is to be parked is so."""
        sim, name = self._sim, document["metadata"]["name"]
        park, before = document["spec"].get("park"), None if old is None else old["spec"].get("park")
        if park is None or park == before or park.get("backSince"):
            return
        job = self._docs.get(("GPUJob", owner_of(document)))
        if job is None or not _status(document).get("activatedAt"):
            return
        if park["reason"] == "TurnOver":
            turns = next((q["spec"]["turns"] for q in self._path(document) if q["spec"].get("turns")), None)
            since = moment(document["status"]["activatedAt"], sim)
            had = sim.now() - max(since, self.back.get(document["metadata"]["uid"], since))
            if turns is None or had < parse_duration(turns["length"]) - clocks_wrong(sim):
                raise Violation("turn", f"the turn of {name} is over after {had:.1f} s")
            if sim.now() - self._waited >= STALE:
                raise Violation("turn", f"the turn of {name} is over, and nobody waits")
        if park["reason"] == "Idle" and not self._idle_enough(job, job["spec"]["idle"]["after"]):
            raise Violation("idle", f"{name} is parked since its GPU did nothing, and it has not for so long")

    def _idle_enough(self, job: Doc, after: str) -> bool:
        """Whether the GPUs of the job have truly done nothing for so long, and it has had them as long."""
        sim, uid = self._sim, job["metadata"]["uid"]
        runs = sim.backend.by_job.get(uid, ())[-1:]
        begun = max((run.began - sim.started_at for run in runs), default=0.0)
        busy = [sim.leases[r.workload.node].busy_at.get(ref.device, 0.0) for r in runs for ref in r.workload.leases]
        back = [self.back.get(ref.id, 0.0) for run in runs for ref in run.workload.leases]
        idle = sim.now() - max([begun, *busy, *back], default=0.0)
        return bool(runs) and idle >= parse_duration(after) - clocks_wrong(sim) - 1.0

    # Promises.

    def _promise(self, before: Doc, document: Doc, *, over: bool) -> None:
        uid, sim = document["metadata"]["uid"], self._sim
        waits = not over and _waits(document) and not document["metadata"].get("deletionTimestamp")
        old, new = before.get("promise"), _status(document).get("promise")
        if not waits:
            self._promised.pop(uid, None)
            self._moved.pop(owner_of(document) or uid, None)
            return
        if new is not None and (old is None or new["startBy"] != old["startBy"]):
            self._promised[uid] = moment(new["startBy"], sim), sim.now()
            sim.note(f"{document['metadata']['name']} is promised a start by {self._promised[uid][0]:.1f}")
        if new is None:
            self._promised.pop(uid, None)
        if old is not None and (new is None or new["startBy"] > old["startBy"]):
            self._moved[owner_of(document) or uid] = document["metadata"]["name"], sim.now() + TOLD_SECONDS

    # Who is who.

    def _path(self, document: Doc) -> Iterator[Doc]:
        """Its queue and those above."""
        return self._up(_queue(document))

    def _up(self, name: str | None) -> Iterator[Doc]:
        while name is not None and (queue := self._queues.get(name)) is not None:
            yield queue
            name = queue["spec"].get("parent")

    def _names(self, document: Doc) -> set[str]:
        return {queue["metadata"]["name"] for queue in self._path(document)}

    def _parts_of(self, job_uid: str, number: int) -> Iterable[Doc]:
        for document in self._docs.values():
            mine = document["kind"] == "GPUPartition" and owner_of(document) == job_uid
            if mine and document["metadata"]["labels"]["cumulus.dev/attempt"] == str(number):
                yield document

    def _rebooted(self, node: str) -> bool:
        return any(fault.kind == "reboot" and fault.target == node for fault in self._sim.schedule.faults)

    def _name(self, uid: str) -> str:
        return str(self._docs["GPUPartition", uid]["metadata"]["name"])


def _yields(job: Doc) -> bool:
    """Whether the job may be ended for another queue's: it saves, or said that it may be killed."""
    checkpoint = job["spec"].get("checkpoint")
    saves = checkpoint is not None and checkpoint.get("onExpiry") != "Fail"
    return saves or job["spec"].get("preemptible") == "Kill"


def _rank(reservation: Doc) -> tuple[bool, bool, str, str]:
    """The least goes first: what is held for nobody, then whole nodes, then who came first."""
    spec, meta = reservation["spec"], reservation["metadata"]
    for_ = spec.get("for") or {}
    somebody = bool(for_.get("users") or for_.get("queues"))
    return somebody, spec.get("devices") is not None, meta["creationTimestamp"], meta["name"]


def _without(time: tuple[float, float], others: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """What is left of a time."""
    left = [time]
    for begin, end in others:
        left = [
            (a, b) for since, until in left for a, b in ((since, min(until, begin)), (max(since, end), until)) if a < b
        ]
    return left


def _status(document: Doc) -> Doc:
    found: Doc = document.get("status") or {}
    return found


def _queue(document: Doc) -> str:
    own = (document["metadata"].get("annotations") or {}).get(QUEUE)
    return str(_status(document).get("queue") or own or "default")


def _user(document: Doc) -> str:
    return str((document["metadata"].get("annotations") or {}).get(SUBMITTER, ""))


def _share(document: Doc) -> int:
    return int(_status(document).get("share") or 0)


def _waits(document: Doc) -> bool:
    phase, park = phase_of(document), document["spec"].get("park")
    return phase == "Pending" or (phase == "Parked" and bool(park and park.get("backSince")))
