"""Parking on the real loops: a program waits in main memory, its share is another's, and it comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cumulus.backends.base import Workload
from cumulus.chronos.contract import LeaseState, NodeFacts, Parking, PolicyChange, Proof
from cumulus.clock import parse_timestamp
from cumulus.nodes.agent import NodeAgent
from cumulus.resources.annotations import UNPARK_REQUESTED
from cumulus.resources.job import GPUJob
from cumulus.resources.job_checkpoint import Checkpoint
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.meta import condition
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.query import Query
from cumulus.resources.reasons import ParkingReason
from cumulus.testing.backend import Script
from tests.controllers.driver import Daemon, World, drive, settle
from tests.controllers.objects import a_job
from tests.controllers.test_queues import a_queue, counted, of

DEVICE = 16 * 2**30


def script(workload: Workload) -> Script:
    """A job's name says how long it computes."""
    return Script(seconds=float(workload.job.rpartition("-")[2]))


class Bed:
    """A world with one daemon that is at rest."""

    def __init__(self, *jobs: GPUJob, devices: int = 1) -> None:
        self.world = World(devices=devices, script=script)
        self.node = self.world.leases["node-1"]
        self.node.parking_seconds = 2.0
        self.daemon = Daemon(self.world)
        for job in jobs:
            self.world.apply(job)
        self.until(lambda: all(self.phase(job.metadata.name) is JobPhase.RUNNING for job in jobs))

    def until(self, condition: object, within: float = 600.0) -> None:
        drive(self.world, self.daemon, until=condition, within=within)  # type: ignore[arg-type]

    def pass_(self, seconds: float) -> None:
        settle(self.world, self.daemon, seconds=seconds)

    def phase(self, name: str) -> JobPhase:
        return self.world.job(name).status.phase

    def partition(self, name: str) -> GPUPartition:
        (found,) = [p for p in self.world.partitions() if p.metadata.name.startswith(f"{name}-a")]
        return found

    def lease(self, name: str) -> object:
        return self.node.get(self.partition(name).uid)

    def park(self, name: str) -> None:
        self.world.change_spec(name, park=True)
        self.until(lambda: self.phase(name) is JobPhase.PARKED)

    def said(self, name: str, type: str = "Parked") -> tuple[str, str]:
        found = condition(self.world.job(name).status.conditions, type)
        return (found.status, found.reason) if found is not None else ("", "")

    def events(self, name: str) -> list[tuple[str, str]]:
        uid = self.world.job(name).uid
        self.pass_(1)
        found = self.world.store.list(Query("Event")).items
        return [(e["reason"], e["message"]) for e in found if e["involvedObject"]["uid"] == uid]

    def ask_back(self, name: str) -> None:
        """As `cumulus unpark` does."""
        job = self.world.job(name)
        annotations = {**job.metadata.annotations, UNPARK_REQUESTED: str(self.world.clock.now())}
        metadata = job.metadata.model_copy(update={"annotations": annotations})
        self.world.client.update(job.replace(spec=job.spec.model_copy(update={"park": False}), metadata=metadata))


def test_a_parked_job_waits_and_comes_back_as_the_same_attempt() -> None:
    bed = Bed(a_job("train-100", memory="1.0"))
    before = bed.partition("train-100")
    bed.park("train-100")
    parked = bed.partition("train-100")
    assert parked.status.phase is PartitionPhase.PARKED
    assert parked.status.parked is not None
    assert parked.status.parked.memory_bytes == DEVICE
    assert bed.said("train-100") == ("True", "Requested")
    bed.pass_(3600)
    assert bed.phase("train-100") is JobPhase.PARKED, "its clock stands still"
    bed.ask_back("train-100")
    bed.until(lambda: bed.phase("train-100") is JobPhase.RUNNING)
    back = bed.partition("train-100")
    assert back.uid == before.uid
    assert back.status.fencing_token > before.status.fencing_token
    assert parse_timestamp(back.status.expires_at or "") > parse_timestamp(before.status.expires_at or "")
    assert bed.said("train-100") == ("False", "Unparked")
    told = dict(bed.events("train-100"))
    assert told["Parked"] == "spec.park is true; 16Gi went to main memory in 2.0 s"
    assert told["Unparked"].startswith("it took 2.0 s to bring its program back, after 1h")
    bed.until(lambda: bed.phase("train-100") is JobPhase.SUCCEEDED)
    assert len(bed.world.job("train-100").status.attempts) == 1


