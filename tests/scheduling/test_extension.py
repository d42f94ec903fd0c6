"""Whom a longer lease would move, and how much longer moves nobody."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cumulus.resources.partition import GPUPartition
from cumulus.scheduling.extension import lengthened, moved, room
from cumulus.scheduling.policy import Policies, policies_of
from cumulus.scheduling.snapshot import Snapshot, build
from tests.scheduling.build import NOW, device, foreign, gang, held, node, pending

MINE = held(pending("mine"), memory=60, compute=600, ends=600)


def queue(*waiting: GPUPartition, others: tuple[GPUPartition, ...] = (), devices: int = 1) -> Snapshot:
    return build([node("n1", *(device(index) for index in range(devices)))], [MINE, *others, *waiting], NOW)


def named(snapshot: Snapshot, seconds: float, policies: Policies = policies_of(None)) -> list[str]:
    return [each.job for each in moved(snapshot, {MINE.key}, seconds, policies)]


def test_nobody_waits() -> None:
    assert named(queue(), 3600) == []
    assert room(queue(), {MINE.key}, 3600) == 3600


def test_who_waits_for_it_is_named_with_both_times() -> None:
    snapshot = queue(pending("next", "80Gi", user="bob"))
    (late,) = moved(snapshot, {MINE.key}, 3600)
    assert (late.job, late.user) == ("default/next", "bob")
    assert (late.told, late.then) == (NOW + timedelta(seconds=600), NOW + timedelta(seconds=4200))


def test_who_has_room_beside_it_is_not_moved() -> None:
    assert named(queue(pending("small", "20Gi")), 3600) == []
    assert named(queue(pending("large", "80Gi"), devices=2), 3600) == []


def test_who_waits_for_another_until_later_gives_room_until_then() -> None:
    other = held(pending("other"), memory=20, compute=250, ends=2400)
    snapshot = queue(pending("next", "80Gi"), others=(other,))
    assert named(snapshot, 1800) == []
    assert named(snapshot, 3600) == ["default/next"]
    assert room(snapshot, {MINE.key}, 3600) == 1800


def test_those_behind_are_moved_too() -> None:
    waiting = [pending("first", "80Gi", age=60), pending("second", "80Gi", age=30)]
    assert named(queue(*waiting), 3600) == ["default/first", "default/second"]


def test_a_gang_of_several_leases() -> None:
    mine = [held(each, device=index, ends=600) for index, each in enumerate(gang("mine", 1, 2, "40Gi"))]
    snapshot = build([node("n1", device(0), device(1))], [*mine, *gang("next", 1, 2, "70Gi")], NOW)
    keys = {each.key for each in mine}
    assert [each.job for each in moved(snapshot, keys, 60)] == ["default/next"]
    assert moved(snapshot, {mine[0].key}, 60)
    assert not moved(snapshot, set(), 60)


def test_who_is_not_admitted_is_told_nothing_and_moves_nobody() -> None:
    assert named(queue(pending("next", "80Gi")), 3600) == ["default/next"]


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_other_holds_stay(seconds: float) -> None:
    there = node("n1", device(foreign_leases=(foreign(20, 600),)))
    snapshot = build([there], [MINE], NOW)
    longer = lengthened(snapshot, {MINE.key}, seconds)
    assert sorted(hold.returns_at for hold in longer.holds) == [
        NOW + timedelta(seconds=600), NOW + timedelta(seconds=600 + seconds)
    ]  # fmt: skip
