"""Slack: when a job that waits is told it will start, and when it does. Ours beside Slurm's, on the same 200 jobs.

`python -m benchmarks.slack FILE` takes up to 20 minutes, most of them asleep, and writes what it saw into the file;
`python -m benchmarks.slack --table FILE` prints the table of docs/queues-measured.md from it. Needs root, as Slurm's
daemons do.

Both run real processes on this machine at the same time. Slurm has its backfill with the finest steps that it takes,
and is asked once a second, as `squeue --start` asks. A minute stands for an hour, since Slurm counts limits in minutes.
What does not shrink with that weighs more than it would: the second between two passes of Slurm, and with ours the 10 s
of grace and the 15 s for grants and ends that a promise has for each lease before it. So the last column has the same
jobs in hours, through our placement alone.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks import slurm
from benchmarks.harness import until
from benchmarks.jobs import managed, this_machine
from cumulus import log
from cumulus.apply.apply import apply
from cumulus.clock import SystemClock
from cumulus.manifest import load_text
from cumulus.resources.key import Key
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition
from cumulus.resources.quantity import Share
from cumulus.resources.query import Query
from cumulus.resources.queue import Queue
from cumulus.resources.queue_usage import QueueUsage
from cumulus.scheduling.forecast import expected_starts
from cumulus.scheduling.snapshot import build
from cumulus.service.placement import policies
from cumulus.store.base import Store
from cumulus.store.client import decode
from cumulus.store.sqlite import SqliteStore
from tests.scheduling.queueing import NOW, Cluster, Job, a_queue

JOBS = 200
SLOTS = 24
ARRIVE_SECONDS = 720.0
LONGEST = 1500.0
ASKED_EVERY = 1.0
URGENT = 10
"""The priority of one job in ten: it goes first of those that wait."""
FINEST = "sched_min_interval=0,batch_sched_delay=0,bf_interval=1,bf_resolution=1,bf_continue,bf_max_job_test=500"


@dataclass(frozen=True)
class Task:
    """A program that asks for `slots` of 24 for `minutes`, and runs for `seconds`."""

    name: str
    slots: int
    minutes: int
    seconds: float
    priority: int
    arrives: float


@dataclass
class Seen:
    """What somebody saw of one task, in seconds from the trace's beginning."""

    name: str
    submitted: float | None = None
    started: float | None = None
    told: list[tuple[float, float]] = field(default_factory=list)
    """When which start was told: each new one."""
    expected: float | None = None
    """With ours: the start that was expected at the first telling, from how early such jobs ended before."""

    def tell(self, now: float, start: float) -> None:
        if not self.told or abs(self.told[-1][1] - start) >= 1:
            self.told.append((now, start))


def trace(seed: int = 17) -> list[Task]:
    """200 jobs that ask for more than there is for most of the time, and need a fifth to nineteen twentieths of it."""
    dice = random.Random(seed)
    arrivals = sorted(dice.uniform(0, ARRIVE_SECONDS) for _ in range(JOBS))
    made = []
    for number, at in enumerate(arrivals):
        minutes = dice.choice((1, 1, 1, 2, 2, 3, 4))
        part = dice.uniform(0.2, 0.95)
        made.append(
            Task(
                f"j{number:03}", dice.choice((1, 1, 1, 1, 1, 2, 2, 4)), minutes, round(60 * minutes * part, 1),
                URGENT if dice.random() < 0.1 else 0, round(at, 1),
            )
        )  # fmt: skip
    return made


def measure() -> dict[str, dict[str, Seen]]:
    """Both at the same time, and the placement alone."""
    tasks = trace()
    seen = {side: {task.name: Seen(task.name) for task in tasks} for side in ("slurm", "shared", "ours", "hours")}
    _in_hours(tasks, seen["hours"])
    begin = time.time() + 40
    failed: list[BaseException] = []

    def guarded(side: Callable[[list[Task], dict[str, Seen], float], None], found: dict[str, Seen]) -> None:
        try:
            side(tasks, found, begin)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=guarded, args=(side, seen[name])) for name, side in PLAYED.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return seen


def _play(
    tasks: Iterable[Task], begin: float, submit: Callable[[Task], None], look: Callable[[float], int], done: int
) -> None:
    """Submit each in time, and look about once a second until `done` have started. The clock is the wall's."""
    left = sorted(tasks, key=lambda task: -task.arrives)
    while True:
        now = time.time() - begin
        while left and left[-1].arrives <= now:
            submit(left.pop())
        if look(now) >= done:
            return
        if now > LONGEST:
            raise TimeoutError(f"{look(now)} of {done} started within {LONGEST:g} s")
        time.sleep(max(0.05, ASKED_EVERY - (time.time() - begin - now)))


