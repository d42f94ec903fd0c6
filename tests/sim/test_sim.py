"""The simulation in the test run: some thousand seeds, the faults it once found, and that it finds planted ones."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sim import report
from tests.sim.check import check, check_schedule
from tests.sim.mutants import MUTANTS, hunt, named, planted
from tests.sim.schedule import Action, Fault, Program, Schedule, generate
from tests.sim.shrink import shrink
from tests.sim.simulation import run

pytestmark = pytest.mark.timeout(600)

CHUNKS = 24
SEEDS = 60
"""Of each chunk. More, and others, with `python -m tests.sim --seeds 100000`."""
WITHIN = 200
"""Seeds in which each planted bug is to be found."""


def a_job(name: str, at: float = 0.0, *, program: Program | None = None, **fields: object) -> Action:
    given = {
        "backoff": "1s", "count": 1, "duration": 600.0, "limit": 0, "memory": "0.25", "priority": 0, "replicas": 1,
    } | fields  # fmt: skip
    return Action(at, "create", name, tuple(sorted(given.items())), program or Program())


def a_schedule(*parts: Action | Fault, daemons: int = 1, seed: int = 0) -> Schedule:
    return Schedule(
        seed=seed, nodes=1, devices=1, daemons=daemons, sluggish=0.0, skews=(0.0,) * (daemons + 1),
        actions=tuple(part for part in parts if isinstance(part, Action)),
        faults=tuple(part for part in parts if isinstance(part, Fault)),
    )  # fmt: skip


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_seeds(chunk: int) -> None:
    for seed in range(chunk * SEEDS, (chunk + 1) * SEEDS):
        violation = check(seed).violation
        assert not violation, f"{violation}; replay it with: python -m tests.sim --replay {seed}"


LATE_START = a_schedule(
    a_job("late", program=Program(kind="forever", again=True, seconds=1.0), duration=20.0, checkpoint=True),
    Fault(0.0, "pause", call="backend.start", seconds=25.0),
)
"""A start is held up until its lease is over: that is not the job's failure."""

STALE_SWEEP = a_schedule(
    a_job("old", program=Program(seconds=30.0)),
    a_job("new", 66.0, program=Program(seconds=30.0)),
    Fault(59.5, "pause", call="chronos.list", seconds=15.0),
    daemons=2,
)
"""A sweep is held up while another daemon takes over: the leases of that one's jobs are no leftovers."""

CUT_AT_START = a_schedule(
    a_job("cut"),
    Fault(0.0, "cut", target="node-1", seconds=8.0, amount=2),
)
"""The node grants the lease, but its backend does not answer for a while: the start is tried again soon after."""


HELD_WHILE_CUT = a_schedule(
    a_job("held", program=Program(kind="forever")),
    Action(5.0, "change", "held", (("suspend", True),)),
    Fault(3.0, "cut", target="node-1", seconds=45.0, amount=3),
)
"""A job is suspended while its node does not answer: it is not said to be before its workload has ended."""

GONE_UNSEEN = a_schedule(
    Action(0.0, "lease", "node-1", (("device", 0), ("memory", 1.0), ("seconds", 10.0))),
    Action(1.0, "partition", "waits", (("duration", 20.0), ("memory", "0.5"))),
    Action(6.0, "delete", "waits"),
    a_job("next", 20.0, memory="1.0"),
    Fault(5.0, "expire", seconds=8.0),
)
"""A partition is deleted where the watch does not tell: the relist shows that it is gone, and its share is free."""

ASKED_LATE = a_schedule(
    a_job("held"),
    Action(1.0, "change", "held", (("suspend", True),)),
    Fault(0.0, "pause", call="chronos.grant", seconds=15.0),
    daemons=2,
)
"""A deposed daemon asks for a lease that nobody wants any more: the next sweep gives it back."""

FOUND = {
    "late-start-blamed": (LATE_START, "ahead of the truth"),
    "absence-from-the-cache": (STALE_SWEEP, "harm"),
    "start-given-up": (CUT_AT_START, "not at rest"),
    "unreachable-is-dead": (HELD_WHILE_CUT, "ahead of the truth"),
    "no-sweep": (ASKED_LATE, "leak"),
    "relist-keeps-the-gone": (GONE_UNSEEN, "livelock"),
}
"""By the bug: a schedule that shows it, and the oracle that sees it. Chance takes hundreds of seeds to find these."""


@pytest.mark.parametrize("bug", FOUND)
def test_a_rare_bug_is_not_there(bug: str) -> None:
    assert not check_schedule(FOUND[bug][0]).violation


@pytest.mark.parametrize("bug", FOUND)
def test_a_rare_bug_would_be_found(bug: str) -> None:
    schedule, oracle = FOUND[bug]
    with planted(named(bug)):
        assert check_schedule(schedule).violation.startswith(oracle)


@pytest.mark.parametrize("name", [mutant.name for mutant in MUTANTS if mutant.name not in FOUND])
def test_a_planted_bug_is_found_by_chance(name: str) -> None:
    assert hunt(name, WITHIN) is not None


def test_a_seed_replays_to_the_last_line() -> None:
    first, second = run(generate(7)), run(generate(7))
    assert first.timeline
    assert (first.digest, first.timeline) == (second.digest, second.timeline)
    assert run(generate(8)).digest != first.digest


def test_a_seed_replays_in_another_process() -> None:
    """Whatever order its sets and dictionaries of text have."""
    code = (
        "from tests.sim.schedule import generate; from tests.sim.simulation import run; print(run(generate(7)).digest)"
    )
    root = Path(__file__).parents[2]
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        said = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
        assert said.stdout.strip() == run(generate(7)).digest, said.stderr


def test_a_failure_is_shrunk_and_told() -> None:
    found = hunt("share-free-at-sigterm", WITHIN)
    assert found is not None
    with planted(named("share-free-at-sigterm")):
        schedule = generate(found.seed)
        least = shrink(schedule, found.violation)
        outcome = check_schedule(least)
        assert len(least.actions) + len(least.faults) < len(schedule.actions) + len(schedule.faults)
        assert outcome.violation.startswith("over-allocated")
        lines = [*report.schedule_lines(least), *report.timeline_lines(outcome)]
    assert lines[-1] == f"VIOLATION {outcome.violation}"
    assert any("grants" in line for line in lines)


def test_a_mutant_that_does_not_apply_says_so() -> None:
    stale = replace(MUTANTS[0], old="text that is not there")
    with pytest.raises(ValueError, match="does not apply"), planted(stale):
        pass
