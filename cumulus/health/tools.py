"""Checks the programs through which Cumulus reaches containers and other nodes: Docker and SSH."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cumulus import environment
from cumulus.errors import BackendError
from cumulus.health.finding import Finding


def owner(home: Path) -> Iterator[Finding]:
    """Whether the Swarm that the environment names is this state directory's."""
    from cumulus import stores
    from cumulus.infrastructure import swarm
    from cumulus.store.leadership import store_id

    if swarm.engine() is None:
        return
    opened = stores.of_home(home)
    try:
        problem = swarm.NamedSwarm(home).why_not_ours(lambda: store_id(opened))
    except BackendError as error:
        yield Finding("WARN", "swarm", str(error), error.hint or "")
        return
    finally:
        opened.close()
    if problem is None:
        yield Finding("OK", "swarm", "answers, and belongs to nobody else")
    else:
        yield Finding("FAIL", "swarm", str(problem), problem.hint or "")


def docker() -> Iterator[Finding]:
    """The engine for jobs with an image."""
    if shutil.which("docker") is None:
        yield Finding("WARN", "docker", "not installed: jobs with an image can't run here", "apt install docker.io")
        return
    done = _run(["docker", "info", "--format", "{{json .}}"], 8)
    info = _json_object(done.stdout) if done else {}
    if not info.get("ServerVersion"):
        said = done.stderr.strip() if done else "no answer within 8 s"
        problem = (info.get("ServerErrors") or [said or "no version"])[0]
        fix = "start it (systemctl start docker), and add yourself to the group docker"
        yield Finding("WARN", "docker", f"the engine does not answer: {str(problem)[:160]}", fix)
        return
    swarm = (info.get("Swarm") or {}).get("LocalNodeState", "unknown")
    yield Finding("OK", "docker", f"Engine {info.get('ServerVersion', '?')}, swarm {swarm}")


def ssh() -> Iterator[Finding]:
    """The client and agent by which other nodes are reached."""
    if shutil.which("ssh") is None:
        yield Finding("WARN", "ssh", "no client: other nodes can't be reached", "apt install openssh-client")
        return
    done = _run(["ssh", "-V"], 5)
    version = done.stderr.strip().split(",")[0] if done else "ssh does not answer"
    if not os.environ.get(environment.SSH_AUTH_SOCK):
        yield Finding("WARN", "ssh", f"{version}; no agent runs", "run: eval $(ssh-agent) && ssh-add")
        return
    keys = _run(["ssh-add", "-l"], 5)
    if keys is None or keys.returncode == 2:
        yield Finding("WARN", "ssh", f"{version}; the agent does not answer", "run: eval $(ssh-agent) && ssh-add")
    elif keys.returncode == 1:
        yield Finding("WARN", "ssh", f"{version}; the agent holds no key", "run: ssh-add")
    else:
        yield Finding("OK", "ssh", f"{version}; the agent holds {len(keys.stdout.splitlines())} keys")


def _run(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str] | None:
    """None where it can't be run or does not answer in time."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL,
            errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
