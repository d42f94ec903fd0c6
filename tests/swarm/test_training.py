"""A training that goes on on the other of two nodes, whatever dies, reaches the weights of one that ran alone."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cumulus.backends.base import Checkpointing, Workload, WorkloadState
from cumulus.uploader import catalog
from cumulus.uploader.directory_place import DirectoryPlace
from tests.lab.lab import Lab
from tests.swarm.bed import SwarmBed
from tests.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
EACH = 4
"""Steps between two saves."""

TRAIN = f"""
import hashlib, os, random, signal, socket, sys, threading, time
framework, die_after, seed, wait = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "wait"
from cumulus import checkpoint
LAST, EACH = 400, {EACH}
saves = 0

def killed():
    time.sleep(random.Random(seed).uniform(0, 0.02))
    os.kill(os.getpid(), signal.SIGKILL)

def after(step, save):
    global saves
    if step % EACH == 0:
        save()
        saves += 1
        if seed and saves == die_after:
            threading.Thread(target=killed).start()
        elif saves == die_after:
            signal.pause()  # Until its node loses its power.
    return step == LAST

def with_numpy():
    import numpy
    state = checkpoint.load_checkpoint()
    if state is None:
        state = {{"step": 0, "w": numpy.zeros(50), "v": numpy.zeros(50), "random": numpy.random.default_rng(1)}}
    yield state["step"]
    done = state["step"] == LAST
    while not done:
        x = state["random"].normal(size=(20, 50))
        state["v"] = 0.9 * state["v"] + x.T @ (x @ state["w"] - x.sum(axis=1)) / 20
        state["w"] -= 0.003 * state["v"]
        state["step"] += 1
        done = after(state["step"], lambda: checkpoint.save_checkpoint(state, step=state["step"], wait=wait))
    yield state["w"].tobytes()

def with_torch():
    import torch
    from cumulus.checkpoint.adapters.pytorch import ResumableLoader, TrainingState
    torch.manual_seed(1)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    data = [(torch.randn(8), torch.randn(1)) for _ in range(50)]
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.3), torch.nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 100)
    loader = ResumableLoader(data, batch_size=8, shuffle=True, seed=2)
    training = TrainingState(model, optimizer, scheduler=scheduler, loader=loader)
    step = training.restore()
    yield step
    done = step == LAST
    while not done:
        for x, y in loader:
            loss = (model(x) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            step += 1
            if done := after(step, lambda: training.save(step, wait=wait)):
                break
    yield b"".join(bytes(parameter.detach().numpy().tobytes()) for parameter in model.parameters())

train = {{"numpy": with_numpy, "torch": with_torch}}[framework]()
print("starts after step", next(train), "on", socket.gethostname(), flush=True)
weights = next(train)
checkpoint.wait()
if die_after:
    signal.pause()
print("weights", hashlib.sha256(weights).hexdigest())
"""


def trained(framework: str, *words: str) -> Sequence[str]:
    """The command. It finds what this process finds, also on a node."""
    paths = [str(ROOT), *(path for path in sys.path if path)]
    return (sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{TRAIN}", framework, *words)


NO_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="NOT TESTED: PyTorch is not installed")


@pytest.mark.parametrize(
    ("framework", "kills"),
    [
        ("numpy", 3),
        pytest.param("numpy", 10, marks=pytest.mark.slow),
        pytest.param("torch", 10, marks=[pytest.mark.slow, NO_TORCH]),
    ],
)
def test_killed_at_random_points_each_time_on_the_other_node(
    bed: SwarmBed, whole: Lab, tmp_path: Path, framework: str, kills: int
) -> None:
    """The last death is of a node, and its disk is gone: what was copied beyond it is gone on from."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CUMULUS_CHECKPOINT")}
    alone = subprocess.run(
        trained(framework, "0", "0", "wait"), cwd=tmp_path, env=environ, check=True, capture_output=True, text=True
    )  # fmt: skip
    beyond = whole.shared / f"beyond-{bed.instance}"
    beyond.mkdir(mode=0o700)
    chance = random.Random(17)

    def work(attempt: int, die_after: int, seed: int) -> Workload:
        more: dict[str, Any] = {
            "image": "", "attempt": attempt, "node": f"worker{1 + attempt % 2}", "checkpoint_path": "saved",
            "checkpointing": Checkpointing(uri=f"file:///mnt/{beyond.name}", named=True),
        }  # fmt: skip
        words = trained(framework, str(die_after), str(seed), "wait" if attempt % 3 else "beside")
        # The first process of a container gets no SIGKILL from within.
        return bed.work("sh", "-c", '"$@"; exit $?', "sh", *words, **more)

    def began(run: Workload) -> int:
        """After which step, on its own node."""
        words = bed.log(run).decode().split()
        assert words[:3] == ["starts", "after", "step"], words
        assert words[5] == run.node
        return int(words[3])

    steps = [0]
    for attempt in range(1, kills):
        bed.backend.start(run := work(attempt, die_after := chance.randrange(1, 4), attempt))
        end = bed.finish(run)
        assert (end.state, end.exit_code) == (WorkloadState.FAILED, 128 + 9), (end, bed.log(run))
        steps.append(began(run))
        assert steps[-1] >= steps[-2], steps
        if attempt % 3:
            steps.append(steps[-1] + die_after * EACH)
    lost = work(kills, 2, 0)
    bed.backend.start(lost)
    # What is saved is copied once the backend has seen that it runs.
    bed.running(lost)
    shared = DirectoryPlace(str(beyond))

    def copied() -> int:
        """The newest step of that attempt beyond its node; -1 where there is none yet."""
        return next((one.name.step for one in catalog.committed(shared) if one.name.token == kills), -1)

    eventually(lambda: copied() >= 0, PATIENCE, "something of it is beyond its node")
    node = whole.nodes[lost.node]
    # Nobody reaches it, and what it has is gone.
    node.power_off()
    try:
        del bed.engines[lost.node]
        shutil.rmtree(node.chronos_home / "programs")
        assert (left := copied()) >= steps[-1]
        bed.backend.start(last := work(kills + 1, 0, 0))
        end = bed.finish(last)
        assert end.state is WorkloadState.SUCCEEDED, (end, bed.log(last))
        assert began(last) == left
        assert bed.log(last).split()[-1] == alone.stdout.encode().split()[-1]
    finally:
        node.boot()
