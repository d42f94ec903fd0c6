"""Queues: who goes first by use, limits and quotas, hours, and promises that hold."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cumulus.resources.key import Key
from cumulus.resources.quantity import Share
from cumulus.resources.reasons import SchedulingReason
from cumulus.scheduling.cycle import CycleResult, place
from cumulus.scheduling.explain import explain
from cumulus.scheduling.policy import Policies
from cumulus.scheduling.queues import Rules, Tree
from cumulus.scheduling.snapshot import Snapshot
from cumulus.scheduling.usage import counted, faded, held_seconds
from tests.scheduling.build import GI, NOW
from tests.scheduling.queueing import HALF_LIFE, Cluster, Job, a_queue
from tests.scheduling.worlds import fits_by_brute_force

HOUR = 3600.0


def test_who_used_less_goes_first_and_age_decides_among_equals() -> None:
    cluster = Cluster([a_queue("default")])
    cluster.submit(*(Job(f"a{n:02}", "alice") for n in range(12)))
    cluster.run(2 * HOUR + 1)
    # Nine of alice's wait, and eight of them were promised a start: bob goes ahead of the last one alone.
    cluster.submit(Job("b", "bob", arrives=2.5 * HOUR))
    cluster.run()
    order = sorted(cluster.jobs.values(), key=lambda job: job.bound or 0)
    assert [job.name for job in order] == [f"a{n:02}" for n in range(11)] + ["b", "a11"]
    assert cluster.late == []


def test_weights_share_between_queues_and_users_share_within_one() -> None:
    cluster = Cluster([a_queue("big", weight=3), a_queue("small")], nodes=4)
    for user, queue in (("alice", "big"), ("bob", "big"), ("carol", "small")):
        cluster.submit(*(Job(f"{user}{n}", user, queue) for n in range(400)))
    cluster.run(200 * HOUR)
    big, small = cluster.device_seconds(queue="big"), cluster.device_seconds(queue="small")
    assert 2.8 < big / small < 3.2
    assert 0.95 < cluster.device_seconds(user="alice") / cluster.device_seconds(user="bob") < 1.05


def test_nobody_holds_more_than_the_limits_of_the_queue_and_those_above_it() -> None:
    limits = {"limit": [{"devices": 2}], "maxJobs": 3}
    per_user = {"perUser": {"limit": [{"devices": 1}], "maxJobs": 2}}
    cluster = Cluster([a_queue("lab", **limits), a_queue("vision", parent="lab", **per_user)], nodes=4)
    half = Share(size=40 * GI)
    cluster.submit(*(Job(f"a{n}", "alice", "vision", half) for n in range(4)))
    cluster.submit(*(Job(f"b{n}", "bob", "vision", half) for n in range(4)))
    cluster.run(1.0)
    assert sorted(cluster.holds) == ["a0", "a1", "b0"]
    reasons = {refusal.reason for refusal in place(cluster.snapshot(), cluster.policies()).refusals}
    assert {reason.code for reason in reasons} == {SchedulingReason.QUEUE_LIMIT}
    said = "the queue lab may have shares for 3 jobs at once, and has them or is promised them"
    assert {reason.message for reason in reasons} == {said}
    cluster.run()
    assert all(job.ended is not None for job in cluster.jobs.values())


def test_who_asks_for_more_than_the_queue_may_ever_hold_is_told_that_also_while_others_have_all_its_jobs() -> None:
    cluster = Cluster([a_queue("lab", limit=[{"devices": 0.5}], maxJobs=1)], nodes=2)
    quarter = Share(size=20 * GI)
    cluster.submit(Job("a", "alice", "lab", quarter), Job("b", "bob", "lab", quarter), Job("whole", "bob", "lab"))
    cluster.run(1.0)
    found = {r.gang.name: r.reason.message for r in place(cluster.snapshot(), cluster.policies()).refusals}
    assert found == {
        "b": "the queue lab may have shares for 1 job at once, and has them or is promised them",
        "whole": "the queue lab may hold 0.5 devices, of which 0.25 are left; this needs 1",
    }


def test_a_limit_on_one_class_of_devices_leaves_the_others() -> None:
    cluster = Cluster([a_queue("default", limit=[{"device": "*H100*", "devices": 1}])], nodes=2)
    other = Cluster([], name="NVIDIA A100").nodes[0]
    cluster.nodes = (*cluster.nodes, replace(other, name="other"))
    cluster.submit(*(Job(f"j{n}") for n in range(3)))
    cluster.run(1.0)
    assert sorted(hold.node for held in cluster.holds.values() for hold in held) == ["n0", "other"]


def test_who_is_kept_off_a_class_of_devices_is_told_of_the_limit_and_not_of_what_is_free_there() -> None:
    cluster = Cluster([a_queue("default", limit=[{"device": "*H100*", "devices": 1}])], nodes=2)
    other = Cluster([], name="NVIDIA A100").nodes[0]
    cluster.nodes = (*cluster.nodes, replace(other, name="other"))
    cluster.submit(*(Job(f"j{n}") for n in range(4)))
    cluster.run(1.0)
    (on_other,) = (hold.job for held in cluster.holds.values() for hold in held if hold.node == "other")
    for job in ("j2", "j3"):
        found = explain(cluster.snapshot(), Key("GPUPartition", "default", f"{job}-0"), cluster.policies())
        assert found is not None
        assert {reason.node: reason.reason.code for reason in found.reasons} == {
            "n0": SchedulingReason.QUEUE_LIMIT,
            "n1": SchedulingReason.QUEUE_LIMIT,
            "other": SchedulingReason.INSUFFICIENT_MEMORY,
        }
        assert found.instead == ()
        assert [blocker.job for blocker in found.blockers] == [on_other]


def test_jobs_are_packed_or_spread_as_their_queue_says_or_those_above_it_unless_they_say_it_themselves() -> None:
    queues = [
        a_queue("lab", placement="Spread"), a_queue("vision", parent="lab"),
        a_queue("sweeps", parent="lab", placement="Pack"), a_queue("default"),
    ]  # fmt: skip
    small = Share(size=10 * GI)

    def used(queue: str, spread: bool | None = None) -> int:
        """On how many nodes four of its jobs are."""
        cluster = Cluster(queues, nodes=4)
        cluster.submit(*(Job(f"j{n}", queue=queue, memory=small, spread=spread) for n in range(4)))
        cluster.run(1.0)
        return len({hold.node for held in cluster.holds.values() for hold in held})

    assert {queue: used(queue) for queue in ("lab", "vision", "sweeps", "default", "")} == {
        "lab": 4, "vision": 4, "sweeps": 1, "default": 1, "": 1,
    }  # fmt: skip
    assert (used("vision", spread=False), used("sweeps", spread=True)) == (1, 4)


def test_why_names_the_queue_that_says_where_jobs_go() -> None:
    queues = [a_queue("lab", placement="Spread"), a_queue("vision", parent="lab", maxJobs=1)]
    cluster = Cluster(queues, nodes=1)
    cluster.submit(Job("a", queue="vision"), Job("b", queue="lab", arrives=1.0), Job("c", spread=False, arrives=1.0))
    cluster.run(2.0)

    def notes(job: str) -> tuple[str, ...]:
        found = explain(cluster.snapshot(), Key("GPUPartition", "default", f"{job}-0"), cluster.policies())
        return () if found is None else found.notes

    assert "placement Spread, as the queue lab says" in notes("b")
    assert not any("placement" in note for note in notes("c"))


def test_a_queue_below_its_quota_goes_first_whatever_was_used() -> None:
    cluster = Cluster([a_queue("sure", quota=[{"devices": 1}]), a_queue("rest")], nodes=2)
    cluster.submit(Job("s0", "alice", "sure", seconds=50 * HOUR))
    cluster.run(49 * HOUR)
    cluster.submit(*(Job(f"r{n:02}", "bob", "rest", arrives=49 * HOUR) for n in range(20)))
    cluster.submit(*(Job(f"s{n}", "alice", "sure", arrives=49.5 * HOUR) for n in (1, 2)))
    cluster.run(49.6 * HOUR)
    promised = sorted(name for name, gang in cluster.waiting.items() if gang.promised is not None)
    assert promised == [f"r{n:02}" for n in range(1, 9)]
    cluster.run(50.1 * HOUR)
    # Those that were promised a start keep it; after them comes what is sure, but not what goes beyond.
    assert cluster.waiting["s1"].promised is not None
    assert cluster.waiting["s2"].promised is None


def test_bands_go_before_use_and_nobody_exceeds_the_highest_priority() -> None:
    rules = Rules("q", a_queue("q", bands=[{"name": "normal", "from": 0}, {"name": "urgent", "from": 100,
                  "urgent": True}], highestPriority=150, defaultPriority=5).spec)  # fmt: skip
    assert [rules.band(priority) for priority in (-3, 0, 7, 99, 100, 999)] == [
        (-3, False), (0, False), (0, False), (0, False), (100, True), (100, True),
    ]  # fmt: skip
    assert Rules("q", a_queue("q", defaultPriority=5, highestPriority=8).spec).band(0) == (5, False)
    assert Rules("q", a_queue("q", highestPriority=8).spec).band(99) == (8, False)


def test_nobody_exceeds_the_highest_priority_of_a_queue_above_theirs() -> None:
    tree = Tree([a_queue("lab", highestPriority=8), a_queue("q", parent="lab"), a_queue("r", highestPriority=9)])
    assert [tree.rules(name).band(99) for name in ("lab", "q", "r")] == [(8, False), (8, False), (9, False)]


def test_hours_say_when_jobs_start() -> None:
    spec = a_queue("q", hours=[{"days": ["Mon", "Tue"], "from": "09:00", "to": "17:00"}], timeZone="Europe/Berlin").spec
    rules = Rules("q", spec)
    monday = datetime(2030, 1, 7, 8, 0, tzinfo=UTC)
    assert rules.opens_at(monday) is None
    assert rules.opens_at(monday - timedelta(hours=1)) == monday
    assert rules.opens_at(monday + timedelta(days=1, hours=9)) == monday + timedelta(days=7)
    # 02:30 comes twice that night, an hour apart.
    at_night = Rules("q", a_queue("q", hours=[{"from": "02:45"}], timeZone="Europe/Berlin").spec)
    for hour in (0, 1):
        half_past = datetime(2030, 10, 27, hour, 30, tzinfo=UTC)
        assert at_night.opens_at(half_past) == half_past + timedelta(minutes=15)
    cluster = Cluster([a_queue("default", hours=[{"from": "13:00"}])])
    cluster.submit(Job("j"))
    cluster.run(1.0)
    (refusal,) = place(cluster.snapshot(), cluster.policies()).refusals
    assert refusal.reason == (SchedulingReason.QUEUE_CLOSED, "its jobs start from 2030-01-01T13:00:00Z on")


def test_a_burst_after_idle_days_goes_ahead_of_all_who_have_no_promise() -> None:
    cluster = Cluster([a_queue("default")])
    cluster.submit(*(Job(f"busy{n:02}", "busy") for n in range(60)))
    cluster.run(30.5 * HOUR)
    promised = {name for name, gang in cluster.waiting.items() if gang.promised is not None}
    assert 0 < len(promised) < len(cluster.waiting)
    cluster.submit(*(Job(f"idle{n}", "idle", arrives=30.5 * HOUR) for n in range(5)))
    cluster.run()
    last = max(cluster.jobs[f"idle{n}"].bound or 0 for n in range(5))
    after = {job.name for job in cluster.jobs.values() if 30.5 * HOUR < (job.bound or 0) < last and job.user == "busy"}
    assert after == promised
    assert cluster.late == []


def test_an_urgent_job_goes_ahead_of_promises_and_is_named() -> None:
    bands = [{"name": "normal", "from": 0}, {"name": "urgent", "from": 100, "urgent": True}]
    cluster = Cluster([a_queue("default", bands=bands)])
    cluster.submit(Job("running"), Job("waiting", arrives=1.0), Job("now", "root", priority=100, arrives=2.0))
    cluster.run(1.5)
    told = cluster.waiting["waiting"].promised
    assert told == NOW + timedelta(seconds=HOUR + 15)
    found: list[str] = []

    def note(snapshot: Snapshot, policies: Policies, plan: CycleResult) -> None:
        found.extend(moved.cause.message for moved in plan.moved if moved.cause is not None)

    cluster.watch = note
    cluster.run(3.0)
    assert found == ["its seats are kept for now, which goes before it"]
    assert cluster.waiting["waiting"].promised == NOW + timedelta(seconds=2 * HOUR + 30)


def test_a_promise_moves_where_its_node_is_lost_and_says_so() -> None:
    cluster = Cluster([a_queue("default")], nodes=2)
    cluster.submit(Job("a"), Job("b", seconds=2 * HOUR), Job("w", arrives=1.0))
    cluster.run(2.0)
    lost = cluster.jobs["a"] and next(hold.node for hold in cluster.holds["a"])
    cluster.nodes = tuple(
        replace(n, ready=False, not_ready="no heartbeat") if n.name == lost else n for n in cluster.nodes
    )
    (moved,) = place(cluster.snapshot(), cluster.policies()).moved
    assert moved.cause is not None
    assert moved.cause.message == f"{lost}: the node is not ready: no heartbeat"
    assert moved.start_by == NOW + timedelta(seconds=2 * HOUR + 15)


def test_a_promise_is_not_written_anew_for_little() -> None:
    cluster = Cluster([a_queue("default")])
    cluster.submit(Job("a", uses=0.99), Job("w", arrives=1.0), Job("x", arrives=2.0))
    cluster.run()
    assert len(cluster.jobs["x"].promises) == 1
    assert cluster.jobs["x"].bound == 2 * HOUR * 0.995


def _random_jobs(dice: random.Random, number: int, *, uses: float | None = None, every: float = 100.0) -> list[Job]:
    """Of ten users, more than the cluster can take."""
    jobs, at = [], 0.0
    for index in range(number):
        at += dice.expovariate(1 / every)
        jobs.append(
            Job(
                f"j{index:05}", f"u{dice.randrange(10)}", memory=Share(size=dice.choice((8, 20, 40, 80)) * GI),
                seconds=dice.choice((600, 1800, 3600, 7200)), uses=dice.uniform(0.05, 1) if uses is None else uses,
                replicas=dice.choice((1, 1, 1, 1, 2, 4)), arrives=at,
            )
        )  # fmt: skip
    return jobs


def test_no_job_starts_after_it_was_promised_to() -> None:
    cluster = Cluster([a_queue("default")], nodes=2, devices=2)
    cluster.submit(*_random_jobs(random.Random(7), 250))
    cluster.run()
    assert cluster.late == []
    promised = [job for job in cluster.jobs.values() if job.promises]
    assert len(promised) > 80
    assert all(job.ended is not None for job in cluster.jobs.values())


def test_no_cycle_leaves_a_share_that_somebody_could_use_without_delaying_a_promise() -> None:
    """When nothing changes any more, whoever waits fits nowhere beside what is kept for others."""
    cluster = Cluster([a_queue("default")], nodes=2, devices=1)
    cluster.submit(*_random_jobs(random.Random(3), 60))
    wasted: list[str] = []

    def look(snapshot: Snapshot, policies: Policies, plan: CycleResult) -> None:
        if plan.bindings or plan.moved:
            return
        for gang in snapshot.pending:
            alone = replace(snapshot, pending=())
            if not fits_by_brute_force(alone, gang, snapshot.now):
                continue
            # It fits now: then it would be in the way of somebody's promise.
            end = snapshot.now + timedelta(seconds=gang.seconds)
            kept = [r.reservation.start for r in plan.refusals if r.reservation and r.gang.name != gang.name]
            if not any(start < end for start in kept):
                wasted.append(gang.name)

    cluster.watch = look
    cluster.run()
    assert wasted == []


@given(st.integers(0, 10**6), st.integers(0, 10**12), st.floats(60, 10**7))
def test_use_fades_and_never_counts_for_more_than_was_held(share: int, microseconds: int, half_life: float) -> None:
    seconds = microseconds / 1e6
    amount = counted(share, seconds, half_life)
    assert 0 <= amount <= share / 1000 * seconds * (1 + 1e-9)
    later = faded(amount, NOW, NOW + timedelta(seconds=half_life), half_life)
    assert abs(later - amount / 2) <= amount * 1e-6
    assert faded(amount, NOW, NOW - timedelta(days=400), half_life) == amount


def test_what_is_counted_in_two_parts_is_what_is_counted_in_one() -> None:
    half_life = 1000.0
    first = faded(counted(500, 700, half_life), NOW, NOW + timedelta(seconds=300), half_life)
    assert abs(first + counted(500, 300, half_life) - counted(500, 1000, half_life)) < 1e-9


def test_no_clock_makes_a_lease_longer_than_it_can_be() -> None:
    assert held_seconds(NOW, NOW + timedelta(days=400), 100.0) == 100.0
    assert held_seconds(NOW, NOW - timedelta(days=400), 100.0) == 0.0


def jain(amounts: list[float]) -> float:
    """Jain's index: 1 where all have the same."""
    return sum(amounts) ** 2 / (len(amounts) * sum(amount**2 for amount in amounts))


