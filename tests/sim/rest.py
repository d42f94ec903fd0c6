"""When nothing goes wrong any more and time has passed: all that was asked for is there, and nothing else is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cumulus.resources.job import GPUJob
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.meta import is_true
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition
from cumulus.store.client import StoreClient
from tests.sim import rest_of_makers
from tests.sim.maker_oracle import maker_of
from tests.sim.people import Wanted
from tests.sim.truth import Violation

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

LOOK_SECONDS = 1.0

TIMELY = rest_of_makers.TIMELY


class Rest:
    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._client = StoreClient(sim.store)
        self._look_at = 0.0
        self._seen = -1
        self._missing: list[str] = []

    def reached(self) -> bool:
        """Whether nothing is left to happen. Looked at once a second, and only where something changed."""
        sim = self._sim
        if sim.now() < self._look_at:
            return False
        self._look_at = sim.now() + LOOK_SECONDS
        self._missing = self._left()
        return not self._missing

    def check(self) -> None:
        """Raises Violation where it is not so."""
        missing = self._left()
        if missing:
            raise Violation("not at rest", "; ".join(missing))

    def _left(self) -> list[str]:
        """All that keeps the world from being at rest as it should be."""
        sim, model = self._sim, self._sim.model
        left = [f"{run.workload.name} runs" for run in sim.backend.all_alive()]
        left += [f"lease {lease} lives" for lease in sim.oracle.live_leases()]
        if left or model.busy:
            return left or ["people wait for an object to go"]
        jobs = {job.metadata.name: job for job in self._client.list(GPUJob)}
        partitions = self._client.list(GPUPartition)
        for name, wanted in model.jobs.items():
            left += _job(name, wanted, jobs.get(name), sim)
        makers = rest_of_makers.makers(sim)
        left += rest_of_makers.left(sim, self._client, jobs)
        left += [
            f"job {name} should be gone"
            for name, job in jobs.items() if name not in model.jobs and maker_of(job.to_json()) not in makers
        ]  # fmt: skip
        uids = {job.uid for job in jobs.values()}
        by_hand = {wanted.uid for wanted in model.partitions.values()}
        there = {partition.uid for partition in partitions}
        left += [f"partition {name} is lost" for name, w in model.partitions.items() if w.uid not in there]
        for partition in partitions:
            owners = [owner.uid for owner in partition.metadata.owner_references]
            if not (uids.intersection(owners) or partition.uid in by_hand):
                left.append(f"partition {partition.metadata.name} belongs to nobody")
            elif not partition.status.phase.ended and not _waits_for_ever(partition, jobs.values()):
                left.append(f"partition {partition.metadata.name} is {partition.status.phase}")
        left += [f"{seen.name} was not removed" for seen in sim.backend.peek()]
        for node in self._client.list(GPUNode):
            if not is_true(node.status.conditions, "Ready"):
                left.append(f"{node.metadata.name} is not Ready")
        ran = {uid for uid in sim.backend.by_job if uid not in uids}
        left += [f"the files of a deleted job {uid} were left" for uid in sorted(ran - sim.backend.purged)]
        return left


def expected(wanted: Wanted, sim: Simulation) -> set[str]:
    """The phases in which the job may be at rest, "" for gone. One, where what people did does not depend on when."""
    program, spec = wanted.program, wanted.spec
    assert program is not None
    finished = _finished(wanted, sim)
    phases = {finished}
    may_be_ended = wanted.uid in sim.model.overused or (spec.get("idle") or {}).get("action") == "Release"
    if may_be_ended and finished != "Pending":
        phases |= {"Succeeded", "Failed"}
    if spec.get("suspend"):
        phases |= {"Suspended"}
    if spec.get("park"):
        phases |= {"Suspended", "Parked"}
    if spec.get("ttlAfterFinished") and finished in ("Succeeded", "Failed"):
        phases = (phases - {finished}) | {""}
    return phases


def _finished(wanted: Wanted, sim: Simulation) -> str:
    program, spec = wanted.program, wanted.spec
    assert program is not None
    if spec["gpu"].get("count", 1) > sim.schedule.devices or not _fits(spec, sim):
        return "Pending"
    match program.kind:
        case "refused":
            return "Failed"
        case "fails":
            return "Succeeded" if program.fails <= spec["retry"].get("limit", 0) else "Failed"
        case "forever":
            return "Succeeded" if program.again else "Failed"
    return "Succeeded"


def _fits(spec: dict[str, object], sim: Simulation) -> bool:
    """Whether the whole gang fits in the world with nothing else there."""
    gpu: dict[str, object] = spec["gpu"]  # type: ignore[assignment]
    each = int(1 / float(str(gpu["memory"])))
    count = int(str(gpu.get("count", 1)))
    per_node = each * (sim.schedule.devices // count) if count > 1 else each * sim.schedule.devices
    return int(str(spec.get("replicas", 1))) <= per_node * sim.schedule.nodes


def _job(name: str, wanted: Wanted, job: GPUJob | None, sim: Simulation) -> list[str]:
    right = expected(wanted, sim)
    if job is None:
        return [] if "" in right else [f"job {name} is lost"]
    if job.uid != wanted.uid:
        return [f"job {name} is another one"]
    if job.deleting:
        return [f"job {name} is being deleted"]
    if job.to_json()["spec"] != wanted.spec:
        return [f"job {name} has another spec than was acknowledged"]
    if job.status.phase.value not in right:
        return [f"job {name} is {job.status.phase}, not {' or '.join(sorted(right))}"]
    if job.status.observed_generation != job.metadata.generation:
        return [f"the last change of job {name} was not seen"]
    return []


def _waits_for_ever(partition: GPUPartition, jobs: object) -> bool:
    """A gang that fits nowhere waits: that is where it should be."""
    owners = {owner.uid for owner in partition.metadata.owner_references}
    waits = {job.uid for job in jobs if job.status.phase is JobPhase.PENDING}  # type: ignore[attr-defined]
    return partition.status.phase.value == "Pending" and bool(owners & waits)


def projection(sim: Simulation) -> dict[str, str]:
    """What must not depend on faults: which objects are there, and what became of each job whose end is determined."""
    client = StoreClient(sim.store)
    found = {
        f"job {job.metadata.name}": job.status.phase.value
        for job in client.list(GPUJob) if not maker_of(job.to_json())
    }  # fmt: skip
    found |= rest_of_makers.projection(sim, client)
    for name, wanted in sim.model.jobs.items():
        if len(expected(wanted, sim)) > 1:
            found[f"job {name}"] = TIMELY
    found |= {f"partition {name}": "" for name in sim.model.partitions}
    return found
