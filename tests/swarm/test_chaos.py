"""Daemons, engines and networks die at random while jobs run; then the books are checked to the last line."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab import Lab
from tests.lab.node import LabError, Node
from tests.swarm.control import Control, job
from tests.swarm.test_faults import settled
from tests.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

SECONDS = float(os.environ.get("CUMULUS_CHAOS_SECONDS", "120"))
STEPS = 16
"""Moments after a job's creation at which the daemon is killed; all of them with --slow, every fourth one without."""

NOTE = 'echo "$CUMULUS_JOB $CUMULUS_ATTEMPT $CUMULUS_REPLICA" >> /book/$(hostname)-$$-$CUMULUS_JOB-$CUMULUS_ATTEMPT;'
"""Each run writes one line of its own: an attempt that ran twice has two."""

PROGRAMS = pytest.mark.parametrize(
    "programs",
    [pytest.param(False, id="containers"), pytest.param(True, id="without an image", marks=pytest.mark.slow)],
)


AWAY = "[cumulus: the engine of {} was away when this ended: the end of the log may be missing]\n"


def book(directory: Path) -> Counter[str]:
    """(job, attempt, replica) -> how often it ran."""
    return Counter(line for path in directory.iterdir() for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(range(0, STEPS, 4), id="every fourth"),
        pytest.param([n for n in range(STEPS) if n % 4], id="the others", marks=pytest.mark.slow),
    ],
)
def test_a_daemon_that_is_killed_at_every_step(control: Control, tmp_path: Path, steps: Sequence[int]) -> None:
    directory = tmp_path / "book"
    directory.mkdir()
    mount = {"source": str(directory), "target": "/book"}
    names = []
    for step in steps:
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


@PROGRAMS
def test_jobs_through_one_kill_of_each_kind(control: Control, whole: Lab, tmp_path: Path, programs: bool) -> None:
    chaos = Chaos(control, tmp_path / "book", jobs=10, seed=5, programs=programs)
    one, two = whole.workers
    one.cut()
    chaos.kill_daemon(signal.SIGKILL)
    chaos.kill_container()
    chaos.kill_engine(two, 1.0)
    chaos.kill_daemon(signal.SIGTERM)
    chaos.kill_container()
    # Long enough for the manager to take it for down.
    eventually(lambda: one.name not in whole.ready(), what=f"Swarm takes {one.name} for down")
    one.heal()
    chaos.kill_engine(one, 0.0)
    chaos.counts()


@pytest.mark.slow
@PROGRAMS
def test_fifty_jobs_through_two_minutes_of_kills(control: Control, whole: Lab, tmp_path: Path, programs: bool) -> None:
    chaos = Chaos(control, tmp_path / "book", jobs=50, seed=5, programs=programs)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        node = chaos.chance.choice(whole.workers)
        match chaos.chance.choice(("daemon", "engine", "cut", "container")):
            case "daemon":
                chaos.kill_daemon(chaos.chance.choice((signal.SIGKILL, signal.SIGTERM)))
            case "engine":
                chaos.kill_engine(node, chaos.chance.uniform(0, 2))
            case "cut":
                node.cut()
                time.sleep(chaos.chance.uniform(1, 25))
                node.heal()
            case "container":
                chaos.kill_container()
        time.sleep(chaos.chance.uniform(1, 4))
    chaos.counts()


class Chaos:
    """Jobs of one to eight seconds, which write down each of their runs; what kills around them; the count. `programs`:
    they have no image, and run on the workers' own disks."""

    def __init__(self, control: Control, directory: Path, jobs: int, seed: int, *, programs: bool) -> None:
        self.chance = random.Random(seed)
        self._control = control
        self._directory = directory
        self._names = [f"chaos-{n}" for n in range(jobs)]
        self._killed: set[str] = set()
        directory.mkdir()
        # A path of this machine is the same on all nodes of the lab.
        note = NOTE.replace("/book", str(directory)) if programs else NOTE
        script = f"{note} sleep {{}}; echo done"
        fields: dict[str, Any] = {"memory": "8%", "duration": "45s", "checkpoint": {"gracePeriod": "2s"}}
        if programs:
            fields["gpu"] = {"selector": {"nodeLabels": {"kind": "worker"}}}
        else:
            fields["mounts"] = [{"source": str(directory), "target": "/book"}]
        made = [job(name, script.format(self.chance.randint(1, 8)), **fields) for name in self._names]
        for each in made if programs else ():
            del each["spec"]["image"]
        control.apply(*made)

    def kill_daemon(self, how: signal.Signals) -> None:
        self._control.daemons[-1].send_signal(how)
        self._control.daemons[-1].wait(PATIENCE)
        self._control.serve()

    def kill_engine(self, node: Node, seconds: float) -> None:
        self._killed.add(node.name)
        node.kill_engine()
        time.sleep(seconds)
        node.start_engine()

    def kill_container(self) -> None:
        """A person removes a service by hand."""
        services = self._control.services()
        if services:
            service = self.chance.choice(services)
            try:
                self._control.lab.manager.docker("service", "rm", service)
            except LabError:
                # The daemon may have been faster.
                if service in self._control.services():
                    raise

    def counts(self) -> None:
        """Every job succeeded, no attempt ran twice, every log is whole or says why not, and nothing is left."""
        control = self._control
        for name in self._names:
            control.ok("wait", f"gpujob/{name}", "--for=condition=Succeeded", "--timeout=300s", timeout=320)
        settled(control)
        runs = book(self._directory)
        assert max(runs.values()) == 1, "no attempt ran twice"
        for name in self._names:
            attempts = control.attempts(name)
            assert [a["reason"] for a in attempts].count("Completed") == 1
            assert attempts[-1]["reason"] == "Completed"
            assert runs[f"{name} {attempts[-1]['number']} 0"] == 1
            assert all(int(run.split()[1]) <= attempts[-1]["number"] for run in runs if run.split()[0] == name)
            log, node = control.ok("logs", name), attempts[-1]["node"]
            if not log.endswith("done\n"):
                assert node in self._killed
                assert log in (AWAY.format(node), f"done\n{AWAY.format(node)}")
        assert not control.lab.manager.docker("secret", "ls", "-q")
        partitions = [p for p in control.items("partitions") if p["status"].get("phase") in ("Bound", "Active")]
        assert not partitions
        nodes = control.lab.nodes.values()
        eventually(lambda: not any(node.has_process("CUMULUS_JOB=chaos") for node in nodes), 150, "no container lives")
