"""Queues on the real loops: each lease is counted once, whatever dies; promises are written, and kept."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cumulus.backends.base import Workload
from cumulus.chronos.contract import Lease
from cumulus.clock import parse_timestamp, timestamp
from cumulus.resources.device import counted_share
from cumulus.resources.job import GPUJob
from cumulus.resources.job_checkpoint import Checkpoint
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.meta import ObjectMeta
from cumulus.resources.partition import PartitionPhase
from cumulus.resources.queue import Queue, QueueSpec
from cumulus.resources.queue_usage import QueueUsage
from cumulus.resources.reservation import Reservation, ReservationSpec
from cumulus.resources.submitter import QUEUE, SUBMITTER
from cumulus.testing.backend import Script
from cumulus.testing.faults import Faults
from tests.controllers.driver import Daemon, World, drive, settle
from tests.controllers.faulty import FaultyStore
from tests.controllers.objects import a_job, a_partition
from tests.controllers.test_crashes import Crash, Points


def a_queue(name: str = "default", **spec: object) -> Queue:
    return Queue(metadata=ObjectMeta(name=name), spec=QueueSpec.model_validate(spec))


def of(job: GPUJob, user: str, queue: str = "") -> GPUJob:
    """The job as the service has it of that user."""
    annotations = {SUBMITTER: user, **({QUEUE: queue} if queue else {})}
    return job.replace(metadata=job.metadata.model_copy(update={"annotations": annotations}))


def script(workload: Workload) -> Script:
    """A job's name says how long it runs; one that is requeued has less to do then."""
    return Script(seconds=float(workload.job.rpartition("-")[2]) if workload.attempt == 1 else 4)


def counted(world: World) -> dict[str, int]:
    """Device-microseconds by user."""
    return {found.spec.user: found.status.device_microseconds for found in world.client.list(QueueUsage)}


def truly(world: World) -> int:
    """The same of everybody, from what the nodes granted."""
    total = 0
    for leases in world.leases.values():
        for lease in leases.list(ended=True):
            total += _held(lease, leases.capacity(lease.device))
    return total


def _held(lease: Lease, capacity: int) -> int:
    seconds = (parse_timestamp(lease.ended_at) - parse_timestamp(lease.granted_at)).total_seconds()
    return counted_share(lease.memory_bytes, lease.compute, capacity) * round(seconds * 1_000_000) // 1000


def a_world() -> World:
    world = World(["node-1"], devices=2, script=script)
    world.apply(a_queue())
    world.apply(a_queue("vision"))
    world.apply(of(a_job("one-20"), "alice", "vision"))
    world.apply(of(a_job("gang-5", memory="0.6", replicas=2), "bob"))
    world.apply(of(a_job("again-50", duration="20s", checkpoint=Checkpoint(path="/c", grace_period="2s")), "bob"))
    world.apply(a_partition("share", memory="0.2", duration="30s"))
    return world


def over(world: World) -> bool:
    jobs, partitions = world.client.list(GPUJob), world.partitions()
    return all(j.status.phase.finished for j in jobs) and all(p.status.phase.ended for p in partitions)


def test_what_was_held_is_counted_for_its_queue_and_user() -> None:
    world = a_world()
    drive(world, Daemon(world), until=lambda: over(world))
    usages = {(u.spec.queue, u.spec.user): u.status for u in world.client.list(QueueUsage)}
    assert set(usages) == {("vision", "alice"), ("default", "bob"), ("default", "")}
    assert usages["vision", "alice"].leases == 1
    # It ran for 20 of its 3600 seconds: what was given back early is not counted.
    assert 9.9 < usages["vision", "alice"].decayed < 10.5
    assert {e.name for e in usages["vision", "alice"].endings} == {"", "one-20"}
    assert sum(counted(world).values()) == truly(world)


def test_without_a_queue_nothing_is_counted_and_nothing_promised() -> None:
    world = World(["node-1"], script=script)
    world.apply(of(a_job("a-20", memory="1"), "alice"))
    world.apply(of(a_job("b-20", memory="1"), "bob"))
    daemon = Daemon(world)
    settle(world, daemon, seconds=10)
    assert world.job("b-20").status.promise is None
    drive(world, daemon, until=lambda: over(world))
    assert world.client.list(QueueUsage) == []
    assert all("queue" not in p.to_json()["status"] for p in world.partitions())


def crashing(at: int) -> tuple[World, int]:
    """The world at its end, where the daemon's process went at that point; how many points there are."""
    world, points = a_world(), Points(at)

    def strike(call: str, subject: str, when: str) -> None:
        raise Crash

    points.strike = strike
    faults = Faults(points)
    for leases in world.leases.values():
        leases.faults.hook = points
    store = FaultyStore(world.store, faults)
    lives = [Daemon(world, "life-0", store=store)]  # type: ignore[arg-type]

    class Lives:
        def step(self) -> bool:
            try:
                return lives[-1].step()
            except Crash:
                lives.append(Daemon(world, f"life-{len(lives)}", store=store))  # type: ignore[arg-type]
                return True

        def next_due(self) -> float:
            return lives[-1].next_due()

    drive(world, Lives(), until=lambda: over(world))  # type: ignore[arg-type]
    return world, points.count


