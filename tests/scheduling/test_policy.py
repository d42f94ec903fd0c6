"""Order, admission and preemption are choices: a cycle and `explain` do as they are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cumulus.resources.key import Key
from cumulus.resources.meta import JOB_LABEL
from cumulus.resources.partition import GPUPartition
from cumulus.scheduling.cycle import Cycle, place
from cumulus.scheduling.explain import GangState, explain
from cumulus.scheduling.fit import Reason
from cumulus.scheduling.policy import DEFAULT, CycleGate, Policies, TakenShare, policies_of
from cumulus.scheduling.snapshot import Gang, Snapshot, build
from tests.scheduling.build import NOW, held, node, pending


@dataclass(frozen=True)
class ByName:
    def arrange(self, snapshot: Snapshot) -> Sequence[Gang]:
        return sorted(snapshot.pending, key=lambda gang: gang.name)


@dataclass(frozen=True)
class Closed:
    """Admits all but one."""

    name: str

    def begin(self, snapshot: Snapshot) -> CycleGate:
        return self

    def admit(self, gang: Gang) -> Gang | Reason:
        return Reason("OverQuota", "the quota is used up") if gang.name == self.name else gang

    def take(self, gang: Gang, shares: Sequence[TakenShare]) -> None:
        pass


def two(memory: str = "60Gi") -> Snapshot:
    """Two that wait for a device which has room for one."""
    return build([node()], [pending("a", memory=memory), pending("b", memory=memory, priority=9)], NOW)


def test_the_order_decides_who_goes_first() -> None:
    assert [binding.gang for binding in place(two()).bindings] == ["default/b"]
    by_name = Policies(order=ByName())
    assert [binding.gang for binding in place(two(), by_name).bindings] == ["default/a"]
    found = explain(two(), Key("GPUPartition", "default", "b"), by_name)
    assert found is not None
    assert (found.state, found.position) == (GangState.WAITING, 2)


def test_whom_its_queue_does_not_admit_waits_without_a_reservation_and_keeps_nobody_waiting() -> None:
    policies = Policies(admission=Closed("default/b"))
    result = place(two(), policies)
    assert [binding.gang for binding in result.bindings] == ["default/a"]
    (refusal,) = result.refusals
    assert (refusal.reservation, refusal.reason) == (None, Reason("OverQuota", "the quota is used up"))
    found = explain(two(), Key("GPUPartition", "default", "b"), policies)
    assert found is not None
    assert found.headline == "its queue does not admit it: the quota is used up"
    assert found.lines() == [found.headline]


def test_by_default_nobody_is_held_back() -> None:
    snapshot = two(memory="10Gi")
    run = Cycle(snapshot, DEFAULT)
    assert [gang.name for gang in run.queue] == ["default/b", "default/a"]
    assert all(run.bind(gang) for gang in run.queue)


def of_job(name: str, job: str) -> GPUPartition:
    made = pending(name, memory="1Gi")
    return made.replace(metadata=made.metadata.model_copy(update={"labels": {JOB_LABEL: job}}))


def test_so_many_jobs_run_as_the_server_allows() -> None:
    """Those that run and those that this cycle starts are counted; what belongs to no job is not."""
    running = held(of_job("x", "x"), memory=1, compute=10)
    waiting = [of_job(name, name) for name in ("a", "b", "c")]
    snapshot = build([node()], [running, *waiting, pending("lone", memory="1Gi")], NOW)
    result = place(snapshot, policies_of(2))
    assert [binding.gang for binding in result.bindings] == ["default/a", "default/lone"]
    assert {refusal.reason.code for refusal in result.refusals} == {"TooManyJobs"}
    found = explain(snapshot, Key("GPUPartition", "default", "c"), policies_of(2))
    assert found is not None
    assert found.headline == "its queue does not admit it: 2 jobs run, as many as MAX_CONCURRENT_JOBS allows"
    assert len(place(snapshot).bindings) == 4
    # A job that has shares gets the rest of them.
    more = build([node()], [running, of_job("x2", "x")], NOW)
    assert len(place(more, policies_of(1)).bindings) == 1
