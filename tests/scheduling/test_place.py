from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest

from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition
from cumulus.scheduling import cycle as placing
from cumulus.scheduling import starts
from cumulus.scheduling.cycle import CycleResult, place
from cumulus.scheduling.snapshot import build
from tests.scheduling.build import GI, NOW, device, foreign, gang, held, node, pending


def planned(nodes: Iterable[GPUNode], *partitions: GPUPartition) -> CycleResult:
    return place(build(nodes, partitions, NOW))


def places(plan: CycleResult) -> dict[str, str]:
    return {binding.partition.name: f"{binding.node}/{binding.device}" for binding in plan.bindings}


def reserved(plan: CycleResult) -> dict[str, float | None]:
    """Seconds until each waiting gang's reservation starts."""
    return {
        refusal.gang.name: (refusal.reservation.start - NOW).total_seconds() if refusal.reservation else None
        for refusal in plan.refusals
    }


def test_a_binding_says_all_that_the_status_needs() -> None:
    (binding,) = planned([node()], pending("p", "25%")).bindings
    assert (binding.node, binding.device, binding.device_name) == ("n1", 0, "NVIDIA H100")
    assert (binding.memory_bytes, binding.compute, binding.enforcement) == (20 * GI, 250, "guarded")
    assert (binding.partition.name, binding.uid, binding.gang) == ("p", "uid-p", "default/p")


@pytest.mark.parametrize(
    ("free", "where"),
    [
        # Gibibytes taken of each of three devices of 80, and where 20 more go.
        ((0, 0, 0), 0),
        ((0, 50, 0), 1),
        ((30, 50, 55), 2),
        ((30, 65, 55), 2),
        ((65, 65, 0), 2),
    ],
)
def test_the_device_with_the_least_left_over_is_taken_and_whole_ones_last(free: tuple[int, ...], where: int) -> None:
    taken = [held(pending(f"h{i}"), device=i, memory=gib, compute=gib * 10) for i, gib in enumerate(free) if gib]
    plan = planned([node("n1", device(0), device(1), device(2))], *taken, pending("p"))
    assert places(plan) == {"p": f"n1/{where}"}


@pytest.mark.parametrize(
    ("alone", "taken", "ready", "where"),
    [
        pytest.param(True, 20, True, "b/0", id="it has room"),
        pytest.param(True, 80, True, "a/0", id="it has none, and it can be brought"),
        pytest.param(True, 20, False, None, id="it does not answer, and has all that there is"),
        pytest.param(False, 20, False, "a/0", id="it does not answer, and others have it"),
    ],
)
def test_the_node_that_has_its_checkpoint_is_preferred(alone: bool, taken: int, ready: bool, where: str | None) -> None:
    nodes = [node("a"), node("b", ready=ready)]
    # The best fit would be a.
    full = [held(pending("h"), "a", memory=50, compute=600), held(pending("g"), "b", memory=taken, compute=taken * 10)]
    plan = planned(nodes, *full, pending("p", saved={"node": "b", "alone": alone}))
    assert places(plan) == ({"p": where} if where else {})


def test_a_small_share_goes_to_a_used_large_device_rather_than_a_whole_small_one() -> None:
    nodes = [node("a", device(0, 24)), node("b", device(0, 80))]
    assert places(planned(nodes, held(pending("h"), "b"), pending("p", "20Gi"))) == {"p": "b/0"}


def test_of_equal_memory_the_least_compute_is_left_over() -> None:
    taken = [held(pending("h0"), device=0, compute=100), held(pending("h1"), device=1, compute=500)]
    assert places(planned([node("n1", device(0), device(1))], *taken, pending("p"))) == {"p": "n1/1"}


def test_compute_is_as_scarce_as_memory() -> None:
    plan = planned([node()], held(pending("h"), memory=1, compute=900), pending("p", "1Gi", compute="20%"))
    assert places(plan) == {}
    assert reserved(plan) == {"default/p": 600}


def test_compute_that_is_not_given_is_the_memorys_share() -> None:
    plan = planned([node()], held(pending("h"), memory=1, compute=900), pending("p", "10Gi"))
    assert plan.bindings == ()
    assert places(planned([node()], held(pending("h"), memory=1, compute=900), pending("p", "8Gi"))) == {"p": "n1/0"}


