"""When schedules are due, where clocks are put forward and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cumulus.resources.schedule import check_schedule, following, latest

BERLIN = "Europe/Berlin"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["* * * * *", "30 2 * * MON-FRI", "*/5 0-6 1,15 * *", "@hourly", "0 0 L * *", "0 0 29 2 *"]
)
def test_schedules(text: str) -> None:
    assert check_schedule(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@never",
        "* * * *",
        "0 * * * * *",
        "60 * * * *",
        "0 0 31 2 *",
        "0 0 30 2 *",
        "*/0 * * * *",
        "TZ=UTC 0 0 * * *",
        "x" * 999,
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no schedule"):
        check_schedule(text)


def every(schedule: str, start: str, end: str) -> list[str]:
    """All times, as a controller finds them that looks every minute."""
    found, since, now = [], at(start), at(start)
    while now <= at(end):
        due = latest(schedule, BERLIN, since, now)
        if due is not None:
            found.append(f"{due:%d %H:%M}")
            since = due
        now += timedelta(minutes=1)
    return found


def test_an_hour_that_is_left_out() -> None:
    # On 2026-03-29 at 01:00 UTC the clocks in Berlin go from 02:00 to 03:00.
    assert every("30 2 * * *", "2026-03-28 00:00", "2026-03-30 03:00") == ["28 01:30", "29 01:00", "30 00:30"]
    assert every("0 * * * *", "2026-03-28 23:30", "2026-03-29 02:30") == ["29 00:00", "29 01:00", "29 02:00"]


def test_an_hour_that_comes_twice() -> None:
    # On 2026-10-25 at 01:00 UTC they go from 03:00 to 02:00.
    assert every("30 2 * * *", "2026-10-24 12:00", "2026-10-26 12:00") == ["25 00:30", "26 01:30"]
    assert every("*/30 * * * *", "2026-10-25 00:15", "2026-10-25 02:15") == [
        "25 00:30",
        "25 01:00",
        "25 01:30",
        "25 02:00",
    ]


def test_the_last_one_of_very_many() -> None:
    assert latest("* * * * *", "UTC", at("2000-01-01"), at("2026-01-01 12:00:30")) == at("2026-01-01 12:00")
    assert latest("0 0 29 2 *", BERLIN, at("2000-01-01"), at("2026-01-01")) == at("2024-02-28 23:00")
    assert latest("0 0 1 1 *", "UTC", at("2026-01-01"), at("2026-06-01")) is None
    assert following("0 0 29 2 *", "UTC", at("2026-01-01")) == at("2028-02-29")
