"""One seed, checked: its run with faults, and the same without, which must come to the same end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.sim import sharing
from tests.sim.rest import TIMELY
from tests.sim.schedule import Schedule, generate
from tests.sim.simulation import Outcome, run

KINDS: dict[str, Callable[[int], Schedule]] = {"jobs": generate, "shared": sharing.generate}
"""What makes a schedule of a seed: of worlds of jobs alone, and of those that are shared by queues."""


def check(seed: int, kind: str = "jobs") -> Outcome:
    """The run with faults; its violation tells also where the two ends differ."""
    return check_schedule(KINDS[kind](seed))


def check_schedule(schedule: Schedule) -> Outcome:
    struck = run(schedule)
    if struck.violation or not schedule.faults:
        return struck
    calm = run(replace(schedule, faults=()))
    if calm.violation:
        return calm
    ends = {
        name: (struck.final.get(name, "gone"), calm.final.get(name, "gone")) for name in {**calm.final, **struck.final}
    }
    differ = {name: end for name, end in ends.items() if end[0] != end[1] and TIMELY not in end}
    if not differ:
        return struck
    said = ", ".join(f"{name} is {end[0]}, without faults {end[1]}" for name, end in differ.items())
    return replace(struck, violation=f"other end: {said}")
