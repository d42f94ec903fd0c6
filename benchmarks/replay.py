"""A replay of a public trace: how much of the GPUs is used and how long jobs wait, first come first served, with EASY
backfill, and with our placement and queues.

`python -m benchmarks.replay TRACE` prints the table of docs/queues-measured.md and draws its plot. TRACE is a CSV file
with the columns timestamp, duration, num_gpus and cluster, one job a row, as the simulators of Pollux and Sia have
Microsoft's Philly trace (`philly.csv`), or a log in the Standard Workload Format (`.swf`). No trace is shipped: that
one names no licence.

The trace says how long jobs ran, not what they asked for. So each asks for 1.1 to 3 times its run time, by chance, in
quarters of an hour: the same for all. The two references count GPUs; ours is the scheduler's own code, on nodes of 8.
"""

from __future__ import annotations

import csv
import heapq
import math
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from xml.sax.saxutils import escape

from tests.scheduling.queueing import Cluster, Job, a_queue

NODES, DEVICES = 10, 8
GPUS = NODES * DEVICES
CLUSTERS = ("103959", "0e4a51", "7f04ca", "2869ce", "ed69ec")
"""Five of the trace's virtual clusters: groups of people."""
BEGIN, DAYS = datetime(2017, 11, 20), 14
QUARTER = 900.0
PLOT = Path(__file__).parents[1] / "docs" / "replay.svg"


@dataclass(frozen=True)
class Task:
    """A job of the trace. Times are in seconds from the first one's arrival."""

    name: str
    group: str
    gpus: int
    arrives: float
    runs: float
    asks: float


Starts = dict[str, float]


def philly(file: Path) -> Iterator[tuple[datetime, float, int, str]]:
    with open(file, newline="") as rows:
        for row in csv.DictReader(rows):
            at = datetime.fromisoformat(row["timestamp"])
            if row["cluster"] in CLUSTERS and BEGIN <= at < BEGIN + timedelta(days=DAYS):
                yield at, float(row["duration"]), int(float(row["num_gpus"])), row["cluster"]


def swf(file: Path) -> Iterator[tuple[datetime, float, int, str]]:
    """The fields 2, 4, 5 and 13 of a line: submission, run time, processors, group."""
    for line in file.read_text().splitlines():
        fields = line.split()
        if fields and not fields[0].startswith(";") and float(fields[3]) > 0:
            at = BEGIN + timedelta(seconds=float(fields[1]))
            if at < BEGIN + timedelta(days=DAYS):
                yield at, float(fields[3]), min(GPUS, int(fields[4])), fields[12]


def tasks(file: Path) -> list[Task]:
    dice = random.Random(2017)
    found = sorted((swf if file.suffix == ".swf" else philly)(file))
    made = []
    for number, (at, runs, gpus, group) in enumerate(found):
        asks = math.ceil(max(60.0, runs) * dice.uniform(1.1, 3) / QUARTER) * QUARTER
        made.append(Task(f"j{number:05}", group, gpus, (at - found[0][0]).total_seconds(), max(1.0, runs), asks))
    return made


def first_come(jobs: Sequence[Task]) -> Starts:
    """Nobody starts before who came earlier."""
    return _counted(jobs, lambda waiting, running, free, now: [])


def easy(jobs: Sequence[Task]) -> Starts:
    """EASY backfill (Lifka 1995): a later one starts before the first that waits where it does not delay it."""

    def backfilled(waiting: Sequence[Task], running: Sequence[tuple[float, int]], free: int, now: float) -> list[Task]:
        first, room, shadow = waiting[0], free, now
        for ends, gpus in sorted(running):
            room += gpus
            if room >= first.gpus:
                shadow = ends
                break
        spare = room - first.gpus
        found = []
        for task in waiting[1:]:
            if task.gpus > free:
                continue
            over = now + task.asks <= shadow
            if over or task.gpus <= spare:
                free -= task.gpus
                spare -= 0 if over else task.gpus
                found.append(task)
        return found

    return _counted(jobs, backfilled)


Backfill = Callable[[Sequence[Task], Sequence[tuple[float, int]], int, float], list[Task]]


def _counted(jobs: Sequence[Task], backfill: Backfill) -> Starts:
    """A cluster of which only the GPUs that are free are known."""
    arrivals = sorted(jobs, key=lambda task: -task.arrives)
    ends: list[tuple[float, str, float, int]] = []
    waiting: list[Task] = []
    starts: Starts = {}
    free = GPUS
    while arrivals or ends:
        now = min([*(task.arrives for task in arrivals[-1:]), *(end[0] for end in ends[:1])])
        while ends and ends[0][0] <= now:
            free += heapq.heappop(ends)[3]
        while arrivals and arrivals[-1].arrives <= now:
            waiting.append(arrivals.pop())

        def start(task: Task, now: float = now) -> None:
            starts[task.name] = now
            heapq.heappush(ends, (now + task.runs, task.name, now + task.asks, task.gpus))

        while waiting and waiting[0].gpus <= free:
            free -= waiting[0].gpus
            start(waiting.pop(0))
        if waiting and free:
            for task in backfill(waiting, [(end[2], end[3]) for end in ends], free, now):
                free -= task.gpus
                waiting.remove(task)
                start(task)
    return starts


def ours(jobs: Sequence[Task], *, queues: bool) -> tuple[Starts, Cluster]:
    """With one queue for all, or with one of equal weight for each group."""
    groups = sorted({task.group for task in jobs}) if queues else []
    cluster = Cluster([a_queue("default"), *(a_queue(f"q{group}") for group in groups)], NODES, devices=DEVICES)
    cluster.submit(
        *(
            Job(
                task.name, queue=f"q{task.group}" if queues else "", seconds=task.asks, uses=task.runs / task.asks,
                replicas=task.gpus, arrives=task.arrives,
            )
            for task in jobs
        )
    )  # fmt: skip
    cluster.run()
    return {name: job.bound for name, job in cluster.jobs.items() if job.bound is not None}, cluster