def test_another_job_has_the_share_meanwhile_and_the_parked_one_waits_for_it() -> None:
    bed = Bed(a_job("train-500", memory="1.0"))
    bed.park("train-500")
    bed.world.apply(a_job("other-300", memory="1.0"))
    bed.until(lambda: bed.phase("other-300") is JobPhase.RUNNING)
    bed.ask_back("train-500")
    bed.pass_(60)
    assert bed.phase("train-500") is JobPhase.PARKED
    assert condition(bed.world.job("train-500").status.conditions, "Scheduled").reason == "WaitingForShare"  # type: ignore[union-attr]
    bed.until(lambda: bed.phase("train-500") is JobPhase.RUNNING)
    assert bed.phase("other-300") is JobPhase.SUCCEEDED


@pytest.mark.parametrize("lost", [False, True])
def test_a_program_for_which_its_gpu_has_no_room_stays_parked_and_is_tried_again(lost: bool) -> None:
    """Also where the answer to a try, and with it the new token, was lost."""
    bed = Bed(a_job("train-100", memory="1.0"))
    bed.park("train-100")
    before = bed.partition("train-100")
    bed.node.without_room = {before.uid}
    if lost:
        bed.node.unpark(before.uid, 60)
        bed.world.clock.advance(3)
        assert bed.node.get(before.uid).state is LeaseState.PARKED  # type: ignore[union-attr]
    bed.ask_back("train-100")
    bed.until(lambda: bed.partition("train-100").status.phase is PartitionPhase.UNPARKING)
    bed.pass_(60)
    assert bed.phase("train-100") is JobPhase.PARKED
    bed.node.without_room = set()
    bed.until(lambda: bed.phase("train-100") is JobPhase.RUNNING)
    assert bed.partition("train-100").status.fencing_token > before.status.fencing_token
    bed.until(lambda: bed.phase("train-100") is JobPhase.SUCCEEDED)
    assert len(bed.world.job("train-100").status.attempts) == 1


def test_who_comes_back_stands_behind_those_who_wait() -> None:
    bed = Bed(a_job("train-500", memory="1.0"))
    bed.park("train-500")
    bed.world.apply(a_job("first-100", memory="1.0"))
    bed.world.apply(a_job("second-100", memory="1.0"))
    bed.until(lambda: bed.phase("first-100") is JobPhase.RUNNING)
    bed.ask_back("train-500")
    bed.until(lambda: bed.phase("train-500") is JobPhase.RUNNING)
    assert bed.phase("second-100") is JobPhase.SUCCEEDED


def test_a_refused_park_is_told_and_the_program_goes_on() -> None:
    bed = Bed(a_job("train-100"))
    bed.node.refuse_park(ParkingReason.MPS_CLIENT, "one of its processes uses MPS")
    bed.world.change_spec("train-100", park=True)
    bed.until(lambda: bed.said("train-100") == ("False", "ParkRefused"))
    assert ("ParkRefused", "MPSClient: one of its processes uses MPS") in bed.events("train-100")
    bed.pass_(30)
    assert bed.phase("train-100") is JobPhase.RUNNING
    bed.until(lambda: bed.phase("train-100") is JobPhase.SUCCEEDED)


def test_suspend_with_park_stops_what_cannot_be_parked() -> None:
    bed = Bed(a_job("train-100"), a_job("other-100", memory="0.25"))
    bed.node.refuse_park(ParkingReason.MANAGED_MEMORY, "it has managed memory", bed.partition("other-100").uid)
    for name in ("train-100", "other-100"):
        bed.world.change_spec(name, park=True, suspend=True)
    bed.until(lambda: (bed.phase("train-100"), bed.phase("other-100")) == (JobPhase.PARKED, JobPhase.SUSPENDED))
    for name in ("train-100", "other-100"):
        bed.world.change_spec(name, park=False, suspend=False)
    bed.until(lambda: bed.phase("train-100") is JobPhase.RUNNING and bed.phase("other-100") is JobPhase.RUNNING)
    assert len(bed.world.job("train-100").status.attempts) == 1
    assert len(bed.world.job("other-100").status.attempts) == 2


def test_what_cannot_be_brought_back_is_lost_and_counts_as_no_failure() -> None:
    bed = Bed(a_job("train-100"))
    bed.park("train-100")
    bed.node.fail_unpark(bed.partition("train-100").uid)
    bed.ask_back("train-100")
    bed.until(lambda: len(bed.world.job("train-100").status.attempts) == 2)
    job = bed.world.job("train-100")
    first = job.status.attempts[0]
    assert first.reason == "Lost"
    assert first.message == "it was parked, and could not be brought back to its GPU; it had saved nothing"
    assert job.status.failures == 0
    bed.until(lambda: bed.phase("train-100") is JobPhase.SUCCEEDED)


