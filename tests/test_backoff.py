"""How long to wait before trying again."""

from __future__ import annotations

import pytest

from cumulus.lib.backoff import Backoff


@pytest.mark.parametrize(("failures", "seconds"), [(-1, 1), (0, 1), (1, 2), (2, 4), (9, 300), (10_000, 300)])
def test_a_wait_doubles_up_to_the_longest(failures: int, seconds: float) -> None:
    assert Backoff(1.0, 300.0).seconds(failures) == seconds


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 0.25), (0.5, 0.625), (1.0, 1.0)])
def test_its_jitter_is_left_to_chance(chance: float, seconds: float) -> None:
    assert Backoff(1.0, 300.0, jitter=0.75).seconds(0, chance) == seconds


def test_no_wait_stays_none() -> None:
    assert Backoff(0.0, 0.0, jitter=0.5).seconds(50, 0.5) == 0
