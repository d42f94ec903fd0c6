"""Daemons, engines and networks die at random while jobs run; then the books are checked to the last line."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.lab.lab import Lab
from tests.lab.node import LabError, Node
from tests.swarm.control import Control, job
from tests.swarm.test_faults import settled
from tests.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

JOBS = 50
SECONDS = float(os.environ.get("CUMULUS_CHAOS_SECONDS", "120"))

NOTE = 'echo "$CUMULUS_JOB $CUMULUS_ATTEMPT $CUMULUS_REPLICA" >> /book/$(hostname)-$$-$CUMULUS_JOB-$CUMULUS_ATTEMPT;'
"""Each run writes one line of its own: an attempt that ran twice has two."""


def book(directory: Path) -> Counter[str]:
    """(job, attempt, replica) -> how often it ran."""
    return Counter(line for path in directory.iterdir() for line in path.read_text().splitlines())


def test_a_daemon_that_is_killed_at_every_step(control: Control, tmp_path: Path) -> None:
    directory = tmp_path / "book"
    directory.mkdir()
    mount = {"source": str(directory), "target": "/book"}
    names = []
    for step in range(16):
        name = f"step-{step}"
        names.append(name)
        control.apply(job(name, f"{NOTE} sleep 0.5", mounts=[mount]))
        time.sleep(step * 0.15)
        control.daemons[-1].kill()
        control.daemons[-1].wait()
        control.serve()
    for name in names:
        control.ok("wait", f"gpujob/{name}", "--for=condition=Succeeded", "--timeout=200s")
        assert len(control.attempts(name)) == 1, control.attempts(name)
    assert book(directory) == Counter({f"{name} 1 0": 1 for name in names})
    settled(control)


def test_fifty_jobs_through_two_minutes_of_kills(control: Control, whole: Lab, tmp_path: Path) -> None:
    directory = tmp_path / "book"
    directory.mkdir()
    mount = {"source": str(directory), "target": "/book"}
    names = [f"chaos-{n}" for n in range(JOBS)]
    chance = random.Random(5)
    script = f"{NOTE} sleep {{}}; echo done"
    control.apply(
        *(job(n, script.format(chance.randint(1, 8)), memory="8%", duration="45s", mounts=[mount],
              checkpoint={"gracePeriod": "2s"}) for n in names)
    )  # fmt: skip
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        chance.choice((_kill_daemon, _kill_engine, _cut, _kill_container))(control, chance)
        time.sleep(chance.uniform(1, 4))
    for node in whole.nodes.values():
        node.heal()
    for name in names:
        control.ok("wait", f"gpujob/{name}", "--for=condition=Succeeded", "--timeout=300s", timeout=320)
    settled(control)
    runs = book(directory)
    assert max(runs.values()) == 1, "no attempt ran twice"
    for name in names:
        attempts = control.attempts(name)
        assert [a["reason"] for a in attempts].count("Completed") == 1
        assert attempts[-1]["reason"] == "Completed"
        assert runs[f"{name} {attempts[-1]['number']} 0"] == 1
        assert all(int(run.split()[1]) <= attempts[-1]["number"] for run in runs if run.split()[0] == name)
        assert control.ok("logs", name).endswith("done\n")
    assert not control.lab.manager.docker("secret", "ls", "-q")
    partitions = [p for p in control.items("partitions") if p["status"].get("phase") in ("Bound", "Active")]
    assert not partitions


def _kill_daemon(control: Control, chance: random.Random) -> None:
    control.daemons[-1].send_signal(chance.choice((signal.SIGKILL, signal.SIGTERM)))
    control.daemons[-1].wait(60)
    control.serve()


def _kill_engine(control: Control, chance: random.Random) -> None:
    node = _worker(control, chance)
    node.kill_engine()
    time.sleep(chance.uniform(0, 2))
    node.start_engine()


def _cut(control: Control, chance: random.Random) -> None:
    node = _worker(control, chance)
    node.cut()
    time.sleep(chance.uniform(1, 25))
    node.heal()


def _kill_container(control: Control, chance: random.Random) -> None:
    """A person removes a service by hand."""
    services = control.services()
    if services:
        service = chance.choice(services)
        try:
            control.lab.manager.docker("service", "rm", service)
        except LabError:
            # The daemon may have been faster.
            if service in control.services():
                raise


def _worker(control: Control, chance: random.Random) -> Node:
    return chance.choice(control.lab.workers)


def test_an_earlier_chaos_left_nothing(swarm: Lab) -> None:
    """Also by the kernel's account: no container of a job is left on any node."""
    eventually(lambda: not any(node.has_process("CUMULUS_JOB=chaos") for node in swarm.nodes.values()), 150)
