"""The whole of it on a real GPU: the daemon, jobs as processes, and leases that hold them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import Any

import pytest

from cumulus.chronos.contract import Device
from tests.e2e.conftest import Machine, manifest

from .conftest import FITS, GIB, HUGE, memory_used, part, until
from .daemon import answers, job

Measured = Callable[[str, object], None]
REFUSED = "CUDA_ERROR_OUT_OF_MEMORY"


def statuses(machine: Machine) -> list[Any]:
    return [found["status"] for found in machine.items("jobs")]


def test_a_job_gets_the_gpu_and_is_held_to_its_share(machine: Machine, gpu: Device) -> None:
    [node] = machine.items("nodes")
    assert node["status"]["devices"][0]["id"] == gpu.id
    assert node["status"]["devices"][0]["enforcement"] == "guarded"
    script = job("alloc", "device", part(gpu, HUGE), "device", part(gpu, FITS))
    machine.apply(manifest("held", script, memory="5%", minEnforcement="guarded"))
    machine.ok("wait", "job", "held", "--for=condition=Succeeded", "--timeout=60s")
    assert [answer["outcome"] for answer in answers(machine, "held")] == [REFUSED, "ok"]


def test_what_no_device_can_enforce_waits_and_says_why(machine: Machine) -> None:
    machine.apply(manifest("hard", "true", minEnforcement="hard"))
    until(lambda: "hard" in machine.ok("why", "hard"), 20)
    assert machine.get("job", "hard")["status"]["phase"] == "Pending"


def test_a_gpu_is_shared_by_two_jobs_and_the_next_waits(machine: Machine, full_rate: float) -> None:
    gpus = len(machine.items("nodes")[0]["status"]["devices"])
    names = [f"job-{number}" for number in range(2 * gpus + 1)]
    machine.apply(*(manifest(name, job("spin", 4), memory="50%", duration="120s") for name in names))
    machine.ok("wait", "job", "--all", "--for=condition=Succeeded", "--timeout=120s")
    for name in names:
        assert answers(machine, name)[-1]["blocks_per_second"] / full_rate == pytest.approx(0.5, abs=0.075)
    *at_once, last = sorted((status["startTime"], status["completionTime"]) for status in statuses(machine))
    first_end = min(end for _, end in at_once)
    assert all(start < first_end for start, _ in at_once), "they ran at once"
    assert last[0] >= first_end, f"the last began before there was room: {at_once}, {last}"


def test_a_job_ends_with_its_lease_and_its_gpu_memory_is_free(
    machine: Machine, gpu: Device, measured: Measured
) -> None:
    script = job("hold", part(gpu, HUGE), 600)
    checkpoint = {"gracePeriod": "1s", "onExpiry": "Fail"}
    machine.apply(manifest("over", script, memory="50%", duration="8s", checkpoint=checkpoint))
    until(lambda: memory_used(gpu) > part(gpu, HUGE), 30)
    [lease] = machine.leases()
    took = until(lambda: memory_used(gpu) < GIB, 30)
    measured("a job's quarter of the memory free after its lease's end, s", f"{took - lease['expiresIn']:.3f}")
    machine.ok("wait", "job", "over", "--for=condition=Failed", "--timeout=30s")
    assert statuses(machine)[0]["attempts"][-1]["reason"] == "LeaseExpired"


def test_pytorch_trains_inside_a_lease(machine: Machine) -> None:
    pytest.importorskip("torch")
    code = (
        "import torch; torch.manual_seed(0); x = torch.randn(4096, 64, device='cuda'); y = x.sum(1, keepdim=True)\n"
        "model = torch.nn.Linear(64, 1, device='cuda'); optimizer = torch.optim.Adam(model.parameters(), 0.05)\n"
        "for step in range(300):\n"
        "    loss = (model(x) - y).square().mean(); optimizer.zero_grad(); loss.backward(); optimizer.step()\n"
        "print({'loss': loss.item()}['loss'] < 0.01)\n"
    )
    machine.apply(manifest("train", shlex.join([sys.executable, "-c", code]), memory="10%", minEnforcement="guarded"))
    machine.ok("wait", "job", "train", "--for=condition=Succeeded", "--timeout=90s")
    assert machine.ok("logs", "train").strip() == "True"
