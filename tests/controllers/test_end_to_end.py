"""The whole control plane on a fake clock: from apply to Succeeded, and through what goes wrong on the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta

import pytest

from cumulus.backends.base import Workload
from cumulus.chronos.contract import LeaseRequest, LeaseState
from cumulus.clock import parse_timestamp, timestamp
from cumulus.controllers.job.outcome import MOST_IN_A_ROW
from cumulus.errors import BackendError, Fenced, LedgerFull, NodeUnreachable, NotFound
from cumulus.resources.event import Event
from cumulus.resources.job import GPUJob, RetryPolicy
from cumulus.resources.job_checkpoint import Checkpoint
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.meta import Condition, ObjectMeta, OwnerReference, condition, is_true
from cumulus.resources.partition import Gang, GPUPartition, PartitionPhase, Renewal
from cumulus.resources.quantity import parse_duration
from cumulus.resources.reservation import Reservation, ReservationSpec
from cumulus.store.base import Key, Write
from cumulus.store.client import StoreClient
from cumulus.testing.backend import Script
from cumulus.testing.faults import When
from tests.controllers.driver import Daemon, World, drive, settle
from tests.controllers.exact import ExactWatch
from tests.controllers.objects import a_job, a_partition


def phase_is(world: World, phase: JobPhase, name: str = "train") -> Callable[[], bool]:
    return lambda: world.job(name).status.phase is phase


def because(job: GPUJob | GPUPartition, type: str) -> Condition:
    return condition(job.status.conditions, type) or Condition(type=type, status="Unknown")


def attempts(world: World, name: str = "train") -> list[tuple[int, str, int | None]]:
    return [(a.number, a.reason, a.exit_code) for a in world.job(name).status.attempts]


def by_attempt(*scripts: Script) -> Callable[[Workload], Script]:
    return lambda workload: scripts[min(workload.attempt, len(scripts)) - 1]


FOREVER = Script(seconds=math.inf)


def test_a_job_whose_nodes_ledger_cannot_be_used_says_so_at_once_and_starts_when_it_can() -> None:
    world = World()
    world.apply(a_job())
    full = LedgerFull("on node-1: the disk of the ledger is full", hint="free some space")
    world.leases["node-1"].faults.fail("grant", full, times=6)
    daemon = Daemon(world)
    drive(
        world, daemon, until=lambda: bool(world.partitions()) and because(world.partitions()[0], "Active").message != ""
    )
    told = because(world.partitions()[0], "Active")
    assert (told.status, told.reason, told.message) == ("False", "LedgerFull", f"{full}; free some space")
    drive(world, daemon, until=phase_is(world, JobPhase.SUCCEEDED))
    events = [e for e in world.client.list(Event) if e.reason == "LedgerFull"]
    assert {e.involved_object.kind: e.message for e in events} == dict.fromkeys(
        ("GPUJob", "GPUPartition"), f"{full}; free some space"
    )
    assert [e.count for e in events] == [1, 1]


def test_a_job_is_placed_leased_run_and_done() -> None:
    world = World()
    world.apply(a_job())
    daemon = Daemon(world)
    drive(world, daemon, until=phase_is(world, JobPhase.RUNNING))
    partition = world.partition("train-a1-r0-d0")
    assert partition.status.phase is PartitionPhase.ACTIVE
    assert partition.status.partition_id == partition.uid
    assert partition.status.memory_bytes == 8 * 2**30
    drive(world, daemon, until=phase_is(world, JobPhase.SUCCEEDED))
    settle(world, daemon, seconds=5)
    job = world.job("train")
    assert [(a.number, a.reason, a.exit_code, a.node) for a in job.status.attempts] == [(1, "Completed", 0, "node-1")]
    assert is_true(job.status.conditions, "Succeeded")
    assert is_true(job.status.conditions, "Complete"), "what `kubectl wait --for=condition=Complete` asks for"
    assert job.status.start_time is not None
    assert job.status.completion_time is not None
    assert world.partition("train-a1-r0-d0").status.phase is PartitionPhase.RELEASED
    assert not world.leases["node-1"].list()
    assert len(world.backend.started) == 1


def test_a_failing_job_is_retried_with_backoff_and_then_given_up() -> None:
    world = World(script=lambda workload: Script(seconds=1, exit_code=3))
    world.apply(a_job(retry=RetryPolicy(limit=2, backoff="10s")))
    start = world.clock.monotonic()
    drive(world, Daemon(world), until=phase_is(world, JobPhase.FAILED))
    assert attempts(world) == [(1, "Error", 3), (2, "Error", 3), (3, "Error", 3)]
    job = world.job("train")
    assert job.status.failures == 3
    assert because(job, "Failed").reason == "Error"
    assert "exit code 3" in because(job, "Failed").message
    assert 33 <= world.clock.monotonic() - start < 36
    assert len(world.backend.started) == 3


def test_a_retry_may_succeed() -> None:
    world = World(script=by_attempt(Script(exit_code=1), Script()))
    world.apply(a_job(retry=RetryPolicy(limit=1, backoff="1s")))
    drive(world, Daemon(world), until=phase_is(world, JobPhase.SUCCEEDED))
    assert attempts(world) == [(1, "Error", 1), (2, "Completed", 0)]
    assert world.job("train").status.failures == 1


def test_a_job_that_overruns_its_lease_fails() -> None:
    world = World(script=lambda workload: FOREVER)
    world.apply(a_job(duration="60s"))
    daemon = Daemon(world)
    drive(world, daemon, until=phase_is(world, JobPhase.FAILED))
    settle(world, daemon, seconds=1)
    assert attempts(world) == [(1, "LeaseExpired", 143)]
    assert because(world.job("train"), "Failed").reason == "LeaseExpired"
    assert world.partition("train-a1-r0-d0").status.phase is PartitionPhase.EXPIRED


def test_a_job_with_a_checkpoint_goes_on_in_a_new_lease() -> None:
    world = World(script=by_attempt(Script(seconds=math.inf, stop_seconds=5), Script(seconds=3)))
    world.apply(a_job(duration="60s", checkpoint=Checkpoint(path="/ckpt", grace_period="20s")))
    daemon = Daemon(world)
    drive(world, daemon, until=phase_is(world, JobPhase.CHECKPOINTING))
    assert world.backend.running()
    drive(world, daemon, until=phase_is(world, JobPhase.SUCCEEDED))
    assert attempts(world) == [(1, "LeaseExpired", 143), (2, "Completed", 0)]
    assert world.job("train").status.failures == 0


def test_a_checkpoint_may_ask_to_fail_at_expiry() -> None:
    world = World(script=lambda workload: FOREVER)
    world.apply(a_job(duration="60s", checkpoint=Checkpoint(path="/ckpt", on_expiry="Fail")))
    drive(world, Daemon(world), until=phase_is(world, JobPhase.FAILED))
    assert because(world.job("train"), "Failed").reason == "LeaseExpired"


def test_a_suspended_job_gives_all_back_and_goes_on_when_resumed() -> None:
    world = World(script=by_attempt(FOREVER, Script(seconds=2)))
    world.apply(a_job())
    daemon = Daemon(world)
    drive(world, daemon, until=phase_is(world, JobPhase.RUNNING))
    world.change_spec("train", suspend=True)
    drive(world, daemon, until=phase_is(world, JobPhase.SUSPENDED))
    settle(world, daemon, seconds=3)
    assert is_true(world.job("train").status.conditions, "Suspended")
    assert not world.backend.running()
    assert not world.leases["node-1"].list()
    world.change_spec("train", suspend=False)
    drive(world, daemon, until=phase_is(world, JobPhase.SUCCEEDED))
    assert not is_true(world.job("train").status.conditions, "Suspended")
    assert attempts(world) == [(1, "Suspended", 143), (2, "Completed", 0)]


def test_a_job_that_is_born_suspended_takes_nothing() -> None:
    world = World()
    world.apply(a_job(suspend=True))
    daemon = Daemon(world)
    drive(world, daemon, until=phase_is(world, JobPhase.SUSPENDED))
    settle(world, daemon, seconds=60)
    assert world.partitions() == []
    assert world.job("train").status.attempt_count == 0


def test_a_deleted_job_is_stopped_and_leaves_nothing() -> None:
    world = World(script=lambda workload: Script(seconds=math.inf, stop_seconds=3))
    world.apply(a_job())
    daemon = Daemon(world)
    drive(world, daemon, until=phase_is(world, JobPhase.RUNNING))
    world.client.delete(world.job("train"))
    settle(world, daemon, seconds=1)
    assert world.job("train").deleting
    assert world.backend.running()
    settle(world, daemon, seconds=10)
    with pytest.raises(NotFound):
        world.job("train")
    assert world.partitions() == []
    assert not world.backend.running()
    assert not world.backend.list()
    assert not world.leases["node-1"].list()


def test_a_name_that_is_used_again_is_a_new_job() -> None:
    world = World(script=lambda workload: Script(seconds=5))
    world.apply(a_job())
    daemon = Daemon(world)
    drive(world, daemon, until=phase_is(world, JobPhase.RUNNING))
    world.client.delete(world.job("train"))
    settle(world, daemon, seconds=5)
    world.apply(a_job())
    drive(world, daemon, until=phase_is(world, JobPhase.SUCCEEDED))
    assert len(set(world.backend.started)) == 2


def test_a_gang_runs_together_and_ends_together() -> None:
    world = World(
        ["node-1", "node-2"],
        script=lambda workload: Script(seconds=5, exit_code=9) if workload.replica == 1 else FOREVER,
    )
    world.apply(a_job(memory="1.0", replicas=2))
    daemon = Daemon(world)
    drive(world, daemon, until=phase_is(world, JobPhase.RUNNING))
    attempt = world.job("train").status.attempts[-1]
    assert sorted(attempt.nodes) == ["node-1", "node-2"]
    assert len(world.backend.running()) == 2
    drive(world, daemon, until=phase_is(world, JobPhase.FAILED))
    assert attempts(world) == [(1, "Error", 9)]
    assert "replica 1" in because(world.job("train"), "Failed").message
    assert not world.backend.running()


def test_a_gang_that_does_not_fit_waits_and_says_why_once() -> None:
    world = World()
    world.apply(a_job(memory="1.0", replicas=2))
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: "node-1" in because(world.job("train"), "Scheduled").message)
    before = world.store.revision()
    settle(world, daemon, seconds=30)
    assert not world.leases["node-1"].list()
    assert [p.status.phase for p in world.partitions()] == [PartitionPhase.PENDING] * 2
    changed = [e for e in events_since(world, before) if e not in ("Lease", "GPUNode")]
    assert changed == []


def events_since(world: World, revision: int) -> list[str]:
    return [event.key.kind for event in ExactWatch(world.store, revision, None).next(0)]


def test_a_priority_that_is_raised_overtakes_the_queue() -> None:
    world = World(script=lambda workload: Script(seconds=60))
    for name in ("first", "second", "third"):
        world.apply(a_job(name, memory="1.0"))
        world.clock.advance(1)
    daemon = Daemon(world)
    drive(world, daemon, until=phase_is(world, JobPhase.RUNNING, "first"))
    settle(world, daemon, seconds=5)
    world.change_spec("third", priority=5)
    drive(world, daemon, until=phase_is(world, JobPhase.RUNNING, "third"), within=120)
    assert world.job("second").status.phase is JobPhase.PENDING


def test_jobs_that_are_longer_than_their_leases_take_turns() -> None:
    """One that is requeued does not take the share from those who were told when they start."""
    world = World(script=lambda workload: Script(seconds=1000))
    names = ("first", "second", "third")
    for name in names:
        world.apply(a_job(name, memory="1.0", duration="60s", checkpoint=Checkpoint(path="/ckpt", grace_period="5s")))
        world.clock.advance(1)
    drive(world, Daemon(world), until=lambda: world.job("third").status.attempt_count == 2)
    started = {a.start_time: name for name in names for a in world.job(name).status.attempts if a.start_time}
    assert [started[time] for time in sorted(started)] == list(names)


def test_devices_of_one_replica_are_on_one_node() -> None:
    world = World(["node-1", "node-2"], devices=2)
    world.apply(a_job(memory="1.0", count=2))
    drive(world, Daemon(world), until=phase_is(world, JobPhase.SUCCEEDED))
    held = [(p.status.node, p.status.device) for p in world.partitions()]
    assert len(held) == 2
    assert len({node for node, _ in held}) == 1


def test_a_share_taken_behind_the_schedulers_back_costs_no_retry() -> None:
    world = World()
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: _ready(world))
    settle(world, daemon)
    world.leases["node-1"].grant(LeaseRequest("mine", 0, 12 * 2**30, 700, seconds=30))
    world.apply(a_job())
    drive(world, daemon, until=phase_is(world, JobPhase.SUCCEEDED))
    reasons = [a.reason for a in world.job("train").status.attempts]
    assert reasons[0] == "GrantFailed"
    assert reasons[-1] == "Completed"
    assert world.job("train").status.failures == 0


def _ready(world: World) -> bool:
    try:
        return is_true(world.node().status.conditions, "Ready")
    except NotFound:
        return False


def test_a_lease_that_is_over_before_its_program_starts_is_backed_off_from_and_given_up() -> None:
    world = World(script=lambda workload: Script(start_seconds=9.0))
    world.apply(a_job(duration="1ms", retry=RetryPolicy(limit=0)))
    began = world.clock.monotonic()
    drive(world, Daemon(world), until=phase_is(world, JobPhase.FAILED), within=3600)
    assert because(world.job("train"), "Failed").reason == "ExpiredBeforeStart"
    assert world.job("train").status.attempt_count == MOST_IN_A_ROW
    assert world.clock.monotonic() - began > 2**9 - 1 - 256
    said = [event for event in world.client.list(Event) if event.reason == "ExpiredBeforeStart"]
    assert sorted(event.count for event in said) == [1, MOST_IN_A_ROW - 1]


def test_a_lease_counts_from_the_start_of_its_program() -> None:
    """Its grant is long ago when the program starts: it gets all the time, and the partition says so."""
    world = World(script=lambda workload: FOREVER)
    world.backend.faults.fail("start", BackendError("busy"), times=5)
    world.apply(a_job(duration="20s"))
    drive(world, Daemon(world), until=phase_is(world, JobPhase.FAILED), within=120)
    (attempt,) = world.job("train").status.attempts
    assert attempt.reason == "LeaseExpired"
    ran = parse_timestamp(attempt.end_time or "") - parse_timestamp(attempt.start_time or "")
    assert ran.total_seconds() == pytest.approx(20, abs=0.01)
    (share,) = world.partitions()
    assert share.status.started_at == attempt.start_time
    assert share.status.expires_at == attempt.end_time
    assert parse_timestamp(share.status.activated_at or "") < parse_timestamp(attempt.start_time or "")


def test_the_event_of_an_end_is_written_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the job said so much that nothing more of it is recorded, and by a daemon that dies right after."""
    world = World(script=lambda workload: Script(exit_code=3))
    world.apply(a_job(retry=RetryPolicy(limit=20, backoff="0s")))
    daemon = Daemon(world)
    drive(world, daemon, until=phase_is(world, JobPhase.FAILED), within=3600)
    assert daemon.loops is not None
    monkeypatch.setattr(daemon.loops.recorder, "flush", lambda: 0)
    end = because(world.job("train"), "Failed")
    said = [e for e in world.client.list(Event) if e.involved_object.uid == world.job("train").uid]
    assert (end.reason, end.message) in [(e.reason, e.message) for e in said]


