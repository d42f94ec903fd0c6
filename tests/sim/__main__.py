"""`python -m tests.sim`: run seeds on all cores, replay one, or show that planted bugs are found."""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from itertools import count

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tests.sim import known, mutants, report
from tests.sim.check import KINDS, check, check_schedule
from tests.sim.near import near
from tests.sim.shrink import shrink
from tests.sim.simulation import Outcome

BATCH = 20
"""Seeds that a process takes at once."""
SHOWN = 3
"""Failures after which it stops."""
HANGS = 900
"""Seconds after which a seed, which takes one or two, stands still: that ends the run, and says where."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run (1000)")
    parser.add_argument("--start", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one a core)")
    parser.add_argument("--replay", type=int, metavar="SEED", help="run that seed, and print what happened")
    parser.add_argument("--whole", action="store_true", help="with --replay: do not shrink the schedule first")
    parser.add_argument("--mutants", action="store_true", help="plant each known bug, and tell which seed finds it")
    parser.add_argument("--within", type=int, default=5000, help="with --mutants: seeds to try for each (5000)")
    parser.add_argument("--near", metavar="BUG", help="find a schedule near its own in known.py that shows the bug now")
    parser.add_argument("--kind", choices=KINDS, help="schedules of that kind alone: both, or jobs with --replay")
    given = parser.parse_args()
    if given.replay is not None:
        return _replay(given.replay, given.kind or "jobs", whole=given.whole)
    if given.near is not None:
        print(near(given.near, given.seeds) or "none was found: try more --seeds")
        return 0
    if given.mutants:
        return _mutants(given.within, given.jobs)
    seeds = range(given.start, given.start + given.seeds)
    return max(_seeds(seeds, kind, given.jobs) for kind in ([given.kind] if given.kind else KINDS))


def _seeds(seeds: range, kind: str, jobs: int) -> int:
    began, failed, done = time.monotonic(), 0, 0
    with _progress(f"seeds of {kind}", len(seeds)) as advance, ProcessPoolExecutor(jobs) as pool:
        batches = [seeds[start : start + BATCH] for start in range(0, len(seeds), BATCH)]
        for size, bad in pool.map(partial(_batch, kind), batches):
            done += size
            advance(size)
            for outcome in bad:
                failed += 1
                _explain(outcome, kind)
            if failed >= SHOWN:
                pool.shutdown(cancel_futures=True)
                break
    took = time.monotonic() - began
    print(f"{done} seeds of {kind} in {took:.0f} s, {done / took:.1f} a second; {failed or 'none'} failed")
    return 1 if failed else 0


def _batch(kind: str, seeds: Iterable[int]) -> tuple[int, list[Outcome]]:
    outcomes = []
    for seed in seeds:
        faulthandler.dump_traceback_later(HANGS, exit=True)
        outcomes.append(check(seed, kind))
    faulthandler.cancel_dump_traceback_later()
    return len(outcomes), [outcome for outcome in outcomes if outcome.violation]


def _explain(outcome: Outcome, kind: str) -> None:
    """Print a failure: the seed, the least schedule that fails alike, and its timeline."""
    print(f"\nseed {outcome.seed} of {kind} fails: {outcome.violation}")
    print(f"replay it with: python -m tests.sim --kind {kind} --replay {outcome.seed}")
    schedule = KINDS[kind](outcome.seed)
    least = shrink(schedule, outcome.violation)
    print(f"shrunk from {len(schedule.actions)} actions and {len(schedule.faults)} faults:")
    for line in report.schedule_lines(least):
        print(line)
    for line in report.timeline_lines(check_schedule(least)):
        print(line)


def _replay(seed: int, kind: str, *, whole: bool) -> int:
    outcome = check(seed, kind)
    if outcome.violation and not whole:
        _explain(outcome, kind)
        return 1
    for line in report.schedule_lines(KINDS[kind](seed)):
        print(line)
    for line in report.timeline_lines(outcome):
        print(line)
    print(f"{outcome.steps} steps, trace {outcome.digest}: {outcome.violation or 'nothing is wrong'}")
    return 1 if outcome.violation else 0


def _mutants(within: int, jobs: int) -> int:
    missed = 0
    with ProcessPoolExecutor(jobs) as pool:
        hunts = {pool.submit(mutants.hunt, mutant.name, within): mutant for mutant in mutants.MUTANTS}
        for hunt in as_completed(hunts):
            mutant, outcome = hunts[hunt], hunt.result()
            said = f"found after {outcome.seed + 1} seeds: {outcome.violation}" if outcome else f"not in {within} seeds"
            if mutant.name in known.FOUND:
                with mutants.planted(mutant):
                    shown = check_schedule(known.FOUND[mutant.name][0]).violation
                said += f"; its own schedule: {shown or 'NOT FOUND'}"
                missed += not shown
            else:
                missed += outcome is None
            print(f"{mutant.name}: {mutant.says}\n    {said}", flush=True)
    return 1 if missed else 0


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, a line now and then elsewhere."""
    console = Console()
    if console.is_terminal:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(what, total=total)
            yield lambda size: progress.advance(task, size)
        return
    counter, each = count(1), max(1, total // BATCH // 20)

    def advance(size: int) -> None:
        number = next(counter)
        if number % each == 0:
            print(f"{min(total, number * BATCH)} of {total} {what}", flush=True)

    yield advance


if __name__ == "__main__":
    sys.exit(main())