def _slurm(tasks: list[Task], seen: dict[str, Seen], begin: float) -> None:
    """Nodes of one slot each. What its backfill keeps for one that waits is whole nodes."""
    _slurm_of(tasks, seen, begin, nodes=SLOTS)


def _shared_node(tasks: list[Task], seen: dict[str, Seen], begin: float) -> None:
    """One node that jobs share, as a GPU would be."""
    _slurm_of(tasks, seen, begin, nodes=1)


def _slurm_of(tasks: list[Task], seen: dict[str, Seen], begin: float, *, nodes: int) -> None:
    with slurm.cluster(SLOTS // nodes, FINEST, nodes) as env:
        size = ["-n", "1", "-c"] if nodes == 1 else ["-N"]

        def submit(task: Task) -> None:
            # Without a priority, Slurm's own falls from 4294901760 on, one a job.
            command = [
                "sbatch", "-Q", "-J", task.name, *size, str(task.slots), "-t", str(task.minutes), "-o",
                "/dev/null", f"--priority={2_000_000 * (1 + task.priority) - int(task.name[1:])}",
                "--wrap", f"sleep {task.seconds}",
            ]  # fmt: skip
            subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
            seen[task.name].submitted = time.time() - begin

        def look(now: float) -> int:
            # %S is the start: of those that wait the expected one, as `squeue --start` has it.
            found = subprocess.run(
                ["squeue", "-h", "-t", "all", "-o", "%j %t %S"], env=env, capture_output=True, text=True, check=True
            )
            for line in found.stdout.splitlines():
                name, state, start = line.split()
                if start == "N/A":
                    continue
                at = datetime.fromisoformat(start).timestamp() - begin
                if state == "PD":
                    seen[name].tell(time.time() - begin, at)
                elif seen[name].started is None:
                    seen[name].started = at
            return sum(each.started is not None for each in seen.values())

        _play(tasks, begin, submit, look, len(tasks))
        subprocess.run(["scancel", "-u", "root"], env=env, check=True)


JOB = """
apiVersion: cumulus.dev/v1alpha1
kind: GPUJob
metadata: {{name: {name}}}
spec:
  command: [sleep, "{seconds}"]
  priority: {priority}
  gpu: {{memory: {slots}Mi, duration: {minutes}m}}
"""

QUEUE = """
apiVersion: cumulus.dev/v1alpha1
kind: Queue
metadata: {name: default}
"""


def _ours(tasks: list[Task], seen: dict[str, Seen], begin: float) -> None:
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        store = SqliteStore(home / "store")
        with (
            closing(store), this_machine(home, SLOTS) as (backend, agent),
            managed(store, [backend], [agent]),
        ):  # fmt: skip
            apply(store, load_text(QUEUE))
            _play(
                tasks, begin, lambda task: _apply(store, task, seen, begin),
                lambda now: _look(store, home, seen, begin), len(tasks),
            )  # fmt: skip
            for task in tasks:
                store.delete(Key("GPUJob", "default", task.name))
            until(lambda: not store.list(Query(GPUPartition.KIND)).items, seconds=120, what="all leases are over")


def _apply(store: Store, task: Task, seen: dict[str, Seen], begin: float) -> None:
    apply(store, load_text(JOB.format(**asdict(task))))
    seen[task.name].submitted = time.time() - begin


def _look(store: Store, home: Path, seen: dict[str, Seen], begin: float) -> int:
    documents = store.list(Query(GPUPartition.KIND)).items
    partitions = [decode(GPUPartition, document) for document in documents]
    fresh = []
    for partition in partitions:
        name = partition.metadata.name.split("-")[0]
        found, status = seen[name], partition.status
        if found.started is None and status.activated_at:
            found.started = datetime.fromisoformat(status.activated_at).timestamp() - begin
        elif found.started is None and status.promise is not None:
            if not found.told:
                fresh.append(found)
            found.tell(time.time() - begin, datetime.fromisoformat(status.promise.start_by).timestamp() - begin)
    if fresh:
        _expect(store, home, partitions, fresh, begin)
    return sum(each.started is not None for each in seen.values())


def _expect(store: Store, home: Path, partitions: list[GPUPartition], fresh: list[Seen], begin: float) -> None:
    def read(kind: Any) -> list[Any]:
        return [decode(kind, document) for document in store.list(Query(kind.KIND)).items]

    snapshot = build(read(GPUNode), partitions, SystemClock().now())
    expected = expected_starts(snapshot, policies(home, read(Queue), read(QueueUsage), (), snapshot))
    for found in fresh:
        for gang, at in expected.items():
            if gang.startswith(f"default/{found.name}-"):
                found.expected = at.timestamp() - begin


def _in_hours(tasks: list[Task], seen: dict[str, Seen]) -> None:
    """A minute is an hour, so that seconds weigh as little as they do where people wait for hours."""
    size = 80 * 2**30 // SLOTS
    cluster = Cluster([a_queue("default")])
    cluster.submit(
        *(
            Job(
                task.name, memory=Share(size=task.slots * size), seconds=task.minutes * 3600.0,
                uses=task.seconds / (task.minutes * 60), priority=task.priority, arrives=task.arrives * 60,
            )
            for task in tasks
        )
    )  # fmt: skip
    cluster.run()
    for name, job in cluster.jobs.items():
        found = seen[name]
        assert job.bound is not None
        found.submitted, found.started = job.arrives / 60, job.bound / 60
        for now, start in job.promises:
            found.tell(now / 60, (start - NOW).total_seconds() / 60)


PLAYED: dict[str, Callable[[list[Task], dict[str, Seen], float], None]] = {
    "slurm": _slurm, "shared": _shared_node, "ours": _ours,
}  # fmt: skip
WAITED = 10.0
"""Who waits for less has not waited."""
LATE = 5.0
"""Seconds: what starts so much later than it was told is late. Both are looked at once a second."""
SIDES = (
    ("slurm", "Slurm, nodes of one slot"), ("shared", "Slurm, a node that jobs share"), ("ours", "ours, `startBy`"),
    ("expected", "ours, expected"), ("hours", "ours, `startBy`, in hours"),
)  # fmt: skip


def table(seen: dict[str, dict[str, Seen]]) -> str:
    """In Markdown."""
    seen = seen | {
        "expected": {
            name: Seen(name, each.submitted, each.started, [(each.told[0][0], each.expected)])
            if each.told and each.expected is not None
            else Seen(name, each.submitted, each.started)
            for name, each in seen["ours"].items()
        }
    }
    columns = [_column(list(seen[side].values())) for side, _ in SIDES]
    lines = ["| " + " | ".join(("", *(title for _, title in SIDES))) + " |", "| --- " + "| ---: " * len(SIDES) + "|"]
    lines += ["| " + " | ".join((what, *(column[what] for column in columns))) + " |" for what in columns[0]]
    return "\n".join(lines)


def _column(seen: list[Seen]) -> dict[str, str]:
    waited = [s for s in seen if s.started is not None and s.submitted is not None and s.started - s.submitted > WAITED]
    told = [s for s in waited if s.told]
    at_once = [s for s in told if s.submitted is not None and s.told[0][0] - s.submitted <= LATE]
    first = [(s.started or 0.0) - s.told[0][1] for s in told]
    moved = [s for s in told if any(b - a > LATE for (_, a), (_, b) in zip(s.told, s.told[1:], strict=False))]
    ratios = [
        (s.told[0][1] - s.told[0][0]) / (s.started - s.told[0][0])
        for s in told
        if s.started is not None and s.started - s.told[0][0] > WAITED
    ]
    late = [each for each in first if each > LATE]
    return {
        f"jobs that waited for more than {WAITED:g} s": f"{len(waited)}",
        "median wait": f"{statistics.median((s.started or 0) - (s.submitted or 0) for s in waited):.0f} s",
        "of them told a start": f"{len(told)}",
        f"within {LATE:g} s of their submission": f"{len(at_once)}",
        f"started more than {LATE:g} s later than first told": f"{len(late)}",
        "the latest by": f"{max(late, default=0):.0f} s",
        "were told a later start meanwhile": f"{len(moved)}",
        "median of the told by the real wait": f"{statistics.median(ratios):.2f}",
        "median distance of the told from the real start": f"{statistics.median(map(abs, first)):.0f} s",
        "nine in ten within": f"{sorted(map(abs, first))[int(0.9 * len(first))]:.0f} s",
    }


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--table"]:
        found = json.loads(Path(arguments[1]).read_text())
        print(table({side: {name: Seen(**each) for name, each in some.items()} for side, some in found.items()}))
        return 0
    if len(arguments) != 1 or (missing := slurm.available()):
        print(__doc__ if len(arguments) != 1 else f"error: {missing}", file=sys.stderr)
        return 2
    log.configure(format="json", level="warning")
    seen = measure()
    plain = {side: {name: asdict(each) for name, each in found.items()} for side, found in seen.items()}
    Path(arguments[0]).write_text(json.dumps(plain))
    print(table(seen))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