def test_a_job_whose_partitions_name_is_taken_runs_under_another() -> None:
    world = World(script=lambda workload: FOREVER)
    world.apply(a_partition("train-a1-r0-d0", memory="0.1", duration="2h"))
    world.apply(a_job())
    daemon = Daemon(world)
    drive(world, daemon, until=phase_is(world, JobPhase.RUNNING), within=60)
    (attempt,) = world.job("train").status.attempts
    assert attempt.partitions == (f"train-a1-r0-d0-{world.job('train').uid[:8]}",)
    world.change_spec("train", suspend=True)
    drive(world, daemon, until=phase_is(world, JobPhase.SUSPENDED), within=60)
    assert world.partition("train-a1-r0-d0").status.phase is PartitionPhase.ACTIVE


def test_a_job_both_of_whose_names_are_taken_says_by_what() -> None:
    world = World()
    world.apply(a_job(suspend=True))
    both = ["train-a1-r0-d0", f"train-a1-r0-d0-{world.job('train').uid[:8]}"]
    for name in both:
        world.apply(a_partition(name, memory="0.1", duration="2h"))
    world.change_spec("train", suspend=False)
    daemon = Daemon(world)
    settle(world, daemon, seconds=60)
    said = because(world.job("train"), "Scheduled")
    assert (said.status, said.reason) == ("False", "NameTaken")
    assert f"somebody else has gpupartition/default/{both[1]};" in said.message
    (event,) = [e for e in world.client.list(Event) if e.reason == "NameTaken"]
    assert (event.message, event.count) == (said.message, 1)
    world.client.delete(world.partition(both[1]))
    drive(world, daemon, until=phase_is(world, JobPhase.SUCCEEDED), within=60)


