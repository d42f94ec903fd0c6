"""A training in PyTorch on a quarter of a real GPU, in leases that are far too short for it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gangs import WITHOUT_MULTICAST
from cumulus.checkpoint import layout
from cumulus.chronos.contract import Device
from tests.e2e.conftest import Machine, manifest

from .test_several import gpus

__all__ = ["gpus"]

ROOT = Path(__file__).parents[2]
EPOCHS = 500
Measured = Callable[[str, object], None]


def training(name: str, path: Path, duration: str, **spec: Any) -> dict[str, Any]:
    program = [sys.executable, str(ROOT / "examples" / "train_pytorch.py"), str(EPOCHS)]
    return manifest(
        name, f"exec {shlex.join(program)}", memory="25%", duration=duration, minEnforcement="guarded",
        env=[{"name": "PYTHONPATH", "value": str(ROOT)}, {"name": "CUBLAS_WORKSPACE_CONFIG", "value": ":4096:8"}],
        checkpoint={"path": str(path), "gracePeriod": "5s"}, **spec,
    )  # fmt: skip


def done(machine: Machine, name: str) -> str:
    [line] = [line for line in machine.ok("logs", name).splitlines() if line.startswith("done:")]
    return line


@pytest.mark.timeout(600)
def test_it_reaches_the_weights_of_a_training_in_one_lease(
    machine: Machine, tmp_path: Path, measured: Measured
) -> None:
    pytest.importorskip("torch", reason="NOT TESTED: PyTorch is not installed")
    machine.apply(training("whole", tmp_path / "whole", "300s"))
    machine.ok("wait", "job", "whole", "--for=condition=Succeeded", "--timeout=150s", timeout=160)
    machine.apply(training("cut", tmp_path / "cut", "25s"))
    machine.ok("wait", "job", "cut", "--for=condition=Succeeded", "--timeout=240s", timeout=250)
    attempts = machine.get("job", "cut")["status"]["attempts"]
    assert [attempt["reason"] for attempt in attempts] == ["Saved"] * (len(attempts) - 1) + ["Completed"]
    assert len(attempts) >= 3, json.dumps(attempts)
    assert done(machine, "cut") == done(machine, "whole")
    found = layout.newest(str(tmp_path / "cut"))
    assert found is not None
    measured("leases of 25 s that the training took", len(attempts))
    measured("its last checkpoint: step, bytes, seconds", (found.step, found.manifest.size, found.manifest.seconds))


@pytest.mark.timeout(300)
def test_a_gang_over_two_gpus_saves_shards_that_one_program_reads(
    gpus: list[Device], machine: Machine, tmp_path: Path
) -> None:
    """torch.distributed.checkpoint: each replica writes what its GPU has; a job of one reads all."""
    pytest.importorskip("torch", reason="NOT TESTED: PyTorch is not installed")
    program = ROOT / "tests" / "checkpoint" / "adapters" / "distributed_program.py"
    env = [{"name": name, "value": value} for name, value in WITHOUT_MULTICAST.items()]
    env += [{"name": "PYTHONPATH", "value": str(ROOT)}, {"name": "OMP_NUM_THREADS", "value": "1"}]
    alone = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    for name, words, replicas in (("two", [str(program), "sharded"], 2), ("one", [*alone, str(program), "reshard"], 1)):
        script = f"exec {shlex.join([sys.executable, *words])}"
        spec = manifest(
            name, script, memory="60%", replicas=replicas, env=env, checkpoint={"path": str(tmp_path / "l1")}
        )
        machine.apply(spec)
        done = machine.run("wait", "job", name, "--for=condition=Succeeded", "--timeout=120s", timeout=130)
        assert done.returncode == 0, machine.run("logs", name, "--replica", "0").stdout[-3000:]
