"""When time has passed: arrays and cron jobs have made each job that they should, once, and say how those ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from cumulus.resources.cron_job import GPUCronJob
from cumulus.resources.job import GPUJob
from cumulus.resources.job_array import ArrayPhase, GPUJobArray
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.reasons import EventReason
from cumulus.store.client import StoreClient
from tests.sim.maker_oracle import indexes_of, paused
from tests.sim.people import Wanted

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

LATE_SECONDS = 35.0
"""How late a job by a schedule may be made: a clock may be set while a controller waits."""


def makers(sim: Simulation) -> frozenset[str]:
    """uids of those that are there."""
    return frozenset(wanted.uid for wanted in (*sim.model.arrays.values(), *sim.model.crons.values()))


def left(sim: Simulation, client: StoreClient, jobs: Mapping[str, GPUJob]) -> Iterator[str]:
    """All that keeps them from being at rest as they should be."""
    arrays = {array.metadata.name: array for array in client.list(GPUJobArray)} if sim.model.arrays else {}
    crons = {cron.metadata.name: cron for cron in client.list(GPUCronJob)} if sim.model.crons else {}
    for name, wanted in sim.model.arrays.items():
        array = arrays.get(name)
        if array is None:
            yield f"array {name} is lost"
        else:
            yield from _array(array, wanted, jobs, sim)
    for name, wanted in sim.model.crons.items():
        cron = crons.get(name)
        if cron is None:
            yield f"cron job {name} is lost"
        else:
            yield from _cron(cron, wanted, jobs, sim)


def _array(array: GPUJobArray, wanted: Wanted, jobs: Mapping[str, GPUJob], sim: Simulation) -> Iterator[str]:
    name, status, spec = array.metadata.name, array.status, array.spec
    if array.to_json()["spec"] != wanted.spec:
        yield f"array {name} has another spec than was acknowledged"
    kept = [job for job in jobs.values() if job.is_owned_by(array.uid)]
    yield from (f"job {job.metadata.name} is {job.status.phase}" for job in kept if not job.status.phase.finished)
    for phase, most in (
        (JobPhase.SUCCEEDED, spec.successful_jobs_history_limit), (JobPhase.FAILED, spec.failed_jobs_history_limit),
    ):  # fmt: skip
        if sum(job.status.phase is phase for job in kept) > most:
            yield f"array {name} keeps more jobs that are {phase} than {most}"
    if spec.suspend:
        return
    indexes = indexes_of(wanted.spec["indexes"])
    if sim.oracle.makers.made[array.uid].keys() != indexes:
        yield f"array {name} made jobs for {sorted(sim.oracle.makers.made[array.uid])}"
    if status.phase not in (ArrayPhase.SUCCEEDED, ArrayPhase.FAILED):
        yield f"array {name} is {status.phase}"
        return
    if not _dropped(wanted, sim) and indexes_of(_where(wanted, status.succeeded, status.failed)) != indexes:
        yield f"array {name}: {status.succeeded!r} succeeded, {status.failed!r} failed"


def _cron(cron: GPUCronJob, wanted: Wanted, jobs: Mapping[str, GPUJob], sim: Simulation) -> Iterator[str]:
    name, made = cron.metadata.name, sim.oracle.makers.made[cron.uid]
    due = sim.model.minutes[cron.uid]
    kept = [job for job in jobs.values() if job.is_owned_by(cron.uid)]
    yield from (f"job {job.metadata.name} is {job.status.phase}" for job in kept if not job.status.phase.finished)
    if cron.spec.suspend:
        return
    if sim.now() < due[-1] * 60 - sim.epoch + LATE_SECONDS:
        yield f"a job of {name} is due yet"
    elif due[-1] not in made and cron.spec.starting_deadline_seconds is None:
        yield f"cron job {name} has not made its last job"
    elif not sim.schedule.faults and not paused(name, sim):
        left_out = sim.oracle.makers.left_out[cron.uid]
        if made.keys() | left_out != {*due}:
            yield f"cron job {name} has made {len(made)} jobs, where {len(due)} were due"
        if left_out and not sim.oracle.was_told(cron.uid, EventReason.MISS_SCHEDULE):
            yield f"nobody was told that a job of {name} is left out"
    if cron.status.active:
        yield f"cron job {name} is said to have jobs that are not over: {cron.status.active}"


def _where(wanted: Wanted, succeeded: str, failed: str) -> str:
    """The list in which all indexes should be."""
    assert wanted.program is not None
    spec = wanted.spec["jobTemplate"]["spec"]
    limit = (spec.get("retry") or {}).get("limit", 0)
    fails = wanted.program.kind == "refused" or (wanted.program.kind == "fails" and wanted.program.fails > limit)
    return failed if fails else succeeded


def _dropped(wanted: Wanted, sim: Simulation) -> bool:
    return bool(sim.model.dropped & {*sim.oracle.makers.made[wanted.uid].values()})


def projection(sim: Simulation, client: StoreClient) -> dict[str, str]:
    """What must not depend on faults."""
    found = {}
    arrays = {array.metadata.name: array for array in client.list(GPUJobArray)}
    for name, wanted in sim.model.arrays.items():
        array = arrays.get(name)
        timely = array is not None and (array.spec.suspend or _dropped(wanted, sim))
        found[f"array {name}"] = TIMELY if timely else str(array and array.status.phase)
    found |= {f"cron job {name}": "" for name in sim.model.crons}
    return found


TIMELY = "depends on time"
"""The end of what is one or another, depending on when things were done."""