def test_nobody_joins_the_gang_of_a_job() -> None:
    world = World(devices=2)
    gang = Gang(name="train-a1", size=5, since="2030-01-01T00:00:00Z")
    world.apply(a_partition("foreign", memory="0.1", gang=gang))
    world.apply(a_job())
    drive(world, Daemon(world), until=phase_is(world, JobPhase.SUCCEEDED), within=60)


def test_the_deadline_ends_a_job_for_good() -> None:
    world = World(script=lambda workload: FOREVER)
    world.apply(a_job(active_deadline="30s", retry=RetryPolicy(limit=5)))
    drive(world, Daemon(world), until=phase_is(world, JobPhase.FAILED), within=60)
    assert because(world.job("train"), "Failed").reason == "DeadlineExceeded"
    assert attempts(world) == [(1, "Deadline", 143)]
    assert not world.backend.running()


def test_an_impossible_workload_fails_at_once() -> None:
    world = World(script=lambda workload: Script(refused="no such command: train"))
    world.apply(a_job(retry=RetryPolicy(limit=5)))
    drive(world, Daemon(world), until=phase_is(world, JobPhase.FAILED), within=10)
    assert because(world.job("train"), "Failed").reason == "StartRefused"
    assert "no such command" in because(world.job("train"), "Failed").message


