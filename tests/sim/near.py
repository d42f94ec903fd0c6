"""Finds a schedule that shows a planted bug, near the one that did: a controller more shifts what happens when, and a
schedule in `known` may then miss its bug by a moment."""

from __future__ import annotations

import random
from dataclasses import replace

from tests.sim.check import check_schedule
from tests.sim.known import FOUND
from tests.sim.mutants import named, planted
from tests.sim.schedule import Schedule

SPREADS = (0.05, 0.5, 3.0)
"""Seconds by which times are moved at most."""


def near(name: str, tries: int) -> Schedule | None:
    """One that fails as the bug's own did, and does not without the bug."""
    known, oracle = FOUND[name]
    rng = random.Random(name)
    for _ in range(tries):
        schedule = _moved(known, rng)
        with planted(named(name)):
            found = check_schedule(schedule).violation.startswith(oracle)
        if found and not check_schedule(schedule).violation:
            return schedule
    return None


def _moved(schedule: Schedule, rng: random.Random) -> Schedule:
    spread = rng.choice(SPREADS)

    def at(time: float) -> float:
        return round(max(0.0, time + rng.uniform(-spread, spread)), 3)

    seed = rng.choice((schedule.seed, rng.randrange(1000)))
    actions = tuple(replace(each, at=rng.choice((each.at, at(each.at)))) for each in schedule.actions)
    faults = tuple(replace(each, at=at(each.at)) for each in schedule.faults)
    return replace(schedule, seed=seed, actions=actions, faults=faults)
