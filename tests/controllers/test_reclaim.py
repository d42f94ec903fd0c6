"""A quota comes back on the real loops: the job that borrows saves and goes on later, whatever dies meanwhile."""

from __future__ import annotations

import math

from cumulus.backends.base import Workload
from cumulus.backends.exit_codes import SAVED
from cumulus.clock import parse_timestamp
from cumulus.controllers.composition import declared
from cumulus.resources.event import Event
from cumulus.resources.job_checkpoint import Checkpoint
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.partition import PartitionPhase
from cumulus.resources.preemption import Preemptible
from cumulus.resources.reasons import AttemptReason, EventReason, ParkingReason
from cumulus.testing.backend import Script
from tests.controllers.driver import Daemon, World, drive, settle
from tests.controllers.objects import a_job
from tests.controllers.test_queues import a_queue, of

CHECKPOINT = Checkpoint(path="/c", grace_period="10s")


def script(workload: Workload) -> Script:
    """What borrows runs until it is asked to end, for which it takes three seconds; then it has little left to do."""
    if not workload.job.startswith("borrows"):
        return Script(seconds=30)
    seconds = math.inf if workload.attempt == 1 else 5
    saved = f"2030-01-01T00:00:0{workload.attempt}Z"
    return Script(seconds=seconds, stop_seconds=3, stop_code=SAVED, checkpoint_at=saved)


def a_world(*, parks: bool = False, **spec: object) -> World:
    """`borrows` has the only device, of which `sure` is sure; `owns` has come and waits."""
    world = World(["node-1"], script=script)
    if not parks:
        world.leases["node-1"].refuse_park(ParkingReason.NOT_PROVEN, "nothing is proven here")
    world.apply(a_queue("sure", quota=[{"devices": 1}]))
    world.apply(a_queue("rest", minRuntime="1m"))
    world.apply(of(a_job("borrows", memory="1", **spec), "bob", "rest"))
    return world


def running(world: World, name: str) -> bool:
    return world.job(name).status.phase is JobPhase.RUNNING


def events(world: World, name: str) -> dict[str, str]:
    return {e.reason: e.message for e in world.client.list(Event) if e.involved_object.name == name}


def test_a_job_that_borrows_waits_in_main_memory_where_its_node_can_park_it() -> None:
    world = a_world(parks=True, checkpoint=CHECKPOINT)
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: running(world, "borrows"))
    world.apply(of(a_job("owns", memory="1"), "alice", "sure"))
    settle(world, daemon, seconds=5)
    promise = world.job("owns").status.promise
    assert promise is not None
    drive(world, daemon, until=lambda: running(world, "owns"))
    assert world.clock.now() <= parse_timestamp(promise.start_by)
    job = world.job("borrows")
    assert job.status.phase is JobPhase.PARKED
    (share,) = [p for p in world.partitions() if p.metadata.name.startswith("borrows")]
    assert share.status.reclaim is None
    drive(world, daemon, until=lambda: running(world, "borrows"))
    assert world.job("owns").status.phase is JobPhase.SUCCEEDED
    assert len(world.job("borrows").status.attempts) == 1, "it is the same attempt"


def test_a_job_that_borrows_saves_and_goes_on_after_the_one_whose_quota_it_held() -> None:
    world = a_world(checkpoint=CHECKPOINT)
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: running(world, "borrows"))
    world.apply(of(a_job("owns", memory="1"), "alice", "sure"))
    settle(world, daemon, seconds=5)
    promise = world.job("owns").status.promise
    assert promise is not None
    left = (parse_timestamp(promise.start_by) - world.clock.now()).total_seconds()
    assert 60 < left < 60 + 10 + 15
    assert running(world, "borrows")
    told = events(world, "borrows")[EventReason.TAKEN_BACK]
    assert told.startswith("its share goes back to the queue sure, for job default/owns, from ")
    drive(world, daemon, until=lambda: running(world, "owns"))
    assert world.clock.now() < parse_timestamp(promise.start_by)
    ended = world.job("borrows").status
    assert (ended.attempts[0].reason, ended.attempts[0].exit_code) == (AttemptReason.PREEMPTED, SAVED)
    assert (ended.failures, ended.preemptions) == (0, 1)
    drive(world, daemon, until=lambda: world.job("borrows").status.phase.finished)
    first, second = world.job("borrows").status.attempts
    assert first.queue_time == second.queue_time
    assert [world.job(name).status.phase for name in ("borrows", "owns")] == [JobPhase.SUCCEEDED] * 2


def test_a_job_without_a_checkpoint_is_ended_only_where_it_says_so() -> None:
    world = a_world(duration="20m")
    daemon = Daemon(world)
    world.apply(of(a_job("owns", memory="1"), "alice", "sure"))
    settle(world, daemon, seconds=600)
    assert running(world, "borrows")
    world = a_world(duration="20m", preemptible=Preemptible.KILL)
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: running(world, "borrows"))
    world.apply(of(a_job("owns", memory="1"), "alice", "sure"))
    settle(world, daemon, seconds=90)
    assert running(world, "owns")
    assert world.job("borrows").status.attempts[0].reason == AttemptReason.PREEMPTED


def test_a_share_that_nobody_needs_any_more_stays() -> None:
    world = a_world(checkpoint=CHECKPOINT)
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: running(world, "borrows"))
    world.apply(of(a_job("owns", memory="1"), "alice", "sure"))
    settle(world, daemon, seconds=5)
    assert world.partition("borrows-a1-r0-d0").status.reclaim is not None
    world.client.delete(world.job("owns"))
    settle(world, daemon, seconds=5)
    assert world.partition("borrows-a1-r0-d0").status.reclaim is None
    assert EventReason.KEPT_AFTER_ALL in events(world, "borrows")
    settle(world, daemon, seconds=120)
    assert running(world, "borrows")


def test_a_partition_whose_job_does_not_end_is_released_all_the_same() -> None:
    """As where the job's own loop hangs: the lease is given back by the partition's."""
    world = a_world(checkpoint=CHECKPOINT)
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: running(world, "borrows"))
    others = [each for each in declared() if each.name != "job"]
    world.apply(of(a_job("owns", memory="1"), "alice", "sure"))
    settle(world, daemon, seconds=5)
    half = Daemon(world, "b", controllers=others)
    settle(world, half, seconds=120)
    assert world.partition("borrows-a1-r0-d0").status.phase is PartitionPhase.RELEASED
