"""A training that is killed again and again reaches the weights of one that is not, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import pytest

from cumulus.checkpoint import layout
from cumulus.checkpoint.checkpointer import Checkpointer
from cumulus.checkpoint.settings import Settings

STEPS = 240
SAVED_EACH = 4


def train(place: Path, *, wait: bool) -> bytes:
    """Stochastic gradient descent with momentum and noise; the weights that it reaches."""
    checkpointer = Checkpointer(Settings(path=str(place)))
    state: Any = checkpointer.load()
    if state is None:
        state = {"step": 0, "w": numpy.zeros(50), "v": numpy.zeros(50), "random": numpy.random.default_rng(1)}
    while state["step"] < STEPS:
        x = state["random"].normal(size=(20, 50))
        gradient = x.T @ (x @ state["w"] - x.sum(axis=1)) / 20
        state["v"] = 0.9 * state["v"] + gradient
        state["w"] -= 0.003 * state["v"]
        state["step"] += 1
        if state["step"] % SAVED_EACH == 0:
            checkpointer.save(state, step=state["step"], wait=wait)
    checkpointer.wait()
    return bytes(state["w"].tobytes())


@pytest.mark.parametrize("wait", [True, False])
def test_killed_at_ten_random_points(tmp_path: Path, wait: bool) -> None:
    whole = train(tmp_path / "whole", wait=True)
    place, result = tmp_path / "killed", tmp_path / "weights"
    rng = random.Random(11)
    kills = 0
    reached = [0]
    while not result.exists():
        child = os.fork()
        if not child:
            try:
                result.write_bytes(train(place, wait=wait))
            finally:
                os._exit(0)
        if kills < 10:
            # Once it has come a random number of saves further, at a random moment.
            further = reached[-1] + SAVED_EACH * rng.randrange(1, 4)
            while max(layout.steps(str(place)), default=0) < further:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
            kills += 1
        os.waitpid(child, 0)
        found = layout.newest(str(place))
        assert found is not None
        assert found.step >= reached[-1]
        reached.append(found.step)
    assert kills == 10
    assert result.read_bytes() == whole


def one_lease(place: Path, save: float, rng: random.Random) -> bool:
    """A lease of 8 s by the real clock, with a save of so many seconds at its end: whether it was whole by then."""
    from cumulus.checkpoint import lease

    ends = lease.now() + 8
    checkpointer = Checkpointer(Settings(path=str(place), grace=6.0, deadline=str(ends)))
    while True:
        time.sleep(rng.uniform(0.01, 0.05))
        if not checkpointer.should_checkpoint():
            continue
        with checkpointer.saving(int(lease.now() * 1000)) as directory:
            Path(directory, "x").write_bytes(b"x" * 100_000)
            time.sleep(save)
        try:
            checkpointer.exit_if_ending()
        except SystemExit:
            return lease.now() <= ends


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_leases_by_the_real_clock_with_one_core_busy(tmp_path: Path, seed: int) -> None:
    """Twenty-five jobs of eight leases each: medians from 0.1 to 1 s, sigma 0.5."""

    def job(number: int) -> int:
        rng = random.Random(seed * 100 + number)
        median = 0.1 * 10 ** rng.random()
        lost = 0
        for _ in range(8):
            save = median * rng.lognormvariate(0, 0.5)
            lost += not one_lease(tmp_path / str(number), save, rng)
        return lost

    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            with ThreadPoolExecutor(25) as pool:
                lost = sum(pool.map(job, range(25)))
        finally:
            busy.kill()
    assert lost <= 2, "of 200"
    assert threading.active_count() < 50