@pytest.mark.parametrize(
    ("unfit", "asked"),
    [
        (node("n1", ready=False), pending("p")),
        (node("n1", cordoned=True), pending("p")),
        (node("n1"), pending("p", runtime="container")),
        (node("n1", labels={"zone": "b"}), pending("p", selector={"node_labels": {"zone": "a"}})),
        (node("n1"), pending("p", selector={"vendor": "amd"})),
        (node("n1", device(enforcement="guarded")), pending("p", min_enforcement="hard")),
        (node("n1", device(memory=10)), pending("p")),
        (node("n1"), pending("p", node="n2", device=1)),
        (node("n1", device(foreign_leases=(foreign(70, 60),))), pending("p")),
    ],
)
def test_a_node_that_will_not_do_is_passed_over(unfit: GPUNode, asked: GPUPartition) -> None:
    fitting = node("n2", device(0), device(1), labels={"zone": "a"}, runtimes=("process", "container"))
    amd = node("n3", device(vendor="Advanced Micro Devices, Inc."), labels={"zone": "a"})
    assert places(planned([unfit], asked)) == {}
    assert places(planned([unfit, fitting, amd], asked))["p"] != "n1/0"


def test_a_gang_is_placed_whole_or_not_at_all() -> None:
    nodes = [node("n1"), node("n2"), node("n3")]
    assert len(planned(nodes, *gang("g", 3, memory="100%")).bindings) == 3
    plan = planned(nodes, *gang("g", 4, memory="100%"))
    assert plan.bindings == ()
    assert plan.refusals[0].hopeless


def test_the_devices_of_a_replica_are_distinct_and_on_one_node() -> None:
    nodes = [node("n1", device(0)), node("n2", device(0), device(1)), node("n3", device(0), device(1))]
    assert places(planned(nodes, *gang("g", 1, 2))) == {"g-r0-d0": "n2/0", "g-r0-d1": "n2/1"}
    plan = planned(nodes, *gang("g", 3, 2, memory="60Gi"))
    assert plan.bindings == ()


def test_replicas_may_share_a_device() -> None:
    assert set(places(planned([node()], *gang("g", 4))).values()) == {"n1/0"}


def test_a_gang_bound_in_part_is_finished_on_its_node_before_all_else() -> None:
    first, rest = gang("g", 1, 2, memory="80Gi")
    nodes = [node("a", device(0), device(1)), node("b", device(0), device(1))]
    plan = planned(nodes, held(first, "b", 0, memory=80, compute=1000), rest, pending("urgent", "80Gi", priority=9))
    assert places(plan) == {"g-r0-d1": "b/1", "urgent": "a/0"}


def test_higher_priority_first_then_first_come() -> None:
    queue = [pending("old", "80Gi", age=9), pending("new", "80Gi"), pending("urgent", "80Gi", priority=1)]
    plan = planned([node()], *queue)
    assert places(plan) == {"urgent": "n1/0"}
    assert [refusal.gang.name for refusal in plan.refusals] == ["default/old", "default/new"]
    assert [refusal.position for refusal in plan.refusals] == [2, 3]


def test_nothing_is_taken_from_who_has_it() -> None:
    plan = planned([node()], held(pending("low", priority=-5), memory=80), pending("high", "80Gi", priority=9))
    assert plan.bindings == ()
    assert reserved(plan) == {"default/high": 600}


def test_what_ends_before_the_reservation_is_let_past() -> None:
    taken = held(pending("h"), memory=40, compute=500, ends=3600)
    queue = [pending("big", "80Gi", age=9), pending("short", duration="1h"), pending("long", duration="61m")]
    plan = planned([node()], taken, *queue)
    assert places(plan) == {"short": "n1/0"}
    assert reserved(plan)["default/big"] == 3600


def test_the_grace_counts_as_time_held() -> None:
    taken = held(
        pending("h"),
        memory=40,
        compute=500,
        ends=3600,
    )
    plan = planned([node()], taken, pending("big", "80Gi", age=9), pending("short", duration="1h", grace_period="1s"))
    assert plan.bindings == ()


def test_what_a_reservation_leaves_is_used() -> None:
    taken = held(pending("h"), memory=40, compute=500, ends=3600)
    queue = [
        pending("big", "60Gi", age=9),
        pending("long", "20Gi", duration="9h"),
        pending("more", "20Gi", duration="9h"),
    ]
    plan = planned([node()], taken, *queue)
    assert places(plan) == {"long": "n1/0"}