def test_an_unreachable_node_is_not_dead() -> None:
    world = World(script=lambda workload: Script(seconds=300))
    world.apply(a_job())
    daemon = Daemon(world)
    drive(world, daemon, until=phase_is(world, JobPhase.RUNNING))
    world.leases["node-1"].reachable = False
    drive(world, daemon, until=lambda: not is_true(world.node().status.conditions, "Ready"), within=120)
    assert world.job("train").status.phase is JobPhase.RUNNING
    world.leases["node-1"].reachable = True
    drive(world, daemon, until=phase_is(world, JobPhase.SUCCEEDED), within=400)
    assert attempts(world) == [(1, "Completed", 0)]


def test_a_job_on_a_silent_node_moves_on_only_after_its_lease_is_surely_over() -> None:
    world = World(["node-1", "node-2"], script=by_attempt(FOREVER, Script(seconds=2)))
    world.apply(a_job(duration="300s"))
    daemon = Daemon(world)
    drive(world, daemon, until=phase_is(world, JobPhase.RUNNING))
    first = world.job("train").status.attempts[0].node
    world.leases[first].reachable = False
    world.backend.faults.fail("get", NodeUnreachable("cut off"), times=1000)
    settle(world, daemon, seconds=250)
    assert world.job("train").status.attempt_count == 1
    drive(world, daemon, until=lambda: world.job("train").status.attempt_count == 2, within=200)
    world.backend.faults.clear()
    drive(world, daemon, until=phase_is(world, JobPhase.SUCCEEDED))
    assert attempts(world) == [(1, "NodeLost", None), (2, "Completed", 0)]
    assert world.job("train").status.attempts[1].node != first
    assert world.partition("train-a1-r0-d0").deleting
    world.leases[first].reachable = True
    drive(world, daemon, until=lambda: len(world.partitions()) == 1)