def test_what_had_ended_before_it_was_parked_is_not_lost() -> None:
    """Its node has nothing to bring back, so that nothing can fail to come."""
    bed = Bed(a_job("train-100"))
    id = bed.partition("train-100").uid
    bed.world.clock.advance(101)
    bed.node.park(id, 3600.0)
    bed.node.fail_unpark(id)
    bed.world.clock.advance(5)
    bed.node.unpark(id, 3600.0)
    bed.world.clock.advance(5)
    lease = bed.node.get(id)
    assert lease is not None
    assert lease.state is LeaseState.ACTIVE


def test_a_parked_program_is_ended_when_its_time_in_main_memory_is_over() -> None:
    bed = Bed(a_job("train-100", park_for="1h"))
    bed.park("train-100")
    bed.until(lambda: bed.phase("train-100") is JobPhase.FAILED, within=3700)
    assert bed.world.job("train-100").status.attempts[-1].reason == "LeaseExpired"
    assert not bed.node.list()


def test_a_job_that_is_parked_when_its_lease_ends_goes_on_in_the_next() -> None:
    job = a_job("train-100", memory="1.0", duration="40s", checkpoint=Checkpoint(path="/c", on_expiry="Park"))
    bed = Bed(job)
    bed.until(lambda: bed.phase("train-100") is JobPhase.SUCCEEDED)
    (attempt,) = bed.world.job("train-100").status.attempts
    assert attempt.reason == "Completed"
    assert [reason for reason, _ in bed.events("train-100")].count("Parked") >= 1


def test_a_job_that_cannot_be_parked_at_the_end_of_its_lease_is_requeued() -> None:
    job = a_job("train-100", duration="40s", checkpoint=Checkpoint(path="/c", on_expiry="Park", grace_period="2s"))
    bed = Bed(job)
    bed.node.refuse_park(ParkingReason.NOT_PROVEN, "nothing was proven")
    bed.until(lambda: len(bed.world.job("train-100").status.attempts) == 2)
    assert bed.world.job("train-100").status.attempts[0].reason == "LeaseExpired"


def test_a_held_job_without_a_program_is_not_started() -> None:
    bed = Bed()
    bed.world.apply(a_job("train-100", park=True))
    bed.until(lambda: bed.phase("train-100") is JobPhase.SUSPENDED)
    bed.pass_(60)
    assert not bed.world.partitions()
    bed.world.change_spec("train-100", park=False)
    bed.until(lambda: bed.phase("train-100") is JobPhase.RUNNING)


def test_a_parked_job_that_is_deleted_leaves_nothing() -> None:
    bed = Bed(a_job("train-100"))
    bed.park("train-100")
    bed.world.client.delete(bed.world.job("train-100"))
    bed.until(lambda: not bed.world.client.list(GPUJob))
    bed.pass_(1)
    assert not bed.node.list()
    assert not bed.world.partitions()


def test_what_is_parked_on_its_node_by_hand_comes_back_by_the_queue() -> None:
    bed = Bed(a_job("train-100"))
    bed.node.park(bed.partition("train-100").uid, 3600.0)
    bed.until(lambda: bed.partition("train-100").status.phase is PartitionPhase.PARKED)
    bed.until(
        lambda: (
            bed.phase("train-100") is JobPhase.RUNNING
            and bed.partition("train-100").status.phase is PartitionPhase.ACTIVE
        )
    )


def test_what_its_node_brought_back_by_hand_is_active_again() -> None:
    bed = Bed(a_job("train-100"))
    bed.park("train-100")
    bed.node.unpark(bed.partition("train-100").uid, 3600.0)
    bed.until(lambda: bed.partition("train-100").status.phase is PartitionPhase.ACTIVE)


def test_use_is_counted_for_the_time_on_the_gpu_alone() -> None:
    bed = Bed()
    bed.world.apply(a_queue())
    bed.world.apply(of(a_job("train-100", memory="1.0"), "alice"))
    bed.until(lambda: bed.phase("train-100") is JobPhase.RUNNING)
    bed.pass_(50)
    bed.park("train-100")
    once = counted(bed.world)["alice"]
    assert 45e6 < once < 60e6
    bed.pass_(3600)
    bed.ask_back("train-100")
    bed.until(lambda: bed.phase("train-100") is JobPhase.SUCCEEDED)
    bed.until(lambda: all(p.status.phase.ended for p in bed.world.partitions()))
    assert 95e6 < counted(bed.world)["alice"] < 120e6


