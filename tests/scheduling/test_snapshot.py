from __future__ import annotations

from datetime import timedelta

import pytest

from cumulus.resources.key import Key
from cumulus.resources.meta import OwnerReference
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.scheduling.policy import PriorityThenAge
from cumulus.scheduling.snapshot import ReturnsBy, build
from tests.scheduling.build import GI, NOW, at, device, foreign, gang, held, node, pending


def names(partitions: list[GPUPartition]) -> list[str]:
    return [found.name for found in PriorityThenAge().arrange(build([], partitions, NOW))]


def test_the_queue_is_by_priority_then_age_then_name() -> None:
    queue = [
        pending("young", age=1),
        pending("b", age=5),
        pending("a", age=5),
        pending("urgent", age=0, priority=10),
        pending("low", age=99, priority=-1),
    ]
    assert names(queue) == ["default/urgent", "default/a", "default/b", "default/young", "default/low"]
    assert names(queue[::-1]) == names(queue)


def test_a_gangs_place_is_its_jobs_age_not_its_partitions() -> None:
    retried = [
        p.replace(metadata=p.metadata.model_copy(update={"creation_timestamp": at(0)})) for p in gang("g", 2, age=50)
    ]
    assert names([pending("p", age=10), *retried]) == ["default/g", "default/p"]


def test_times_in_other_notations_order_the_same() -> None:
    early = pending("early")
    early = early.replace(
        metadata=early.metadata.model_copy(update={"creation_timestamp": "2030-01-01T13:00:00+02:00"})
    )
    assert names([pending("late", age=60), early]) == ["default/early", "default/late"]


@pytest.mark.parametrize("phase", [PartitionPhase.BOUND, PartitionPhase.ACTIVE])
def test_a_bound_or_active_partition_holds_its_share(phase: PartitionPhase) -> None:
    partition = held(pending("p", grace_period="30s", user="ann"), memory=20, ends=600, phase=phase)
    (hold,) = build([node()], [partition], NOW).holds
    assert (hold.node, hold.device, hold.memory_bytes, hold.compute) == ("n1", 0, 20 * GI, 250)
    assert hold.returns_at == NOW + timedelta(seconds=630)
    assert (hold.partition, hold.user, hold.returns_by) == (
        Key("GPUPartition", "default", "p"),
        "ann",
        ReturnsBy.LEASE_END,
    )


@pytest.mark.parametrize("phase", [PartitionPhase.EXPIRED, PartitionPhase.RELEASED, PartitionPhase.FAILED])
def test_an_ended_partition_holds_nothing_and_waits_for_nothing(phase: PartitionPhase) -> None:
    snapshot = build([node()], [held(pending("p"), phase=phase)], NOW)
    assert snapshot.holds == ()
    assert snapshot.pending == ()


def test_a_share_without_a_lease_yet_is_held_for_its_duration_and_grace() -> None:
    (hold,) = build([node()], [held(pending("p", duration="1h", grace_period="1m"), ends=None)], NOW).holds
    assert hold.returns_at == NOW + timedelta(seconds=3660)


@pytest.mark.parametrize(("overdue", "expected"), [(0, 10), (3, 10), (100, 100)])
def test_an_overdue_share_is_expected_back_soon_the_later_the_longer_it_is_so(overdue: float, expected: float) -> None:
    lease = foreign(1, -overdue)
    for nodes, partitions in (([node()], [held(pending("p", grace_period="0s"), ends=-overdue)]),
                              ([node("n1", device(foreign_leases=(lease,)))], [])):  # fmt: skip
        (hold,) = build(nodes, partitions, NOW).holds
        assert hold.returns_at == NOW + timedelta(seconds=expected)
        assert hold.returns_by is ReturnsBy.OVERDUE


def test_a_deleted_partition_leaves_the_queue_but_holds_its_share_until_it_ended() -> None:
    waiting, holding = pending("w"), held(pending("h"))
    deleted = [
        p.replace(metadata=p.metadata.model_copy(update={"deletion_timestamp": at(0)})) for p in (waiting, holding)
    ]
    snapshot = build([node()], deleted, NOW)
    assert snapshot.pending == ()
    assert [hold.partition.name for hold in snapshot.holds if hold.partition] == ["h"]


