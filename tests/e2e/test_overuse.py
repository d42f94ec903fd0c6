"""Overuse on the real daemon, with a stand-in for NVIDIA's library and nvidia-smi."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Machine, manifest, serving
from tests.e2e.test_checkpoints import ROOT
from tests.standin_nvml import StandInNvml
from tests.waiting import eventually

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("e2e-overuse")]

GIB = 2**30
GPU = "GPU-11111111-2222-3333-4444-555555555555"
STEPS = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from cumulus import checkpoint
step = (checkpoint.load_checkpoint() or {{"step": 0}})["step"]
if not step:
    checkpoint.save_checkpoint({{"step": 7}}, step=7)
print("pid", os.getpid(), "step", step, flush=True)
time.sleep(1 if step else 600)
"""


class Gpu:
    def __init__(self, machine: Machine, nvml: StandInNvml) -> None:
        self.machine = machine
        self.nvml = nvml

    def pid(self, job: str) -> int:
        words: str = eventually(lambda: self.machine.run("logs", job).stdout.partition("pid ")[2])
        return int(words.split()[0])

    def job(self, name: str) -> Any:
        return self.machine.get("job", name)["status"]


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpu]:
    place = tmp_path_factory.mktemp("overuse")
    nvml = StandInNvml(place / "nvml", {GPU: 80 * GIB})
    machine = Machine(place / "m")
    machine.env["LD_LIBRARY_PATH"] = str(nvml.directory)
    machine.env["PATH"] = f"{nvml.directory}:{machine.env['PATH']}"
    with serving(machine):
        yield Gpu(machine, nvml)


def test_a_job_over_its_lease_is_ended_and_a_requeue_takes_its_checkpoint(gpu: Gpu) -> None:
    made = manifest("greedy", "", checkpoint={"gracePeriod": "5m"})
    made["spec"]["command"] = [sys.executable, "-c", STEPS]
    gpu.machine.apply(made)
    pid = gpu.pid("greedy")
    gpu.nvml.hold(GPU, {pid: 9 * GIB})
    # Without its grace period, which is longer than this waits.
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    gpu.nvml.hold(GPU, {})
    gpu.machine.ok("wait", "gpujob/greedy", "--for=condition=Succeeded", "--timeout=150s")
    first, *_, last = gpu.job("greedy")["attempts"]
    assert (first["reason"], last["reason"]) == ("Overused", "Completed")
    assert "step 7" in gpu.machine.ok("logs", "greedy")
    eventually(lambda: "Overused" in {event["reason"] for event in gpu.machine.items("events")})


def test_report_keeps_a_job_and_says_so(gpu: Gpu) -> None:
    gpu.machine.apply(manifest("whole", "echo pid $$; sleep 600", memory="100%"))
    pid = gpu.pid("whole")
    gpu.nvml.hold(GPU, {pid: 90 * GIB})
    gpu.machine.ok("wait", "gpujob/whole", "--for=condition=Overused", "--timeout=150s")
    assert gpu.job("whole")["phase"] == "Running"
    shares = json.loads(gpu.machine.ok("get", "gpupartitions", "-o", "json"))["items"]
    assert {share["status"]["overuse"] for share in shares if share["status"]["phase"] == "Active"} == {"Report"}
    gpu.machine.ok("delete", "job", "whole")
