"""scripts/dev-start.sh, dev-logs.sh and dev-stop.sh, with a `cumulus` that only says what it was asked."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.waiting import PATIENCE, eventually

SCRIPTS = Path(__file__).parents[1] / "scripts"
CUMULUS = """#!/bin/sh
echo "cumulus $*"
case $1 in serve) trap 'exit 0' TERM; while :; do sleep 0.05; done ;; esac
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A checkout that dev-setup.sh has set up."""
    (tmp_path / "scripts").mkdir()
    for name in ("dev-start.sh", "dev-logs.sh", "dev-stop.sh", "_dev.sh"):
        shutil.copy(SCRIPTS / name, tmp_path / "scripts")
    (tmp_path / "scripts/_python.sh").write_text("VENV=$PWD/.venv\nmake_venv() { :; }\n")
    program = tmp_path / ".venv/bin/cumulus"
    program.parent.mkdir(parents=True)
    program.write_text(CUMULUS)
    program.chmod(0o755)
    (tmp_path / ".dev").mkdir()
    (tmp_path / ".dev/settings").write_text("context=x endpoint=tcp://127.0.0.1:1 certificates=\n")
    return tmp_path


def run(place: Path, script: str, *words: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CUMULUS", "CHRONOS"))}
    done = subprocess.run(
        [place / "scripts" / script, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_controllers_are_started_shown_and_stopped(place: Path) -> None:
    try:
        said = run(place, "dev-start.sh", "--no-image")
        assert "The controllers run, pid " in said
        assert "SWARM_MANAGER=tcp://127.0.0.1:1" in said
        assert "The controllers run already" in run(place, "dev-start.sh", "--no-image")
        assert run(place, "dev-logs.sh", "train", "--tail", "3") == "cumulus logs train --tail 3\n"
        # Nobody waits for that one to begin: `wait`, which does, is made up here.
        eventually((place / ".dev/serve.log").read_text)
    finally:
        said = run(place, "dev-stop.sh")
    assert said == "The controllers have stopped.\n"
    assert (place / ".dev/serve.log").read_text() == "cumulus serve --log-format json\n"
    assert run(place, "dev-stop.sh") == ""
