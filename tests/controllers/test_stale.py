"""A view that is behind the store decides nothing that matters: each loop is called on one, and does no harm."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from cumulus.chronos.contract import LeaseState
from cumulus.clock import timestamp
from cumulus.controllers.context import ControllerContext
from cumulus.controllers.job.controller import JobReconciler
from cumulus.errors import Conflict, NodeUnreachable, NotFound
from cumulus.machinery.group import ControllerGroup
from cumulus.machinery.reconcile import Request
from cumulus.resources.job import GPUJob
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.preemption import Preemptible
from cumulus.resources.reasons import ParkingReason
from cumulus.resources.reclaim import Reclaim
from cumulus.testing.backend import Script
from tests.controllers.driver import Daemon, World, drive, settle
from tests.controllers.objects import a_job, a_partition

JOB = Request("default", "train")


def until_seen(
    world: World, daemon: Daemon, phase: PartitionPhase, name: str = "train-a1-r0-d0"
) -> ControllerGroup[ControllerContext]:
    """Step until the daemon's own view shows the partition in that phase, and not further."""

    def shown() -> bool:
        if daemon.loops is None:
            return False
        partition = daemon.informer.cache.get(GPUPartition, "default", name)
        return partition is not None and partition.status.phase is phase

    drive(world, daemon, until=shown)
    assert daemon.loops is not None
    return daemon.loops


def reconcile(loops: ControllerGroup[ControllerContext], loop: str, request: Request = JOB) -> None:
    loops.runners[loop].reconciler.reconcile(request)


def meddle(world: World, change: Callable[[GPUJob], GPUJob]) -> None:
    world.client.update_status(change(world.job("train")))


def test_a_status_is_not_written_over_one_that_was_not_seen() -> None:
    world = World()
    world.apply(a_job())
    loops = until_seen(world, Daemon(world), PartitionPhase.BOUND)
    meddle(world, lambda job: job.replace(status=job.status.model_copy(update={"failures": 7})))
    with pytest.raises(Conflict):
        reconcile(loops, "job")
    assert world.job("train").status.failures == 7
    assert world.job("train").status.phase is JobPhase.PENDING


def test_nothing_is_started_for_a_job_that_was_held_meanwhile() -> None:
    world = World()
    world.apply(a_job())
    loops = until_seen(world, Daemon(world), PartitionPhase.ACTIVE)
    world.change_spec("train", suspend=True)
    with pytest.raises(Conflict):
        reconcile(loops, "job")
    assert not world.backend.started


def test_no_lease_is_asked_for_a_partition_that_was_deleted_meanwhile() -> None:
    world = World()
    world.apply(a_partition())
    loops = until_seen(world, Daemon(world), PartitionPhase.BOUND, "share")
    world.client.delete(world.partition("share"))
    reconcile(loops, "partition", Request("default", "share"))
    assert not world.leases["node-1"].list(ended=True)


def test_a_lease_is_ended_also_where_its_grant_is_not_seen_yet() -> None:
    """The look that follows a grant may come before the cache shows it, and be the last one that comes by itself."""
    world = World()
    world.apply(a_partition())
    loops = until_seen(world, Daemon(world), PartitionPhase.BOUND, "share")
    reconcile(loops, "partition", Request("default", "share"))
    assert world.partition("share").status.phase is PartitionPhase.ACTIVE
    world.client.delete(world.partition("share"))
    reconcile(loops, "partition", Request("default", "share"))
    [lease] = world.leases["node-1"].list(ended=True)
    assert lease.state is not LeaseState.ACTIVE


def test_no_lease_is_asked_for_a_partition_that_is_gone() -> None:
    world = World()
    world.apply(a_partition())
    loops = until_seen(world, Daemon(world), PartitionPhase.BOUND, "share")
    share = world.partition("share")
    world.client.update(share.replace(metadata=share.metadata.model_copy(update={"finalizers": ()})))
    world.client.delete(world.partition("share"))
    with pytest.raises(NotFound):
        reconcile(loops, "partition", Request("default", "share"))
    assert not world.leases["node-1"].list(ended=True)