def used(jobs: Sequence[Task], starts: Starts, end: float) -> float:
    """The part of all GPUs that is in use until then."""
    seconds = sum(max(0.0, min(end, starts[t.name] + t.runs) - min(end, starts[t.name])) * t.gpus for t in jobs)
    return seconds / (GPUS * end)


def _column(jobs: Sequence[Task], starts: Starts) -> dict[str, str]:
    waits = {task.name: starts[task.name] - task.arrives for task in jobs}
    ordered = sorted(waits.values())
    slow = [max(1.0, (waits[task.name] + task.runs) / max(600.0, task.runs)) for task in jobs]
    found = {
        "GPUs in use while jobs came": f"{100 * used(jobs, starts, jobs[-1].arrives):.1f} %",
        "the last job ended after": f"{max(starts[t.name] + t.runs for t in jobs) / 86400:.1f} d",
        "mean wait": _hours(statistics.mean(ordered)),
        "median wait": _hours(statistics.median(ordered)),
        "nine in ten waited less than": _hours(ordered[int(0.9 * len(ordered))]),
        "longest wait": _hours(ordered[-1]),
        "mean of (wait + run) / run, runs of at least 10 min": f"{statistics.mean(slow):.1f}",
    }
    for group in sorted({task.group for task in jobs}):
        mine = [task for task in jobs if task.group == group]
        hours = sum(task.gpus * task.runs for task in mine) / 3600
        found[f"mean wait of group {group}: {len(mine)} jobs, {hours:,.0f} GPU-hours"] = _hours(
            statistics.mean(waits[task.name] for task in mine)
        )
    return found


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h"


def _promised(cluster: Cluster) -> str:
    told = [job for job in cluster.jobs.values() if job.promises]
    return f"{len(cluster.late)} of {len(told)}"


_COLOURS = ("#888888", "#b3392f", "#2a5f9e", "#2a7f62")
_WIDTH, _HEIGHT, _LEFT, _TOP = 640, 320, 60, 30
_TICKS = ((60.0, "1 min"), (600.0, "10 min"), (3600.0, "1 h"), (36_000.0, "10 h"), (360_000.0, "100 h"))


def draw(jobs: Sequence[Task], sides: dict[str, Starts]) -> str:
    """An SVG: the part of the jobs that waited for at most so long."""
    most = math.log10(_TICKS[-1][0] / _TICKS[0][0])

    def x(seconds: float) -> float:
        return _LEFT + _WIDTH * min(1.0, max(0.0, math.log10(max(1.0, seconds) / _TICKS[0][0]) / most))

    def y(part: float) -> float:
        return _TOP + _HEIGHT * (1 - part)

    body = []
    for seconds, words in _TICKS:
        body.append(f'<line x1="{x(seconds):g}" y1="{_TOP}" x2="{x(seconds):g}" y2="{y(0):g}" stroke="#ddd"/>')
        body.append(f'<text x="{x(seconds):g}" y="{y(0) + 16:g}" text-anchor="middle">{words}</text>')
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        body.append(f'<line x1="{_LEFT}" y1="{y(part):g}" x2="{_LEFT + _WIDTH}" y2="{y(part):g}" stroke="#ddd"/>')
        body.append(f'<text x="{_LEFT - 8}" y="{y(part) + 4:g}" text-anchor="end">{part:.0%}</text>')
    for number, (colour, (name, starts)) in enumerate(zip(_COLOURS, sides.items(), strict=True)):
        waits = sorted(starts[task.name] - task.arrives for task in jobs)
        points = [(x(waits[int(n / 200 * (len(waits) - 1))]), y(n / 200)) for n in range(201)]
        line = " ".join(f"{left:.1f},{top:.1f}" for left, top in points)
        body.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        top = y(0) - 12 - 18 * (len(sides) - 1 - number)
        body.append(
            f'<text x="{_LEFT + _WIDTH - 8}" y="{top:g}" fill="{colour}" text-anchor="end">{escape(name)}</text>'
        )
    title = f"the part of {len(jobs):,} jobs that waited for at most so long, on {GPUS} GPUs"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH + _LEFT + 40}" height="{_HEIGHT + _TOP + 30}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>', f'<text x="{_LEFT}" y="18">{title}</text>', *body, "</svg>",
    ]) + "\n"  # fmt: skip


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        print(__doc__, file=sys.stderr)
        return 2
    jobs = tasks(Path(arguments[0]))
    one, promises = ours(jobs, queues=False)
    each, fair = ours(jobs, queues=True)
    sides = {
        "first come, first served": first_come(jobs), "EASY backfill": easy(jobs), "ours, one queue": one,
        "ours, a queue for each group": each,
    }  # fmt: skip
    columns = [_column(jobs, starts) for starts in sides.values()]
    late = "started after its promise, of those that had one"
    for column, words in zip(columns, ("", "", _promised(promises), _promised(fair)), strict=True):
        column[late] = words
    print(f"{len(jobs)} jobs of {len({task.group for task in jobs})} groups, {GPUS} GPUs\n")
    print("| | " + " | ".join(sides) + " |\n| --- " + "| ---: " * len(sides) + "|")
    for what in columns[0]:
        print(f"| {what} | " + " | ".join(column[what] for column in columns) + " |")
    PLOT.write_text(draw(jobs, sides))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