def test_a_partition_alone_is_leased_and_expires() -> None:
    world = World()
    world.apply(a_partition(duration="60s", user="ada"))
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: world.partition("share").status.phase is PartitionPhase.ACTIVE)
    (lease,) = world.leases["node-1"].list()
    assert (lease.id, lease.user) == (world.partition("share").uid, "ada")
    drive(world, daemon, until=lambda: world.partition("share").status.phase is PartitionPhase.EXPIRED, within=62)
    share = world.partition("share")
    assert because(share, "Ended").reason == "Expired"
    assert (because(share, "Bound").status, because(share, "Active").status) == ("True", "False")


def test_a_job_that_no_backend_here_can_run_can_be_deleted() -> None:
    world = World()
    world.apply(a_job(image="nowhere/train:1"))
    daemon = Daemon(world)
    settle(world, daemon, seconds=5)
    assert world.job("train").status.phase is JobPhase.PENDING
    world.client.delete(world.job("train"))
    settle(world, daemon, seconds=60)
    assert world.client.list(GPUJob) == []
    assert world.partitions() == []


@pytest.mark.parametrize(("asked", "within"), [(0, 62), (5, 7), (300, 62)])
def test_a_deletion_can_shorten_the_grace_of_a_job(asked: int, within: float) -> None:
    world = World(script=lambda workload: Script(seconds=math.inf, stop_seconds=math.inf))
    daemon = Daemon(world)
    world.apply(a_job(checkpoint=Checkpoint(grace_period="1m")))
    drive(world, daemon, until=phase_is(world, JobPhase.RUNNING))
    began = world.clock.monotonic()
    world.store.transact([Write("delete", key=world.job("train").key, grace_seconds=asked)])
    drive(world, daemon, until=lambda: not world.client.list(GPUJob))
    assert within - 2 <= world.clock.monotonic() - began <= within