def test_an_attempt_is_not_ended_for_partitions_that_only_the_view_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(script=lambda workload: Script(seconds=math.inf))
    world.apply(a_job())
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: world.job("train").status.phase is JobPhase.RUNNING)
    settle(world, daemon, seconds=1)
    assert daemon.loops is not None
    monkeypatch.setattr(daemon.informer.cache, "owned", lambda model, uid: [])
    controller = daemon.loops.runners["job"].reconciler
    assert isinstance(controller, JobReconciler)
    controller.reconcile(JOB)
    assert world.job("train").status.phase is JobPhase.RUNNING
    assert len(world.backend.running()) == 1


@pytest.mark.parametrize("kept", [True, False])
def test_a_program_is_not_ended_for_a_share_that_it_keeps_after_all(*, kept: bool) -> None:
    """The view still shows that the share goes back to another queue, and the time for that has come."""
    world = World(script=lambda workload: Script(seconds=math.inf, stop_seconds=0))
    world.leases["node-1"].refuse_park(ParkingReason.NOT_PROVEN, "nothing is proven here")
    world.apply(a_job(preemptible=Preemptible.KILL))
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: world.job("train").status.phase is JobPhase.RUNNING)
    settle(world, daemon, seconds=1)
    assert daemon.loops is not None
    share = world.partition("train-a1-r0-d0")
    taken = Reclaim(at=timestamp(world.clock.now()), gang="default/owns-a1", job="default/owns", queue="sure")
    marked = share.replace(status=share.status.model_copy(update={"reclaim": taken}))
    daemon.informer.cache.put(world.client.update_status(marked).to_json())
    if kept:
        world.client.update_status(world.partition("train-a1-r0-d0").replace(status=share.status))
    reconcile(daemon.loops, "job")
    assert len(world.backend.running()) == (1 if kept else 0)


def test_what_is_gone_for_the_view_alone_is_not_collected() -> None:
    world = World()
    world.apply(a_job())
    loops = until_seen(world, Daemon(world), PartitionPhase.BOUND)
    loops.informer.cache.drop(world.job("train").key, world.store.revision())
    reconcile(loops, "gc-gpupartition", Request("default", "train-a1-r0-d0"))
    assert not world.partition("train-a1-r0-d0").deleting


def test_a_workload_that_only_the_view_has_no_job_for_goes_on() -> None:
    world = World(script=lambda workload: Script(seconds=math.inf))
    world.apply(a_job())
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: world.job("train").status.phase is JobPhase.RUNNING)
    assert daemon.loops is not None
    daemon.informer.cache.drop(world.job("train").key, world.store.revision())
    reconcile(daemon.loops, "sweep", Request("", "sweep"))
    assert len(world.backend.running()) == 1


def test_a_lease_whose_partition_only_the_view_lacks_is_kept() -> None:
    world = World()
    world.apply(a_partition())
    loops = until_seen(world, Daemon(world), PartitionPhase.ACTIVE, "share")
    loops.informer.cache.drop(world.partition("share").key, world.store.revision())
    reconcile(loops, "sweep", Request("", "sweep"))
    assert len(world.leases["node-1"].list()) == 1


def test_workloads_end_before_their_leases_and_a_job_goes_after_both() -> None:
    world = World(script=lambda workload: Script(seconds=math.inf, stop_seconds=5))
    world.apply(a_job())
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: world.job("train").status.phase is JobPhase.RUNNING)
    world.client.delete(world.job("train"))
    settle(world, daemon, seconds=2)
    assert world.backend.running()
    assert not world.partition("train-a1-r0-d0").deleting
    world.leases["node-1"].faults.fail("release", NodeUnreachable("cut"), times=5)
    drive(world, daemon, until=lambda: world.partition("train-a1-r0-d0").deleting)
    assert not world.backend.running()
    assert world.job("train").deleting
    drive(world, daemon, until=lambda: not world.partitions())
    settle(world, daemon, seconds=1)
    with pytest.raises(NotFound):
        world.job("train")