STRIDE = 37
"""The suite tries every thirty-seventh point; 1 tries all."""


def test_a_crash_anywhere_loses_no_lease_and_counts_none_twice() -> None:
    world, points = crashing(-1)
    leases = sum(u.status.leases for u in world.client.list(QueueUsage))
    for at in range(3, points, STRIDE):
        world, _ = crashing(at)
        assert sum(counted(world).values()) == truly(world), at
        assert sum(u.status.leases for u in world.client.list(QueueUsage)) >= leases


@pytest.mark.parametrize("step", [-86400.0, 86400.0])
def test_a_clock_that_is_set_makes_no_lease_longer_than_it_can_be(step: float) -> None:
    world = World(["node-1"], script=script)
    world.apply(a_queue())
    world.apply(of(a_job("a-20", memory="1", duration="60s"), "alice"))
    daemon = Daemon(world)
    settle(world, daemon, seconds=10)
    world.clock.jump(step)
    drive(world, daemon, until=lambda: over(world))
    assert 0 <= counted(world)["alice"] <= (60 + 30 + 10 + 60) * 1_000_000


def test_a_waiting_job_is_promised_a_start_which_is_kept() -> None:
    world = World(["node-1"], script=script)
    world.apply(a_queue())
    world.apply(of(a_job("a-100", memory="1", duration="5m"), "alice"))
    daemon = Daemon(world)
    settle(world, daemon, seconds=5)
    world.apply(of(a_job("b-20", memory="1"), "bob"))
    settle(world, daemon, seconds=5)
    promise = world.job("b-20").status.promise
    assert promise is not None
    left = (parse_timestamp(promise.start_by) - world.clock.now()).total_seconds()
    assert 290 < left < 350
    drive(world, daemon, until=lambda: world.job("b-20").status.phase is JobPhase.RUNNING)
    assert world.clock.now() < parse_timestamp(promise.start_by)
    assert world.job("b-20").status.promise is None
    assert world.partition("b-20-a1-r0-d0").status.promise is None


def test_status_of_a_queue_says_what_it_holds_and_who_waits() -> None:
    world = World(["node-1"], script=script)
    world.apply(a_queue("lab", quota=[{"devices": 0.25}]))
    world.apply(a_queue("vision", parent="lab"))
    world.apply(of(a_job("a-100", memory="1"), "alice", "vision"))
    world.apply(of(a_job("b-100", memory="0.5"), "bob", "vision"))
    daemon = Daemon(world)
    settle(world, daemon, seconds=10)
    for name in ("lab", "vision"):
        status = world.client.get(Queue, "", name).status
        assert (status.held, status.waiting, status.next_promise is not None) == (1.0, 1, True)
    assert world.client.get(Queue, "", "lab").status.borrowed == 0.75
    revision = world.store.revision()
    settle(world, daemon, seconds=20)
    written = world.store.revision() - revision
    assert written < 40, "nothing changed but the leader's lease and heartbeats"


def test_a_partition_of_a_queue_that_is_gone_waits_and_says_so() -> None:
    world = World(["node-1"], script=script)
    world.apply(a_queue())
    world.apply(of(a_job("a-20"), "alice", "gone"))
    daemon = Daemon(world)
    settle(world, daemon, seconds=5)
    (bound,) = [c for c in world.partition("a-20-a1-r0-d0").status.conditions if c.type == "Bound"]
    assert (bound.reason, bound.message) == ("NoQueue", "there is no queue gone")
    world.apply(a_queue("gone"))
    drive(world, daemon, until=lambda: world.partition("a-20-a1-r0-d0").status.phase is PartitionPhase.ACTIVE)


def test_a_reservation_says_which_devices_it_holds_and_keeps_others_off_them() -> None:
    world = World(["node-1"], devices=2, script=script)
    start = world.clock.now() + timedelta(seconds=60)
    spec = {"devices": 1, "start": timestamp(start), "duration": "60s", "for": {"users": ["carol"]}}
    world.apply(a_queue())
    world.apply(Reservation(metadata=ObjectMeta(name="course"), spec=ReservationSpec.model_validate(spec)))
    daemon = Daemon(world)
    settle(world, daemon, seconds=5)
    status = world.client.get(Reservation, "", "course").status
    assert (len(status.devices), status.missing) == (1, 0)
    for name, user, lasts in (("a-500", "alice", "1h"), ("b-500", "bob", "1h"), ("c-20", "carol", "40s")):
        world.apply(of(a_job(name, memory="1", duration=lasts), user))
    settle(world, daemon, seconds=10)
    # The leases of an hour reach into it: one device is left, and carol's job may have the other.
    assert {p.metadata.name for p in world.partitions() if p.status.phase is PartitionPhase.ACTIVE} == {
        "a-500-a1-r0-d0", "c-20-a1-r0-d0",
    }  # fmt: skip
    revision = world.store.revision()
    settle(world, daemon, seconds=20)
    assert world.store.revision() - revision < 60
    drive(world, daemon, until=lambda: world.job("b-500").status.phase is JobPhase.RUNNING)
    assert world.clock.now() >= start + timedelta(seconds=60)