def test_a_head_that_waits_for_one_node_does_not_hold_up_another() -> None:
    nodes = [node("a"), node("b")]
    taken = held(pending("h"), "a", memory=40, compute=500)
    queue = [pending("head", "80Gi", age=9, node="a"), pending("next", "80Gi", duration="99h")]
    plan = planned(nodes, taken, *queue)
    assert places(plan) == {"next": "b/0"}


def test_two_heads_on_two_kinds_of_device_are_both_reserved_for() -> None:
    nodes = [node("a", device(name="A100")), node("h", device(name="H100"))]
    taken = [held(pending("ta"), "a", memory=40, compute=500), held(pending("th"), "h", memory=40, compute=500)]
    heads = [pending(f"head-{n.lower()}", "80Gi", age=9, selector={"name": n}) for n in ("A100", "H100")]
    small = [pending(f"small-{n.lower()}", "20Gi", selector={"name": n}) for n in ("A100", "H100")]
    plan = planned(nodes, *taken, *heads, *small)
    assert plan.bindings == ()
    assert reserved(plan)["default/head-h100"] == 600


def test_only_a_few_alike_get_a_reservation_but_each_kind_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    full = [held(pending("f"), memory=80, compute=1000), held(pending("f2"), "n2", memory=80, compute=1000)]
    nodes = [node(), node("n2", device(name="A100"))]
    queue = [pending(f"p{n:02}", "80Gi", age=99 - n, selector={"name": "*H100"}) for n in range(20)]
    plan = planned(nodes, *full, *queue, pending("other", "80Gi", selector={"name": "A100"}))
    assert [name for name, start in reserved(plan).items() if start is not None] == [
        *(f"default/p{n:02}" for n in range(placing.RESERVATION_DEPTH)), "default/other",
    ]  # fmt: skip
    monkeypatch.setattr(placing, "RESERVATION_WORK", 0)
    plan = planned(nodes, *full, *queue, pending("other", "80Gi", selector={"name": "A100"}))
    assert [n for n, start in reserved(plan).items() if start is not None] == ["default/p00", "default/other"]


def test_a_gang_that_could_never_be_is_not_waited_for() -> None:
    plan = planned([node()], pending("huge", "81Gi", age=9), pending("p"))
    assert places(plan) == {"p": "n1/0"}
    (refusal,) = plan.refusals
    assert (refusal.hopeless, refusal.reservation, refusal.reason.code) == (True, None, "NoNodeFits")


def test_a_reservation_starts_when_enough_of_a_gangs_devices_are_free() -> None:
    nodes = [node(f"n{i}", device(0), device(1)) for i in range(1, 4)]
    taken = [
        held(pending(f"h{i}{d}"), f"n{i}", d, memory=80, compute=1000, ends=100 * i + 10 * d)
        for i in range(1, 4)
        for d in range(2)
    ]
    assert reserved(planned(nodes, *taken, *gang("g", 2, 2, memory="80Gi"))) == {"default/g": 210}


def test_many_different_ends_are_searched_as_exactly_as_few() -> None:
    count = starts.SCANNED_STARTS * 2
    devices = [device(i) for i in range(count)]
    taken = [held(pending(f"h{i}"), device=i, memory=80, compute=1000, ends=10 + i) for i in range(count)]
    assert reserved(planned([node("n1", *devices)], *taken, *gang("g", 1, 64, memory="1Gi"))) == {"default/g": 73}
    # Eight shares fit one device, so that the 16 replicas start when the second is free.
    assert reserved(planned([node("n1", *devices)], *taken, *gang("g", 16, memory="10Gi"))) == {"default/g": 11}


def test_later_reservations_respect_earlier_ones() -> None:
    taken = held(pending("h"), memory=80, compute=1000, ends=600)
    plan = planned([node()], taken, *(pending(f"p{n}", "80Gi", age=9 - n) for n in range(3)))
    assert reserved(plan) == {"default/p0": 600, "default/p1": 4200, "default/p2": 7800}


