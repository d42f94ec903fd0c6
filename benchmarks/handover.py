"""The gap between the last step of a training in one lease and its first step in the next, against a person's script
that starts the job again: real daemon, real processes, the library that people use.

What is in both: the save, the start of the program, and the load. By hand there are the deletion of the old job and
the making of a new one between them, as a loop of `cumulus wait`, `delete` and `apply` does it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.harness import Result, at_most, reported, running, until
from cumulus.chronos import monitor_control
from tests.commands import CUMULUS

ROOT = Path(__file__).parents[1]
GAPS = 5
LEASE = "5s"

TRAIN = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from cumulus import checkpoint
out = open(sys.argv[1], "a", buffering=1)
step, word = (checkpoint.load_checkpoint() or {{"step": 0}})["step"], "first"
while True:
    print(f"{{time.time():.6f}}", word, file=out)
    word = "step"
    time.sleep(0.01)
    step += 1
    if checkpoint.should_checkpoint():
        checkpoint.save_checkpoint({{"step": step}}, step=step)
        checkpoint.exit_if_ending()
"""


def run() -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as directory:
        yield from _measured(Path(directory))


def _measured(directory: Path) -> Iterator[Result]:
    env = {
        **os.environ, "CUMULUS_HOME": str(directory / "cumulus"), "CHRONOS_HOME": str(directory / "chronos"),
        "CUMULUS_NO_COMMAND_SERVER": "",
    }  # fmt: skip
    with running([CUMULUS, "serve"], log=directory / "daemon.log", env=env):
        _cumulus(env, "wait", "node", "--all", "--for=condition=Ready", "--timeout=60s")
        ours = _handed_over(env, directory, "ours")
        shared = _handed_over(env, directory, "shared", uri=f"file://{directory}/beyond")
        bare = _started(env, directory)
        theirs = _by_hand(env, directory)
    until(lambda: monitor_control.running(directory / "chronos") is None, seconds=60, what="the monitor ended")
    note = f"median of {GAPS} leases of {LEASE}; the longest {max(ours):.2f} s"
    yield at_most(
        "gap between the last step in a lease and the first in the next", statistics.median(ours),
        statistics.median(theirs), 0.7, unit="s", peer_name="wait, delete and apply in a loop", note=note,
    )  # fmt: skip
    yield reported(
        "the same gap, and what a program takes from its start to its first step", statistics.median(ours),
        statistics.median(bare), unit="s", peer_name="start and load alone",
    )  # fmt: skip
    yield reported(
        "the same gap, with checkpoints in a shared directory too", statistics.median(shared), statistics.median(ours),
        unit="s", peer_name="on the node alone", note=f"the longest {max(shared):.2f} s",
    )  # fmt: skip


def _handed_over(env: dict[str, str], directory: Path, name: str, **checkpoint: str) -> list[float]:
    steps = directory / name
    _apply(env, directory, _job(name, steps, {"gracePeriod": "1s", **checkpoint}))
    until(lambda: len(_gaps(steps)) > GAPS, seconds=120, what=f"{GAPS} leases")
    _cumulus(env, "delete", "job", name, "--now")
    # Of the first no save was measured.
    return _gaps(steps)[1 : GAPS + 1]


def _by_hand(env: dict[str, str], directory: Path) -> list[float]:
    """What people do without: wait until the job is over, delete it, make it again."""
    steps = directory / "theirs"
    checkpoint = {"gracePeriod": "1s", "onExpiry": "Fail", "path": str(directory / "kept")}
    manifest = _job("theirs", steps, checkpoint)
    for _ in range(GAPS + 2):
        _apply(env, directory, manifest)
        _cumulus(env, "wait", "gpujob/theirs", "--for=condition=Failed", "--timeout=60s")
        _cumulus(env, "delete", "job", "theirs")
    return _gaps(steps)[1 : GAPS + 1]


def _started(env: dict[str, str], directory: Path) -> list[float]:
    """The program alone, without a cluster: from its start to its first step, with a checkpoint to load."""
    found = []
    for number in range(GAPS):
        steps = directory / f"alone-{number}"
        alone = {**env, "CUMULUS_CHECKPOINT_PATH": str(directory / "kept-alone"), "CUMULUS_JOB": "alone"}
        begun = time.time()
        process = subprocess.Popen([sys.executable, "-c", TRAIN, str(steps)], env=alone)
        until(lambda steps=steps: steps.exists() and steps.read_text(), seconds=30, what="a step")
        process.kill()
        process.wait()
        found.append(float(steps.read_text().split()[0]) - begun)
    return found


def _gaps(steps: Path) -> list[float]:
    """Seconds from the last step of each lease to the first of the next."""
    lines = [line.split() for line in steps.read_text().splitlines()] if steps.exists() else []
    return [float(after[0]) - float(before[0]) for before, after in pairwise(lines) if after[1] == "first"]


def _job(name: str, steps: Path, checkpoint: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "metadata": {"name": name},
        "spec": {
            "command": [sys.executable, "-c", TRAIN, str(steps)], "checkpoint": checkpoint,
            "gpu": {"memory": "10%", "duration": LEASE},
        },
    }  # fmt: skip


def _apply(env: dict[str, str], directory: Path, manifest: dict[str, Any]) -> None:
    file = directory / "job.json"
    file.write_text(json.dumps(manifest))
    _cumulus(env, "apply", "-f", str(file))


def _cumulus(env: dict[str, str], *words: str) -> None:
    subprocess.run([CUMULUS, *words], env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
