"""The line of a cluster with queues, which is made by sorts of numbers, is the one that the rules say word for word."""

from __future__ import annotations

import random
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from cumulus.resources.device import Device
from cumulus.resources.key import Key
from cumulus.resources.quantity import Share
from cumulus.scheduling.claim import Demand, Filter
from cumulus.scheduling.fair import FairOrder
from cumulus.scheduling.queues import Book, QueueAccounts, Tree
from cumulus.scheduling.snapshot import Gang, Hold, Member, Node, ReturnsBy, Snapshot
from tests.scheduling.build import GI, NOW
from tests.scheduling.queueing import a_queue

QUEUES = ("", "default", "top", "left", "right", "gone")
DEMANDS = tuple(Demand(Filter(), Share(size=size * GI), None) for size in (8, 20, 80))


def a_tree(dice: random.Random) -> Tree:
    bands = [{"name": "normal", "from": 0}, {"name": "high", "from": 5}, {"name": "urgent", "from": 9, "urgent": True}]

    def spec(**more: object) -> dict[str, object]:
        if dice.random() < 0.3:
            more["bands"] = bands
        if dice.random() < 0.3:
            more["quota"] = [{"devices": dice.choice((0.5, 1, 3))}]
        return {"weight": dice.randint(1, 3), **more}

    return Tree([
        a_queue("top", **spec()), a_queue("left", **spec(parent="top")), a_queue("right", **spec(parent="top")),
        a_queue("default", **spec()),
    ])  # fmt: skip


def a_gang(dice: random.Random, number: int) -> Gang:
    name = f"g{number:02}"
    members = tuple(
        Member(Key("GPUPartition", "default", f"{name}-{n}"), "", dice.choice(DEMANDS), 0)
        for n in range(dice.choice((1, 1, 3)))
    )
    promised = NOW + timedelta(hours=dice.randint(1, 3)) if dice.random() < 0.2 else None
    since = NOW - timedelta(minutes=dice.randint(0, 5))
    return Gang(
        name, members, dice.choice((60.0, 3600.0)), dice.choice((0, 0, 5, 9)), since, name,
        dice.choice(("alice", "bob", "")), queue=dice.choice(QUEUES), promised=promised, started=dice.random() < 0.1,
    )  # fmt: skip


def a_hold(dice: random.Random, number: int) -> Hold:
    ago = timedelta(seconds=dice.choice((-60, 0, 1, 5000, 90_000)))
    return Hold(
        "n0", 0, 8 * GI, 100, NOW + timedelta(hours=1), Key("GPUPartition", "default", f"h{number}"), f"h{number}",
        f"default/h{number}", dice.choice(("alice", "bob")), ReturnsBy.LEASE_END, queue=dice.choice(QUEUES),
        since=dice.choice((NOW - ago, None)), share=dice.choice((0, 100, 700)), device_name="NVIDIA H100",
    )  # fmt: skip


def by_the_rules(snapshot: Snapshot, book: Book) -> list[str]:
    """The names in line: each gang's whole key, made one by one."""
    standings, tree = book.standings(snapshot), book.tree
    asked: dict[tuple[str, str, int], float] = {}
    keys: dict[str, tuple[object, ...]] = {}
    gangs = sorted(snapshot.pending, key=lambda gang: (gang.since, gang.name))
    for gang in gangs:
        queue = gang.queue or "default"
        band, urgent = tree.rules(queue).band(gang.priority)
        *path, used = standings.ratios(queue, gang.user)
        group = (gang.queue, gang.user, gang.priority)
        used = asked.get(group, used)
        first = 0 if gang.started else 1 if urgent else 2
        promised = gang.promised if first == 2 and gang.promised is not None else NOW + timedelta(days=999)
        keys[gang.name] = (first, promised, -band, True, tuple(path), used, gang.since, gang.name)
        share = max(1000 * (gang.members[0].demand.memory.size or 0) // (80 * GI), 1) / 1000
        asked[group] = used + share / standings.whole * len(gang.members) * gang.seconds
    left: dict[str, int] = {}
    for gang in sorted(gangs, key=lambda gang: keys[gang.name]):
        owner = next((rules for rules in reversed(tree.path(gang.queue or "default")) if rules.quota), None)
        if owner is None:
            continue
        (cap,) = owner.quota
        free = left.setdefault(owner.name, max(0, cap.thousandths - sum(standings.queue(owner.name).held.values())))
        needs = sum(1000 * (member.demand.memory.size or 0) // (80 * GI) for member in gang.members)
        if needs <= free:
            left[owner.name] = free - needs
            key = keys[gang.name]
            keys[gang.name] = (*key[:3], False, *key[4:])
    return sorted(keys, key=lambda name: keys[name])


@given(st.integers(0, 10**9))
def test_the_line_is_the_one_that_the_rules_say_however_the_gangs_are_handed_over(seed: int) -> None:
    dice = random.Random(seed)
    tree = a_tree(dice)
    node = Node("n0", True, "", False, {}, ("process",), (Device(0, "", "NVIDIA H100", "NVIDIA", "gpu", 80 * GI),))
    holds = tuple(a_hold(dice, number) for number in range(6))
    gangs = [a_gang(dice, number) for number in range(dice.randint(1, 14))]
    dice.shuffle(gangs)
    snapshot = Snapshot(NOW, (node,), holds, tuple(gangs))
    book = Book(tree, QueueAccounts(()))
    assert [gang.name for gang in FairOrder(book).arrange(snapshot)] == by_the_rules(snapshot, book)