def test_a_short_gap_before_a_reservation_is_found() -> None:
    taken = [held(pending("h0"), device=0, memory=80, compute=1000, ends=600),
             held(pending("h1"), device=1, memory=80, compute=1000, ends=6000)]  # fmt: skip
    queue = [*gang("pair", 1, 2, memory="80Gi", age=9), pending("p", "80Gi", duration="90m")]
    assert reserved(planned([node("n1", device(0), device(1))], *taken, *queue)) == {
        "default/pair": 6000,
        "default/p": 600,
    }


def test_the_order_of_what_is_handed_over_does_not_matter() -> None:
    dice = random.Random(5)
    nodes = [node(f"n{i}", device(0), device(1, 40)) for i in range(4)]
    partitions = [held(pending(f"h{i}"), f"n{i % 4}", i % 2, ends=100 + 7 * i) for i in range(8)]
    partitions += [
        pending(f"p{i}", f"{dice.randrange(5, 60)}Gi", duration=f"{dice.randrange(1, 90)}m") for i in range(20)
    ]
    partitions += gang("g", 3, 2) + gang("h", 2, 2, memory="50%")
    plan = planned(nodes, *partitions)
    assert plan.bindings
    assert plan.refusals
    for _ in range(5):
        dice.shuffle(nodes)
        dice.shuffle(partitions)
        assert planned(nodes, *partitions) == plan


def test_a_stream_of_small_ones_does_not_starve_a_large_one() -> None:
    # A device always half full: every 10 minutes a small one of an hour comes, enough to keep it so for ever.
    big = pending("big", "100%", age=1)
    there = [held(pending(f"first{n}"), memory=20, compute=250, ends=1200 * (n + 1)) for n in range(3)]
    small: list[GPUPartition] = []
    for step in range(40):
        now = NOW + timedelta(seconds=600 * step)
        small.append(pending(f"s{step:02}", "25%", age=-600 * step))
        there = [p for p in there if p.status.expires_at and p.status.expires_at > now.isoformat()]
        waiting = {p.metadata.name: p for p in (big, *small) if p not in there}
        plan = place(build([node()], [*there, *waiting.values()], now))
        for binding in plan.bindings:
            if binding.partition.name == "big":
                assert step * 600 <= 3600
                return
            started = waiting[binding.partition.name]
            small.remove(started)
            there.append(held(started, memory=20, compute=250, ends=600 * step + 3600))
    raise AssertionError("the large one never started")


def test_a_stuck_share_does_not_keep_the_head_from_reserving_elsewhere() -> None:
    nodes = [node("n1", device(0), device(1))]
    stuck = held(pending("stuck"), device=0, ends=-7200)
    taken = held(pending("h"), device=1, memory=40, compute=500, ends=3600)
    plan = planned(nodes, stuck, taken, pending("big", "80Gi", age=9), pending("long", "40Gi", duration="3h"))
    assert reserved(plan)["default/big"] == 3600
    assert places(plan) == {"long": "n1/0"}


@pytest.mark.parametrize(
    ("taken", "asked", "where"),
    [
        pytest.param({}, ["p"], ["a/0"], id="all are empty: the first"),
        pytest.param({"a/0": 10}, ["p"], ["b/0"], id="the least loaded node"),
        pytest.param({"a/0": 10, "b/0": 20, "c/1": 10}, ["p"], ["a/1"], id="there the device with the most left"),
        pytest.param({"a/0": 10}, ["p", "q", "r", "s"], ["b/0", "c/0", "a/1", "b/1"], id="each sees those before it"),
        pytest.param({"b/0": 80, "b/1": 61, "c/0": 70, "c/1": 70}, ["p", "q"], ["a/0", "a/1"], id="only where it fits"),
    ],
)
def test_spread_goes_to_the_least_loaded_node(taken: dict[str, int], asked: list[str], where: list[str]) -> None:
    nodes = [node(name, device(0), device(1)) for name in "abc"]
    holding = [
        held(pending(f"h{place}".replace("/", "-")), place[0], int(place[2]), memory=gib, compute=gib * 10)
        for place, gib in taken.items()
    ]
    queue = [pending(name, age=9 - n, placement="Spread") for n, name in enumerate(asked)]
    assert places(planned(nodes, *holding, *queue)) == dict(zip(asked, where, strict=True))


