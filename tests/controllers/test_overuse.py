"""What follows for a job and its partitions where they hold more of a GPU than they leased."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cumulus.backends.base import WorkloadState
from cumulus.controllers.job.outcome import MOST_IN_A_ROW
from cumulus.controllers.partition import plan as partition_plan
from cumulus.resources.conditions import condition_set
from cumulus.resources.job import Attempt, GPUJob
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.meta import condition, is_true
from cumulus.resources.partition import GPUPartition
from cumulus.resources.retries import next_due
from cumulus.testing.backend import Script
from tests.controllers import test_job_plan as jobs
from tests.controllers import test_partition_plan as partitions
from tests.controllers.driver import Daemon, World, drive
from tests.controllers.objects import a_job

OVERUSED = jobs.seen(WorkloadState.FAILED, "Overused", 137)
OVER = replace(partitions.LIVES, held_bytes=9)
ENDED = replace(partitions.OVER, end_reason=partitions.EndReason.OVERUSED, held_bytes=9)


def test_overuse_counts_as_a_fault_of_the_job() -> None:
    job = jobs.stored()
    plan = jobs.planned(job, jobs.shares(job, jobs.ACTIVE), OVERUSED)
    assert jobs.end(plan) == ("Failed", "Overused", "Overused")
    assert is_true(plan.status.conditions, "Overused")


def test_with_requeue_the_job_goes_on_after_a_pause_but_not_for_ever() -> None:
    job = jobs.stored(checkpoint=jobs.CHECKPOINT)
    plan = jobs.planned(job, jobs.shares(job, jobs.ACTIVE), OVERUSED)
    assert (plan.status.phase, plan.status.failures) == (JobPhase.PENDING, 0)
    assert plan.events[0].reason == "Overused"
    after = job.replace(status=plan.status)
    assert 0 < next_due(after, jobs.NOW) <= 1
    ended = tuple(
        Attempt(number=n, reason="Overused", end_time=jobs.at(-n), start_time=jobs.START)
        for n in range(1, MOST_IN_A_ROW)
    )
    live = job.status.attempts[0].model_copy(update={"number": MOST_IN_A_ROW})
    often = job.replace(
        status=job.status.model_copy(update={"attempts": (*ended, live), "attempt_count": MOST_IN_A_ROW})
    )
    assert jobs.planned(often, jobs.shares(job, jobs.ACTIVE), OVERUSED).status.phase is JobPhase.FAILED


@pytest.mark.parametrize("reason", ["Stopped", "StartError"])
def test_what_its_node_says_of_the_lease_comes_first(reason: str) -> None:
    job = jobs.stored()
    shares = jobs.shares(job, jobs.REFUSED, why="Overused")
    assert jobs.end(jobs.planned(job, shares, jobs.seen(WorkloadState.FAILED, reason, 143)))[1] == "Overused"
    assert jobs.end(jobs.planned(job, shares, None))[1] == "Overused"
    failed = jobs.shares(job, jobs.REFUSED, why="DeviceLost")
    assert jobs.end(jobs.planned(job, failed, None))[1] == "Lost"


def test_a_job_says_what_its_partition_says_until_that_is_over() -> None:
    job = jobs.stored()
    shares = jobs.shares(job, jobs.ACTIVE)
    over = condition_set(shares[0].status.conditions, jobs.at(0), "Overused", True, "Overused", "held 9 of 8")
    shown = [shares[0].replace(status=shares[0].status.model_copy(update={"conditions": over}))]
    status = jobs.planned(job, shown, jobs.RUNS).status
    found = condition(status.conditions, "Overused")
    assert found is not None
    assert (found.status, found.message) == ("True", "held 9 of 8")
    assert condition(jobs.planned(job, shares, jobs.RUNS).status.conditions, "Overused") is None
    assert not is_true(jobs.planned(job.replace(status=status), shares, jobs.RUNS).status.conditions, "Overused")


def test_a_partition_says_that_it_is_overused_and_when_it_is_no_more() -> None:
    share = partitions.stored(partitions.ACTIVE)
    plan = partition_plan.plan(share, OVER, releasing=False, now=partitions.NOW)
    found = condition(plan.status.conditions, "Overused")
    assert found is not None
    assert (found.status, found.message) == ("True", "its processes held 9 of GPU memory and leases 8")
    within = partition_plan.plan(
        share.replace(status=plan.status), partitions.LIVES, releasing=False, now=partitions.NOW
    )
    assert not is_true(within.status.conditions, "Overused")
    ended = partition_plan.plan(share, ENDED, releasing=False, now=partitions.NOW)
    assert (ended.status.phase, is_true(ended.status.conditions, "Overused")) == (partitions.FAILED, True)


def test_overuse_ends_a_job_and_frees_its_share() -> None:
    world = World()
    world.backend.script = lambda workload: Script(seconds=600)
    daemon = Daemon(world)
    world.apply(a_job())
    drive(world, daemon, until=lambda: world.client.list(GPUJob)[0].status.phase is JobPhase.RUNNING)
    leases = world.leases["node-1"]
    (lease,) = leases.peek()
    leases.overuse(lease.id, lease.memory_bytes + 1)
    drive(world, daemon, until=lambda: world.client.list(GPUJob)[0].status.phase is JobPhase.FAILED, within=5)
    job = world.client.list(GPUJob)[0]
    assert job.status.attempts[-1].reason == "Overused"
    drive(world, daemon, until=lambda: world.client.list(GPUPartition)[0].status.phase.ended, within=30)
    assert not leases.peek()
