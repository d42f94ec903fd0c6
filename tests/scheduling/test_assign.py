from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from cumulus.resources.device import Device
from cumulus.resources.key import Key
from cumulus.resources.quantity import Share
from cumulus.scheduling.assign import Seat, assign, uniform
from cumulus.scheduling.availability import Availability, Offer, Slot
from cumulus.scheduling.claim import Demand, Filter
from cumulus.scheduling.equivalence import KnownMisfits
from cumulus.scheduling.snapshot import Gang, Member, Node, Snapshot
from tests.scheduling.worlds import NOW


def offers(*nodes: list[int]) -> list[Offer]:
    """One offer for each number: so many shares can that slot give."""
    return [
        Offer(Slot(order, f"n{node}", Device(order, "", "x", "", "gpu", 100), []), 1, 1, times)
        for order, (node, times) in enumerate((n, times) for n, slots in enumerate(nodes) for times in slots)
    ]


def assert_allowed(found: list[list[Seat]], given_: list[Offer], groups: int, size: int) -> None:
    assert len(found) == groups
    for group in found:
        assert len({seat.slot.order for seat in group}) == size
        assert len({seat.slot.node for seat in group}) == 1
    for offer in given_:
        assert sum(seat.slot is offer.slot for group in found for seat in group) <= offer.times


def can_hold(times: list[int], groups: int, size: int) -> bool:
    """By trying everything: whether one node holds that many groups."""
    if groups == 0:
        return True
    return any(
        can_hold([count - (index in picks) for index, count in enumerate(times)], groups - 1, size)
        for picks in itertools.combinations([i for i, count in enumerate(times) if count > 0], size)
    )


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4), min_size=1, max_size=3),
    st.integers(1, 4), st.integers(1, 3),
)  # fmt: skip
def test_equal_groups_are_seated_exactly_when_they_can_be(nodes: list[list[int]], groups: int, size: int) -> None:
    there = offers(*nodes)
    found = uniform(there, groups, size)
    most = [max(count for count in range(groups + 1) if can_hold(times, count, size)) for times in nodes]
    assert (found is not None) == (sum(most) >= groups)
    if found is not None:
        assert_allowed(found, there, groups, size)


def test_two_groups_of_two_share_the_one_slot_with_room_for_both() -> None:
    there = offers([1, 1, 2])
    found = uniform(there, 2, 2)
    assert found is not None
    assert_allowed(found, there, 2, 2)


def test_a_slot_with_much_room_does_not_stand_in_for_distinct_ones() -> None:
    assert uniform(offers([5, 1]), 2, 2) is None


def test_offers_are_taken_in_order_and_no_further_than_needed() -> None:
    taken = []

    def watched() -> object:
        for offer in offers([1], [1], [1], [1]):
            taken.append(offer.slot.order)
            yield offer

    assert uniform(watched(), 2, 1) is not None  # type: ignore[arg-type]
    assert taken == [0, 1]


def _gang(*groups: list[Demand]) -> Gang:
    members = tuple(
        Member(Key("GPUPartition", "d", f"p{group}-{index}"), "", demand, group)
        for group, demands in enumerate(groups)
        for index, demand in enumerate(demands)
    )
    return Gang("g", members, 1.0, 0, NOW, "", "")


def _snapshot(*nodes: list[int]) -> Snapshot:
    return Snapshot(
        NOW,
        tuple(
            Node(f"n{n}", True, "", False, {}, (), tuple(
                Device(i, "", "x", "", "gpu", size) for i, size in enumerate(sizes)
            ))
            for n, sizes in enumerate(nodes)
        ),
        (),
        (),
    )  # fmt: skip


def _take(size: int, compute: int = 100, **wanted: object) -> Demand:
    return Demand(Filter(**wanted), Share(size=size), compute)  # type: ignore[arg-type]


def test_a_mixed_gang_goes_back_on_a_first_choice_that_leaves_no_place() -> None:
    # Best fit puts the 3 on the device of 3; then the 3 that is pinned there has none.
    gang = _gang([_take(3)], [_take(3, node="n0")])
    seats = assign(Availability(_snapshot([3], [4])), gang, 0, 1)
    assert seats is not None
    assert [seat.slot.node for seat in seats] == ["n1", "n0"]


def test_a_mixed_gang_of_many_replicas_on_many_like_nodes_is_seated() -> None:
    gang = _gang(*([_take(3), _take(2)] for _ in range(100)))
    seats = assign(Availability(_snapshot(*([4, 4] for _ in range(100)))), gang, 0, 1)
    assert seats is not None
    assert len({(seat.slot.node, seat.slot.device.index) for seat in seats}) == 200


def test_a_mixed_gang_that_cannot_fit_is_given_up_in_bounded_time() -> None:
    gang = _gang(*([_take(3), _take(2 + n % 2)] for n in range(30)))
    # No node holds two of the groups, but counting shares does not tell: 29 nodes are one too few.
    assert (
        assign(
            Availability(_snapshot(*([3 + n % 3, 3, 1 + n] for n in range(2)), *([3, 4 + n % 2] for n in range(27)))),
            gang,
            0,
            1,
        )
        is None
    )


def test_what_was_refused_refuses_all_that_ask_for_as_much() -> None:
    refused = KnownMisfits()
    refused.add(_gang([_take(3)], [_take(3)]), 10)
    assert refused.covers(_gang([_take(3)], [_take(3)]), 10)
    assert refused.covers(_gang([_take(4)], [_take(4)], [_take(4)]), 11)
    assert not refused.covers(_gang([_take(3)], [_take(3)]), 9)
    assert not refused.covers(_gang([_take(2)], [_take(2)]), 10)
    assert not refused.covers(_gang([_take(3, 99)], [_take(3, 99)]), 10)
    assert not refused.covers(_gang([_take(3)]), 10)
    assert not refused.covers(_gang([_take(3), _take(3)]), 10)
    assert not refused.covers(_gang([_take(3, name="y")], [_take(3, name="y")]), 10)