def test_thirty_spread_jobs_share_the_nodes_and_as_many_packed_ones_fill_one_first() -> None:
    nodes = [node(name, device(0), device(1)) for name in "abc"]

    def counted(placement: str) -> list[int]:
        queue = [pending(f"p{n:02}", "2%", age=30 - n, placement=placement) for n in range(30)]
        found = places(planned(nodes, *queue))
        return [sum(place.startswith(name) for place in found.values()) for name in "abc"]

    assert (counted("Spread"), counted("Pack")) == ([10, 10, 10], [30, 0, 0])


def test_the_replicas_of_a_spread_gang_go_to_nodes_of_their_own_while_there_are_any() -> None:
    nodes = [node(name, device(0), device(1)) for name in "abc"]
    found = places(planned(nodes, *gang("g", 4, 2, placement="Spread")))
    assert [found[f"g-r{n}-d0"][0] for n in range(4)] == ["a", "b", "c", "a"]
    assert all(found[f"g-r{n}-d1"] == found[f"g-r{n}-d0"][0] + "/1" for n in range(4))


def test_compute_counts_for_the_load_as_memory_does() -> None:
    holding = [held(pending("h"), "a", memory=1, compute=900), held(pending("i"), "b", memory=40, compute=500)]
    assert places(planned([node("a"), node("b")], *holding, pending("p", "5%", placement="Spread"))) == {"p": "b/0"}


def with_ports(name: str, *ports: int, **more: Any) -> GPUPartition:
    return pending(name, host_ports=ports, **more)


def test_a_host_port_is_given_once_on_a_node() -> None:
    plan = planned([node("a"), node("b")], *(with_ports(f"p{n}", 8080, age=9 - n, memory="1Gi") for n in range(3)))
    assert places(plan) == {"p0": "a/0", "p1": "b/0"}
    assert reserved(plan) == {"default/p2": 3600}
    assert places(planned([node()], with_ports("p", 80), with_ports("q", 81))) == {"p": "n1/0", "q": "n1/0"}


def test_a_port_is_free_when_its_lease_is_over_whatever_device_that_was_on() -> None:
    holder = held(with_ports("h", 80), device=0, ends=60)
    plan = planned([node("n1", device(0), device(1))], holder, with_ports("p", 80, node="n1", device=1))
    assert (places(plan), reserved(plan)) == ({}, {"default/p": 60})


def test_replicas_with_a_host_port_go_to_nodes_of_their_own_packed_or_spread() -> None:
    nodes = [node(name, device(0), device(1)) for name in "abc"]
    for placement in ("Pack", "Spread"):
        replicas = gang("g", 3, 2, memory="1Gi", host_ports=(80,), placement=placement)
        assert {place[0] for place in places(planned(nodes, *replicas)).values()} == {"a", "b", "c"}
        assert planned(nodes[:2], *replicas).refusals[0].hopeless


def test_a_port_that_is_kept_for_a_gang_is_not_given_away_for_longer() -> None:
    queue = [
        held(with_ports("h", 80), ends=100),
        with_ports("first", 80, age=9),
        with_ports("long", 81, 80, age=5, duration="1h"),
        with_ports("other", 81, age=4, duration="1h"),
    ]
    plan = planned([node()], *queue)
    assert places(plan) == {"other": "n1/0"}
    assert reserved(plan) == {"default/first": 100, "default/long": 100 + 3600}


def test_the_rest_of_a_replica_does_not_wait_for_its_own_port() -> None:
    first, second = gang("g", 1, 2, memory="1Gi", host_ports=(80,))
    assert places(planned([node("n1", device(0), device(1))], held(first), second)) == {"g-r0-d1": "n1/1"}


def test_who_asks_for_hard_enforcement_gets_a_whole_device() -> None:
    """Hardware keeps MIG instances apart, and not two leases of one."""
    instances = node("n1", *(device(n, memory=10, id=f"MIG-{n}") for n in range(2)))
    queue = [pending(name, "4Gi", min_enforcement="hard") for name in "abc"]
    plan = place(build([instances], queue, NOW))
    assert [(b.device, b.memory_bytes, b.compute, b.enforcement) for b in plan.bindings] == [
        (0, 10 * GI, 1000, "hard"), (1, 10 * GI, 1000, "hard"),
    ]  # fmt: skip
    (part,) = place(build([instances], [pending("p", "4Gi")], NOW)).bindings
    assert (part.memory_bytes, part.enforcement) == (4 * GI, "guarded")
