"""`python -m benchmarks.leases [SEED…]`: 600 leases a seed (1, 2 and 3) by the real clock, with one core busy.

Sixty jobs of ten leases of 40 s each. A save takes as long as a log-normal distribution says (sigma 0.5, medians from
0.2 to 5 s), and writes 100 kB durably. How many were whole before the end of their lease? It takes eight minutes.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from cumulus.checkpoint import lease
from cumulus.checkpoint.checkpointer import Checkpointer
from cumulus.checkpoint.settings import Settings

LEASE, GRACE = 40.0, 30.0
JOBS, LEASES = 60, 10
PROCESSES = 2
"""For each seed: the threads of one share an interpreter's lock."""


def main(arguments: Sequence[str]) -> int:
    seeds = [int(word) for word in arguments] or [1, 2, 3]
    parts = [(seed, range(first, JOBS, PROCESSES)) for seed in seeds for first in range(PROCESSES)]
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            with ProcessPoolExecutor(len(parts)) as pool:
                left = [*pool.map(_part, *zip(*parts, strict=True))]
        finally:
            busy.kill()
    for seed in seeds:
        found = [each for (of, _), some in zip(parts, left, strict=True) if of == seed for each in some]
        whole = sum(each >= 0 for each in found)
        print(f"seed {seed}: {whole} of {len(found)} saved in time, {statistics.median(found):.1f} s before the end")
    print("load:", *(f"{each:.1f}" for each in os.getloadavg()))
    return 0


def _part(seed: int, jobs: Sequence[int]) -> list[float]:
    """Seconds that were left when each save was whole; below 0 where it was too late."""
    with (
        tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR") or "/var/tmp") as directory,
        contextlib.redirect_stderr(io.StringIO()),  # Each lease says that it is saved.
        ThreadPoolExecutor(len(jobs)) as pool,
    ):
        found = pool.map(lambda job: _job(Path(directory, str(job)), random.Random(seed * 1000 + job)), jobs)
        return [each for some in found for each in some]


def _job(place: Path, rng: random.Random) -> list[float]:
    median = 0.2 * 25 ** rng.random()
    time.sleep(rng.uniform(0, LEASE))
    return [_lease(place, median * rng.lognormvariate(0, 0.5), rng) for _ in range(LEASES)]


def _lease(place: Path, save: float, rng: random.Random) -> float:
    ends = lease.now() + LEASE
    checkpointer = Checkpointer(Settings(path=str(place), grace=GRACE, deadline=str(ends)))
    while True:
        time.sleep(rng.uniform(0.02, 0.1))
        if not checkpointer.should_checkpoint():
            continue
        with checkpointer.saving(int(lease.now() * 1000)) as directory:
            Path(directory, "x").write_bytes(bytes(100_000))
            time.sleep(save)
        left = ends - lease.now()
        try:
            checkpointer.exit_if_ending()
        except SystemExit:
            return left


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
