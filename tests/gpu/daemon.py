"""Jobs of the GPU tests by the daemon."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Machine

HERE = Path(__file__).parent


def job(*arguments: str | int) -> str:
    """A shell's command line that runs tests/gpu/job.py."""
    return f"exec {shlex.join([sys.executable, '-S', str(HERE / 'job.py'), *map(str, arguments)])} </dev/null"


def answers(machine: Machine, name: str) -> list[Any]:
    """What the job's first replica printed that is JSON."""
    said = machine.ok("logs", name, "--replica", "0").splitlines()
    return [json.loads(line) for line in said if line.startswith("{")]