def test_a_deleted_partition_gives_its_lease_back_first() -> None:
    world = World()
    world.apply(a_partition())
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: world.partition("share").status.phase is PartitionPhase.ACTIVE)
    world.leases["node-1"].reachable = False
    world.client.delete(world.partition("share"))
    settle(world, daemon, seconds=30)
    assert world.partition("share").deleting
    assert because(world.partition("share"), "Active").reason == "NodeUnreachable"
    world.leases["node-1"].reachable = True
    settle(world, daemon, seconds=60)
    assert world.partitions() == []
    assert not world.leases["node-1"].list()


def test_a_removed_node_frees_what_was_on_it() -> None:
    world = World(["node-1", "node-2"])
    world.apply(a_partition(node="node-1"))
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: world.partition("share").status.phase is PartitionPhase.ACTIVE)
    daemon.loops = None
    del world.agents[0]
    world.client.delete(world.node("node-1"))
    other = Daemon(world, "b")
    drive(world, other, until=lambda: world.partition("share").status.phase is PartitionPhase.FAILED)
    assert because(world.partition("share"), "Ended").reason == "NodeGone"


def test_a_lease_is_renewed_while_nobody_waits() -> None:
    world = World()
    world.apply(a_partition(memory="1.0", duration="100s", renewal=Renewal(policy="WhileIdle", maximum="250s")))
    start = world.clock.monotonic()
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: world.partition("share").status.phase is PartitionPhase.EXPIRED)
    assert 249 <= world.clock.monotonic() - start <= 252


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_renewal_whose_answer_was_lost_is_asked_for_again_only_where_it_was_not_made(when: When) -> None:
    """`before`: it never reached the node. In both cases the lease lasts as long as if nothing had been lost."""
    world = World()
    world.apply(a_partition(memory="1.0", duration="100s", renewal=Renewal(policy="WhileIdle", maximum="250s")))
    world.leases["node-1"].faults.fail("renew", NodeUnreachable("the answer was lost"), when=when, times=3)
    start = world.clock.monotonic()
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: world.partition("share").status.phase is PartitionPhase.EXPIRED)
    assert 249 <= world.clock.monotonic() - start <= 252


def test_a_lease_whose_renewals_never_arrive_ends_on_its_node_when_it_said() -> None:
    world = World()
    world.apply(a_partition(memory="1.0", duration="100s", renewal=Renewal(policy="WhileIdle", maximum="250s")))
    world.leases["node-1"].faults.fail("renew", NodeUnreachable("the node does not answer"), times=10**6)
    start = world.clock.monotonic()
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: world.partition("share").status.phase is PartitionPhase.EXPIRED)
    assert 99 <= world.clock.monotonic() - start <= 131