def test_one_who_asks_for_fifty_times_as_much_gets_no_more() -> None:
    cluster = Cluster([a_queue("default")], nodes=4)
    for number in range(20):
        times = 50 if number == 0 else 1
        for index in range(8 * times):
            cluster.submit(Job(f"u{number:02}-{index:03}", f"u{number:02}"))
    cluster.run(36 * HOUR)
    assert jain([cluster.device_seconds(user=f"u{number:02}") for number in range(20)]) > 0.95


def test_a_queue_that_was_idle_for_six_days_has_the_seventh_and_catches_up() -> None:
    """One that asks on one day of seven cannot have half of the week: it has all of that day but what was promised. If
    it goes on asking, it has everything until the use that counts is equal, and from then on both have the same."""
    nodes, day, length = 2, 24 * HOUR, 2 * HOUR
    each = length / nodes
    """So often a job ends."""
    a_day = int(day / each)
    cluster = Cluster([a_queue("busy"), a_queue("idle")], nodes=nodes)

    def ask(queue: str, number: int, first: float, every: float) -> None:
        """Jobs from that moment on: as many as the cluster can take if one comes whenever one ends."""
        known = len(cluster.jobs)
        cluster.submit(*(Job(f"{known + n:04}", queue, queue, seconds=length, arrives=first + n * every)
                         for n in range(number)))  # fmt: skip

    ask("busy", 2 * nodes, 0, 0)
    ask("busy", 6 * a_day, 0, each)
    # Half of what there is; and what the other has until it has caught up.
    ask("busy", 11 * a_day // 2, 6 * day, 2 * each)
    ask("idle", 4 * a_day, 6 * day, 0)
    ask("idle", 7 * a_day // 2, 10 * day, 2 * each)

    def had(queue: str, since: float, until: float) -> float:
        """Device-seconds in that time."""
        times = [(job.bound, job.bound + length) for job in cluster.jobs.values()
                 if job.queue == queue and job.bound is not None]  # fmt: skip
        return sum(max(0.0, min(end, until) - max(start, since)) for start, end in times)

    cluster.run(6 * day)
    promised = {name for name, gang in cluster.waiting.items() if gang.promised is not None}
    cluster.run(10 * day)
    bound = {name for name, job in cluster.jobs.items() if 6 * day < (job.bound or 0) < 9.5 * day}
    assert {name for name in bound if cluster.jobs[name].queue == "busy"} <= promised
    assert had("idle", 6 * day, 7 * day) >= nodes * day - len(promised) * length
    cluster.run(17 * day)
    assert cluster.late == []
    assert {gang.queue for gang in cluster.waiting.values()} == {"busy", "idle"}, "both ask throughout"
    # On a day they may differ: eight jobs are promised a start at a time, and by turns those are all of one queue.
    busy, idle = (had(queue, 10 * day, 17 * day) for queue in ("busy", "idle"))
    assert busy + idle == 7 * day * nodes
    assert abs(busy - idle) <= 0.05 * busy
    counts = [
        faded(usage.status.decayed, datetime.fromisoformat(usage.status.at or ""), cluster.now, HALF_LIFE)
        for usage in cluster.usages.values()
    ]
    assert max(counts) <= 1.05 * min(counts)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_thousand_arrivals_are_never_late_and_seldom_wait_less_than_half_of_what_they_were_told() -> None:
    cluster = Cluster([a_queue("default")], nodes=4, devices=4)
    cluster.submit(*_random_jobs(random.Random(11), 10_000, uses=1.0, every=190.0))
    cluster.run()
    assert cluster.late == []
    assert _median_of_promises(cluster) <= 1.5


def test_a_promise_is_no_huge_bound_where_programs_use_their_leases() -> None:
    cluster = Cluster([a_queue("default")], nodes=2, devices=2)
    cluster.submit(*_random_jobs(random.Random(5), 150, uses=1.0, every=240.0))
    cluster.run()
    assert cluster.late == []
    assert _median_of_promises(cluster) <= 1.5


def _median_of_promises(cluster: Cluster) -> float:
    """The wait that was promised first, by the wait from then on."""
    found = []
    for job in cluster.jobs.values():
        if job.promises and job.bound is not None:
            told_at, start_by = job.promises[0]
            told = (start_by - NOW).total_seconds() - told_at
            if job.bound - told_at > 60:
                found.append(told / (job.bound - told_at))
    assert len(found) > 20
    return statistics.median(found)
