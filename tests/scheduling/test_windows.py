"""Devices that are held for some for a time: nobody else is there then, and whoever it is held for finds them free."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from cumulus.clock import parse_timestamp
from cumulus.resources.key import Key
from cumulus.resources.meta import ObjectMeta
from cumulus.resources.quantity import Share
from cumulus.resources.reservation import Reservation, ReservationSpec
from cumulus.scheduling import windows as windows_of
from cumulus.scheduling.cycle import CycleResult
from cumulus.scheduling.explain import explain
from cumulus.scheduling.policy import HeldWindow, Policies
from cumulus.scheduling.queues import Tree
from cumulus.scheduling.snapshot import Snapshot
from cumulus.scheduling.windows import plan
from cumulus.service.line import line
from tests.scheduling.build import GI, NOW
from tests.scheduling.queueing import Cluster, Job, a_queue

HOUR = 3600.0


def a_reservation(name: str = "course", **spec: object) -> Reservation:
    given = {"duration": "2h", **spec}
    return Reservation(metadata=ObjectMeta(name=name), spec=ReservationSpec.model_validate(given))


def at(hours: float) -> str:
    return (NOW + timedelta(hours=hours)).isoformat()


def a_cluster(*reservations: Reservation, nodes: int = 2) -> Cluster:
    cluster = Cluster([a_queue("default"), a_queue("course")], nodes=nodes)
    cluster.reservations = {each.metadata.name: each for each in reservations}
    return cluster


def test_nobody_else_is_there_during_the_time_and_whom_it_is_held_for_starts_at_once() -> None:
    held = a_reservation(devices=1, start=at(3), **{"for": {"queues": ["course"]}})
    cluster = a_cluster(held)
    cluster.submit(Job("long0", seconds=4 * HOUR), Job("long1", seconds=4 * HOUR, arrives=1.0))
    cluster.submit(Job("short", seconds=2 * HOUR, arrives=2.0))
    cluster.submit(*(Job(f"c{n}", "eve", "course", seconds=HOUR, arrives=3.5 * HOUR) for n in range(1)))
    cluster.run(3.6 * HOUR)
    # The second long one would run into the time that is held; the short one is over before.
    assert cluster.jobs["long0"].bound == 0.0
    assert cluster.jobs["short"].bound == 2.0
    assert cluster.jobs["c0"].bound == 3.5 * HOUR
    assert cluster.jobs["long1"].bound is None
    (promise,) = cluster.jobs["long1"].promises
    assert promise[1] == NOW + timedelta(hours=4, seconds=15)
    cluster.run()
    assert cluster.late == []


def test_what_is_held_for_a_user_is_not_for_others_of_the_queue() -> None:
    cluster = a_cluster(a_reservation(devices=1, start=at(0), **{"for": {"users": ["eve"]}}), nodes=1)
    cluster.submit(Job("bobs", "bob", seconds=HOUR), Job("eves", "eve", seconds=HOUR, arrives=60.0))
    cluster.run()
    assert cluster.jobs["eves"].bound == 60.0
    assert cluster.jobs["bobs"].bound == 2 * HOUR


def test_a_node_that_is_held_for_nobody_is_empty_then() -> None:
    cluster = a_cluster(a_reservation("service", nodes=["n0"], start=at(1)))
    cluster.submit(*(Job(f"j{n}", seconds=HOUR, arrives=n * 600.0) for n in range(8)))
    busy: list[datetime] = []

    def look(snapshot: Snapshot, policies: Policies, done: CycleResult) -> None:
        if NOW + timedelta(hours=1) <= snapshot.now < NOW + timedelta(hours=3):
            busy.extend(snapshot.now for hold in snapshot.holds if hold.node == "n0")

    cluster.watch = look
    cluster.run()
    assert busy == []
    assert cluster.late == []


def test_a_promise_that_was_given_moves_for_a_reservation_that_comes_and_says_so() -> None:
    cluster = a_cluster(nodes=1)
    cluster.submit(Job("a", seconds=HOUR), Job("b", seconds=HOUR, arrives=1.0))
    cluster.run(10.0)
    cluster.reservations["course"] = a_reservation(devices=1, start=at(1.5))
    causes: list[str] = []

    def look(snapshot: Snapshot, policies: Policies, done: CycleResult) -> None:
        causes.extend(moved.cause.message for moved in done.moved if moved.cause is not None)

    cluster.watch = look
    cluster.settle()
    assert causes == ["its seats are kept for reservation course, which goes before it"]
    assert cluster.waiting["b"].promised == NOW + timedelta(hours=3.5, seconds=15)


def test_why_says_what_is_held() -> None:
    cluster = a_cluster(a_reservation(devices=1, start=at(0)), nodes=1)
    cluster.submit(Job("j"))
    cluster.run(1.0)
    found = explain(cluster.snapshot(), Key("GPUPartition", "default", "j-0"), cluster.policies())
    assert found is not None
    assert found.earliest == NOW + timedelta(hours=2, seconds=15)
    assert [reason.reason.message for reason in found.reasons] == [
        "what is free is kept for reservation course, ahead in the queue"
    ]


def windows(*reservations: Reservation, cluster: Cluster | None = None) -> list[list[HeldWindow]]:
    cluster = cluster or a_cluster()
    return [list(each.windows) for each in plan(reservations, cluster.snapshot(), Tree([]))]


def test_why_names_what_is_held_after_the_lease_that_it_waits_for() -> None:
    cluster = a_cluster(a_reservation(start=at(2), nodes=["n0"]), nodes=1)
    cluster.submit(Job("first", seconds=HOUR), Job("long", seconds=1.5 * HOUR, arrives=1.0))
    cluster.run(2.0)
    found = explain(cluster.snapshot(), Key("GPUPartition", "default", "long-0"), cluster.policies())
    assert found is not None
    lines = found.lines()
    start = lines.index("waits for:")
    assert "job first of alice" in lines[start + 1]
    assert lines[start + 2] == (
        "  reservation course: holds its devices from 2030-01-01T14:00:00Z until 2030-01-01T16:00:00Z"
    )


def test_one_that_is_held_again_and_again_has_its_next_times_on_the_same_devices() -> None:
    (found,) = windows(a_reservation(devices=1, schedule="0 9 * * TUE", timeZone="Europe/Berlin", duration="8h"))
    # NOW is a Tuesday at 13:00 there.
    assert [(each.start.isoformat(), each.end - each.start) for each in found][:2] == [
        ("2030-01-01T08:00:00+00:00", timedelta(hours=8)),
        ("2030-01-08T08:00:00+00:00", timedelta(hours=8)),
    ]
    assert len(found) == 6
    assert {each.places for each in found} == {found[0].places}


def test_times_that_overlap_are_one() -> None:
    (found,) = windows(a_reservation(devices=1, schedule="@daily", duration="2d"))
    assert len(found) == 1


def test_two_at_the_same_time_hold_different_devices_and_one_says_what_is_missing() -> None:
    cluster = a_cluster()
    first, second = a_reservation("a", devices=1, start=at(1)), a_reservation("b", devices=2, start=at(2))
    planned = plan([first, second], cluster.snapshot(), cluster.tree)
    assert [each.status.missing for each in planned] == [0, 1]
    places = [{(d.node, d.device) for d in each.status.devices} for each in planned]
    assert places[0].isdisjoint(places[1])


def test_devices_that_are_free_by_then_are_taken_first_and_kept_while_they_are_there() -> None:
    cluster = a_cluster()
    cluster.submit(Job("j", seconds=9 * HOUR))
    cluster.run(1.0)
    busy = cluster.holds["j"][0].node
    (planned,) = plan([a_reservation(devices=1, start=at(1))], cluster.snapshot(), cluster.tree)
    (chosen,) = planned.status.devices
    assert chosen.node != busy
    kept = planned.reservation.replace(status=planned.status)
    cluster.nodes = (*cluster.nodes, replace(cluster.nodes[0], name="a"))
    assert plan([kept], cluster.snapshot(), cluster.tree)[0].status == planned.status
    cluster.nodes = tuple(node for node in cluster.nodes if node.name != chosen.node)
    assert plan([kept], cluster.snapshot(), cluster.tree)[0].status.devices[0].node == "a"


def test_what_is_held_for_nobody_goes_before_what_was_there_first() -> None:
    cluster = a_cluster()
    course = a_reservation("a", devices=1, start=at(1), **{"for": {"queues": ["course"]}})
    (before,) = plan([course], cluster.snapshot(), cluster.tree)
    (chosen,) = before.status.devices
    course = course.replace(status=before.status)
    service = a_reservation("z", nodes=[chosen.node], start=at(2))
    planned = {p.reservation.metadata.name: p.status for p in plan([course, service], cluster.snapshot(), cluster.tree)}
    assert [d.node for d in planned["z"].devices] == [chosen.node]
    assert [d.node for d in planned["a"].devices] == [{"n0": "n1", "n1": "n0"}[chosen.node]]


def test_whole_nodes_that_are_held_for_nobody_are_so_for_whom_they_are_held_otherwise() -> None:
    mine = a_reservation("a", nodes=["n0"], start=at(0), **{"for": {"queues": ["course"]}})
    cluster = a_cluster(mine, a_reservation("z", nodes=["n0"], start=at(0)), nodes=1)
    cluster.submit(Job("c", "eve", "course", seconds=HOUR))
    cluster.run()
    assert cluster.jobs["c"].bound == 2 * HOUR


@pytest.mark.parametrize(
    ("spec", "count", "end"),
    [
        # At the end of time, and for longer than there is time.
        ({"start": "9999-12-31T23:59:59Z"}, 0, None),
        ({"start": "2029-12-31T23:00:00Z", "duration": "36500d"}, 1, None),
        # All the time: it is not looked at minute by minute for weeks.
        ({"schedule": "* * * * *", "duration": "1m"}, 1, NOW + windows_of.AHEAD),
    ],
)
def test_times_beyond_all_measure_are_no_work(spec: dict[str, object], count: int, end: datetime | None) -> None:
    (found,) = windows(a_reservation(devices=1, **spec))
    assert len(found) == count
    assert end is None or found[0].end >= end


def test_who_ends_early_as_a_rule_is_not_expected_to_start_where_its_lease_would_reach_into_the_time() -> None:
    cluster = a_cluster(a_reservation("service", nodes=["n0"], start=at(10)), nodes=1)
    cluster.submit(*(Job(f"train{n}", seconds=HOUR, uses=0.1) for n in range(2)))
    cluster.submit(Job("long", seconds=10 * HOUR, uses=0.1, arrives=HOUR))
    cluster.run(1.5 * HOUR)
    # Nobody is there; its like would be gone by ten, and its lease would not.
    assert cluster.holds == {}
    snapshot, policies = cluster.snapshot(), cluster.policies()
    (gang,) = snapshot.pending
    found = explain(snapshot, gang.members[0].partition, policies)
    assert found is not None
    assert found.expected == NOW + timedelta(hours=12)
    assert found.headline.startswith("starts by")
    (told,) = line(snapshot, policies, "", asks="alice", ids=True).waiting
    assert parse_timestamp(told.expected) == NOW + timedelta(hours=12)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"devices": 1, "start": "2030-01-31T09:00:00"}, "names no time zone; write it like 2030-01-31T12:00:00Z"),
        ({"devices": 1, "start": "2030-01-31"}, "names no time zone"),
        ({"devices": 1, "start": ""}, "names no time zone"),
        ({"devices": 1}, "is given for one that is held once"),
        ({"devices": 1, "start": at(0), "schedule": "@daily"}, "is given for one that is held once"),
        ({"start": at(0)}, "says how many"),
        ({"devices": 1, "schedule": "at noon"}, "schedule"),
    ],
)
def test_what_is_not_understood_is_refused(spec: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        a_reservation(**spec)


@pytest.mark.parametrize("seed", range(4))
def test_at_random_nobody_else_is_on_what_is_held_who_was_not_there_before(seed: int) -> None:
    dice = random.Random(seed)
    cluster = a_cluster(
        a_reservation("a", devices=1, start=at(2), **{"for": {"queues": ["course"]}}),
        a_reservation("b", devices=1, schedule="0 */6 * * *", duration="1h", **{"for": {"users": ["u1"]}}),
        nodes=3,
    )
    wrong: list[str] = []

    def look(snapshot: Snapshot, policies: Policies, done: CycleResult) -> None:
        for binding in done.bindings:
            gang = next(gang for gang in snapshot.pending if gang.name == binding.gang)
            end = snapshot.now + timedelta(seconds=gang.seconds)
            for window in policies.windows:
                there = (binding.node, binding.device) in window.places and window.start < end
                if there and snapshot.now < window.end and not window.admits(gang.queue, gang.user):
                    wrong.append(f"{gang.name} is in {window.name} at {snapshot.now}")

    cluster.watch = look
    time = 0.0
    for index in range(50):
        time += dice.expovariate(1 / 700)
        share = Share(size=dice.choice((20, 40, 80)) * GI)
        cluster.submit(
            Job(f"j{index:02}", f"u{dice.randrange(3)}", dice.choice(("default", "course")), share,
                dice.choice((600.0, 3600.0, 7200.0)), replicas=dice.choice((1, 1, 2)), arrives=time)
        )  # fmt: skip
    cluster.run()
    assert wrong == []
    assert cluster.late == []
    assert all(job.ended is not None for job in cluster.jobs.values())
