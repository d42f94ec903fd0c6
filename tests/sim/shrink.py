"""From a schedule that fails to the least of it that fails in the same way (Zeller, "Simplifying and Isolating
Failure-Inducing Input", 2002)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from tests.sim.check import check_schedule
from tests.sim.schedule import Action, Fault, Schedule

T = TypeVar("T")

RUNS = 400
"""How many runs shrinking may take."""


def shrink(schedule: Schedule, violation: str) -> Schedule:
    """The smallest schedule found that violates the same oracle."""
    oracle = violation.split(":", 1)[0]
    left = RUNS

    def fails(candidate: Schedule) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and check_schedule(candidate).violation.split(":", 1)[0] == oracle

    for simpler in ({"sluggish": 0.0}, {"skews": (0.0,) * len(schedule.skews)}, {"faults": ()}):
        candidate = replace(schedule, **simpler)
        if fails(candidate):
            schedule = candidate
    while True:
        size = len(schedule.actions) + len(schedule.faults)
        parts: list[Action | Fault] = [*schedule.actions, *schedule.faults]
        parts = _least(parts, lambda parts, s=schedule: fails(_with(s, parts)))  # type: ignore[misc]
        schedule = _with(schedule, parts)
        if left <= 0 or len(parts) == size:
            return schedule


def _with(schedule: Schedule, parts: Sequence[Action | Fault]) -> Schedule:
    return replace(
        schedule,
        actions=tuple(part for part in parts if isinstance(part, Action)),
        faults=tuple(part for part in parts if isinstance(part, Fault)),
    )


def _least(parts: list[T], fails: Callable[[list[T]], bool]) -> list[T]:
    size = len(parts)
    while size:
        start = 0
        while start < len(parts):
            candidate = parts[:start] + parts[start + size :]
            if candidate and fails(candidate):
                parts = candidate
            else:
                start += size
        size //= 2
    return parts
