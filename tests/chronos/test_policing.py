"""Whose lease is judged to be over, from looks at times that the test says."""

from __future__ import annotations

import pytest

from cumulus.chronos.policing import (
    ALLOWANCE_BYTES,
    CONFIRM_SECONDS,
    GAP_SECONDS,
    Judge,
    MeasuredHolding,
    by_lease,
    by_total,
)
from cumulus.resources.enforcement import Overuse, overuse_of

GIB = 2**30
OVER = MeasuredHolding(4 * GIB, 6 * GIB, 1)
WITHIN = MeasuredHolding(4 * GIB, 4 * GIB, 1)


def test_a_lease_is_over_once_it_was_so_for_half_a_second_in_a_row() -> None:
    judge = Judge()
    assert [dict(judge.look({"a": OVER}, at)) for at in (0, 0.25)] == [{}, {}]
    assert judge.look({"a": OVER}, CONFIRM_SECONDS) == {"a": 6 * GIB}
    assert judge.look({"a": WITHIN}, 0.75) == {}
    assert judge.look({"a": OVER}, 1.0) == {}


def test_looks_that_are_far_apart_are_not_in_a_row() -> None:
    judge = Judge()
    judge.look({"a": OVER}, 0)
    assert judge.look({"a": OVER}, GAP_SECONDS + 1) == {}
    assert judge.look({"a": OVER}, GAP_SECONDS + 1.5) == {"a": 6 * GIB}


@pytest.mark.parametrize(
    ("holding", "over"),
    [
        (MeasuredHolding(4 * GIB, 4 * GIB + ALLOWANCE_BYTES, 1), False),
        (MeasuredHolding(4 * GIB, 4 * GIB + ALLOWANCE_BYTES + 1, 1), True),
        (MeasuredHolding(4 * GIB, 4 * GIB + 2 * ALLOWANCE_BYTES, 2), False),
        # A hundred processes do not have fifty GiB more.
        (MeasuredHolding(4 * GIB, 4 * GIB + 2 * GIB + 1, 100), True),
        (MeasuredHolding(40 * GIB, 44 * GIB, 100), False),
        (MeasuredHolding(4 * GIB, 0, 0, elsewhere_bytes=ALLOWANCE_BYTES), False),
        (MeasuredHolding(4 * GIB, 0, 0, elsewhere_bytes=GIB), True),
    ],
)
def test_contexts_are_allowed_for(holding: MeasuredHolding, over: bool) -> None:
    assert holding.over is over


def test_a_process_in_several_leases_may_hold_all_of_them() -> None:
    leased = {"a": 4, "b": 2}
    assert by_lease([(6, ["a", "b"])], leased) == {"a": (4, 1), "b": (2, 1)}
    assert by_lease([(6, ["a", "b"]), (1, ["a"])], leased) == {"a": (4, 2), "b": (3, 1)}
    assert by_lease([(5, ["elsewhere"]), (3, [])], leased) == {"elsewhere": (5, 1)}


def test_of_a_device_that_tells_its_total_alone_only_a_lone_lease_is_judged() -> None:
    assert by_total({"a": GIB}, 9 * GIB)["a"].over
    assert not any(holding.over for holding in by_total({"a": GIB, "b": GIB}, 9 * GIB).values())


@pytest.mark.parametrize(
    ("wanted", "floor", "whole", "holds"),
    [
        (None, None, False, Overuse.END),
        (None, None, True, Overuse.REPORT),
        # A lease may only be stricter than its node.
        (Overuse.REPORT, None, False, Overuse.END),
        (Overuse.END, None, True, Overuse.END),
        (Overuse.REPORT, Overuse.REPORT, False, Overuse.REPORT),
        (None, Overuse.REPORT, False, Overuse.END),
        (Overuse.REPORT, Overuse.END, True, Overuse.END),
    ],
)
def test_the_stricter_of_lease_and_node_holds(
    wanted: Overuse | None, floor: Overuse | None, whole: bool, holds: Overuse
) -> None:
    assert overuse_of(wanted, floor, whole=whole) is holds