def test_a_lease_made_on_the_node_holds_its_share() -> None:
    taken = device(foreign_leases=(foreign(10, 60, grace_seconds=5),))
    (hold,) = build([node("n1", taken)], [], NOW).holds
    assert (hold.memory_bytes, hold.returns_at, hold.partition) == (10 * GI, NOW + timedelta(seconds=65), None)
    assert (hold.lease, hold.user) == ("made-by-hand", "eve")


def test_a_partitions_own_lease_is_not_counted_twice() -> None:
    taken = device(foreign_leases=(foreign(20, 60, partition_id="uid-p"),))
    assert len(build([node("n1", taken)], [held(pending("p"))], NOW).holds) == 1
    ended = held(pending("p"), phase=PartitionPhase.FAILED)
    (hold,) = build([node("n1", taken)], [ended], NOW).holds
    assert hold.partition is None


def test_a_gang_is_complete_when_all_its_partitions_are_there() -> None:
    whole, part = gang("whole", 2, 2), gang("part", 3)[:2]
    snapshot = build([], [*whole, *part], NOW)
    (found,) = snapshot.pending
    assert [(r.partition.name, r.group) for r in found.members] == [
        ("whole-r0-d0", 0), ("whole-r0-d1", 0), ("whole-r1-d0", 1), ("whole-r1-d1", 1),
    ]  # fmt: skip
    (incomplete,) = snapshot.incomplete
    assert (incomplete.name, len(incomplete.partitions), incomplete.size) == ("default/part", 2, 3)
    assert snapshot.gang_of(whole[3].key) is found
    assert snapshot.gang_of(part[0].key) is None


def test_gangs_of_one_name_in_two_namespaces_are_two() -> None:
    other = [p.replace(metadata=p.metadata.model_copy(update={"namespace": "other"})) for p in gang("g", 2)]
    assert names([*gang("g", 2), *other]) == ["default/g", "other/g"]


def test_a_gang_that_was_bound_in_part_goes_first_and_stays_on_its_node() -> None:
    first, *rest = gang("g", 2, 2)
    snapshot = build([], [pending("urgent", priority=99), held(first, "n7", 3), *rest], NOW)
    started, _ = PriorityThenAge().arrange(snapshot)
    assert started.started
    assert [(r.demand.filter.node, r.demand.filter.avoid) for r in started.members] == [
        ("n7", (3,)), ("", ()), ("", ()),
    ]  # fmt: skip


def test_a_hold_names_the_job_it_is_for() -> None:
    partition = pending("p")
    owner = OwnerReference(api_version="cumulus.dev/v1alpha1", kind="GPUJob", name="train", uid="u")
    owned = partition.replace(metadata=partition.metadata.model_copy(update={"owner_references": (owner,)}))
    assert build([], [held(owned)], NOW).holds[0].job == "default/train"
    assert build([], [owned], NOW).pending[0].job == "default/train"


def test_a_node_that_never_reported_is_not_ready() -> None:
    silent = node()
    silent = silent.replace(status=silent.status.model_copy(update={"conditions": ()}))
    (found,) = build([silent], [], NOW).nodes
    assert (found.ready, found.not_ready) == (False, "it has not reported yet")


def test_a_node_being_deleted_takes_nothing_new() -> None:
    leaving = node()
    leaving = leaving.replace(metadata=leaving.metadata.model_copy(update={"deletion_timestamp": at(0)}))
    assert build([leaving], [], NOW).nodes[0].cordoned


def test_the_order_of_what_is_handed_over_does_not_matter() -> None:
    nodes = [node("n2", device(1), device(0)), node("n1")]
    partitions = [held(pending("a")), held(pending("b"), "n2"), pending("c"), *gang("g", 2, 2), pending("d", age=3)]
    assert build(nodes, partitions, NOW) == build(nodes[::-1], partitions[::-1], NOW)


def test_who_says_nothing_of_placement_leaves_it_to_the_queue() -> None:
    asked = [pending("a"), pending("b", placement="Pack"), pending("c", placement="Spread")]
    assert [gang.spread for gang in build([node()], asked, NOW).pending] == [None, False, True]
