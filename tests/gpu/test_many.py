"""Many jobs: 20 at once on one GPU, and 40 one after the other beside the same programs by themselves."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from cumulus.chronos.contract import Device
from tests.e2e.conftest import Machine, manifest

from .conftest import FITS, HERE, HUGE, part
from .daemon import answers, job

Measured = Callable[[str, object], None]
REFUSED = "CUDA_ERROR_OUT_OF_MEMORY"
AT_ONCE, SHARE = 20, "5%"
IN_A_ROW, SECONDS = 40, "2"


@pytest.mark.timeout(300)
def test_twenty_jobs_of_5_percent_run_at_once(
    machine: Machine, gpu: Device, full_rate: float, measured: Measured
) -> None:
    names = [f"job-{number}" for number in range(AT_ONCE)]
    script = job("alloc", "device", part(gpu, HUGE), "device", part(gpu, FITS)).removeprefix("exec ")
    machine.apply(*(manifest(name, f"{script}; {job('spin', 10)}", memory=SHARE) for name in names))
    machine.ok("wait", "job", "--all", "--for=condition=Succeeded", "--timeout=200s", timeout=210)
    found = {name: answers(machine, name) for name in names}
    assert all([answer["outcome"] for answer in said[:2]] == [REFUSED, "ok"] for said in found.values()), found
    spans = [(job["status"]["startTime"], job["status"]["completionTime"]) for job in machine.items("jobs")]
    together = max(start for start, _ in spans) < min(end for _, end in spans)
    rates = sorted(said[-1]["blocks_per_second"] / full_rate for said in found.values())
    measured(f"{AT_ONCE} jobs of {SHARE}, all at once: {together}; part of the GPU's rate", (rates[0], rates[-1]))
    assert together


@pytest.mark.slow
@pytest.mark.timeout(580)
def test_forty_jobs_in_a_row_take_little_longer_than_forty_programs(
    machine: Machine, gpu: Device, measured: Measured
) -> None:
    """Each has a whole GPU, and another job keeps the other GPUs, where there are any."""
    others = len(machine.items("nodes")[0]["status"]["devices"]) - 1
    if others:
        machine.apply(manifest("keeps", "sleep 3600", memory="100%", replicas=others))
        machine.ok("wait", "job", "keeps", "--for=condition=Running", "--timeout=60s")
    program = [sys.executable, "-S", str(HERE / "job.py"), "spin", SECONDS]
    began = time.monotonic()
    for _ in range(IN_A_ROW):
        subprocess.run(program, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    bare = time.monotonic() - began
    names = [f"row-{number}" for number in range(IN_A_ROW)]
    script = f"exec {shlex.join(program)} </dev/null"
    began = time.monotonic()
    machine.apply(*(manifest(name, script, memory="100%", duration="60s") for name in names))
    waiting = ("--for=condition=Succeeded", "--timeout=300s")
    machine.ok("wait", *(f"job/{name}" for name in names), *waiting, timeout=310)
    ours = time.monotonic() - began
    spans = sorted(
        (found["status"]["startTime"], found["status"]["completionTime"])
        for found in machine.items("jobs")
        if found["metadata"]["name"] in names
    )
    measured(f"{IN_A_ROW} in a row, s: programs alone, jobs", (f"{bare:.1f}", f"{ours:.1f}", f"{ours / bare:.3f}"))
    measured("the first and last of them", (spans[0], spans[-1]))
    assert all(end <= start for (_, end), (start, _) in pairwise(spans)), "one after the other"
    assert ours <= 1.1 * bare