def test_a_lease_is_not_renewed_while_somebody_waits() -> None:
    world = World()
    world.apply(a_partition(memory="1.0", duration="100s", renewal=Renewal(policy="WhileIdle", maximum="1h")))
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: world.partition("share").status.phase is PartitionPhase.ACTIVE)
    world.apply(a_job())
    drive(world, daemon, until=phase_is(world, JobPhase.SUCCEEDED), within=110)


def test_a_lease_is_renewed_no_further_than_a_reservation_of_its_device() -> None:
    world = World()
    start = world.clock.monotonic()
    begins = timestamp(world.clock.now() + timedelta(seconds=170))
    spec = {"nodes": ["node-1"], "start": begins, "duration": "1h"}
    world.apply(Reservation(metadata=ObjectMeta(name="service"), spec=ReservationSpec.model_validate(spec)))
    world.apply(a_partition(memory="1.0", duration="100s", renewal=Renewal(policy="WhileIdle", maximum="1h")))
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: world.partition("share").status.phase is PartitionPhase.EXPIRED)
    grace = parse_duration(world.partition("share").spec.grace_period)
    assert 165 <= world.clock.monotonic() - start + grace <= 171


def test_a_lease_released_on_the_node_ends_the_attempt() -> None:
    world = World(script=by_attempt(FOREVER, Script()))
    world.apply(a_job())
    daemon = Daemon(world)
    drive(world, daemon, until=phase_is(world, JobPhase.RUNNING))
    world.leases["node-1"].release(world.partition("train-a1-r0-d0").uid)
    drive(world, daemon, until=phase_is(world, JobPhase.SUCCEEDED))
    assert [a.reason for a in world.job("train").status.attempts] in (
        ["LeaseReleased", "Completed"],
        ["Stopped", "Completed"],
    )


def test_foreign_leases_are_shown_and_respected() -> None:
    world = World()
    world.leases["node-1"].grant(LeaseRequest("mine", 0, 12 * 2**30, 700, seconds=100, user="bob"))
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: _ready(world))
    (device,) = world.node().status.devices
    assert [(f.partition_id, f.user) for f in device.foreign_leases] == [("mine", "bob")]
    assert device.free_memory_bytes == 4 * 2**30
    world.apply(a_job())
    settle(world, daemon, seconds=60)
    assert world.job("train").status.phase is JobPhase.PENDING
    drive(world, daemon, until=phase_is(world, JobPhase.SUCCEEDED), within=100)
    assert world.job("train").status.attempt_count == 1


def test_a_standby_takes_over_within_ten_seconds_and_no_job_runs_twice() -> None:
    world = World(script=lambda workload: Script(seconds=60))
    world.apply(a_job())
    first, second = Daemon(world, "a"), Daemon(world, "b")
    drive(world, first, second, until=phase_is(world, JobPhase.RUNNING))
    killed = world.clock.monotonic()
    drive(world, second, until=lambda: second.elector.leading)
    assert world.clock.monotonic() - killed <= 10
    drive(world, second, until=phase_is(world, JobPhase.SUCCEEDED))
    assert len(world.backend.started) == 1
    assert world.job("train").status.attempt_count == 1


def test_a_deposed_daemon_cannot_write() -> None:
    world = World()
    world.apply(a_job(suspend=True))
    first, second = Daemon(world, "a"), Daemon(world, "b")
    drive(world, first, until=lambda: first.loops is not None)
    term = first.elector.term
    assert term is not None
    drive(world, second, until=lambda: second.elector.leading)
    assert not first.elector.leading
    job = world.job("train")
    forged = job.replace(status=job.status.model_copy(update={"failures": 7}))
    with pytest.raises(Fenced):
        StoreClient(world.store, term.fence).update_status(forged)
    assert world.job("train").status.failures == 0


def test_the_loops_of_a_deposed_daemon_write_nothing_though_their_view_is_fresh() -> None:
    world = World()
    first, second = Daemon(world, "a"), Daemon(world, "b")
    drive(world, first, until=lambda: first.loops is not None)
    loops = first.loops
    assert loops is not None
    settle(world, first, seconds=30)
    drive(world, second, until=lambda: second.elector.leading)
    world.apply(a_job())
    world.apply(a_partition())
    before = world.store.revision()
    first.informer.poll(0)
    for runner in loops.runners.values():
        while runner.step(0):
            pass
    assert world.store.revision() == before
    assert world.job("train").status.attempt_count == 0


