"""How soon something is done after a change, and how often at most."""

from __future__ import annotations

from itertools import pairwise

from cumulus.machinery.throttle import Throttle


def pace() -> Throttle:
    return Throttle(soon=0.25, interval=1, burst=3)


def test_one_change_is_seen_to_soon_and_so_is_the_next_after_a_rest() -> None:
    paced = pace()
    assert [paced.due(now) for now in (0, 10, 20, 30, 40, 50)] == [0.25, 10.25, 20.25, 30.25, 40.25, 50.25]


def test_changes_that_come_before_it_is_done_are_seen_to_at_once() -> None:
    paced = pace()
    assert {paced.due(now) for now in (0, 0.1, 0.2, 0.24)} == {0.25}


def test_an_unbroken_stream_is_seen_to_at_the_interval_after_the_burst() -> None:
    paced = pace()
    dues = sorted({paced.due(tick / 64) for tick in range(64 * 10)})
    burst, steady = dues[:3], dues[3:]
    assert burst[2] - burst[0] < 0.6
    assert len(steady) == 10
    assert {later - sooner for sooner, later in pairwise(steady)} == {1}


def test_a_rest_as_long_as_the_burst_lets_it_burst_again() -> None:
    paced = pace()
    for tick in range(64 * 10):
        paced.due(tick / 64)
    assert paced.due(14) == 14.25
    assert paced.due(14.5) == 14.75
