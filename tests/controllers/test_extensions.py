"""A lease that is lengthened, and one that is renewed while nobody waits, in time."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from cumulus.backends.base import Workload
from cumulus.clock import parse_timestamp
from cumulus.errors import Forbidden, NotExtended
from cumulus.resources.job import GPU
from cumulus.resources.job_checkpoint import Checkpoint
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.key import Key
from cumulus.resources.partition import GPUPartition
from cumulus.resources.renewal import Renewal
from cumulus.service.access.access import Access
from cumulus.service.extensions import Extensions
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects
from cumulus.testing.backend import Script
from tests.controllers.driver import Daemon, World, drive, settle
from tests.controllers.objects import a_job

ROOT = Identity("root", 0)
TRAIN = Key("GPUJob", "default", "train")


def script(workload: Workload) -> Script:
    return Script(seconds=math.inf, stop_seconds=1)


def started(world: World, *, memory: str = "1.0", duration: str = "2m", **spec: object) -> Daemon:
    world.apply(a_job("train", memory=memory, duration=duration, **spec))  # type: ignore[arg-type]
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: phase(world) is JobPhase.RUNNING)
    settle(world, daemon, seconds=5)
    return daemon


def phase(world: World, name: str = "train") -> JobPhase:
    return world.job(name).status.phase


def share(world: World) -> GPUPartition:
    return world.partition("train-a1-r0-d0")


def left(world: World) -> float:
    ends = share(world).status.expires_at
    assert ends is not None
    return (parse_timestamp(ends) - world.clock.now()).total_seconds()


def extensions(world: World, home: Path) -> Extensions:
    access = Access(lambda: world.store, 0)
    return Extensions(world.store, Objects(world.store, world.clock, access), access, world.clock, home)


def test_a_lease_lasts_longer_and_longer_again(tmp_path: Path) -> None:
    world = World(script=script)
    daemon = started(world)
    before, spec = left(world), world.job("train").spec
    assert extensions(world, tmp_path).extend(ROOT, TRAIN, 120.0, dry_run=True).until
    settle(world, daemon, seconds=1)
    assert left(world) == pytest.approx(before - 1, abs=2)
    for _ in range(2):
        extensions(world, tmp_path).extend(ROOT, TRAIN, 120.0)
    settle(world, daemon, seconds=1)
    assert left(world) == pytest.approx(before + 240, abs=5)
    settle(world, daemon, seconds=before + 180)
    assert phase(world) is JobPhase.RUNNING
    settle(world, daemon, seconds=100)
    assert phase(world) is JobPhase.FAILED
    assert world.job("train").status.attempts[0].reason == "LeaseExpired"
    assert world.job("train").spec == spec


def test_who_waits_is_kept_the_word(tmp_path: Path) -> None:
    world = World(script=script)
    daemon = started(world)
    world.apply(a_job("next", memory="0.5"))
    settle(world, daemon, seconds=1)
    with pytest.raises(NotExtended, match=r"job default/next is told .*, and would start at") as raised:
        extensions(world, tmp_path).extend(ROOT, TRAIN, 120.0)
    assert raised.value.hint is None
    assert share(world).spec.until is None


def test_only_a_lease_that_runs_and_only_by_who_may(tmp_path: Path) -> None:
    world = World(script=script)
    world.apply(a_job("train"))
    with pytest.raises(NotExtended, match="has no lease that runs"):
        extensions(world, tmp_path).extend(ROOT, TRAIN, 60.0)
    with pytest.raises(Forbidden):
        extensions(world, tmp_path).extend(Identity("ann", 1001), TRAIN, 60.0)


def test_nobody_writes_the_end_by_hand(tmp_path: Path) -> None:
    world = World(script=script)
    daemon = started(world)
    objects = Objects(world.store, world.clock, Access(lambda: world.store, 0))
    key, patch = share(world).key, {"spec": {"until": "2040-01-01T00:00:00Z"}}
    with pytest.raises(Forbidden, match=r"gpupartitions") as raised:
        objects.patch(ROOT, key, patch)
    assert raised.value.hint == "nobody writes spec.until by hand"
    del daemon


def test_the_next_attempt_is_withdrawn_where_the_lease_lasts(tmp_path: Path) -> None:
    world = World(script=script)
    daemon = started(world, memory="0.4", checkpoint=Checkpoint(path="/c", grace_period="30s"))
    drive(world, daemon, until=lambda: world.job("train").status.next is not None)
    extensions(world, tmp_path).extend(ROOT, TRAIN, 120.0)
    settle(world, daemon, seconds=10)
    assert world.job("train").status.next is None
    assert [p.metadata.name for p in world.partitions()] == ["train-a1-r0-d0"]
    drive(world, daemon, until=lambda: world.job("train").status.next is not None)
    assert left(world) < 35


def test_it_is_renewed_while_nobody_waits_and_up_to_the_maximum() -> None:
    world = World(script=script)
    renewal = Renewal(policy="WhileIdle", maximum="6m")
    daemon = started(world, gpu=GPU(memory="1.0", duration="2m", renewal=renewal))
    settle(world, daemon, seconds=300)
    assert phase(world) is JobPhase.RUNNING
    settle(world, daemon, seconds=90)
    assert phase(world) is JobPhase.FAILED
    world = World(script=script)
    daemon = started(world, gpu=GPU(memory="1.0", duration="2m", renewal=renewal))
    world.apply(a_job("next", memory="0.5"))
    drive(world, daemon, until=lambda: phase(world, "next") is JobPhase.RUNNING, within=160)