def test_finished_jobs_go_after_their_ttl() -> None:
    world = World()
    world.apply(a_job(ttl_after_finished="60s"))
    daemon = Daemon(world)
    drive(world, daemon, until=phase_is(world, JobPhase.SUCCEEDED))
    settle(world, daemon, seconds=55)
    world.job("train")
    settle(world, daemon, seconds=10)
    with pytest.raises(NotFound):
        world.job("train")
    assert world.partitions() == []


def test_events_tell_what_happened_and_go_after_an_hour() -> None:
    world = World()
    world.apply(a_job())
    daemon = Daemon(world)
    drive(world, daemon, until=phase_is(world, JobPhase.SUCCEEDED))
    settle(world, daemon, seconds=5)
    said = [(e.involved_object.kind, e.reason) for e in world.client.list(Event)]
    assert {("GPUJob", "Started"), ("GPUJob", "Completed"), ("GPUPartition", "Leased")} <= set(said)
    settle(world, daemon, seconds=3700)
    assert world.client.list(Event) == []


def test_orphans_are_collected() -> None:
    world = World()
    orphan = a_partition()
    gone = OwnerReference(api_version="cumulus.dev/v1alpha1", kind="GPUJob", name="gone", uid="no-such-uid")
    world.apply(orphan.replace(metadata=orphan.metadata.model_copy(update={"owner_references": (gone,)})))
    settle(world, Daemon(world), seconds=30)
    assert world.partitions() == []
    assert not world.leases["node-1"].list()


def test_a_lease_of_ours_that_no_partition_holds_is_released_and_others_are_not() -> None:
    world = World()
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: daemon.loops is not None)
    store_id = world.store.get(Key("Lease", "", "cumulus-controller"))["metadata"]["uid"]
    leases = world.leases["node-1"]
    leases.grant(LeaseRequest("ours", 0, 2**30, 100, seconds=3000, owner=f"cumulus:{store_id}"))
    leases.grant(LeaseRequest("another-store", 0, 2**30, 100, seconds=3000, owner="cumulus:else"))
    leases.grant(LeaseRequest("a-person", 0, 2**30, 100, seconds=3000))
    settle(world, daemon, seconds=70)
    assert [lease.id for lease in leases.list()] == ["another-store", "a-person"]


def test_a_workload_whose_job_is_gone_is_ended() -> None:
    world = World()
    world.backend = type(world.backend)(world.clock, script=lambda workload: FOREVER)
    world.backend.start(
        Workload("default.old.12345678-a1-r0", "default", "old", "no-such-uid", 1, 0, 1, "node-1", ("x",), ())
    )
    settle(world, Daemon(world), seconds=130)
    assert not world.backend.running()
    assert not world.backend.list()


def test_a_settled_system_writes_heartbeats_alone() -> None:
    world = World()
    for number in range(20):
        world.apply(a_job(f"job-{number}", memory="0.1"))
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: all(j.status.phase.finished for j in world.client.list(GPUJob)))
    settle(world, daemon, seconds=30)
    before = world.store.revision()
    assert daemon.loops is not None
    daemon.loops.resync()
    settle(world, daemon, seconds=120)
    kinds = events_since(world, before)
    assert set(kinds) == {"Lease", "GPUNode"}
    assert kinds.count("GPUNode") <= 6


def test_reports_that_come_late_and_out_of_order_change_nothing() -> None:
    world = World(script=lambda workload: Script(seconds=3))
    lags = iter([0.0, 2.5, 0.1, 2.0, 1.0] * 1000)
    world.backend.lag = lambda: next(lags)
    world.apply(a_job())
    daemon = Daemon(world)
    drive(world, daemon, until=phase_is(world, JobPhase.SUCCEEDED))
    settle(world, daemon, seconds=5)
    assert attempts(world) == [(1, "Completed", 0)]
    assert all(lease.state is LeaseState.ENDED for lease in world.leases["node-1"].list(ended=True))
