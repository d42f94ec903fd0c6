"""The whole control plane on a fake clock: from apply to Succeeded, and through what goes wrong on the way."""

from __future__ import annotations

from cumulus.resources.job import JobPhase
from cumulus.resources.meta import is_true
from cumulus.resources.partition import PartitionPhase
from tests.controllers.driver import Daemon, World, drive, settle
from tests.controllers.objects import a_job


def test_a_job_is_placed_leased_run_and_done() -> None:
    world = World()
    world.apply(a_job())
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: world.job("train").status.phase is JobPhase.RUNNING)
    partition = world.partition("train-a1-r0-d0")
    assert partition.status.phase is PartitionPhase.ACTIVE
    assert partition.status.partition_id == partition.uid
    assert partition.status.memory_bytes == 8 * 2**30
    drive(world, daemon, until=lambda: world.job("train").status.phase is JobPhase.SUCCEEDED)
    settle(world, daemon, seconds=5)
    job = world.job("train")
    assert [(a.number, a.reason, a.exit_code, a.node) for a in job.status.attempts] == [(1, "Completed", 0, "node-1")]
    assert is_true(job.status.conditions, "Succeeded")
    assert world.partition("train-a1-r0-d0").status.phase is PartitionPhase.RELEASED
    assert not world.leases["node-1"].list()
    assert len(world.backend.started) == 1
