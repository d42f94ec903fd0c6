from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cumulus.history.series import MOST, Sample, Series

PARTS = st.none() | st.floats(0, 2)


@given(st.lists(st.tuples(st.integers(0, 5), PARTS, PARTS), max_size=60), st.integers(1, 7))
def test_every_sample_is_where_its_time_is(samples: list[tuple[int, float | None, float | None]], step: int) -> None:
    """Of several within one step the last one counts."""
    series, moment, wanted = Series(100, step), 100, dict[int, Sample]()
    for passed, used, busy in samples:
        moment += passed
        series = series.having(moment, Sample(used, busy), step)
        before = wanted.get((moment - 100) // step, Sample(None, None))
        wanted[(moment - 100) // step] = Sample(
            *(o if n is None else n for o, n in zip(before, (used, busy), strict=True))
        )
    assert len(series.used) == len(series.busy) == (max(wanted) + 1 if wanted else 0)
    for index, sample in wanted.items():
        for told, was in ((series.used[index], sample.used), (series.busy[index], sample.busy)):
            assert told == (None if was is None else pytest.approx(was, abs=0.0051))
    assert all(series.used[n] is None for n in range(len(series.used)) if n not in wanted)


def test_a_long_lease_takes_no_more_room_than_a_kilobyte_and_keeps_its_mean() -> None:
    series = Series(0, 60_000)
    for minute in range(60 * 24 * 7):
        series = series.having(minute * 60_000, Sample(0.5, 1.0 if minute % 2 else 0.0), 60_000)
    assert len(series.samples) <= 2 * MOST
    assert series.step * len(series.used) >= 60_000 * 60 * 24 * 7
    assert set(series.used) == {0.5}
    assert all(part is not None and abs(part - 0.5) < 0.05 for part in series.busy)


def test_a_clock_that_was_set_back_changes_nothing() -> None:
    series = Series(100_000, 10).having(100_020, Sample(1.0, 1.0), 10)
    assert series.having(5, Sample(0.0, 0.0), 10) == series.having(100_001, Sample(0.0, 0.0), 10) == series
