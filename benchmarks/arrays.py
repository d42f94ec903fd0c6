"""What one step of an array costs its controller: it must not grow with the number of indexes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from benchmarks.harness import Result, in_rounds
from cumulus.controllers.array.plan import plan
from cumulus.resources.index_ranges import Indexes
from cumulus.resources.job import GPUJob, GPUJobStatus
from cumulus.resources.job_array import GPUJobArray
from cumulus.resources.job_phase import JobPhase
from cumulus.store.client import decode

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ROUNDS, STEPS = 9, 20
AT_ONCE = 10
LARGE, SMALL = 100_000, 1_000


def run() -> Iterator[Result]:
    for words, every, goal in (("none failed", 0, 2.0), ("each 100th failed", 100, None)):
        large, small = Case(LARGE, every), Case(SMALL, every)
        sides = [(large.seconds(), small.seconds()) for _ in range(ROUNDS)]
        yield in_rounds(
            f"processor time of a step of an array of {LARGE:,} indexes, half done, {words}",
            [a * 1000 for a, _ in sides], [b * 1000 for _, b in sides],
            unit="ms", peer_name=f"{SMALL:,} indexes", at_most=goal,
        )  # fmt: skip


class Case:
    """An array of which half is done and one job has just ended."""

    def __init__(self, number: int, fails_every: int) -> None:
        half = number // 2
        failed = Indexes.of(range(0, half, fails_every)) if fails_every else Indexes()
        active = range(half, half + AT_ONCE)
        template = {"spec": {"command": ["train"], "gpu": {"memory": "10%", "duration": "1h"}}}
        array = GPUJobArray.model_validate({
            "apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJobArray",
            "metadata": {"name": "sweep", "namespace": "default", "uid": "u"},
            "spec": {"indexes": f"0-{number - 1}", "parallelism": AT_ONCE, "jobTemplate": template},
            "status": {
                "waiting": half - AT_ONCE, "active": str(Indexes.of(active)), "failed": str(failed),
                "succeeded": str(Indexes([(0, half)]) - failed),
            },
        })  # fmt: skip
        self._document = array.to_json()
        self._jobs: dict[int, GPUJob] = {}
        for index in active:
            phase = JobPhase.SUCCEEDED if index == active[0] else JobPhase.RUNNING
            self._jobs[index] = array.job(index).replace(status=GPUJobStatus(phase=phase))

    def seconds(self) -> float:
        """Processor time of one step, as the controller takes it: read, plan, and what is to be written."""
        return statistics.median(self._step() for _ in range(STEPS))

    def _step(self) -> float:
        began = time.process_time()
        array = decode(GPUJobArray, self._document)
        wanted = plan(array, self._jobs, NOW)
        array.replace(status=wanted.status).to_json()
        took = time.process_time() - began
        assert len(wanted.create) == 1
        return took
