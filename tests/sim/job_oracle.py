"""What the status of a job must never say: anything that is ahead of what truly happened, or takes it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cumulus.backends.base import WorkloadState
from cumulus.store.codec import ADDED, DELETED
from cumulus.testing.backend import _Run
from tests.sim.maker_oracle import MakerOracle, maker_of
from tests.sim.parts import failed_itself
from tests.sim.queue_oracle import QueueOracle
from tests.sim.truth import Doc, Violation, finished, owner_of, run_name

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation


class JobOracle:
    """`docs`: (kind, uid) -> the last state of jobs and partitions, deleted ones too, shared with the other oracle."""

    def __init__(
        self, sim: Simulation, docs: dict[tuple[str, str], Doc], makers: MakerOracle, queues: QueueOracle
    ) -> None:
        self._sim = sim
        self._docs = docs
        self._makers = makers
        self._queues = queues
        self.suspended: dict[str, float] = {}
        """uid -> when it was last told, or had just been told, not to run."""

    def is_suspended(self, uid: str) -> bool:
        """Whether people want it not to run, as it is stored now."""
        job = self._docs["GPUJob", uid]
        attempts = (job.get("status") or {}).get("attempts") or [{}]
        return bool(job["spec"].get("suspend") or (job["spec"].get("park") and not attempts[-1].get("startTime")))

    def runs(self, uid: str, attempt: int) -> list[_Run]:
        """The workloads that the attempt truly had."""
        return [run for run in self._sim.backend.by_job.get(uid, ()) if run.workload.attempt == attempt]

    def committed(self, type: int, document: Doc) -> None:
        """A job was written, just now."""
        sim, uid = self._sim, document["metadata"]["uid"]
        old = self._docs.get(("GPUJob", uid))
        self._docs["GPUJob", uid] = document
        name, status = document["metadata"]["name"], document.get("status") or {}
        if any(
            each is not None and (each["spec"].get("suspend") or each["spec"].get("park")) for each in (document, old)
        ):
            self.suspended[uid] = sim.now()
        if type == ADDED and maker_of(document):
            self._makers.job_made(document)
        if maker_of(document) and (type == DELETED or finished(document)):
            self._makers.job_over(document)
        if sim.stack and document["spec"] != sim.model.specs.get(uid):
            raise Violation("lost change", f"{sim.who()} wrote a spec of {name} that nobody asked for")
        if type == DELETED:
            document["gone"] = True
            self._gone(uid, name)
            return
        if old is None or (old.get("status") or {}) == status:
            return
        before = old.get("status") or {}
        sim.note(f"{name}: {_job_line(status)}")
        self._attempts(uid, name, before, status)
        self._phase(document, before, status)

    def _gone(self, uid: str, name: str) -> None:
        sim = self._sim
        sim.note(f"{name} is gone")
        alive = sim.backend.alive(uid)
        if alive:
            raise Violation("gone too early", f"{name} is gone while {run_name(alive[0])} runs")
        left = [
            p["metadata"]["name"]
            for (kind, _), p in self._docs.items()
            if kind == "GPUPartition" and owner_of(p) == uid and not p.get("gone")
        ]
        if left:
            raise Violation("gone too early", f"{name} is gone before {left}")

    def _attempts(self, uid: str, name: str, before: Doc, status: Doc) -> None:
        if status.get("attemptCount", 0) < before.get("attemptCount", 0):
            raise Violation("attempts", f"{name}: attemptCount went back")
        attempts = status.get("attempts") or []
        numbers = [attempt["number"] for attempt in attempts]
        if numbers != list(range(status.get("attemptCount", 0) - len(numbers) + 1, status.get("attemptCount", 0) + 1)):
            raise Violation("attempts", f"{name}: attempts {numbers}, count {status.get('attemptCount')}")
        following = status.get("next")
        if following is not None and (following["number"] != numbers[-1] + 1 or following.get("startTime")):
            raise Violation("attempts", f"{name}: attempt {following['number']} is queued after {numbers}")
        yielded = sum(attempt.get("reason") == "Preempted" for attempt in attempts)
        if (status.get("preemptions") or 0) != yielded and len(attempts) == status.get("attemptCount", 0):
            raise Violation("reclaim", f"{name} was preempted {yielded} times, and counts {status.get('preemptions')}")
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
            if attempt.get("startTime") and all(run.broken for run in self.runs(uid, attempt["number"])):
                raise Violation("ahead of the truth", f"{name}: attempt {attempt['number']} never started")

    def _attempt_ended(self, uid: str, name: str, attempt: Doc) -> None:
        sim, reason = self._sim, attempt.get("reason")
        runs = self.runs(uid, attempt["number"])
        alive = [run for run in runs if run.ends() > sim.clock.monotonic()]
        if alive:
            raise Violation("ahead of the truth", f"{name}: {reason}, but {run_name(alive[0])} runs")
        if reason == "Completed" and (
            not runs or len(runs) < runs[0].workload.replicas or not all(self._did_its_work(uid, run) for run in runs)
        ):
            raise Violation("ahead of the truth", f"{name}: Completed, but not all replicas succeeded")
        if reason == "Lost" and not any(run._stop is not None and run._stop[1] == "Lost" for run in runs):
            raise Violation(
                "ahead of the truth", f"{name}: Lost, but no workload of attempt {attempt['number']} was lost"
            )
        if reason == "Preempted":
            self._queues.attempt_preempted(self._docs["GPUJob", uid], attempt["number"])
        if reason == "Overused" and not any(self._overused(run) for run in runs):
            raise Violation("ahead of the truth", f"{name}: Overused, but no workload of the attempt was")
        if reason == "Error":
            codes = [run.script.exit_code for run in runs if failed_itself(run)]
            if attempt.get("exitCode") not in codes:
                raise Violation("ahead of the truth", f"{name}: Error {attempt.get('exitCode')}, but truly {codes}")

    def _did_its_work(self, uid: str, run: _Run) -> bool:
        """Exit code 0 says so, except after the stop signal of a job that keeps checkpoints: it may mean saved."""
        seen = run.observe(self._sim.clock.monotonic())
        return seen.state is WorkloadState.SUCCEEDED or (
            seen.exit_code == 0 and not self._docs["GPUJob", uid]["spec"].get("checkpoint")
        )

    def _overused(self, run: _Run) -> bool:
        """Whether it was ended since it held more than it leased, whatever else was to end it by then."""
        return run.workload.name in self._sim.model.overusers

    def _phase(self, document: Doc, before: Doc, status: Doc) -> None:
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
                for r in self.runs(uid, attempts[-1]["number"])
                if not r.broken and r.began + r.script.start_seconds <= now
            ]
            if len(runs) < document["spec"].get("replicas", 1):
                raise Violation("ahead of the truth", f"{name} is Running, but {len(runs)} replicas were started")
        if phase in ("Succeeded", "Suspended", "Failed", "Pending") and status.get("next"):
            last = attempts[-1] if attempts else {}
            if phase != "Pending" or last.get("reason") not in ("LeaseExpired", "Saved"):
                raise Violation("attempts", f"{name} is {phase}, and its next attempt is still queued")
        if phase == "Succeeded" and (not attempts or attempts[-1].get("reason") != "Completed"):
            raise Violation("ahead of the truth", f"{name} is Succeeded, but its last attempt is not Completed")
        if phase in ("Succeeded", "Suspended", "Failed") and attempts and not attempts[-1].get("endTime"):
            raise Violation("ahead of the truth", f"{name} is {phase}, but attempt {attempts[-1]['number']} goes on")
        if phase == "Failed" and not attempts:
            raise Violation("ahead of the truth", f"{name} is Failed without an attempt")
        runs = sim.backend.by_job.get(uid, ())
        failed = {run.workload.attempt for run in runs if failed_itself(run) or self._overused(run)}
        if status.get("failures", 0) > len(failed):
            raise Violation(
                "ahead of the truth", f"{name}: {status.get('failures')} failures, but {len(failed)} attempts failed"
            )


def _job_line(status: Doc) -> str:
    attempts = status.get("attempts") or []
    last = attempts[-1] if attempts else {}
    tail = f", ended: {last.get('reason')} {last.get('message', '')}" if last.get("endTime") else ""
    return f"{status.get('phase', 'Pending')}, attempt {status.get('attemptCount', 0)}{tail}".rstrip()
