"""`python -m benchmarks.gangs`: an all-reduce of 1 GiB over the GPUs of this machine, by NCCL: as a gang of replicas
with a whole GPU each, as one job with all of them under torchrun, and without Cumulus, in one run.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.harness import LeftOut, Result, at_least, machine, running, until
from cumulus.chronos import monitor_control
from cumulus.chronos.device import discover
from tests.commands import CUMULUS

PROGRAM = str(Path(__file__).with_name("all_reduce.py"))
WITHOUT_MULTICAST = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NVSHMEM_DISABLE_NVLS": "1"}
"""NVLink's multicast needs rights of its own."""
ROUNDS = 3
GOAL = 0.98


def run() -> Iterator[Result]:
    what = "all-reduce of 1 GiB over"
    gpus = sum(device.id.startswith("GPU-") for device in discover())
    if gpus < 2:
        yield LeftOut(f"{what} several GPUs", f"there are {gpus} NVIDIA GPUs")
        return
    sides: dict[str, list[float]] = {"bare": [], "gang": [], "job": []}
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(Path(directory))
        with running([CUMULUS, "serve"], log=Path(directory) / "daemon.log", env=cluster.env):
            cluster.ask("wait", "node", "--all", "--for=condition=Ready", "--timeout=60s")
            measure: dict[str, Callable[[int], float]] = {"bare": bare, "gang": cluster.gang, "job": cluster.job}
            for number in range(ROUNDS):
                for name in list(sides)[:: -1 if number % 2 else 1]:
                    sides[name].append(measure[name](gpus))
        until(
            lambda: monitor_control.running(Path(directory) / "chronos") is None, seconds=60, what="the monitor ended"
        )
    medians = {name: statistics.median(found) for name, found in sides.items()}
    for name, words in (
        ("gang", f"a gang of {gpus} replicas with a whole GPU each"),
        ("job", f"one job of {gpus} GPUs"),
    ):
        yield at_least(
            f"{what} {gpus} GPUs, {words}", medians[name], medians["bare"], GOAL, unit="GB/s",
            peer_name="torchrun without Cumulus", note=", ".join(f"{rate:.0f}" for rate in sides[name]),
        )  # fmt: skip


def torchrun(gpus: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}", PROGRAM]


def bare(gpus: int) -> float:
    done = subprocess.run(
        torchrun(gpus), env={**os.environ, **WITHOUT_MULTICAST}, capture_output=True, text=True, check=True
    )
    return rate(done.stdout)


def rate(output: str) -> float:
    """GB/s, as the program printed it."""
    return float(next(json.loads(line) for line in output.splitlines() if line.startswith("{"))["gb_per_second"])


def manifest(name: str, command: list[str], replicas: int, count: int, **variables: str) -> dict[str, Any]:
    """A job with whole GPUs."""
    env = [{"name": name, "value": value} for name, value in {**WITHOUT_MULTICAST, **variables}.items()]
    return {
        "apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "metadata": {"name": name},
        "spec": {
            "command": command, "replicas": replicas, "env": env,
            "gpu": {"memory": "100%", "count": count, "duration": "10m"},
        },
    }  # fmt: skip


class Cluster:
    """A daemon with state of its own below `directory`, and jobs in it."""

    def __init__(self, directory: Path) -> None:
        homes = {"CUMULUS_HOME": str(directory / "cumulus"), "CHRONOS_HOME": str(directory / "chronos")}
        self.env = {**os.environ, **homes, "CUMULUS_NO_COMMAND_SERVER": "", "CHRONOS_MONITOR_IDLE": "1"}

    def ask(self, *words: str, stdin: str = "") -> str:
        done = subprocess.run([CUMULUS, *words], env=self.env, input=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"cumulus {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def gang(self, gpus: int) -> float:
        return self.measured(manifest("gang", [sys.executable, PROGRAM], gpus, 1))

    def job(self, gpus: int) -> float:
        return self.measured(manifest("one-job", torchrun(gpus), 1, gpus))

    def measured(self, job: dict[str, Any]) -> float:
        """GB/s of a job, which is gone then."""
        name = job["metadata"]["name"]
        self.ask("apply", "-f", "-", stdin=json.dumps(job))
        try:
            self.ask("wait", "job", name, "--for=condition=Succeeded", "--timeout=120s")
            return rate(self.ask("logs", name, "--replica", "0"))
        finally:
            self.ask("delete", "job", name, "--now")


def main() -> int:
    print(f"on {machine()}", flush=True)
    return report.shown(run())


if __name__ == "__main__":
    sys.exit(main())
