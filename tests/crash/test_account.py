"""The accounting finds what it is there to find, in records made by hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from cumulus.clock import timestamp
from tests.crash import account
from tests.crash.jobs import SCRIPTS, Record
from tests.crash.loop import Wish

SCRIPT = {script.name: script for script in SCRIPTS}


def record(what: str, at: float, *, attempt: int = 1, replica: int = 0, lease: str = "a", code: str = "") -> Record:
    return Record(what, "j", attempt, replica, lease, at, code)


def lease(id: str, compute: float, begins: float, ends: float) -> account.Audit:
    """From one uptime to another."""
    boot = datetime.fromtimestamp(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME), UTC)
    line = {"lease": id, "user": "", "memoryBytes": 1, "computePercent": compute}
    made = account.Audit(line | {"time": timestamp(boot + timedelta(seconds=begins))})
    made.ended = boot + timedelta(seconds=ends)
    return made


def wish(script: str, **fields: object) -> Wish:
    return Wish("j", SCRIPT[script], {}, created=True, **fields)  # type: ignore[arg-type]


def job(
    phase: str = "Succeeded", *, attempts: int = 1, failures: int = 0, reason: str = "Completed"
) -> dict[str, object]:
    status = {
        "phase": phase, "attemptCount": attempts, "failures": failures,
        "attempts": [{"number": attempts, "reason": reason}],
    }  # fmt: skip
    return {"metadata": {"name": "j"}, "spec": {}, "status": status}


def test_a_second_start() -> None:
    assert not list(account._started_once([record("start", 1), record("start", 2, replica=1)]))
    assert "started 2 times" in next(account._started_once([record("start", 1), record("start", 2)]))


def test_attempts_that_overlap() -> None:
    ended = record("end", 9, attempt=2, code="0")
    sound = [record("start", 1), record("tick", 2), record("start", 3, attempt=2), ended]
    assert not list(account._job(wish("short"), job(attempts=2), sound))
    [found] = account._job(wish("short"), job(attempts=2), [*sound, record("tick", 5)])
    assert "attempt 2 began at 3, attempt 1 lived until 5" in found


def test_an_end_that_the_script_does_not_have() -> None:
    [found] = account._job(wish("short"), job("Failed", reason="Error"), [])
    assert "its script says Succeeded" in found
    [found] = account._job(wish("late"), job("Failed", reason="Lost"), [])
    assert "its script says LeaseExpired" in found
    [found] = account._job(wish("gang"), job(), [record("end", 2, replica=r, code="0") for r in (0, 2)])
    assert "of which these replicas ended well" in found
    [found] = account._job(wish("bad"), job("Failed", attempts=3, failures=3, reason="Error"), [record("end", 1)])
    assert "3 failures counted, 1 recorded" in found


def test_what_was_acknowledged_and_is_not_so() -> None:
    there = {"j": job()}
    assert not list(account._wish(wish("short"), there))
    assert "not there" in next(account._wish(wish("short"), {}))
    assert "delete was acknowledged" in next(account._wish(wish("short", deleted=True, delete_tried=True), there))
    assert "has priority 0" in next(account._wish(wish("short", priority={7}), there))


def test_life_outside_a_lease() -> None:
    audit = {"a": lease("a", 50, 10, 20)}
    assert not list(account._within_leases([record("start", 10.01), record("end", 19.99)], audit))
    assert "outside lease a" in next(account._within_leases([record("tick", 20.2)], audit))
    assert "outside lease a" in next(account._within_leases([record("start", 9.8)], audit))
    assert "never granted" in next(account._within_leases([record("start", 10, lease="b")], audit))


def test_more_than_one_device() -> None:
    audit = {"a": lease("a", 60, 0, 99), "b": lease("b", 50, 0, 99)}
    one = [record("start", 1), record("end", 5)]
    assert not list(account._own_overlap([*one, record("start", 5, lease="b"), record("end", 9, lease="b")], audit))
    [found] = account._own_overlap([*one, record("start", 4.99, lease="b"), record("end", 9, lease="b")], audit)
    assert "held 110 %" in found
