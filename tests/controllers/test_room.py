"""Objects whose status has no room, and texts that would fill it: everything ends, is told, and holds nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import orjson
import pytest

from cumulus.chronos.contract import LeaseRequest
from cumulus.clock import FakeClock
from cumulus.controllers.node import controller
from cumulus.controllers.node.controller import MOST_LISTED
from cumulus.errors import InvalidObject
from cumulus.lib.truncate import LONGEST_TEXT, LONGEST_WORD, truncate
from cumulus.machinery.recorder import EventRecorder
from cumulus.nodes.agent import NodeAgent
from cumulus.resources.conditions import condition_set
from cumulus.resources.event import Event
from cumulus.resources.job import GPUJob
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.meta import ObjectMeta, condition, is_true
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import PartitionPhase
from cumulus.store.base import Documents, Fence, Write
from cumulus.store.client import StoreClient
from cumulus.store.codec import MAX_BYTES, MAX_GIVEN
from cumulus.store.memory import MemoryStore
from cumulus.testing.backend import Script
from cumulus.testing.leases import FakeLeases, fake_device
from tests.controllers.driver import Daemon, World, drive, settle
from tests.controllers.objects import a_job, a_partition

FOREVER = Script(seconds=math.inf)


class Narrow(MemoryStore):
    """Refuses a status of `kind` that has more than `room` bytes, and events for the reason Odd."""

    kind, room = "", MAX_BYTES

    def transact(self, writes: Sequence[Write], *, fence: Fence | None = None) -> Documents:
        for write in writes:
            document = write.document or {}
            if document.get("reason") == "Odd":
                raise InvalidObject("an event cannot be stored")
            watched = write.verb == "status" and document.get("kind") == self.kind
            if watched and len(orjson.dumps(document.get("status"))) > self.room:
                raise InvalidObject(f"{self.kind} has more bytes of JSON than an object may have")
        return super().transact(writes, fence=fence)


def narrow_world(script: Script = FOREVER) -> tuple[World, Narrow]:
    store = Narrow(FakeClock())
    world = World(script=lambda workload: script, store=store)
    store._clock = world.clock
    return world, store


def told(world: World, uid: str, reason: str) -> list[Event]:
    return [e for e in world.client.list(Event) if e.involved_object.uid == uid and e.reason == reason]


def test_a_text_is_cut_once_and_keeps_its_ends() -> None:
    long = "begin" + "x" * 700_000 + "end"
    short = truncate(long)
    assert len(short) == LONGEST_TEXT
    assert (short[:5], short[-3:], truncate(short)) == ("begin", "end", short)
    assert (truncate("short"), truncate("kein \ud800 Täxt")) == ("short", "kein ? Täxt")
    (made,) = condition_set((), "2030-01-01T00:00:00Z", "Ready", True, "R" * 9999, long)
    assert (len(made.reason), made.message) == (LONGEST_WORD, short)
    assert condition_set((made,), "2031-01-01T00:00:00Z", "Ready", True, "R" * 9999, long) == (made,)


def test_a_job_as_large_as_may_be_given_runs_to_its_end() -> None:
    """Whatever its program's end says."""
    world = World(script=lambda workload: Script(refused="\0" * 700_000))
    job = a_job()
    job = job.replace(metadata=job.metadata.model_copy(update={"annotations": {"note": ""}}))
    room = MAX_GIVEN - len(orjson.dumps(world.client.create(job).to_json()))
    world.client.delete(world.job("train"))
    world.apply(job.replace(metadata=job.metadata.model_copy(update={"annotations": {"note": "x" * room}})))
    drive(world, Daemon(world), until=lambda: world.job("train").status.phase is JobPhase.FAILED, within=60)
    failed = condition(world.job("train").status.conditions, "Failed")
    assert failed is not None
    assert failed.reason == "StartRefused"
    assert [e.message for e in told(world, world.job("train").uid, "StartRefused")] == [failed.message]


