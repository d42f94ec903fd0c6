"""Objects that break rules newer than they are run as they did; those that are no objects of their kind hold up nobody
and can be deleted."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from cumulus.errors import NotFound
from cumulus.resources.job import GPUJob
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.key import Document, Key
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.testing.backend import Script
from tests.controllers.driver import Daemon, World, drive
from tests.controllers.objects import a_job

OLD = {
    "mounts": [
        {"source": "/data", "target": "/elsewhere"},
        {"source": "/data/../etc", "target": "in", "readOnly": True},
    ],
    "checkpoint": {"path": "../../kept", "uri": "s3://bucket/\a"},
    "workingDir": "relative",
}
"""Parts of a spec that could be written before there were rules against them."""


def old_job(name: str) -> Document:
    job = a_job(name).to_json()
    return {**job, "spec": {**job["spec"], **OLD}}


def in_phase(world: World, name: str, phase: JobPhase) -> bool:
    return world.job(name).status.phase is phase


def is_gone(world: World, kind: str, name: str) -> bool:
    try:
        world.store.get(Key(kind, "default", name))
    except NotFound:
        return True
    return False


def test_a_job_from_before_a_rule_runs_through_lease_and_deletion() -> None:
    world = World(script=lambda workload: Script(seconds=math.inf))
    document = old_job("train")
    with pytest.raises(ValidationError):
        GPUJob.model_validate(document)
    with world.door.left_open():
        world.store.create(document)
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: in_phase(world, "train", JobPhase.RUNNING), within=60)
    # The daemon of the next version takes over what runs.
    daemon = Daemon(world)
    world.client.delete(world.job("train"))
    drive(world, daemon, until=lambda: is_gone(world, GPUJob.KIND, "train"), within=120)
    assert world.leases["node-1"].list() == []
    assert world.partitions() == []


@pytest.mark.parametrize("broken", [{"nonsense": 1}, {"command": 7, "gpu": {}}])
def test_a_damaged_job_keeps_what_runs_and_is_deleted_with_it(broken: Document) -> None:
    world = World(script=lambda workload: Script(seconds=math.inf))
    world.apply(a_job("bad", memory="0.2"))
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: in_phase(world, "bad", JobPhase.RUNNING), within=60)
    stored = world.store.get(Key(GPUJob.KIND, "default", "bad"))
    with world.door.left_open():
        world.store.update({**stored, "spec": broken})
    world.apply(a_job("good", memory="0.2"))
    drive(world, daemon, until=lambda: in_phase(world, "good", JobPhase.RUNNING), within=60)
    later = world.clock.monotonic() + 90
    drive(world, daemon, until=lambda: world.clock.monotonic() >= later, within=120)
    (running,) = world.backend.list(stored["metadata"]["uid"])
    assert not running.state.finished
    world.store.delete(Key(GPUJob.KIND, "default", "bad"))
    drive(world, daemon, until=lambda: is_gone(world, GPUJob.KIND, "bad"), within=120)
    assert world.backend.list(stored["metadata"]["uid"]) == []
    assert [p.metadata.name for p in world.partitions()] == ["good-a1-r0-d0"]
    assert in_phase(world, "good", JobPhase.RUNNING)


def test_a_damaged_partition_is_deleted_with_its_lease() -> None:
    world = World(script=lambda workload: Script(seconds=math.inf))
    world.apply(a_job("train", memory="0.2"))
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: in_phase(world, "train", JobPhase.RUNNING), within=60)
    (partition,) = world.partitions()
    assert partition.status.phase is PartitionPhase.ACTIVE
    stored = world.store.get(partition.key)
    with world.door.left_open():
        world.store.update({**stored, "spec": {"nonsense": 1}})
    world.client.delete(world.job("train"))
    drive(world, daemon, until=lambda: is_gone(world, GPUJob.KIND, "train"), within=120)
    assert is_gone(world, GPUPartition.KIND, partition.metadata.name)
    assert world.leases["node-1"].list() == []
