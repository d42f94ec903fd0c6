"""Leases end after the last save of the work in them: 99 of 100, as often as saves differ from each other."""

from __future__ import annotations

import math
import random

import pytest

from cumulus.checkpoint import save_times
from cumulus.checkpoint.timing import DueCause, Timing

GRACE = 30.0


def lease(timing: Timing, seconds: float, save: float, rng: random.Random) -> tuple[bool, float]:
    """One lease with a save at its end: whether it was whole by then, and how long before the end it began."""
    now = max(0.0, seconds - timing.lead() - 5.0)
    timing.lease_end = seconds
    timing.pace = 0.0
    while timing.due(now) is not DueCause.LEASE_END:
        step = rng.uniform(0.02, 0.2)
        timing.pace = max(step, 0.8 * timing.pace)
        now += step
    began = now
    # The machine is busy: what is not the save takes its time too.
    whole = now + save + rng.expovariate(1 / 0.02)
    timing.saved(began, save)
    return whole <= seconds, seconds - began


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_600_leases_with_save_times_from_a_log_normal_distribution(seed: int) -> None:
    """Sigma 0.5, medians from 0.2 to 5 s: twenty jobs of thirty leases each."""
    rng = random.Random(seed)
    missed = 0
    for _ in range(20):
        median = 0.2 * 25 ** rng.random()
        times: list[float] = []
        for _ in range(30):
            timing = Timing(0.0, every=None, grace=GRACE, times=times)
            whole, _ = lease(timing, 120.0, rng.lognormvariate(math.log(median), 0.5), rng)
            missed += not whole
            times = timing.times
    assert missed <= 6


@pytest.mark.parametrize("usual", [0.2, 1.0, 5.0, 60.0])
def test_the_margin_is_a_second_or_a_fifth_of_the_save(usual: float) -> None:
    """Where saves hardly differ, the lead is little more than the save itself."""
    rng = random.Random(5)
    times = [usual * rng.uniform(0.99, 1.01) for _ in range(save_times.KEPT)]
    lead = save_times.lead(times, GRACE)
    percentile = lead - max(1.0, 0.2 * usual)
    assert usual < percentile < 1.45 * usual


def test_nothing_measured_means_the_whole_grace_period() -> None:
    assert save_times.lead([], 45.0) == 45.0


def test_one_save_alone_does_not_take_the_lease() -> None:
    assert save_times.lead([0.2], GRACE) < GRACE / 3
    assert save_times.lead([8.0], GRACE) <= GRACE + 1.6
    assert save_times.lead([60.0], GRACE) == pytest.approx(192)