@pytest.mark.parametrize("phase", [JobPhase.PENDING, JobPhase.SCHEDULED, JobPhase.RUNNING])
def test_a_job_whose_status_is_refused_ends_and_gives_its_share_back(phase: JobPhase) -> None:
    world, store = narrow_world(replace(FOREVER, start_seconds=5.0))
    world.apply(a_job(replicas=4, memory="0.2"))
    daemon = Daemon(world)
    if phase is not JobPhase.PENDING:
        drive(world, daemon, until=lambda: world.job("train").status.phase is phase, within=60)
    store.kind, store.room = GPUJob.KIND, 600
    world.change_spec("train", priority=3)
    drive(world, daemon, until=lambda: world.job("train").status.phase.finished, within=60)
    settle(world, daemon, seconds=30)
    job = world.job("train")
    failed = condition(job.status.conditions, "Failed")
    assert failed is not None
    assert (job.status.phase, failed.reason) == (JobPhase.FAILED, "StatusRefused")
    assert "has more bytes of JSON than an object may have" in failed.message
    assert [e.message for e in told(world, job.uid, "StatusRefused")] == [failed.message]
    assert not world.backend.running()
    assert not world.leases["node-1"].peek()
    assert all(partition.status.phase.ended for partition in world.partitions())


def test_a_job_that_has_no_room_at_all_gives_its_share_back_and_is_told() -> None:
    world, store = narrow_world()
    world.apply(a_job())
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: world.job("train").status.phase is JobPhase.RUNNING, within=60)
    store.kind, store.room = GPUJob.KIND, 0
    world.change_spec("train", priority=3, suspend=True)
    settle(world, daemon, seconds=60)
    assert told(world, world.job("train").uid, "StatusRefused")
    assert not world.backend.running()
    assert not world.leases["node-1"].peek()


@pytest.mark.parametrize("room", [500, 0])
def test_a_partition_whose_status_is_refused_gives_its_lease_back(room: int) -> None:
    world, store = narrow_world()
    world.apply(a_partition())
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: world.partition("share").status.phase is PartitionPhase.BOUND, within=60)
    store.kind, store.room = "GPUPartition", room
    settle(world, daemon, seconds=60)
    share = world.partition("share")
    assert not world.leases["node-1"].peek()
    assert told(world, share.uid, "StatusRefused")
    if room:
        assert share.status.phase is PartitionPhase.FAILED
        assert is_true(share.status.conditions, "Ended")


def test_a_node_whose_status_is_refused_says_so_and_offers_nothing() -> None:
    world, store = narrow_world()
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: bool(world.client.list(GPUNode)), within=60)
    settle(world, daemon, seconds=1)
    store.kind, store.room = "GPUNode", 350
    world.leases["node-1"].grant(LeaseRequest("theirs", 0, 1, 1, seconds=3600))
    settle(world, daemon, seconds=60)
    found = condition(world.node().status.conditions, "Ready")
    assert found is not None
    assert (found.status, found.reason, world.node().status.devices) == ("False", "StatusRefused", ())
    assert told(world, world.node().uid, "StatusRefused")
    store.room = MAX_BYTES
    settle(world, daemon, seconds=60)
    assert is_true(world.node().status.conditions, "Ready")


def test_many_foreign_leases_are_told_as_one() -> None:
    leases = FakeLeases([fake_device(memory_bytes=1000)], FakeClock())
    for number in range(300):
        leases.grant(LeaseRequest(f"lease-{number:03}", 0, 2, 3, seconds=60 + number, user="u" * 5000))
    agent = NodeAgent("n", leases)
    given = (GPUNode(metadata=ObjectMeta(name="n")), agent, leases.devices(), leases.list(), set())
    status = controller.observed(*given, datetime(2030, 1, 1, tzinfo=UTC))  # type: ignore[arg-type]
    (device,) = status.devices
    foreign = device.foreign_leases
    assert (len(foreign), foreign[-1].partition_id) == (MOST_LISTED, f"{301 - MOST_LISTED}-more")
    assert (sum(f.memory_bytes for f in foreign), sum(f.compute for f in foreign)) == (600, 900)
    assert foreign[-1].expires_at == max(lease.expires_at for lease in leases.list())
    assert len(status.to_json().__str__()) < 50_000


def test_an_event_that_cannot_be_stored_takes_no_others_with_it() -> None:
    clock = FakeClock()
    store = Narrow(clock=clock)
    client = StoreClient(store)
    job = client.create(a_job())
    recorder = EventRecorder(client, clock)
    recorder.record(job, "Warning", "Bad", "x" * 900_000, component="job")
    recorder.record(job, "Warning", "Odd", "z", component="job")
    recorder.record(job, "Normal", "Good", "y", component="job")
    assert recorder.flush() == 2
    assert sorted((e.reason, len(e.message)) for e in client.list(Event)) == [("Bad", LONGEST_TEXT), ("Good", 1)]
