from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cumulus.chronos.contract import Lease, LeaseState
from cumulus.clock import parse_timestamp, timestamp
from cumulus.nodes.clocks import NodeClock

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def lease(skew: float, left: float, **fields: object) -> Lease:
    """A lease of a minute as a node whose clock is `skew` ahead tells it, `left` seconds before its end, at NOW."""
    end = NOW + seconds(skew + left)
    told = Lease(
        id="a", device=0, device_id="d", memory_bytes=1, compute=1, user="", grace=10, token=1,
        state=LeaseState.ACTIVE, granted_at=timestamp(end - seconds(60)), expires_at=timestamp(end), expires_in=left,
    )  # fmt: skip
    return replace(told, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("theirs", "way", "skew"), [
    pytest.param(1.53, 1.53, 0.0, id="the way explains it"),
    pytest.param(0.0, 1.5, 0.0, id="it was asked at once"),
    pytest.param(0.01, 0.02, 0.0, id="a short way"),
    pytest.param(3.5, 1.0, 3.0, id="the way does not explain it"),
    pytest.param(-2.5, 1.0, -3.0, id="nor that it is behind"),
])  # fmt: skip
def test_no_skew_is_told_that_the_way_explains(theirs: float, way: float, skew: float) -> None:
    """A first answer may take seconds, on the same kernel too."""
    clock = NodeClock()
    clock.measure(NOW + seconds(theirs), NOW, NOW + seconds(way))
    assert clock.skew == skew


@pytest.mark.parametrize("skew", [0.0, 7200.0, -7200.0, 0.4])
def test_the_skew_is_told_within_half_the_way(skew: float) -> None:
    clock = NodeClock()
    clock.measure(NOW + seconds(skew + 0.1), NOW, NOW + seconds(0.3))
    assert clock.skew is not None
    assert abs(clock.skew - skew) <= 0.15


def test_answers_narrow_the_skew_down_and_it_does_not_flicker() -> None:
    clock = NodeClock()
    clock.measure(NOW + seconds(5.9), NOW, NOW + seconds(1))
    rough = clock.skew
    clock.measure(NOW + seconds(5.9), NOW + seconds(0.89), NOW + seconds(0.92))
    assert rough is not None
    assert abs(rough - 5) > 0.3
    assert clock.skew == pytest.approx(5, abs=0.02)
    fine = clock.skew
    clock.measure(NOW + seconds(5.9), NOW, NOW + seconds(2))
    assert clock.skew == fine


def test_a_clock_that_was_set_is_noticed() -> None:
    clock = NodeClock()
    clock.measure(NOW, NOW, NOW)
    clock.measure(NOW + seconds(3600), NOW, NOW + seconds(0.1))
    assert clock.skew == pytest.approx(3600, abs=0.1)


@pytest.mark.parametrize("skew", [0.0, 7200.0, -7200.0])
def test_a_lease_ends_on_our_clock_whatever_the_node_s_says(skew: float) -> None:
    clock = NodeClock()
    clock.measure(NOW + seconds(skew), NOW - seconds(0.01), NOW + seconds(0.01))
    ours = clock.on_ours(lease(skew, 42.0), NOW - seconds(0.01), NOW + seconds(0.01))
    assert abs((parse_timestamp(ours.expires_at) - NOW).total_seconds() - 42) <= 0.011
    assert abs((parse_timestamp(ours.granted_at) - NOW).total_seconds() + 18) <= 0.011


def test_the_end_stays_as_told_while_it_can_be_right() -> None:
    clock = NodeClock()
    first = clock.on_ours(lease(0, 42.0), NOW - seconds(0.2), NOW + seconds(0.2))
    # The next answer took long: the lease has 40 s left at some time between 1.5 s and 4 s from now.
    later = clock.on_ours(lease(0, 40.0, expires_at=first.expires_at), NOW + seconds(1.5), NOW + seconds(4))
    assert later.expires_at == first.expires_at


def test_an_end_that_moved_is_told_and_never_too_early() -> None:
    clock = NodeClock()
    clock.on_ours(lease(0, 42.0), NOW, NOW)
    # The node's wall clock was set back an hour: what it says of the end is wrong, what is left is not.
    ours = clock.on_ours(lease(-3600, 100.0), NOW, NOW + seconds(0.5))
    assert parse_timestamp(ours.expires_at) == NOW + seconds(100.501)


def test_a_first_guess_that_was_too_late_is_corrected_once() -> None:
    clock = NodeClock()
    clock.on_ours(lease(-3600, 42.0), NOW - seconds(1), NOW + seconds(1))
    ends = {clock.on_ours(lease(-3600, 42.0), NOW, NOW + seconds(later)).expires_at for later in (0.01, 0.5, 2, 0.02)}
    assert len(ends) == 1
    assert 0 <= (parse_timestamp(ends.pop()) - NOW).total_seconds() - 42 <= 0.02


def test_an_ended_lease_keeps_the_end_that_was_told() -> None:
    clock = NodeClock()
    first = clock.on_ours(lease(0, 42.0), NOW, NOW)
    over = lease(0, 1.0, state=LeaseState.ENDED, ended_at=timestamp(NOW))
    assert clock.on_ours(over, NOW, NOW).expires_at == first.expires_at
