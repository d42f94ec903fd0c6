"""docs/checkpoints.md, run exactly as it stands."""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import pages
from tests.e2e.conftest import Machine, manifest
from tests.waiting import PATIENCE

pytestmark = pytest.mark.daemon

ROOT = Path(__file__).parents[2]
TRY = pages.part(ROOT / "docs" / "checkpoints.md", "try")


def test_the_ten_minutes_work_as_written(machine: Machine, tmp_path: Path) -> None:
    """A training of 6 s in leases of 5 s."""
    here = tmp_path / "here"
    here.mkdir()
    [program], [manifest] = pages.blocks(TRY, "python"), pages.blocks(TRY, "yaml")
    (here / "train.py").write_text(program)
    (here / "train.yaml").write_text(manifest)
    machine.serve()
    machine.ready()
    commands = pages.commands(TRY)
    assert len(commands) == 7
    env = {**machine.env, "PATH": f"{Path(sys.executable).parent}:{machine.env['PATH']}"}
    printed = pages.follow(commands, here, env)
    saved = re.search(
        r"starts after step 0\ncumulus\.checkpoint: step (\d+) is saved, and the lease ends: exit 75", printed
    )
    assert saved, printed
    again = [int(step) for step in re.findall(r"starts after step (\d+)\n", printed)]
    assert again[0] == 0
    # On a busy machine the first save may come with the first step.
    assert again[-1] >= int(saved[1]) > 0
    assert "done: 7.9" in printed


def test_the_page_shows_the_example() -> None:
    program = (ROOT / "examples" / "train_numpy.py").read_text()
    assert program.partition('"""\n\n')[2] == pages.blocks(TRY, "python")[0]


def test_the_example_in_pytorch(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="NOT TESTED: PyTorch is not installed")
    program = ROOT / "examples" / "train_pytorch.py"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(program), "1"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout.startswith("starts after step 0\ndone: ")


TRAINING = """
import os, pathlib, numpy
from cumulus import checkpoint
state = checkpoint.load_checkpoint() or {"step": 0, "w": numpy.zeros(20), "random": numpy.random.default_rng(3)}
pathlib.Path("pids", str(os.getpid())).touch()
while state["step"] < 3000:
    x = state["random"].normal(size=(10, 20))
    state["w"] -= 0.01 * x.T @ (x @ state["w"] - x.sum(axis=1)) / 10
    state["step"] += 1
    if state["step"] % 10 == 0 or checkpoint.should_checkpoint():
        checkpoint.save_checkpoint(state, step=state["step"], wait=state["step"] % 20 == 0)
        checkpoint.exit_if_ending()
checkpoint.wait()
print(state["w"].tobytes().hex())
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_job_whose_program_is_killed_ten_times_reaches_the_same_weights(machine: Machine, tmp_path: Path) -> None:
    machine.serve()
    machine.ready()
    env = [{"name": "PYTHONPATH", "value": str(ROOT)}]
    for name in ("whole", "killed"):
        (tmp_path / name / "pids").mkdir(parents=True)
        machine.apply(
            manifest(
                name, shlex.join(["exec", sys.executable, "-c", TRAINING]), duration="300s", env=env,
                workingDir=str(tmp_path / name), checkpoint={"gracePeriod": "5s"},
                retry={"limit": 20, "backoff": "10ms"},
            )
        )  # fmt: skip
    killed: set[str] = set()
    rng = random.Random(8)
    while len(killed) < 10:
        new = {path.name for path in (tmp_path / "killed" / "pids").iterdir()} - killed
        if new:
            time.sleep(rng.uniform(0.05, 0.3))
            os.kill(int(min(new)), signal.SIGKILL)
            killed |= new
        time.sleep(0.02)
    for name in ("whole", "killed"):
        machine.ok("wait", f"gpujob/{name}", "--for=condition=Succeeded", "--timeout=150s", timeout=160)
    assert len(machine.get("job", "killed")["status"]["attempts"]) == 11
    assert machine.ok("logs", "killed") == machine.ok("logs", "whole")
