"""`cumulus run -- true` against `srun true`, in turn in one run; and where the time goes."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import installed, slurm
from benchmarks.harness import LeftOut, Result, in_rounds, running, until, version_of
from cumulus import paths

ROUNDS = 15
PAUSE = 0.5
"""Seconds before each command, as of somebody who types: what one leaves to be done for the next is in nobody's way."""
OURS = ["run", "--gpu", "1%", "--for", "10m"]


def run() -> Iterator[Result]:
    missing = slurm.available()
    if missing:
        yield LeftOut("`cumulus run -- true` against Slurm's srun", missing)
        return
    name = version_of("slurmctld", "-V") or "slurm"
    with tempfile.TemporaryDirectory() as directory, slurm.cluster() as theirs:
        home = Path(directory)
        _, cumulus = installed.install(home / "installed")
        ours = {
            **os.environ, "CUMULUS_HOME": str(home), "CHRONOS_HOME": str(home / "chronos"),
            "CHRONOS_MONITOR_IDLE": "10", "XDG_CONFIG_HOME": str(home / "config"),
        }  # fmt: skip
        commands: dict[str, tuple[Sequence[str], Mapping[str, str]]] = {
            "run": ([cumulus, *OURS, "--", "true"], ours),
            "srun": (["srun", "true"], theirs),
            "submit": ([cumulus, *OURS, "-d", "--", "true"], ours),
            "sbatch": (["sbatch", "-Q", "-o", "/dev/null", "--wrap", "true"], theirs),
            "ask": ([cumulus, "get", "nodes"], ours),
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        with running([cumulus, "serve"], log=home / "serve.log", env=ours):
            until((home / paths.COMMAND_SOCKET).exists, seconds=60, what="the daemon answers")
            ready = [cumulus, "wait", "node", "--all", "--for=condition=Ready", "--timeout=60s"]
            subprocess.run(ready, env=ours, check=True, stdout=subprocess.DEVNULL)
            # What is only submitted runs beside what comes next: after all that is waited for.
            for turn in (("run", "srun", "ask"), ("submit", "sbatch")):
                for _ in range(ROUNDS + 1):
                    for what in turn:
                        times[what].append(_milliseconds(*commands[what]))
    # The first round warms both.
    found = {what: measured[1:] for what, measured in times.items()}
    what, peer = "`cumulus run -- true`, until its exit code is here", f"{name}, srun true"
    yield in_rounds(what, found["run"], found["srun"], unit="ms", peer_name=peer, at_most=1.5)
    what, peer = "of it, until the job is submitted (`cumulus run -d`)", f"{name}, sbatch"
    yield in_rounds(what, found["submit"], found["sbatch"], unit="ms", peer_name=peer)
    what, peer = "of that, a command that asks the daemon once (`cumulus get nodes`)", f"{name}, srun true"
    yield in_rounds(what, found["ask"], found["srun"], unit="ms", peer_name=peer)


def _milliseconds(command: Sequence[str], env: Mapping[str, str]) -> float:
    time.sleep(PAUSE)
    start = time.perf_counter()
    subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - start) * 1000