@pytest.mark.parametrize("moment", [0.5, 2.5])
def test_another_daemon_goes_on_with_what_is_half_done(moment: float) -> None:
    bed = Bed(a_job("train-100"))
    bed.world.change_spec("train-100", park=True)
    bed.pass_(moment)
    bed.daemon = Daemon(bed.world, "b")
    bed.until(lambda: bed.phase("train-100") is JobPhase.PARKED)
    bed.ask_back("train-100")
    bed.pass_(moment)
    bed.daemon = Daemon(bed.world, "c")
    bed.until(lambda: bed.phase("train-100") is JobPhase.SUCCEEDED)
    assert len(bed.world.job("train-100").status.attempts) == 1


def test_gangs_are_not_parked() -> None:
    bed = Bed(a_job("train-100", memory="0.5", replicas=2))
    with pytest.raises(Exception, match="a job with several can't be parked"):
        bed.world.change_spec("train-100", park=True)


def test_a_node_says_what_it_can_park_and_is_told_how_much_main_memory() -> None:
    bed = Bed()
    told: list[PolicyChange] = []
    proof = Proof("Fake GPU", "1.0", "jax", False, "it did not come back", "2030-01-01T00:00:00Z")
    facts = replace(NodeFacts(), parking=Parking(64 * 2**30, 2**30, (proof,)))
    bed.world.agents[:] = [NodeAgent("node-1", bed.node, facts=lambda: facts, set_policy=told.append)]
    bed.pass_(1)
    node = bed.world.node()
    bed.world.client.update(node.replace(spec=node.spec.model_copy(update={"parking_memory": "64Gi"})))
    bed.daemon = Daemon(bed.world, "b")
    bed.until(lambda: bool(told))
    assert told == [PolicyChange(parking_memory=64 * 2**30)]
    document = bed.world.node().to_json()
    assert document["status"]["parking"]["proofs"][0]["framework"] == "jax"
    assert document["status"]["parking"]["usedBytes"] == 2**30


def a_line(length: str, *names: str) -> Bed:
    """One device, and jobs that each want all of it, in a queue whose jobs take turns."""
    bed = Bed()
    bed.world.apply(a_queue(turns={"length": length}))
    for number, name in enumerate(names):
        bed.world.apply(of(a_job(name, memory="1.0", duration="2h"), f"user-{number}", "default"))
    return bed


def test_jobs_of_a_queue_take_turns() -> None:
    """The first turn is as long as moves are expected to cost; then they are measured."""
    names = ("one-700", "two-700")
    bed = a_line("60s", *names)
    bed.node.parking_seconds = 1.0
    bed.node.parking_memory = 2 * DEVICE
    ran: list[str] = []
    start = bed.world.clock.monotonic()
    while not all(bed.phase(name) is JobPhase.SUCCEEDED for name in names):
        bed.pass_(15)
        now = [name for name in names if bed.phase(name) is JobPhase.RUNNING]
        assert len(now) <= 1
        ran += [name for name in now if not ran or ran[-1] != name]
        assert bed.world.clock.monotonic() - start < 1800
    assert len(ran) >= 5, "none ran to its end at once"
    assert all(len(bed.world.job(name).status.attempts) == 1 for name in names)
    parks = [message for name in names for reason, message in bed.events(name) if reason == "Parked"]
    assert any("its turn of 1m was over, and others wait for its GPU" in message for message in parks)


def test_a_turn_is_as_long_as_its_moves_cost_and_says_so() -> None:
    bed = a_line("10s", "one-900", "two-900")
    bed.until(lambda: any(bed.phase(n) is JobPhase.PARKED for n in ("one-900", "two-900")), within=900)
    (first,) = [n for n in ("one-900", "two-900") if bed.phase(n) is JobPhase.PARKED]
    told = dict(bed.events(first))["Parked"]
    # 16 GiB, nothing measured yet: 21 s each way.
    assert "it lasted 7m, not 10s: parking it and bringing it back takes 42s" in told


def test_who_has_nobody_behind_them_keeps_their_turn() -> None:
    bed = a_line("60s", "one-1200")
    bed.pass_(600)
    assert bed.phase("one-1200") is JobPhase.RUNNING
