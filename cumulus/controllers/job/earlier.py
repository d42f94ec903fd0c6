"""The runs of a job before this one: what is left of them is ended before it begins, and their files go in time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cumulus.backends.base import Backend, Observed
from cumulus.clock import Clock, parse_timestamp, timestamp
from cumulus.controllers.job.ended import end_all
from cumulus.controllers.job.objects import Origin, place_of
from cumulus.machinery.reconcile import Retry
from cumulus.resources.job import Attempt, GPUJob
from cumulus.resources.job_partitions import GRACE
from cumulus.resources.job_runs import EarlierRun
from cumulus.resources.quantity import parse_duration
from cumulus.resources.reasons import AttemptReason
from cumulus.resources.reruns import KEPT_RUNS
from cumulus.store.client import StoreClient


@dataclass(frozen=True, slots=True)
class Tended:
    """`runs` as they are now. `wait`: seconds until the next look at one of which something is still there; nothing of
    the job is begun before it is gone. `wake`: seconds until the files of one are to go."""

    runs: tuple[EarlierRun, ...]
    wait: float | None = None
    wake: float | None = None


def tend(
    job: GPUJob, client: StoreClient, backends: Mapping[str, Backend], clock: Clock, purged: Callable[[str], None]
) -> Tended:
    """End what is left of earlier runs, and delete the files of those whose time is over: `purged` is told of each."""
    now, runs, waits = clock.now(), [], []
    for run in job.status.earlier_runs:
        if not run.released:
            backend = _backend(backends, run)
            wait = end_all(client, run.uid, [backend], grace(run), AttemptReason.REPLACED)
            if wait is not None:
                waits.append(wait)
            else:
                found = list(backend.list(run.uid))
                for observed in found:
                    # Its log stays; nobody sweeps up what is not there.
                    backend.remove(observed.name)
                run = ended(run, found, now)
        runs.append(run)
    for index in due(job, runs, now):
        _backend(backends, runs[index]).purge(runs[index].uid)
        purged(runs[index].uid)
        runs[index] = runs[index].model_copy(update={"purged": True, "attempts": ()})
    kept = [run for index, run in enumerate(runs) if not run.purged or index >= len(runs) - KEPT_RUNS]
    left = [seconds for run in kept if (seconds := _left(run, now)) is not None]
    return Tended(tuple(kept), min(waits, default=None), min(left, default=None))


def grace(run: EarlierRun) -> float:
    """Seconds between the stop signal and SIGKILL."""
    return parse_duration(run.grace_period or GRACE)


def origin(job: GPUJob, bucket: str) -> Origin | None:
    """The earlier run whose last checkpoint the job goes on from, where it is to go on from one."""
    found = _continued(job)
    if found is None:
        return None
    path = found.checkpoint_path or ""
    uri = found.checkpoint_uri or place_of(job.metadata.namespace or "", found.uid, bucket)
    return Origin(found.uid, path, uri, process=found.runtime == "process")


def ended(run: EarlierRun, found: Sequence[Observed], now: datetime) -> EarlierRun:
    """The run, once nothing of it is left. Its last attempt, where a rerun ended that, says so."""
    attempts, moment = run.attempts, timestamp(now)
    if attempts and attempts[-1].end_time is None:
        mine = [each for each in found if each.attempt == attempts[-1].number]
        attempts = (*attempts[:-1], _ended(attempts[-1], mine, moment))
    update = {"attempts": attempts, "completion_time": run.completion_time or moment, "released": True}
    return run.model_copy(update=update)


def due(job: GPUJob, runs: Sequence[EarlierRun], now: datetime) -> list[int]:
    """Which of the runs are those whose files are to go now. What the job still goes on from stays."""
    needed = _continued(job)
    if job.status.checkpoint is not None or job.status.phase.finished:
        needed = None
    return [
        index for index, run in enumerate(runs)
        if run.released and not run.purged and (needed is None or run.uid != needed.uid)
        and (index < len(runs) - KEPT_RUNS or ((left := _left(run, now)) is not None and left <= 0))
    ]  # fmt: skip


def _continued(job: GPUJob) -> EarlierRun | None:
    """One that never started saved nothing: what it was to go on from counts then."""
    for run in reversed(job.status.earlier_runs):
        if not run.continued or run.purged:
            return None
        if any(attempt.start_time for attempt in run.attempts):
            return run
    return None


def _ended(attempt: Attempt, found: Sequence[Observed], moment: str) -> Attempt:
    finished = [each.finished_at for each in found if each.finished_at]
    failed = next((each.exit_code for each in found if each.exit_code), None)
    code = failed if failed is not None else next((each.exit_code for each in found), None)
    update = {
        "end_time": max(finished, default=moment), "exit_code": code, "reason": str(AttemptReason.REPLACED),
        "message": "a rerun ended it",
    }  # fmt: skip
    return attempt.model_copy(update=update)


def _left(run: EarlierRun, now: datetime) -> float | None:
    """Seconds until its files are to go; None where only the number of runs says when."""
    if run.ttl_after_finished is None or run.completion_time is None or run.purged or not run.released:
        return None
    age = (now - parse_timestamp(run.completion_time)).total_seconds()
    return max(0.0, parse_duration(run.ttl_after_finished) - age)


def _backend(backends: Mapping[str, Backend], run: EarlierRun) -> Backend:
    found = backends.get(run.runtime)
    if found is None:
        raise Retry(f"this daemon has no backend for runtime {run.runtime}, which run {run.number} of the job had")
    return found
