"""The examples in manifests/swarm, in an image made of this machine's own packages, on the lab."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.lab import Lab
from tests.swarm.control import Control
from tests.swarm.test_faults import settled

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "manifests" / "swarm").glob("*.yaml"))


@pytest.fixture(scope="module")
def image(swarm: Lab) -> str:
    sockets = [node.socket for node in swarm.nodes.values()]
    command = [str(ROOT / "containers" / "build-local.sh"), "cumulus-job:local", *sockets]
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run(command, env=environment, check=True, timeout=280, stdout=subprocess.DEVNULL)
    return "cumulus-job:local"


@pytest.fixture
def control(kept: Control) -> Control:
    return kept


@pytest.fixture(autouse=True)
def _no_checkpoint(swarm: Lab) -> None:
    forget_checkpoint(swarm)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example(control: Control, image: str, path: Path) -> None:
    control.ok("apply", "-f", str(path))
    control.ok("wait", f"gpujob/{path.stem}", "--for=condition=Succeeded", "--timeout=200s", timeout=220)
    attempts = control.attempts(path.stem)
    log = control.ok("logs", path.stem)
    match path.stem:
        case "container":
            assert "device:" in log
            assert "product: 262144" in log
        case "gang":
            assert len(attempts) == 1
            assert control.ok("logs", "gang", "--replica", "2").startswith("2 of 3 on ")
        case "checkpoint":
            assert [a["reason"] for a in attempts] == [*["LeaseExpired"] * (len(attempts) - 1), "Completed"]
            assert len(attempts) > 1
            assert "goes on from" in log
    settled(control)


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES} == {"container", "gang", "checkpoint"}


def forget_checkpoint(lab: Lab) -> None:
    for kept in lab.shared.glob("cumulus-example-checkpoint*"):
        shutil.rmtree(kept)
