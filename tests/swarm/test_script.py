"""scripts/lab.sh as a new user runs it: the tour, the playground after it, and nothing left when it is ended."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.swarm.test_examples import forget_checkpoint
from tests.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "lab.sh"


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    # Below /tmp itself: the name of a socket may be 107 characters long.
    place = Path(tempfile.mkdtemp(prefix="cumulus-tour-"))
    forget_checkpoint()
    yield {**os.environ, "VENV": sys.prefix, "CUMULUS_LAB": str(place / "lab"), "COLUMNS": "200"}
    forget_checkpoint()
    shutil.rmtree(place, ignore_errors=True)


def of_lab(directory: str) -> list[int]:
    """Processes that name the lab's directory in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if directory.encode() in words:
                found.append(int(entry.name))
    return found


def test_the_tour_the_playground_and_the_end(environment: dict[str, str], tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("wb") as out:
        script = subprocess.Popen(
            [str(SCRIPT)], env=environment, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    try:
        eventually(lambda: b"Yours until Ctrl-C" in output.read_bytes() or script.poll() is not None, 500, "the tour")
        assert script.poll() is None, output.read_text()
        said = output.read_text()
        assert re.search(r"^(LeaseExpired )+Completed$", said, re.MULTILINE)
        assert "product: 262144" in said
        assert "2 of 3 on " in said

        def lab(*words: str) -> str:
            done = subprocess.run(
                [str(SCRIPT), *words], env=environment, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        assert lab("docker", "manager", "node", "ls").count("Ready") == 3
        assert lab("on", "worker2", "hostname") == "worker2\n"
        assert "SWARM_MANAGER=unix://" in lab("env")
        lab("kill", "worker1")
        eventually(lambda: lab("docker", "manager", "node", "ls").count("Down") == 1, 150, "the killed one is Down")
        lab("start", "worker1")
        eventually(lambda: lab("docker", "manager", "node", "ls").count("Ready") == 3, 150, "it is back")
    finally:
        os.killpg(script.pid, signal.SIGINT)
        try:
            script.wait(120)
        finally:
            if script.poll() is None:
                os.killpg(script.pid, signal.SIGKILL)
                script.wait()
    directory = environment["CUMULUS_LAB"]
    eventually(lambda: not Path(directory).exists(), 150, "its files are gone")
    eventually(lambda: not of_lab(directory), 150, "its processes are gone")
