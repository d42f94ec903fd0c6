"""`python -m tests.lab`: a lab for people, see `scripts/lab.sh`. It ends with who started it.

up [WORKERS]      start it and stay until Ctrl-C        docker NODE ...   the docker client against a node
cut NODE          take its network away                 heal NODE         give it back
kill NODE         SIGKILL its engine                    start NODE        start its engine again
on NODE COMMAND   run a command on it                   env               variables for cumulus and docker
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.lab.lab import end_on_signals, lab
from tests.lab.node import LabError, run
from tests.processes import end_with_parent

DIRECTORY = Path(os.environ.get("CUMULUS_LAB", "/tmp/cumulus-lab"))


def main(words: list[str]) -> int:
    verb = words[0] if words else "help"
    try:
        if verb == "up":
            return _up(int(words[1]) if len(words) > 1 else 2)
        if verb in _VERBS and len(words) > 1:
            return _VERBS[verb](_facts(), words[1], words[2:])
        if verb == "env":
            facts = _facts()
            print(f"export SWARM_MANAGER={facts['nodes']['manager']['socket']}")
            print(f"export DOCKER_HOST={facts['nodes']['manager']['socket']}")
            print(f"export SSH_KEY_PATH={facts['key']} KNOWN_HOSTS={facts['known_hosts']}")
            return 0
    except BrokenPipeError:
        # Who reads is gone. What is left in the buffer must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except (LabError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(__doc__)
    return 0 if verb == "help" else 2


def _up(workers: int) -> int:
    end_on_signals()
    end_with_parent(int(os.environ.get("CUMULUS_LAB_PARENT") or os.getppid()))
    with lab(workers, DIRECTORY) as made:
        print(made.manager.docker("node", "ls"))
        print("The lab is up; Ctrl-C ends it. In another terminal: scripts/lab.sh help", flush=True)
        made.guard()


def _facts() -> Any:
    try:
        return json.loads((DIRECTORY / "lab.json").read_text())
    except FileNotFoundError:
        raise LabError(f"no lab is up in {DIRECTORY}; start one with: scripts/lab.sh up") from None


def _enter(node: Any) -> list[str]:
    return ["nsenter", f"--target={node['pid']}", "--mount", "--uts", "--net", "--pid", "--ipc"]


def _link(facts: Any, name: str, state: str) -> int:
    port = facts["nodes"][name]["port"]
    run("nsenter", f"--target={facts['switch']}", "--net", "ip", "link", "set", port, state)
    return 0


def _kill(facts: Any, name: str, rest: list[str]) -> int:
    directory = DIRECTORY / name
    run(*_enter(facts["nodes"][name]), "kill", "-9", (directory / "docker.pid").read_text().strip())
    (directory / "docker.pid").unlink()
    return 0


def _start(facts: Any, name: str, rest: list[str]) -> int:
    directory = DIRECTORY / name
    command = (
        f"exec dockerd --data-root={directory}/data --exec-root={directory}/exec --pidfile={directory}/docker.pid"
        f" --host=unix://{directory}/docker.sock --cgroup-parent={facts['nodes'][name]['cgroup']} --shutdown-timeout=2"
        f" >>{directory}/dockerd.log 2>&1 </dev/null"
    )
    run(*_enter(facts["nodes"][name]), "setsid", "--fork", "sh", "-c", command)
    return 0


def _on(facts: Any, name: str, rest: list[str]) -> int:
    os.execvp("nsenter", [*_enter(facts["nodes"][name]), *(rest or ["bash"])])


def _docker(facts: Any, name: str, rest: list[str]) -> int:
    os.execvp("docker", ["docker", "-H", facts["nodes"][name]["socket"], *rest])


_VERBS = {
    "cut": lambda facts, name, rest: _link(facts, name, "down"),
    "heal": lambda facts, name, rest: _link(facts, name, "up"),
    "kill": _kill,
    "start": _start,
    "on": _on,
    "docker": _docker,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
